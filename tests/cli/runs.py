"""Small runs that the tests of `train` and `evaluate` share."""

import csv
import io
import json
import shlex
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from calls import Call, Done, calling
from images import CLASSES, draw_shape
from scripts import ROOT

CONFIG = ROOT / "configs" / "demo.yaml"
SMALL = ("train.epochs=0", "train.batch_size=16", "model.width=8", "data.image_size=32")


def make_flat(root: Path, num: int = 20, **folders: str) -> Path:
    """Make `root/<folder>/NNN.png`, without splits; the values name the class that is drawn."""
    for offset, (folder, label) in enumerate((folders or {name: name for name in CLASSES}).items()):
        (root / folder).mkdir(parents=True)
        for number in range(num):
            draw_shape(label, 1000 * offset + number).save(root / folder / f"{number:03}.png")
    return root


def write_manifest(path: Path, root: Path, columns: str = "path,label") -> Path:
    """List a folder of splits or classes in a manifest."""
    rows = [columns]
    for image in sorted(root.rglob("*.png")):
        *_, split, label, _ = image.parts
        cells = [image.relative_to(path.parent).as_posix(), label, split]
        rows.append(",".join(cells[: len(columns.split(","))]))
    path.write_text("\n".join(rows) + "\n")
    return path


def source_keys(source: Path) -> list[str]:
    if source.suffix == ".csv":
        return ["data.root=null", f"data.manifest={source}"]
    return [f"data.root={source}"]


def train(call: Call, source: Path, run: Path, *more: str) -> str:
    """Train, and return the printed command that evaluates the run."""
    done = call("train", CONFIG, *source_keys(source), *SMALL, *more, "--output-dir", run)
    assert done.code == 0, done.err
    return printed_command(done.out)


def printed_command(out: str) -> str:
    (line,) = [line for line in out.splitlines() if line.startswith("evaluate:")]
    return line.removeprefix("evaluate:").strip()


def run_printed(call: Call, command: str) -> Done:
    python, script, *arguments = shlex.split(command)
    assert (python, script) == ("python", "scripts/evaluate.py")
    return call("evaluate", *arguments)


def splits_of(run: Path) -> dict[str, str]:
    with (run / "splits.csv").open(newline="") as file:
        return {row["path"]: row["split"] for row in csv.DictReader(file)}


def results(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, str]]]:
    """Return `metrics.json`, and the rows of `predictions.csv` by path."""
    with (folder / "predictions.csv").open(newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    return json.loads((folder / "metrics.json").read_text()), rows


def train_flat(home: Path) -> tuple[Path, Path, str]:
    """Train one epoch on a flat folder; return it, the run and the printed command."""
    root, out = make_flat(home / "photos"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, calling(patch, None) as call, redirect_stdout(out):
        keys = (*source_keys(root), *SMALL, "train.epochs=1")
        assert call("train", CONFIG, *keys, "--output-dir", home / "run").code == 0
    return root, home / "run", printed_command(out.getvalue())
