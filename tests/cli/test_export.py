"""Export: the same probabilities as every other interface, or no file."""

import sys
from pathlib import Path

import pytest

from calls import Call
from checkpoints import save_run
from images import make_splits

pytestmark = pytest.mark.usefixtures("no_plots")

Patch = pytest.MonkeyPatch


def test_the_export_is_tried_on_images_of_val(call: Call, tmp_path: Path) -> None:
    images = make_splits(tmp_path / "images", train=0, val=2, test=0)
    model = save_run(tmp_path / "run", images)
    rows = [f"val/{name}/00{number}.png,{name},val,,"
            for name in ("dog", "human", "neither") for number in (0, 1)]  # fmt: skip
    (model / "splits.csv").write_text("\n".join(["path,label,split,sha256,reason", *rows, ""]))
    done = call("export", model, "--format", "pt2", "--output", tmp_path / "model.pt2")
    assert done.code == 0, done.err
    assert "on 6 images of val" in done.out


def test_images_checkpoints_and_folders_are_never_overwritten(call: Call, tmp_path: Path) -> None:
    images = make_splits(tmp_path / "images", train=1, val=0, test=0)
    model = save_run(tmp_path / "run", images)
    for taken in (images / "model.pt2", model / "checkpoints" / "best.pt", tmp_path):
        done = call("export", model, "--format", "pt2", "--output", taken)
        assert (done.code, done.out) == (2, "")
        assert str(taken) in done.err


def test_without_the_extra(call: Call, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)  # as if it were not installed
    done = call("export", tmp_path, "--format", "onnx", "--output", tmp_path / "model.onnx")
    assert (done.code, done.out) == (6, "")
    (line,) = done.err.splitlines()
    assert "pip install 'neither[onnx]'" in line
