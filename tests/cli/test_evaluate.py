"""Evaluate: what it scores, `--priors` and `--require`."""

import csv
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from calls import Call
from checkpoints import save_run
from cli.runs import CONFIG, SMALL, make_flat, results, run_printed, splits_of, train
from images import draw_shape, make_splits
from neither.cli.evaluate import Requirement, read_priors, read_requirement
from neither.data.corrections import DROPPED, Answer, AnswerFile
from neither.data.preprocessing import Preprocessing
from neither.inference.classifier import Classifier
from neither.runtime.errors import UsageError

pytestmark = pytest.mark.usefixtures("no_plots")

Flat = tuple[Path, Path, str]
CLASSES = ("dog", "human=being", "neither")
METRICS = {"macro_recall": 0.9, "ece": 0.03, "num_images": 5, "classes": ["a"],
           "per_class": {"a.b": {"recall": 0.5}}, "reject_class": "a"}  # fmt: skip


def with_priors(text: str) -> tuple[float, ...]:
    """Return the priors of a classifier that is given them as on the command line."""
    classifier = Classifier(
        nn.Identity(), CLASSES, "neither", Preprocessing(32), 1.0, Path("x"), {},
        torch.device("cpu"), class_frequencies=(0.5, 0.25, 0.25),
    )  # fmt: skip
    return classifier.with_priors(read_priors(text)).priors


def test_priors_are_read_in_any_order() -> None:
    assert with_priors("neither=0.7,dog=0.1,human=being=0.2") == (0.1, 0.2, 0.7)
    assert with_priors("dog=0.333,human=being=0.333,neither=0.334")[2] == 0.334


@pytest.mark.parametrize(("text", "message"), [
    ("", "''"), ("dog=much,human=being=0.2,neither=0.7", "'dog=much'"),
    ("dog=0.3,neither=0.7", "human=being"), ("dog=0.1,human=being=0.2,neither=0.6,cat=0.1", "cat"),
    ("dog=0.1,dog=0.1,human=being=0.2,neither=0.7", "dog"),
    ("dog=0.1,human=being=0.2,neither=0.6", "0.9"), ("dog=0,human=being=0.3,neither=0.7", "dog"),
    ("dog=-0.1,human=being=0.4,neither=0.7", "dog"), ("dog=nan,human=being=0.4,neither=0.6", "dog"),
])  # fmt: skip
def test_invalid_priors_are_errors(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        with_priors(text)


@pytest.mark.parametrize(("text", "expected"), [
    ("macro_recall>=0.9", Requirement("macro_recall", ">=", 0.9)),
    (" ece <= 3e-2 ", Requirement("ece", "<=", 0.03)),
    ("per_class.a.b.recall>.4", Requirement("per_class.a.b.recall", ">", 0.4)),
    ("num_images<6", Requirement("num_images", "<", 6)),
])  # fmt: skip
def test_a_requirement_is_read_and_met(text: str, expected: Requirement) -> None:
    assert read_requirement(text) == expected
    assert expected.check(METRICS) is None


@pytest.mark.parametrize(
    "text", ["", "macro_recall", "macro_recall=0.9", "macro_recall>=", ">=0.9", "ece<=nan",
             "ece<=inf", "ece<=x", "ece<=>1"],
)  # fmt: skip
def test_an_invalid_requirement_is_an_error(text: str) -> None:
    with pytest.raises(UsageError, match="--require"):
        read_requirement(text)


def test_a_missed_requirement_is_reported_in_numbers() -> None:
    for text, message in (("macro_recall>0.9", "is 0.9, required > 0.9"), ("ece<=0.02", "is 0.03"),
                          ("num_images<5", "is 5")):  # fmt: skip
        assert message in (read_requirement(text).check(METRICS) or "")
    for metric in ("macro_recal", "classes", "reject_class", "per_class.a.recall"):
        with pytest.raises(UsageError, match=metric):
            Requirement(metric, ">=", 0).check(METRICS)


def test_names_of_classes_are_the_same_in_every_unicode_form() -> None:
    nfc, nfd = "M\u00e4dchen", "Ma\u0308dchen"
    for ours, theirs in ((nfc, nfd), (nfd, nfc)):
        metrics = {"per_class": {ours: {"recall": 0.5}}}
        assert read_requirement(f"per_class.{theirs}.recall>=0.4").check(metrics) is None


def test_evaluate_exits_4_and_names_every_missed_requirement(call: Call, tmp_path: Path) -> None:
    root, model = make_splits(tmp_path / "images", 0, 0, 3), save_run(tmp_path / "run", tmp_path)
    command = ("evaluate", model, root, "--output-dir", tmp_path / "out")
    assert call(*command, "--require", "macro_recall>=0", "--require", "ece<=1").code == 0
    done = call(*command, "--require", "macro_recall>1", "--require", "nll<0",
                "--require", "accuracy<=1")  # fmt: skip
    assert done.code == 4
    assert "macro_recall is" in done.err
    assert "nll is" in done.err
    assert "accuracy" not in done.err
    assert (tmp_path / "out" / "metrics.json").exists()
    assert "recall" in done.out
    assert call(*command, "--require", "accuracy~1").code == 2
    (root / "test" / "dog" / "bad.jpg").write_text("no image")
    assert call(*command, "--require", "accuracy<=1").code == 3
    done = call(*command, "--require", "acuracy<=1")
    assert (done.code, "did you mean accuracy?" in done.err) == (2, True)


def test_each_split_has_results_of_its_own(call: Call, flat: Flat, tmp_path: Path) -> None:
    root, run, command = flat
    assert run_printed(call, command).code == 0
    test = (run / "evaluations" / "photos-test" / "metrics.json").read_bytes()
    assert call("evaluate", run, root, "--split", "val").code == 0
    assert (run / "evaluations" / "photos-test" / "metrics.json").read_bytes() == test
    assert set(results(run / "evaluations" / "photos-val")[1]) == {
        path for path, split in splits_of(run).items() if split == "val"
    }
    # Without --split all images are scored, with a warning.
    done = call("evaluate", run, root, "--output-dir", tmp_path / "all")
    num_train = Counter(splits_of(run).values())["train"]
    assert f"warning: {num_train} of these 60 images" in done.err
    assert "--split test" in done.err
    assert len(results(tmp_path / "all")[1]) == 60


def test_training_images_are_recognised_anywhere(call: Call, flat: Flat, tmp_path: Path) -> None:
    root, run, _ = flat
    other, output = tmp_path / "other", ("--output-dir", tmp_path / "out")
    other.mkdir()
    trained = [path for path, split in splits_of(run).items() if split == "train"]
    for number, path in enumerate(trained[:3]):
        shutil.copy(root / path, other / f"{number}.png")
    draw_shape("dog", 77).save(other / "new.png")
    done = call("evaluate", run, other, *output)
    assert (done.code, done.err.count("warning: ")) == (0, 1)
    assert "3 of these 4 images were used for training" in done.err
    # A checkpoint outside its run cannot know, which is logged.
    done = call("evaluate", run / "checkpoints" / "best.pt", other, *output)
    assert (done.code, "warning: " in done.err) == (0, False)
    assert "bare checkpoint" in done.err
    for number in range(3):
        (other / f"{number}.png").unlink()
    done = call("evaluate", run, other, *output)
    assert "used for training" not in done.err
    assert "bare checkpoint" not in done.err


def test_split_needs_the_run_and_its_own_images(call: Call, flat: Flat, tmp_path: Path) -> None:
    root, run, _ = flat
    other = make_flat(tmp_path / "other", 2)
    for model, images in ((run / "checkpoints" / "best.pt", root), (run, other)):
        done = call("evaluate", model, images, "--split", "test")
        assert done.code == 2
        assert str(images) in done.err


def test_moved_images_are_recognised_and_replaced_ones_counted(
    call: Call, flat: Flat, tmp_path: Path
) -> None:
    root, run, command = flat
    assert run_printed(call, command).code == 0
    before, _ = results(run / "evaluations" / "photos-test")
    moved, output = tmp_path / "disk" / "photos", ("--output-dir", tmp_path / "out")
    shutil.copytree(root, moved)
    done = call("evaluate", run, moved, "--split", "test", *output)
    assert done.code == 0, done.err
    assert "warning: " not in done.err
    assert results(tmp_path / "out")[0] == before
    test = sorted(path for path, split in splits_of(run).items() if split == "test")
    for number, path in enumerate(test[:2]):
        draw_shape("dog", 500 + number).save(moved / path)
    done = call("evaluate", run, moved, "--split", "test", *output)
    assert (done.code, done.err.count("warning: ")) == (0, 1)
    assert f"2 of {len(test)} are not the images kept for test" in done.err
    assert results(tmp_path / "out")[0]["num_changed"] == 2
    for number, path in enumerate(test[2:]):
        draw_shape("dog", 600 + number).save(moved / path)
    assert call("evaluate", run, moved, "--split", "test", *output).code == 2


def test_a_deleted_test_image_keeps_its_row(call: Call, flat: Flat, tmp_path: Path) -> None:
    root, run, command = flat
    gone = next(path for path, split in splits_of(run).items() if split == "test")
    (root / gone).rename(tmp_path / "kept")
    try:
        assert run_printed(call, f"{command} --output-dir {tmp_path / 'out'}").code == 3
    finally:
        (tmp_path / "kept").rename(root / gone)
    metrics, rows = results(tmp_path / "out")
    assert (metrics["num_unreadable"], rows[gone]["status"]) == (1, "unreadable")


def test_unseen_kinds_and_priors_have_own_results(call: Call, flat: Flat, tmp_path: Path) -> None:
    _, run, _ = flat
    other = make_flat(tmp_path / "other", 2)
    shutil.copytree(other / "dog", other / "unseen" / "teapot")
    priors = {"dog": 0.1, "human": 0.2, "neither": 0.7}
    option = ("--priors", ", ".join(f"{name}={prior}" for name, prior in priors.items()))
    for more, name in (((), "other"), (option, "other-priors")):
        done = call("evaluate", run, other, "--unseen", other / "unseen", *more)
        assert done.code == 0, done.err
        metrics, rows = results(run / "evaluations" / f"{tmp_path.name}-{name}")
        assert metrics["num_images"] == len(rows) == 8
        assert metrics["out_of_distribution"].keys() == {"teapot"}
        assert metrics["out_of_distribution"]["teapot"]["num_images"] == 2
        assert metrics.get("priors") == (priors if more else None)
        page = run / "evaluations" / f"{tmp_path.name}-{name}" / "report.html"
        assert ("dog 10.0 %, human 20.0 %, neither 70.0 %" in page.read_text()) == bool(more)


def test_aliases_of_a_checkpoint_hold_in_folders_and_manifests(call: Call, tmp_path: Path) -> None:
    folders = {"dog": "dog", "person": "human", "people": "human", "neither": "neither"}
    root, run = make_flat(tmp_path / "photos", 12, **folders), tmp_path / "run"
    done = call("train", CONFIG, f"data.root={root}", *SMALL, "--output-dir", run)
    assert done.code == 3
    assert "data.aliases={people: " in done.err
    train(call, root, run, "data.aliases={person: human, people: human}")
    other = make_flat(tmp_path / "other", 3, dog="dog", people="human", persons="human")
    done = call("evaluate", run, other, "--output-dir", tmp_path / "out")
    assert done.code == 0, done.err
    metrics, rows = results(tmp_path / "out")
    assert rows["people/000.png"]["true_label"] == "human"
    assert metrics["per_class"]["human"]["num_images"] == 3
    assert metrics["out_of_distribution"].keys() == {"persons"}

    (tmp_path / "some.csv").write_text("label,path\npeople,other/people/000.png\n")
    assert call("evaluate", run, tmp_path / "some.csv", "--output-dir", tmp_path / "out").code == 0
    assert results(tmp_path / "out")[1]["other/people/000.png"]["true_label"] == "human"


def test_corrections_of_reviewed_images_are_followed(
    call: Call, flat: Flat, tmp_path: Path
) -> None:
    root, run, _ = flat
    with (run / "splits.csv").open(newline="") as file:
        test = [row for row in csv.DictReader(file) if row["split"] == "test"]
    review, out = tmp_path / "corrections.csv", tmp_path / "out"
    answers = [Answer(row["sha256"], "", row["label"], "dog", "unsure") for row in test]
    answers[0] = replace(answers[0], new_label=DROPPED)
    for number, more in ((1, answers[1:]), (0, answers)):
        AnswerFile(review, ("dog", "human", "neither")).append(more)
        for moved in (root, shutil.copytree(root, tmp_path / f"moved{number}")):
            options = ("--split", "test", "--corrections", review, "--output-dir", out)
            done = call("evaluate", run, moved, *options)
            assert done.code == 0, done.err
            labels = {path: row["true_label"] for path, row in results(out)[1].items()}
            if number:  # not all of test is reviewed
                assert labels == {row["path"]: row["label"] for row in test}
            else:
                assert labels == {row["path"]: "dog" for row in test[1:]}
    done = call("evaluate", run, root / "human", "--corrections", review, "--output-dir", out)
    assert {row["true_label"] for row in results(out)[1].values()} == {""}
    assert call("evaluate", run, root, "--corrections", tmp_path / "gone.csv").code == 2
