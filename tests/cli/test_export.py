"""Export: the same probabilities as every other interface, or no file."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx_example import decode
from PIL import Image

import neither
from calls import Call
from checkpoints import save_run
from images import encode, make_splits, oriented, photo
from neither.inference import export
from neither.inference.export import load_exported

pytestmark = pytest.mark.usefixtures("no_plots")

Patch = pytest.MonkeyPatch
NAMES = ("cmyk.jpg", "deep.png", "large.jpg", "turned.jpg", "wide.png")


def make_unusual_images(folder: Path) -> Path:
    """Make images that other decoders easily read in another way than training does."""
    folder.mkdir()
    depth = np.random.default_rng(0).integers(0, 2**16, (50, 70), dtype=np.uint16)
    contents = (
        encode(photo(1, 120, 90).convert("CMYK"), "JPEG"),
        encode(Image.fromarray(depth), "PNG"),
        encode(photo(2, 1003, 777), "JPEG"),
        oriented(photo(3, 411, 309), "JPEG", 6),
        encode(photo(4, 300, 40), "PNG"),
    )
    for name, content in zip(NAMES, contents, strict=True):
        (folder / name).write_bytes(content)
    return folder


def test_evaluate_predict_python_and_onnx_agree(call: Call, tmp_path: Path) -> None:
    model = save_run(tmp_path / "run", tmp_path / "gone")
    folder = make_unusual_images(tmp_path / "x")
    done = call("export", model, "--format", "onnx", "--output", tmp_path / "new" / "model.onnx")
    assert done.code == 0, done.err
    assert "64 random images" in done.out
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model.onnx"]

    assert call("evaluate", model, folder, "--output-dir", tmp_path / "out").code == 0
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        scored = {row["path"]: [float(row[f"prob_{name}"]) for name in ("dog", "human", "neither")]
                  for row in csv.DictReader(file)}  # fmt: skip
    lines = call("predict", model, folder, "--format", "jsonl").out.splitlines()
    predicted = {Path(row["path"]).name: [*row["probabilities"].values()]
                 for row in map(json.loads, lines)}  # fmt: skip
    classifier = neither.load(model, device="cpu")
    called = {path.name: [*classifier(path).probabilities.values()] for path in folder.iterdir()}
    pixels = np.stack([decode(folder / name, 32, "crop") for name in NAMES])
    content = (tmp_path / "new" / "model.onnx").read_bytes()
    exported = dict(zip(NAMES, load_exported(content, "onnx")(pixels).tolist(), strict=True))
    for name in NAMES:
        for probabilities in (predicted, called, exported):
            assert probabilities[name] == pytest.approx(scored[name], abs=1e-4), name
    assert len({tuple(row) for row in scored.values()}) == len(NAMES)


def test_the_export_is_tried_on_images_of_val(call: Call, tmp_path: Path) -> None:
    images = make_splits(tmp_path / "images", train=0, val=2, test=0)
    model = save_run(tmp_path / "run", images)
    rows = [f"val/{name}/00{number}.png,{name},val,,"
            for name in ("dog", "human", "neither") for number in (0, 1)]  # fmt: skip
    (model / "splits.csv").write_text("\n".join(["path,label,split,sha256,reason", *rows, ""]))
    done = call("export", model, "--format", "pt2", "--output", tmp_path / "model.pt2")
    assert done.code == 0, done.err
    assert "on 6 images of val" in done.out


def test_a_wrong_export_is_not_written(
    call: Call, tmp_path: Path, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, output = save_run(tmp_path / "run", tmp_path / "gone"), tmp_path / "new" / "model.pt2"
    (model / "splits.csv").write_text("path,label,split,sha256,reason\nval/a.png,dog,val,,\n")
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(RuntimeError, match="nothing was written"):
        call("export", model, "--format", "pt2", "--output", output)
    assert not output.parent.exists()
    assert "random images" in capsys.readouterr().err  # since those of val are gone


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
