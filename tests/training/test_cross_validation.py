"""Cross-validation by source and by fold, with a frozen backbone and with a run for each fold."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backbone import write_weights
from calls import Call, calling
from images import CLASSES, draw_shape
from moments import before, terminate
from neither.models.checkpoint import load_checkpoint
from neither.training import cross_validation, trainer

pytestmark = pytest.mark.usefixtures("no_plots", "small_backbone")

TEXT = """name: sourced
classes: [dog, human, neither]
reject_class: neither
device: cpu
data: {root: ROOT, image_size: 32, sources: '([^/]+)_[^/]*$'}
model: MODEL
train: {epochs: EPOCHS}
decision: {target_precision: 0.4}
"""
HEAD = "{name: efficientnet_lite0, weights: WEIGHTS, trainable: head}"
NETWORK = "{name: softmax_regression}"


def write(home: Path, model: str = HEAD, sources: tuple[str, ...] = ("a", "b", "c")) -> Path:
    """Write images of each class from some sources, weights, and a config; return the config."""
    for split, num in (("train", 8), ("val", 3)):
        for offset, name in enumerate(CLASSES):
            folder = home / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(num * len(sources)):
                source = sources[number % len(sources)]
                seed = 10_000 * offset + 100 * len(split) + number
                draw_shape(name, seed).save(folder / f"{source}_{number}.png")
    write_weights(home / "weights.pth")
    text = TEXT.replace("MODEL", model).replace("ROOT", str(home / "images"))
    text = text.replace("WEIGHTS", str(home / "weights.pth"))
    text = text.replace("EPOCHS", "200" if model == HEAD else "1, batch_size: 16")
    (home / "config.yaml").write_text(text)
    return home / "config.yaml"


def results(folder: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    with (folder / "out_of_fold.csv").open(newline="") as file:
        return json.loads((folder / "metrics.json").read_text()), list(csv.DictReader(file))


def test_each_source_is_left_out_and_a_stopped_command_gives_the_same_bytes(
    tmp_path: Path, call: Call
) -> None:
    """Source b has no dogs; all sources are in train and in val."""
    config, folder = write(tmp_path), tmp_path / "cv"
    for path in (tmp_path / "images").glob("*/dog/b_*.png"):
        path.rename(path.with_name(path.name.replace("b_", "c_b")))
    with pytest.MonkeyPatch.context() as patch:
        before(cross_validation, "fit_folds", 2, terminate)(patch)
        assert call("cross_validate", config, "--output-dir", folder).code == 143
    assert not (folder / "metrics.json").exists()
    done = call("cross_validate", config, "--output-dir", folder)
    assert done.code == 0, done.err
    metrics, rows = results(folder)
    assert metrics["num_images"] == len(rows) == 99
    assert [row["source"] for row in metrics["sources"]] != []
    assert sorted(row["num_images"] for row in metrics["sources"]) == [22, 33, 44]
    assert {len(row["classes"]) for row in metrics["sources"]} == {2, 3}
    assert sum(map(sum, metrics["elsewhere"]["confusion_matrix"])) == 99
    assert metrics["elsewhere"].keys() >= {"precision", "coverage", "precision_interval"}
    assert sum(map(sum, metrics["home"]["confusion_matrix"])) == 99
    assert metrics["calibrated_on"] == "left-out sources"
    for row in rows:  # the images of a source are in one fold
        assert row["path"].rpartition("/")[2].startswith(row["source"])
    folds = {row["source"]: {each["fold"] for each in rows if each["source"] == row["source"]}
             for row in rows}  # fmt: skip
    assert all(len(each) == 1 for each in folds.values())
    probabilities = np.array([[float(row[f"prob_{name}"]) for name in CLASSES] for row in rows])
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert "data:image/jpeg" in (folder / "report.html").read_text()

    other = tmp_path / "other"
    assert call("cross_validate", config, "--output-dir", other).code == 0
    for name in ("metrics.json", "out_of_fold.csv"):
        assert (folder / name).read_bytes() == (other / name).read_bytes()


def test_training_takes_temperature_and_thresholds_from_left_out_sources(
    tmp_path: Path, call: Call
) -> None:
    config = write(tmp_path)
    done = call("train", config, "--output-dir", tmp_path / "run")
    assert done.code == 0, done.err
    best = load_checkpoint(tmp_path / "run")
    assert best.calibrated_on == "left-out sources"
    rule = best.decision_rule
    assert rule.threshold == rule.reject_threshold
    assert not rule.is_certified
    metrics = json.loads((tmp_path / "run/evaluations/images-val/metrics.json").read_text())
    assert metrics["calibrated_on"] == "left-out sources"
    without = call("train", config, "data.sources=null", "--output-dir", tmp_path / "other")
    assert without.code == 0, without.err
    assert load_checkpoint(tmp_path / "other").calibrated_on == "val"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Cross-validate a network in two folds without sources; return config and folder."""
    home = tmp_path_factory.mktemp("finished")
    config = write(home, NETWORK)
    config.write_text(config.read_text().replace(", sources: '([^/]+)_[^/]*$'", ""))
    with pytest.MonkeyPatch.context() as patch, calling(patch, None) as call:
        assert call("cross_validate", config, "--folds", "2", "--output-dir", home / "cv").code == 0
    return config, home / "cv"


def test_folds_of_runs_give_a_decision_and_label_issues_to_training(
    finished: tuple[Path, Path], tmp_path: Path, call: Call
) -> None:
    """Without sources there are as many folds as are asked for, and no row for a source."""
    config, folder = finished
    metrics, rows = results(folder)
    assert metrics["sources"] == []
    assert {row["fold"] for row in rows} == {"0", "1"}
    assert {row["source"] for row in rows} == {""}
    assert "folds" in metrics

    key = f"decision.cross_validation={folder}"
    done = call("train", config, key, "--output-dir", tmp_path / "run")
    assert done.code == 0, done.err
    best = load_checkpoint(tmp_path / "run")
    assert best.calibrated_on == "cross-validation"
    assert best.temperature == metrics["temperature"]
    with (tmp_path / "run" / "label_issues.csv").open(newline="") as file:
        issues = {row["path"]: row["predicted"] for row in csv.DictReader(file)}
    expected = {}
    for row in rows:
        predicted = max(CLASSES, key=lambda name: float(row[f"prob_{name}"]))
        if row["path"].startswith("train/") and predicted != row["label"]:
            expected[row["path"]] = predicted
    assert issues == expected != {}


def test_a_decision_is_of_the_same_config_and_the_same_images(
    finished: tuple[Path, Path], tmp_path: Path, call: Call
) -> None:
    config, folder = finished
    run = ("--output-dir", tmp_path / "run")
    for given, *changes in ((folder, "train.lr=0.001"), ("nothing",)):
        done = call("train", config, f"decision.cross_validation={given}", *changes, *run)
        assert done.code == 2
        assert "cross_validate.py" in done.err
    images = tmp_path / "images"
    shutil.copytree(config.parent / "images", images)
    draw_shape("dog", 77).save(images / "train" / "dog" / "new_1.png")
    other = (f"data.root={images}", f"decision.cross_validation={folder}")
    done = call("train", config, *other, *run)
    assert done.code == 3
    assert "--fresh" in done.err
    assert not (tmp_path / "run" / "checkpoints" / "last.pt").exists()


def test_folds_are_kept_and_those_of_another_command_are_an_error(
    finished: tuple[Path, Path], tmp_path: Path, call: Call
) -> None:
    config, folder = finished
    last = folder / "folds" / "1" / "run" / "checkpoints" / "last.pt"
    before = last.stat().st_mtime_ns, results(folder)
    assert call("cross_validate", config, "--folds", "2", "--output-dir", folder).code == 0
    assert before == (last.stat().st_mtime_ns, results(folder))
    copy = tmp_path / "cv"
    shutil.copytree(folder, copy)
    (copy / "metrics.json").unlink()  # as if it had been killed
    for change in (("--folds", "3"), ("train.lr=0.001",), ("--seeds", "0,1")):
        done = call("cross_validate", config, *change, "--output-dir", copy)
        assert done.code == 2, done.err
        assert f"{copy}:" in done.err or f"{copy}/folds:" in done.err
        assert "--fresh" in done.err
    fresh = (config, "--folds", "2", "train.lr=0.001", "--fresh", "--output-dir", copy)
    assert call("cross_validate", *fresh).code == 0
    assert (tmp_path / "cv.1" / "folds" / "1" / "images.csv").exists()
    assert results(copy) != results(folder)


@pytest.mark.parametrize(
    "stop",
    [
        pytest.param(before(trainer, "train_step", 5, terminate), id="in its second fold"),
        pytest.param(
            before(cross_validation, "run_training", 2, terminate), id="between two folds"
        ),
    ],
)
def test_a_stopped_cross_validation_ends_in_the_same_bits(
    stop: Callable[[pytest.MonkeyPatch], None],
    finished: tuple[Path, Path],
    tmp_path: Path,
    call: Call,
) -> None:
    config, folder = finished
    command = (config, "--folds", "2", "--output-dir", tmp_path / "cv")
    with pytest.MonkeyPatch.context() as patch:
        stop(patch)
        assert call("cross_validate", *command).code == 143
    assert (tmp_path / "cv" / "folds" / "0" / "run" / "report.html").exists()
    assert not (tmp_path / "cv" / "metrics.json").exists()
    assert call("cross_validate", *command).code == 0
    assert results(tmp_path / "cv") == results(folder)


def test_a_cross_validation_for_each_seed(
    finished: tuple[Path, Path], tmp_path: Path, call: Call
) -> None:
    config, folder = finished
    command = (config, "--folds", "2", "--output-dir", tmp_path / "cv", "--seeds")
    done = call("cross_validate", *command, "0,3")
    assert done.code == 0, done.err
    metrics = json.loads((tmp_path / "cv" / "metrics.json").read_text())
    each = [results(tmp_path / "cv" / f"seed-{seed}")[0]["folds"] for seed in (0, 3)]
    assert each[0] == results(folder)[0]["folds"]
    found = metrics["folds"]["accuracy"]
    values = [one["accuracy"] for one in each]
    assert found["values"] == values
    assert found["mean"] == pytest.approx(sum(values) / 2)
    assert found["interval"][1] - found["mean"] == pytest.approx(
        12.706 * found["std"] / 2**0.5, rel=1e-3
    )
    assert f"{100 * found['mean']:.1f} %" in done.out
    assert f"{100 * found['mean']:.1f} %" in (tmp_path / "cv" / "report.html").read_text()
    assert call("cross_validate", *command[:-1]).code == 2  # the folder is for seeds
    for wrong in ("0", "1,1", "0,x", "-1,0"):
        assert call("cross_validate", *command, wrong).code == 2


def make_shoots(home: Path, shoots: dict[str, dict[str, int]]) -> Path:
    """Write `images/<split>/<class>/<shoot>_<number>.png` and a config of a network."""
    config = write(home, NETWORK)
    shutil.rmtree(home / "images")
    seed = 0
    for split, counts in shoots.items():
        for name, num in counts.items():
            label, _, shoot = name.partition(" ")
            folder = home / "images" / split / label
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(num):
                draw_shape(label, seed := seed + 1).save(folder / f"{shoot}_{number}.png")
    return config


def test_a_fold_without_val_of_a_class_gets_another_val(tmp_path: Path, call: Call) -> None:
    """All dogs of val are of shoot a, and all humans of train of shoot b."""
    config = make_shoots(tmp_path, {
        "train": {"dog a": 6, "dog b": 6, "human b": 6, "neither a": 6, "neither b": 6},
        "val": {"dog a": 4, "human a": 6, "neither a": 4, "neither b": 4},
    })  # fmt: skip
    done = call("cross_validate", config, "--output-dir", tmp_path / "cv")
    assert done.code == 0, done.err
    metrics, _ = results(tmp_path / "cv")
    assert [row["num_images"] for row in metrics["sources"]] != []
    for fold in ("0", "1"):
        with (tmp_path / "cv" / "folds" / fold / "images.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        left_out = {row["path"].rpartition("/")[2][0] for row in rows if row["split"] == "test"}
        assert len(left_out) == 1
        kept = {(row["split"], row["label"]) for row in rows if row["split"] != "test"}
        assert len(kept) == 6


def test_a_fold_without_images_of_a_class_is_an_error_before_any_is_trained(
    tmp_path: Path, call: Call
) -> None:
    """Without shoot a, all dogs look alike: they are of one group."""
    config = make_shoots(tmp_path, {
        "train": {"dog a": 9, "human a": 6, "human b": 6, "neither a": 6, "neither b": 6},
        "val": {"dog b": 1, "human a": 4, "human b": 4, "neither a": 4, "neither b": 4},
    })  # fmt: skip
    done = call("cross_validate", config, "--output-dir", tmp_path / "cv")
    assert done.code == 3
    assert "source a" in done.err
    assert not (tmp_path / "cv" / "folds").exists()


def test_groups_of_folds_are_those_of_the_run(tmp_path: Path, call: Call) -> None:
    """An absolute path has the pattern elsewhere too: all images would be one group."""
    home = tmp_path / "g7_home"
    home.mkdir()
    config = make_shoots(home, {
        "train": {f"{name} g{number}": 4 for name in CLASSES for number in (1, 2)},
        "val": {f"{name} g{number}": 4 for name in CLASSES for number in (3, 4)},
    })  # fmt: skip
    groups = ("data.sources=null", "data.group_pattern=(g[0-9]+)_")
    done = call("cross_validate", config, *groups, "--folds", "2", "--output-dir", home / "cv")
    assert done.code == 0, done.err
    folds: dict[str, set[str]] = {}
    for row in results(home / "cv")[1]:
        folds.setdefault(row["path"].rpartition("/")[2].partition("_")[0], set()).add(row["fold"])
    assert [len(each) for each in folds.values()] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("overrides", "code", "part"),
    [
        (("--folds", "1"), 2, "--folds"),
        (("--seeds", "0,1"), 2, "--seeds"),
        (("data.sources=nothing_like_it", "--folds", "2"), 0, "data.sources"),
    ],
)
def test_what_cannot_be_left_out(
    overrides: tuple[str, ...], code: int, part: str, tmp_path: Path, call: Call
) -> None:
    done = call("cross_validate", write(tmp_path), *overrides, "--output-dir", tmp_path / "cv")
    assert done.code == code, done.err
    assert part in done.err


@pytest.mark.parametrize("sources", [("only",), ("CLASS",)])
def test_sources_that_cannot_be_left_out_are_folds_of_groups(
    sources: tuple[str, ...], tmp_path: Path, call: Call
) -> None:
    """One source in all, or a source for each class: then nothing is said of images elsewhere."""
    config = write(tmp_path, sources=sources)
    for path in (tmp_path / "images").rglob("CLASS_*.png"):
        path.rename(path.with_name(path.name.replace("CLASS", f"from-{path.parent.name}")))
    done = call("cross_validate", config, "--output-dir", tmp_path / "cv")
    assert done.code == 0, done.err
    metrics, _ = results(tmp_path / "cv")
    assert metrics["sources"] == []
    assert "elsewhere" not in metrics
    assert metrics["calibrated_on"] == "cross-validation"
    assert call("train", config, "--output-dir", tmp_path / "run").code == 0
    assert load_checkpoint(tmp_path / "run").calibrated_on == "val"


def test_one_source_that_is_left_out_has_no_others_to_take_thresholds_from(
    tmp_path: Path, call: Call
) -> None:
    config, only = write(tmp_path), "data.sources=(a)_"  # b and c are no sources
    done = call("cross_validate", config, only, "--output-dir", tmp_path / "cv")
    assert done.code == 0, done.err
    metrics, _ = results(tmp_path / "cv")
    assert metrics["sources"] == []
    assert metrics["calibrated_on"] == "cross-validation"
    assert call("train", config, only, "--output-dir", tmp_path / "run").code == 0
    assert load_checkpoint(tmp_path / "run").calibrated_on == "val"


def test_sources_of_one_class_give_no_thresholds(tmp_path: Path, call: Call) -> None:
    """Files named after their class, beside real sources of the third: only these are left out."""
    config = write(tmp_path)
    for name in ("dog", "human"):
        for number, path in enumerate(sorted((tmp_path / "images").rglob(f"{name}/*.png"))):
            path.rename(path.with_name(f"{name}_{number}.png"))
    assert call("train", config, "--output-dir", tmp_path / "run").code == 0
    assert load_checkpoint(tmp_path / "run").calibrated_on == "val"


def test_nothing_is_overwritten(tmp_path: Path, call: Call) -> None:
    config, run = write(tmp_path), tmp_path / "run"
    assert call("train", config, "--output-dir", run).code == 0
    before = (run / "report.html").read_bytes()
    assert call("cross_validate", config, "--output-dir", run).code == 2
    assert (run / "report.html").read_bytes() == before
    assert call("cross_validate", config, "--output-dir", tmp_path / "images" / "cv").code == 2
    assert call("cross_validate", config, "--output-dir", tmp_path / "cv").code == 0
    metrics = (tmp_path / "cv" / "metrics.json").read_bytes()
    assert call("cross_validate", config, "seed=5", "--output-dir", tmp_path / "cv").code == 2
    assert (tmp_path / "cv" / "metrics.json").read_bytes() == metrics
    missing = call("cross_validate", config, "data.root=gone", "--output-dir", tmp_path / "new")
    assert missing.code == 2
    assert not (tmp_path / "new").exists()
