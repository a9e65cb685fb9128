"""What a finished run tells: report and model card, and what happens to them later."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from images import make_splits
from neither.models.checkpoint import load_checkpoint, save_checkpoint

CONFIG = """name: told
classes: [dog, human, neither]
reject_class: neither
data: {root: images, image_size: 8}
model: {name: softmax_regression}
train: {epochs: 20, batch_size: 8}
"""


@pytest.fixture
def run(tmp_path: Path, call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_splits(tmp_path / "images", train=8, val=4, test=3)
    (tmp_path / "told.yaml").write_text(CONFIG)
    done = call("train", "told.yaml")
    assert done.code == 0, done.err
    assert "report:     runs/told/report.html" in done.out
    return tmp_path / "runs" / "told"


def test_the_card_says_what_the_figures_on_val_say(run: Path) -> None:
    card = (run / "MODEL_CARD.md").read_text()
    metrics = json.loads((run / "evaluations" / "images-val" / "metrics.json").read_text())
    recall = metrics["per_class"]["dog"]["recall"]
    assert f"| macro recall | {100 * metrics['macro_recall']:.1f} % (" in card
    assert f"| recall of `dog` | {100 * recall:.1f} % (" in card
    assert "| train | 8 | 8 | 8 | 24 |" in card
    assert "- class dog has only 4 images in val" in card
    assert "`python scripts/evaluate.py runs/told images`\nevaluates it on images" in card
    assert "`softmax_regression` (579 parameters)" in card
    assert 'neither.load("runs/told")' in card
    environment = json.loads((run / "environment.json").read_text())
    assert f"| torch | {environment['torch']} |" in card


def test_the_report_is_of_val_and_has_the_curves(run: Path) -> None:
    report = (run / "report.html").read_text("utf-8")
    assert "12 images, val of images" in report
    assert "These images were used to choose the epoch" in report
    assert "val ends at" in report


def test_a_report_that_is_gone_is_written_again(run: Path, call: Callable[..., Any]) -> None:
    before = (run / "report.html").read_bytes()
    (run / "report.html").unlink()
    assert call("train", "told.yaml").code == 0
    assert (run / "report.html").read_bytes() == before


def test_without_the_images_a_finished_run_is_no_less_finished(
    run: Path, call: Callable[..., Any]
) -> None:
    (run / "report.html").unlink()
    shutil.rmtree("images/val")
    done = call("train", "told.yaml")
    assert done.code == 0, done.err
    assert "no report could be written: images: no image of val can be read any more" in done.err
    assert "report:     none, see above" in done.out


def test_odd_names_and_a_run_that_accepts_nothing_have_their_card_too(
    run: Path, call: Callable[..., Any]
) -> None:
    """Names of folders need not be UTF-8."""
    checkpoint = load_checkpoint(run)
    save_checkpoint(run / "checkpoints" / "best.pt", replace(checkpoint, threshold=1.0))
    (run / "report.html").unlink()
    odd = run.with_name("caf\udce9")
    run.rename(odd)
    done = call("train", "told.yaml", "--output-dir", odd)
    assert done.code == 0, done.err
    assert (
        "On val 0.0 % of the\nimages are accepted (target: 98.0 %"
        in (odd / "MODEL_CARD.md").read_text()
    )
    assert "No prediction is confident" in (odd / "report.html").read_text()
