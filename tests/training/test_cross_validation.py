"""Cross-validation by source and by fold, with a frozen backbone and with a run for each fold."""

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calls import Call
from images import CLASSES, draw_shape
from neither.data import workers
from neither.models import efficientnet_lite
from neither.models.checkpoint import load_checkpoint
from neither.models.efficientnet_lite import EfficientNetLite0

pytestmark = pytest.mark.usefixtures("no_plots")

TEXT = """name: sourced
classes: [dog, human, neither]
reject_class: neither
device: cpu
data: {root: ROOT, image_size: 32, sources: '([^/]+)_[^/]*$'}
model: MODEL
train: {epochs: EPOCHS}
decision: {target_precision: 0.6}
"""
HEAD = "{name: efficientnet_lite0, weights: WEIGHTS, trainable: head}"
SMALL = {"_STAGES": ((1, 3, 1, 8, 1), (6, 5, 2, 16, 2)), "_STEM_CHANNELS": 8, "_NUM_FEATURES": 40}


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Leave out what takes time: a large network, decoding processes, syncing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "num_cores", lambda: 1)
        patch.setattr(os, "fsync", lambda _: None)
        for name, value in SMALL.items():
            patch.setattr(efficientnet_lite, name, value)
        yield


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
    torch.manual_seed(0)
    torch.save(EfficientNetLite0().state_dict(), home / "weights.pth")
    text = TEXT.replace("MODEL", model).replace("ROOT", str(home / "images"))
    text = text.replace("WEIGHTS", str(home / "weights.pth"))
    text = text.replace("EPOCHS", "200" if model == HEAD else "1")
    (home / "config.yaml").write_text(text)
    return home / "config.yaml"


def results(folder: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    with (folder / "out_of_fold.csv").open(newline="") as file:
        return json.loads((folder / "metrics.json").read_text()), list(csv.DictReader(file))


def test_each_source_is_left_out_and_the_same_command_gives_the_same_bytes(
    tmp_path: Path, call: Call
) -> None:
    config, folder = write(tmp_path), tmp_path / "cv"
    done = call("cross_validate", config, "--output-dir", folder)
    assert done.code == 0, done.err
    metrics, rows = results(folder)
    assert metrics["num_images"] == len(rows) == 99
    assert [row["source"] for row in metrics["sources"]] != []
    assert {row["num_images"] for row in metrics["sources"]} == {33}
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

    before = {name: (folder / name).read_bytes() for name in ("metrics.json", "out_of_fold.csv")}
    assert call("cross_validate", config, "--output-dir", folder).code == 0
    assert before == {name: (folder / name).read_bytes() for name in before}


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


def test_folds_of_runs_give_a_decision_that_training_takes(tmp_path: Path, call: Call) -> None:
    """Without sources there are as many folds as are asked for, and no row for a source."""
    config, folder = write(tmp_path, "{name: softmax_regression}"), tmp_path / "cv"
    command = (config, "data.sources=null", "--folds", "2", "--output-dir", folder)
    done = call("cross_validate", *command)
    assert done.code == 0, done.err
    metrics, rows = results(folder)
    assert metrics["sources"] == []
    assert {row["fold"] for row in rows} == {"0", "1"}
    assert "folds" in metrics
    last = folder / "folds" / "1" / "run" / "checkpoints" / "last.pt"
    before = last.stat().st_mtime_ns
    assert call("cross_validate", *command).code == 0
    assert last.stat().st_mtime_ns == before  # finished folds are kept

    key = f"decision.cross_validation={folder}"
    run = (config, "data.sources=null", key, "--output-dir", tmp_path / "run")
    done = call("train", *run)
    assert done.code == 0, done.err
    best = load_checkpoint(tmp_path / "run")
    assert best.calibrated_on == "cross-validation"
    assert best.temperature == metrics["temperature"]
    other = call("train", config, "data.sources=null", key, "train.lr=0.001", "--output-dir",
                 tmp_path / "third")  # fmt: skip
    assert other.code == 2
    missing = call("train", config, "decision.cross_validation=nothing", "--output-dir",
                   tmp_path / "fourth")  # fmt: skip
    assert missing.code == 2
    assert "cross_validate.py" in missing.err


@pytest.mark.parametrize(
    ("overrides", "code", "part"),
    [
        (("data.sources=nothing_like_it",), 2, "data.sources"),
        (("--folds", "1"), 2, "--folds"),
        (("--folds", "2"), 0, ""),
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
