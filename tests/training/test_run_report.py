"""Report and model card of a finished run, and what happens to them later."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import neither
from images import make_splits
from neither.data.corrections import DROPPED, Answer, AnswerFile
from neither.models.checkpoint import DecisionRule, load_checkpoint, save_checkpoint
from neither.training import summaries

CONFIG = """name: test
classes: [dog, human, neither]
reject_class: neither
data: {root: images, image_size: 8}
model: {name: softmax_regression}
train: {epochs: 20, batch_size: 8}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with images and a finished run; tests work on a copy."""
    home = tmp_path_factory.mktemp("report")
    make_splits(home / "images", train=8, val=4, test=3)
    (home / "test.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr(summaries, "log_epoch", lambda *_: None)  # which takes most of the time
        neither.train("test.yaml")
    return home


@pytest.fixture
def run(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(shutil.copytree(home, tmp_path / "home"))
    return tmp_path / "home" / "runs" / "test"


def test_the_model_card_has_the_metrics_on_val(run: Path) -> None:
    card = (run / "MODEL_CARD.md").read_text()
    metrics = json.loads((run / "evaluations" / "images-val" / "metrics.json").read_text())
    recall = metrics["per_class"]["dog"]["recall"]
    assert f"| macro recall | {100 * metrics['macro_recall']:.1f} % (" in card
    assert f"| recall of `dog` | {100 * recall:.1f} % (" in card
    assert "| train | 8 | 8 | 8 | 24 |" in card
    assert "- class dog has only 4 images in val" in card
    assert "`python scripts/evaluate.py runs/test images`\nevaluates it on images" in card
    assert "`softmax_regression` (579 parameters)" in card
    assert 'neither.load("runs/test")' in card
    environment = json.loads((run / "environment.json").read_text())
    assert f"| torch | {environment['torch']} |" in card


def test_the_report_is_of_val_and_has_the_curves(run: Path) -> None:
    report = (run / "report.html").read_text("utf-8")
    assert "12 images, val of images" in report
    assert "These images were used to choose the epoch" in report
    assert "val ends at" in report


def test_a_deleted_report_is_written_again(run: Path, call: Callable[..., Any]) -> None:
    before = (run / "report.html").read_bytes()
    (run / "report.html").unlink()
    assert call("train", "test.yaml").code == 0
    assert (run / "report.html").read_bytes() == before


def test_a_finished_run_without_its_images_is_finished_all_the_same(
    run: Path, call: Callable[..., Any]
) -> None:
    (run / "report.html").unlink()
    shutil.rmtree("images/val")
    done = call("train", "test.yaml")
    assert done.code == 0, done.err
    assert "no report could be written: images: no image of val can be read any more" in done.err
    assert "report:     none, see above" in done.out


def test_odd_names_and_a_run_that_accepts_nothing_have_a_model_card_too(
    run: Path, call: Callable[..., Any]
) -> None:
    """Names of folders need not be UTF-8."""
    checkpoint, rule = load_checkpoint(run), DecisionRule(0.98, 1.0, 1.0, num_reject_lacking=99)
    save_checkpoint(run / "checkpoints" / "best.pt", replace(checkpoint, decision_rule=rule))
    (run / "report.html").unlink()
    odd = run.with_name("caf\udce9")
    run.rename(odd)
    done = call("train", "test.yaml", "--output-dir", odd)
    assert done.code == 0, done.err
    card = (odd / "MODEL_CARD.md").read_text()
    assert "On val 0.0 % of the\nimages are accepted (target: 98.0 %" in card
    assert "0 of 0 accepted images of val are correct, too few" in done.out
    for text in (card, done.out, (odd / "report.html").read_text()):  # it never passes in silence
        assert "99 more predictions of neither" in text
    assert "No prediction is confident" in (odd / "report.html").read_text()


def test_after_a_review_both_models_are_scored_on_the_same_corrected_val(
    run: Path, call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summaries, "log_epoch", lambda *_: None)
    with (run / "splits.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] in ("train", "val")]
    answers = [Answer(row["sha256"], "", row["label"], row["label"], "unsure") for row in rows]
    (dog,) = [index for index, row in enumerate(rows) if row["path"] == "train/dog/000.png"]
    (cat,) = [index for index, row in enumerate(rows) if row["path"] == "val/human/000.png"]
    answers[dog] = replace(answers[dog], new_label=DROPPED)
    answers[cat] = replace(answers[cat], new_label="neither")
    AnswerFile(run / "corrections.csv", ("dog", "human", "neither")).append(answers[:-1])
    new = ("train", "test.yaml", "name=second", "data.corrections=runs/test/corrections.csv")
    done = call(*new)
    assert done.code == 0, done.err
    metrics = json.loads(Path("runs/second/evaluations/images-val/metrics.json").read_text())
    assert metrics["review"] == {
        "num_reviewed": 34, "num_changed": 1, "macro_recall_before": pytest.approx(0, abs=1)
    }  # fmt: skip
    assert [sum(row) for row in metrics["confusion_matrix"]] == [4, 4, 4]  # not all val is reviewed

    AnswerFile(run / "corrections.csv", ("dog", "human", "neither")).append(answers)
    done = call(*new, "--fresh")
    assert "2 of 36 reviewed labels changed; macro recall on the same corrected val: " in done.out
    metrics = json.loads(Path("runs/second/evaluations/images-val/metrics.json").read_text())
    assert [sum(row) for row in metrics["confusion_matrix"]] == [4, 3, 5]
    before = Path("runs/second/evaluations/images-val-before-review/metrics.json").read_text()
    assert metrics["review"]["macro_recall_before"] == json.loads(before)["macro_recall"]
    assert "2 of 36 reviewed labels changed" in Path("runs/second/report.html").read_text()
    # The answers stay where the next review finds them.
    done = call("train", "test.yaml", new[-1], "--fresh")
    assert done.code == 0, done.err
    assert "2 of 36 reviewed labels changed; macro recall on the same corrected val: " in done.out
    assert (run / "corrections.csv").exists()
    assert call(*new, "data.corrections=gone.csv").code == 2
