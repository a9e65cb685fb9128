"""What a run was trained on, and what evaluate makes of that."""

import csv
import json
import shlex
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from images import CLASSES, draw_shape, make_splits
from scripts import ROOT

Call = Callable[..., Any]
CONFIG = ROOT / "configs" / "photos_quick.yaml"
SMALL = ("train.epochs=1", "train.batch_size=16", "model.width=8", "data.image_size=32")


def make_flat(root: Path, num: int = 20, **folders: str) -> Path:
    """Make `root/<folder>/NNN.png`, without splits; folders say which class they show."""
    for offset, (folder, label) in enumerate((folders or {name: name for name in CLASSES}).items()):
        (root / folder).mkdir(parents=True)
        for number in range(num):
            draw_shape(label, 1000 * offset + number).save(root / folder / f"{number:03}.png")
    return root


def train(call: Call, source: Path, run: Path, *more: str) -> str:
    """Train, and return the command that is then shown to evaluate."""
    key = "data.manifest" if source.suffix == ".csv" else "data.root"
    root = ["data.root=null"] if key == "data.manifest" else []
    done = call("train", CONFIG, *root, f"{key}={source}", *SMALL, *more, "--output-dir", run)
    assert done.code == 0, done.err
    (line,) = [line for line in done.out.splitlines() if line.startswith("evaluate:")]
    return str(line.removeprefix("evaluate:").strip())


def run_shown(call: Call, shown: str) -> Any:  # noqa: ANN401
    python, script, *arguments = shlex.split(shown)
    assert (python, script) == ("python", "scripts/evaluate.py")
    return call("evaluate", *arguments)


def splits_of(run: Path) -> dict[str, str]:
    with (run / "splits.csv").open(newline="") as file:
        return {row["path"]: row["split"] for row in csv.DictReader(file)}


def results(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, str]]]:
    with (folder / "predictions.csv").open(newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    return json.loads((folder / "metrics.json").read_text()), rows


TRAINED_ON = "were used for training"


def test_the_shown_command_scores_the_test_share_of_a_flat_folder_and_nothing_else(
    call: Call, tmp_path: Path
) -> None:
    root, run = make_flat(tmp_path / "photos"), tmp_path / "run"
    shown = train(call, root, run)
    assert shown.endswith(" --split test")
    done = run_shown(call, shown)
    assert done.code == 0, done.err
    assert "trained on" not in done.err
    folder = run / "evaluations" / "photos-test"
    metrics, rows = results(folder)
    test = {path for path, split in splits_of(run).items() if split == "test"}
    assert set(rows) == test
    assert len(test) > 3
    assert metrics["num_images"] == sum(map(sum, metrics["confusion_matrix"])) == len(test)
    assert all(row["true_label"] == path.split("/")[0] for path, row in rows.items())

    before = (folder / "metrics.json").read_bytes()
    done = call("evaluate", run, root, "--split", "val")
    assert (folder / "metrics.json").read_bytes() == before  # each split has its own results
    assert set(results(run / "evaluations" / "photos-val")[1]) == {
        path for path, split in splits_of(run).items() if split == "val"
    }
    # Without --split all are scored, which is told with what would be honest.
    done = call("evaluate", run, root, "--output-dir", tmp_path / "all")
    num_train = Counter(splits_of(run).values())["train"]
    assert f"warning: {num_train} of these 60 images {TRAINED_ON}" in done.err
    assert "--split test evaluates only its test split" in done.err
    assert len(results(tmp_path / "all")[1]) == 60


def test_without_a_test_share_the_shown_command_scores_val(call: Call, tmp_path: Path) -> None:
    root, run = make_flat(tmp_path / "photos"), tmp_path / "run"
    shown = train(call, root, run, "data.test_fraction=0")
    assert shown.endswith(" --split val")
    assert run_shown(call, shown).code == 0
    done = call("evaluate", run, root, "--split", "test")
    assert done.code == 3
    assert "no image is in the split test" in done.err


@pytest.mark.parametrize("splits", [("train", "val"), ("train",), ("train", "test")])
def test_the_shown_command_runs_whatever_splits_the_folder_lacks(
    call: Call, tmp_path: Path, splits: tuple[str, ...]
) -> None:
    root, run = make_splits(tmp_path / "photos", train=20, val=6, test=5), tmp_path / "run"
    for lacking in {"train", "val", "test"} - {*splits}:
        shutil.rmtree(root / lacking)
    shown = train(call, root, run, "data.val_fraction=0.4")
    done = run_shown(call, shown)
    assert done.code == 0, done.err
    assert "trained on" not in done.err
    wanted = "test" if "test" in splits else "val"
    metrics, _ = results(run / "evaluations" / f"photos-{wanted}")
    assert metrics["num_images"] == Counter(splits_of(run).values())[wanted] > 0
    if "val" not in splits:  # which the run made itself, of images in the train folder
        done = call("evaluate", run, root, "--split", "val", "--output-dir", tmp_path / "val")
        assert done.code == 0, done.err
        assert "trained on" not in done.err
        assert all(path.startswith("train/") for path in results(tmp_path / "val")[1])


def test_images_that_were_trained_on_are_told_wherever_they_lie(call: Call, tmp_path: Path) -> None:
    root, run = make_flat(tmp_path / "photos"), tmp_path / "run"
    train(call, root, run)
    learned = [path for path, split in splits_of(run).items() if split == "train"]
    other = tmp_path / "other"
    other.mkdir()
    for number, path in enumerate(learned[:3]):
        shutil.copy(root / path, other / f"{number}.png")
    draw_shape("dog", 77).save(other / "new.png")
    output = ("--output-dir", tmp_path / "out")
    done = call("evaluate", run, other, *output)
    assert (done.code, done.err.count("warning: ")) == (0, 1)
    assert f"warning: 3 of these 4 images {TRAINED_ON}" in done.err
    # A checkpoint alone does not know, and says so; a run that knows of none says nothing.
    alone = "a bare checkpoint does not record which images it was trained on"
    assert alone not in done.err
    done = call("evaluate", run / "checkpoints" / "best.pt", other, *output)
    assert (done.code, TRAINED_ON in done.err) == (0, False)
    assert alone in done.err
    for number in range(3):
        (other / f"{number}.png").unlink()
    assert "trained on" not in call("evaluate", run, other, *output).err


def test_a_checkpoint_alone_does_not_know_the_splits_of_its_run(call: Call, tmp_path: Path) -> None:
    root, run = make_flat(tmp_path / "photos"), tmp_path / "run"
    train(call, root, run, "train.epochs=0")
    done = call("evaluate", run / "checkpoints" / "best.pt", root, "--split", "test")
    assert done.code == 2
    assert "this folder has no split folders, and is not known to be what a run" in done.err
    done = call("evaluate", run, make_flat(tmp_path / "other", 2), "--split", "test")
    assert done.code == 2


def test_a_test_image_that_is_gone_keeps_its_row(call: Call, tmp_path: Path) -> None:
    root, run = make_flat(tmp_path / "photos"), tmp_path / "run"
    shown = train(call, root, run, "train.epochs=0")
    gone = next(path for path, split in splits_of(run).items() if split == "test")
    (root / gone).unlink()
    assert run_shown(call, shown).code == 3
    metrics, rows = results(run / "evaluations" / "photos-test")
    assert (metrics["num_unreadable"], rows[gone]["status"]) == (1, "unreadable")


def write_manifest(path: Path, root: Path, columns: str = "path,label") -> Path:
    """List a folder of splits or classes in a manifest beside it."""
    rows = [columns]
    for image in sorted(root.rglob("*.png")):
        *_, split, label, _ = image.parts
        cells = [image.relative_to(path.parent).as_posix(), label, split]
        rows.append(",".join(cells[: len(columns.split(","))]))
    path.write_text("\n".join(rows) + "\n")
    return path


def test_a_manifest_without_splits_is_trained_on_and_evaluated(call: Call, tmp_path: Path) -> None:
    root, run = make_flat(tmp_path / "photos"), tmp_path / "run"
    manifest = write_manifest(tmp_path / "photos.csv", root)
    done = run_shown(call, train(call, manifest, run))
    assert done.code == 0, done.err
    assert "trained on" not in done.err
    metrics, rows = results(run / "evaluations" / "photos.csv-test")
    assert set(rows) == {path for path, split in splits_of(run).items() if split == "test"}
    assert metrics["num_images"] > 3
    done = call("evaluate", run, manifest, "--output-dir", tmp_path / "all")
    assert TRAINED_ON in done.err
    # The same images in their folder: the run knows them by their bytes.
    done = call("evaluate", run, root, "--output-dir", tmp_path / "folder")
    assert TRAINED_ON in done.err
    assert results(tmp_path / "all")[0] == results(tmp_path / "folder")[0]


def test_a_manifest_with_splits_is_trained_on_and_evaluated(call: Call, tmp_path: Path) -> None:
    root, run = make_splits(tmp_path / "photos", train=10, val=5, test=4), tmp_path / "run"
    manifest = write_manifest(tmp_path / "photos.csv", root, "path,label,split")
    shown = train(call, manifest, run)
    assert shown == f"python scripts/evaluate.py {run} {manifest}"
    done = run_shown(call, shown)
    assert done.code == 0, done.err
    metrics, rows = results(run / "evaluations" / f"{tmp_path.name}-photos.csv")
    assert metrics["num_images"] == 12
    assert all(path.startswith("photos/test/") for path in rows)
    done = call("evaluate", run, manifest, "--split", "val", "--output-dir", tmp_path / "val")
    assert results(tmp_path / "val")[0]["num_images"] == 15
    done = call("evaluate", run, manifest, "--split", "train", "--output-dir", tmp_path / "train")
    assert f"30 of these 30 images {TRAINED_ON}" in done.err


def test_any_manifest_is_scored_row_by_row(call: Call, tmp_path: Path) -> None:
    root, run = make_flat(tmp_path / "photos", 10), tmp_path / "run"
    train(call, root, run, "train.epochs=0", "data.aliases={hound: dog}")
    manifest = tmp_path / "lists" / "some.csv"
    manifest.parent.mkdir()
    manifest.write_text(
        "label,path\n"
        "hound,../photos/dog/000.png\n"
        f"human,{root}/human/001.png\n"
        "teapot,../photos/neither/002.png\n"
        ",../photos/neither/003.png\n"
        "dog,../photos/dog/none.png\n"
    )
    done = call("evaluate", run, manifest, "--output-dir", tmp_path / "out")
    assert done.code == 3, done.err
    metrics, rows = results(tmp_path / "out")
    assert {path: (row["status"], row["true_label"]) for path, row in rows.items()} == {
        "../photos/dog/000.png": ("ok", "dog"),
        f"{root}/human/001.png": ("ok", "human"),
        "../photos/neither/002.png": ("ok", "teapot"),
        "../photos/neither/003.png": ("ok", ""),
        "../photos/dog/none.png": ("unreadable", "dog"),
    }
    assert (metrics["num_images"], metrics["num_unreadable"]) == (4, 1)
    assert sum(map(sum, metrics["confusion_matrix"])) == 2
    assert metrics["out_of_distribution"]["teapot"]["num_images"] == 1


@pytest.mark.parametrize(
    ("content", "more", "code", "says"),
    [
        (None, [], 2, "no such file; want a CSV file"),
        ("path,label\n", [], 3, "no images are listed here"),
        ("path,label\na.png,dog,x\n", [], 3, "some.csv:2: 3 cells, want 2"),
        ("path,label\na.png,dog\n", ["--split", "test"], 2, "it has no splits"),
        ("path,label,split\na.png,dog,train\n", [], 2, "name another: --split train"),
    ],
)
def test_a_manifest_that_cannot_be_scored_is_refused_in_one_line(
    call: Call, tmp_path: Path, content: str | None, more: list[str], code: int, says: str
) -> None:
    run = tmp_path / "run"
    train(call, make_flat(tmp_path / "photos", 10), run, "train.epochs=0")
    if content is not None:
        (tmp_path / "some.csv").write_text(content)
    done = call("evaluate", run, tmp_path / "some.csv", *more)
    assert done.code == code
    assert says in done.err.splitlines()[-1]


@pytest.mark.parametrize("key", ["root", "manifest"])
def test_images_that_are_not_there_leave_no_folder_behind(
    call: Call, tmp_path: Path, key: str
) -> None:
    where = (f"data.{key}={tmp_path / 'photoz'}", *(["data.root=null"] if key != "root" else []))
    (tmp_path / "photos").mkdir()
    done = call("train", CONFIG, *where, *SMALL, "--output-dir", tmp_path / "run")
    assert done.code == 2
    assert f"data.{key}=" in done.err.splitlines()[-1]
    assert ("did you mean" in done.err) == (key == "root")
    assert not (tmp_path / "run").exists()


def test_what_is_unseen_has_one_row_and_what_is_asked_for_another_mix_a_folder_of_its_own(
    call: Call, tmp_path: Path
) -> None:
    root, run = make_flat(tmp_path / "photos", 12), tmp_path / "run"
    train(call, root, run)
    other = make_flat(tmp_path / "other", 2)
    shutil.copytree(other / "dog", other / "unseen" / "teapot")
    mix = ("--priors", "dog=0.1, human=0.2, neither=0.7")
    for more, name in (((), "other"), (mix, "other-priors")):
        done = call("evaluate", run, other, "--unseen", other / "unseen", *more)
        assert done.code == 0, done.err
        metrics, rows = results(next(run.glob(f"evaluations/*-{name}")))
        assert metrics["num_images"] == len(rows) == 8
        assert {
            name: row["num_images"] for name, row in metrics["out_of_distribution"].items()
        } == {"teapot": 2}
        assert metrics.get("priors") == (
            {"dog": 0.1, "human": 0.2, "neither": 0.7} if more else None
        )
        page = next(run.glob(f"evaluations/*-{name}/report.html")).read_text()
        assert ("answered for dog 10.0 %, human 20.0 %, neither 70.0 %" in page) == bool(more)


def test_evaluate_knows_the_aliases_of_the_checkpoint(call: Call, tmp_path: Path) -> None:
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


def test_a_manifest_that_cannot_be_trained_on_is_refused_with_its_line(
    call: Call, tmp_path: Path
) -> None:
    manifest = tmp_path / "photos.csv"
    manifest.write_text("path,label\na.png,dogs\nb.png,human\nc.png,neither\n")
    keys = ("data.root=null", f"data.manifest={manifest}")
    done = call("train", CONFIG, *keys, *SMALL, "--output-dir", tmp_path / "run")
    assert done.code == 3
    assert "line 2: label dogs: did you mean dog?" in done.err
    done = call("train", CONFIG, keys[1], *SMALL, "--output-dir", tmp_path / "run")
    assert done.code == 2
    assert "data.root=null" in done.err


def test_a_finished_run_shows_the_same_command_again(call: Call, tmp_path: Path) -> None:
    root, run = make_flat(tmp_path / "photos"), tmp_path / "run"
    first = train(call, root, run)
    assert train(call, root, run) == first
    other = make_flat(tmp_path / "other")
    done = call("train", CONFIG, f"data.root={other}", *SMALL, "--output-dir", run)
    assert done.code == 2
    assert f"was trained on {root}, not {other}" in done.err
    manifest = write_manifest(tmp_path / "photos.csv", root)
    keys = ("data.root=null", f"data.manifest={manifest}")
    done = call("train", CONFIG, *keys, *SMALL, "--output-dir", run)
    assert done.code == 2
    assert f"was trained on {root}, not {manifest}" in done.err


def test_a_run_by_manifest_goes_on_from_another_place(call: Call, tmp_path: Path) -> None:
    """Where the images lie may change, as long as they are the same."""
    root, run = make_flat(tmp_path / "old" / "photos", 12), tmp_path / "run"
    manifest = write_manifest(tmp_path / "old" / "photos.csv", root)
    train(call, manifest, run, "train.epochs=0")
    (tmp_path / "old").rename(tmp_path / "new")
    (run / "checkpoints" / "last.pt").unlink()
    shown = train(call, tmp_path / "new" / "photos.csv", run, "train.epochs=0")
    assert run_shown(call, shown).code == 0
