"""Export: the same answers by every way, or no file."""

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

NAMES = ("cmyk.jpg", "deep.png", "large.jpg", "turned.jpg", "wide.png")


def make_odd_pictures(folder: Path) -> Path:
    """Make pictures that are easily read in another way than in training."""
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


def test_evaluate_predict_python_and_onnx_say_the_same(call: Call, tmp_path: Path) -> None:
    model, folder = save_run(tmp_path / "run", tmp_path / "gone"), make_odd_pictures(tmp_path / "x")
    done = call("export", model, "--format", "onnx", "--output", tmp_path / "new" / "model.onnx")
    assert done.code == 0, done.err
    assert "64 drawn pictures" in done.out
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model.onnx"]

    assert call("evaluate", model, folder, "--output-dir", tmp_path / "out").code == 0
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        scored = {row["path"]: [float(row[f"prob_{name}"]) for name in ("dog", "human", "neither")]
                  for row in csv.DictReader(file)}  # fmt: skip
    lines = call("predict", model, folder, "--format", "jsonl").out.splitlines()
    predicted = {Path(row["path"]).name: [*row["probabilities"].values()]
                 for row in map(json.loads, lines)}  # fmt: skip
    classifier = neither.load(model, device="cpu")
    asked = {path.name: [*classifier(path).probabilities.values()] for path in folder.iterdir()}
    squares = np.stack([decode(folder / name, 32, "crop") for name in NAMES])
    content = (tmp_path / "new" / "model.onnx").read_bytes()
    rows = dict(zip(NAMES, load_exported(content, "onnx")(squares).tolist(), strict=True))
    for name in NAMES:
        for way in (predicted, asked, rows):
            assert way[name] == pytest.approx(scored[name], abs=1e-4), name
    assert len({tuple(row) for row in scored.values()}) == len(NAMES)


def test_pictures_of_val_are_what_it_is_tried_on(call: Call, tmp_path: Path) -> None:
    images = make_splits(tmp_path / "images", train=0, val=2, test=0)
    model = save_run(tmp_path / "run", images)
    rows = [f"val/{name}/00{number}.png,{name},val,,"
            for name in ("dog", "human", "neither") for number in (0, 1)]  # fmt: skip
    (model / "splits.csv").write_text("\n".join(["path,label,split,sha256,reason", *rows, ""]))
    done = call("export", model, "--format", "pt2", "--output", tmp_path / "model.pt2")
    assert done.code == 0, done.err
    assert "on 6 pictures of val" in done.out


def test_a_file_that_answers_otherwise_is_not_left_behind(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, output = save_run(tmp_path / "run", tmp_path / "gone"), tmp_path / "new" / "model.pt2"
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(RuntimeError, match="nothing was written"):
        call("export", model, "--format", "pt2", "--output", output)
    assert list(output.parent.iterdir()) == []


def test_nothing_is_written_among_the_images_or_over_the_checkpoint(
    call: Call, tmp_path: Path
) -> None:
    images = make_splits(tmp_path / "images", train=1, val=0, test=0)
    model = save_run(tmp_path / "run", images)
    done = call("export", model, "--format", "pt2", "--output", images / "model.pt2")
    assert (done.code, done.out) == (2, "")
    assert "is inside the image folder" in done.err
    best = model / "checkpoints" / "best.pt"
    for taken in (best, tmp_path):
        done = call("export", model, "--format", "pt2", "--output", taken)
        assert (done.code, done.out) == (2, "")
        assert "choose another --output" in done.err


def test_without_the_extra_it_is_one_line_with_the_remedy(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)  # as if it were not installed
    done = call("export", tmp_path, "--format", "onnx", "--output", tmp_path / "model.onnx")
    assert (done.code, done.out) == (6, "")
    assert done.err == "error: onnx is not installed; run: pip install 'neither[onnx]'\n"
