"""Evaluating folders: what is counted where, and the content of the files."""

import csv
import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clock import fake_clock
from neither.data import workers
from neither.data.layout import find_evaluation_images, find_unseen_images
from neither.evaluation.evaluation import compute_metrics, evaluate
from neither.evaluation.metrics import wilson_interval
from neither.inference.classifier import BATCH_SIZE, Classifier
from neither.models.checkpoint import DecisionRule
from neither.runtime.errors import CheckpointError

Patch = pytest.MonkeyPatch
Draw = Callable[..., None]
Rows = list[dict[str, str]]


def run_evaluate(
    classifier: Classifier, path: Path, output_dir: Path, unseen: Path | None = None
) -> tuple[dict[str, Any], Rows]:
    """Evaluate as the command does; return what the two files hold."""
    images = find_evaluation_images(path, classifier.classes, None)
    others = find_unseen_images(unseen, classifier.classes) if unseen else None
    metrics: dict[str, Any] = evaluate(classifier, images, output_dir, others).metrics
    assert json.loads((output_dir / "metrics.json").read_bytes()) == metrics
    assert {path.name for path in output_dir.iterdir()} == {"metrics.json", "predictions.csv"}
    text = (output_dir / "predictions.csv").read_bytes().decode("utf-8", "surrogateescape")
    rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    assert all(None not in row and None not in row.values() for row in rows)
    return metrics, rows


def by_path(rows: Rows) -> dict[str, dict[str, str]]:
    assert len({row["path"] for row in rows}) == len(rows)
    return {row["path"]: row for row in rows}


@pytest.fixture
def labelled(tmp_path: Path, draw: Draw) -> Path:
    """Five dogs, one of which looks human; three humans; nothing that is neither."""
    root = tmp_path / "images"
    for number in range(4):
        draw(root / "dog" / f"{number}.png", "dog", number)
    draw(root / "dog" / "odd.png", "human")
    for number in range(3):
        draw(root / "human" / f"{number}.png", "human", number)
    return root


def test_a_labelled_folder(classifier: Classifier, labelled: Path, tmp_path: Path) -> None:
    metrics, rows = run_evaluate(classifier, labelled, tmp_path / "out")
    assert metrics.pop("nll") > 0
    for key in (
        "brier", "ece", "adaptive_ece", "classwise_ece", "expected_if_calibrated", "refinement",
        "reliability", "intervals", "selective",
    ):  # fmt: skip
        assert metrics.pop(key)
    assert metrics == {
        "schema_version": 1, "num_images": 8, "num_unreadable": 0,
        "classes": ["dog", "human", "neither"], "reject_class": "neither", "temperature": 1.25,
        "calibrated_on": "val", "certified": False,
        "decision": {
            "target_precision": 1.0, "coverage": 1.0, "precision": 7 / 8,
            "known": {"num_predicted": 8, "num_accepted": 8, "precision": 7 / 8},
            "reject": {"num_predicted": 0, "num_accepted": 0},
        },
        "accuracy": 7 / 8,
        "macro_recall": pytest.approx((4 / 5 + 1) / 2),
        "confusion_matrix": [[4, 1, 0], [0, 3, 0], [0, 0, 0]],
        "per_class": {
            "dog": {"precision": 1.0, "recall": 0.8, "f1": 8 / 9, "num_images": 5},
            "human": {"precision": 0.75, "recall": 1.0, "f1": 6 / 7, "num_images": 3},
            "neither": {"num_images": 0},
        },
    }  # fmt: skip
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    assert {row["true_label"] for row in rows} == {"dog", "human"}
    assert by_path(rows)["dog/odd.png"]["predicted"] == "human"


def test_the_threshold(classifier: Classifier, labelled: Path, tmp_path: Path, draw: Draw) -> None:
    draw(labelled / "teapot" / "confident.png", "dog")
    draw(labelled / "teapot" / "faint.png", "dog", 100)
    _, rows = run_evaluate(classifier, labelled, tmp_path / "first")
    confidences = {row["path"]: float(row["confidence"]) for row in rows}
    assert confidences["teapot/faint.png"] < confidences["teapot/confident.png"]
    threshold = sum(confidences[f"teapot/{name}.png"] for name in ("faint", "confident")) / 2
    metrics, rows = run_evaluate(
        replace(classifier, decision_rule=DecisionRule(0.98, threshold, 1.0, num_lacking=9)),
        labelled,
        tmp_path / "out",
    )
    assert (metrics["threshold"], metrics["reject_threshold"]) == (threshold, 1.0)
    assert (metrics["certified"], metrics["num_lacking"]) == (False, {"known": 9})
    assert metrics["out_of_distribution"]["teapot"] == {
        "num_images": 2, "decided": {"dog": 1, "human": 0, "neither": 0, "unsure": 1},
    }  # fmt: skip
    known = [row for row in rows if row["true_label"] != "teapot"]
    accepted = [row for row in known if row["decision"] != "unsure"]
    assert metrics["decision"]["coverage"] == len(accepted) / len(known)
    correct = [row for row in accepted if row["predicted"] == row["true_label"]]
    assert metrics["decision"]["precision"] == len(correct) / len(accepted)
    for row in rows:
        is_accepted = float(row["confidence"]) >= threshold
        assert row["decision"] == (row["predicted"] if is_accepted else "unsure")
        assert row["certified"] == "false"
        assert row["reason"].split()[1] == (">=" if is_accepted else "<")


def test_unreadable_files_have_rows(classifier: Classifier, labelled: Path, tmp_path: Path) -> None:
    before, rows_before = run_evaluate(classifier, labelled, tmp_path / "before")
    (labelled / "dog" / "1b.png").write_text("this is no image")
    (labelled / "human" / "0.jpg").touch()
    metrics, rows = run_evaluate(classifier, labelled, tmp_path / "out")
    assert metrics.pop("num_unreadable") == 2
    assert before.pop("num_unreadable") == 0
    assert metrics == before
    found = by_path(rows)
    bad = {path: found.pop(path) for path in ("dog/1b.png", "human/0.jpg")}
    assert list(found.values()) == rows_before
    for path, row in bad.items():
        assert row.pop("error")
        filled = {column: value for column, value in row.items() if value}
        label = path.partition("/")[0]
        assert filled == {"path": path, "status": "unreadable", "true_label": label}


def test_an_unlabelled_folder(classifier: Classifier, tmp_path: Path, draw: Draw) -> None:
    draw(tmp_path / "images" / "one.png", "dog")
    draw(tmp_path / "images" / "holiday" / "two.png", "neither")
    metrics, rows = run_evaluate(classifier, tmp_path / "images", tmp_path / "out")
    assert metrics == {
        "schema_version": 1, "num_images": 2, "num_unreadable": 0,
        "classes": ["dog", "human", "neither"], "reject_class": "neither", "temperature": 1.25,
        "calibrated_on": "val", "certified": False,
        "unlabelled": {"num_images": 2, "decided": {"dog": 1, "human": 0, "neither": 1}},
    }  # fmt: skip
    assert {(row["path"], row["predicted"], row["true_label"]) for row in rows} == {
        ("one.png", "dog", ""), ("holiday/two.png", "neither", ""),
    }  # fmt: skip


def test_other_folders(classifier: Classifier, labelled: Path, tmp_path: Path, draw: Draw) -> None:
    alone, _ = run_evaluate(classifier, labelled, tmp_path / "alone")
    for number, color in enumerate(["dog", "neither", "neither"]):
        draw(labelled / "teapot" / f"{number}.png", color)
    draw(labelled / "dogs" / "0.png", "human")  # nearly a class is no class
    draw(labelled / "stray.png", "dog")  # beside the folders: no label at all
    (labelled / "teapot" / "bad.png").touch()
    metrics, rows = run_evaluate(classifier, labelled, tmp_path / "out")
    assert metrics["out_of_distribution"] == {
        "dogs": {"num_images": 1, "decided": {"dog": 0, "human": 1, "neither": 0}},
        "teapot": {"num_images": 3, "decided": {"dog": 1, "human": 0, "neither": 2}},
    }
    for key in ("accuracy", "macro_recall", "nll", "confusion_matrix", "per_class"):
        assert metrics[key] == alone[key]
    assert metrics["num_images"] == 8 + 3 + 1 + 1
    assert metrics["num_unreadable"] == 1
    found = by_path(rows)
    assert found["teapot/0.png"]["true_label"] == found["teapot/bad.png"]["true_label"] == "teapot"
    assert found["stray.png"]["true_label"] == ""


def test_unseen_images(classifier: Classifier, labelled: Path, tmp_path: Path, draw: Draw) -> None:
    alone, rows_alone = run_evaluate(classifier, labelled, tmp_path / "alone")
    draw(tmp_path / "unseen" / "kettle" / "0.png", "human")
    draw(tmp_path / "unseen" / "lamp" / "0.png", "neither")
    draw(tmp_path / "unseen" / "1.png", "neither")
    metrics, rows = run_evaluate(classifier, labelled, tmp_path / "out", tmp_path / "unseen")
    assert rows[: len(rows_alone)] == rows_alone
    assert [(row["path"], row["true_label"]) for row in rows[len(rows_alone) :]] == [
        ("../unseen/1.png", "unseen"), ("../unseen/kettle/0.png", "kettle"),
        ("../unseen/lamp/0.png", "lamp"),
    ]  # fmt: skip
    folders = metrics.pop("out_of_distribution")
    nums = {name: row["num_images"] for name, row in folders.items()}
    assert nums == {"kettle": 1, "lamp": 1, "unseen": 1}
    assert metrics == alone | {"num_images": 11}


def test_partial_batches(
    classifier: Classifier, tmp_path: Path, draw: Draw, monkeypatch: Patch
) -> None:
    for number in range(BATCH_SIZE + 6):  # only the images past the first batch are wrong
        color = "dog" if number < BATCH_SIZE else "human"
        draw(tmp_path / "images" / "dog" / f"{number:03}.png", color)
    metrics, rows = run_evaluate(classifier, tmp_path / "images", tmp_path / "one")
    assert metrics["confusion_matrix"] == [[BATCH_SIZE, 6, 0], [0, 0, 0], [0, 0, 0]]
    assert len(rows) == metrics["num_images"] == BATCH_SIZE + 6
    monkeypatch.setattr(workers, "num_cores", lambda: 2)
    assert run_evaluate(classifier, tmp_path / "images", tmp_path / "two") == (metrics, rows)


class BrokenNetwork(nn.Module):
    """A network with damaged weights."""

    def forward(self, images: Tensor) -> Tensor:
        return images.new_full((len(images), 3), math.nan)


def test_logits_must_be_finite(classifier: Classifier, labelled: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predictions.csv").write_text("of an earlier evaluation\n")
    with pytest.raises(CheckpointError, match="not finite"):
        run_evaluate(replace(classifier, network=BrokenNetwork()), labelled, tmp_path / "out")
    (left,) = (tmp_path / "out").iterdir()
    assert left.read_text() == "of an earlier evaluation\n"


# Red is a dog, green a human, blue neither: one logit each, at temperature 1.25.
LOGITS = torch.tensor([[5.0, 0, 0]] * 3 + [[0, 5.0, 0]] * 3 + [[0, 0, 5.0]] * 3 + [[0, 2.5, 0]])
LABELS = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, 2])
HIGH = math.exp(4) / (math.exp(4) + 2)
LOW = math.exp(2) / (math.exp(2) + 2)


def test_all_metrics_by_hand(classifier: Classifier) -> None:
    found = compute_metrics(classifier, LOGITS, LABELS)
    losses = [-math.log(HIGH)] * 9 + [-math.log((1 - LOW) / 2)]
    assert found["accuracy"] == 0.9
    assert found["macro_recall"] == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert found["nll"] == pytest.approx(sum(losses) / 10)
    assert found["refinement"] <= found["nll"]
    assert found["ece"] == pytest.approx((9 * (1 - HIGH) + LOW) / 10)
    assert found["reliability"] == [
        {"num_images": 1, "confidence": pytest.approx(LOW), "accuracy": 0.0},
        {"num_images": 9, "confidence": pytest.approx(HIGH), "accuracy": 1.0},
    ]
    assert found["selective"]["accuracy_at"] == {"0.95": 0.9, "0.9": 1.0, "0.8": 1.0}
    # 1 - p(neither): the wrong one of neither is between the known images and its fellows.
    assert found["rejection"]["auroc"] == 1.0
    assert set(found["rejection"]) == {
        "auroc", "fpr_at_95_tpr", "oscr", "ccr_at_fpr", "aurc", "augrc",
    }  # fmt: skip
    assert found["rejection"]["aurc"] == found["selective"]["aurc"] == pytest.approx(0.01)
    rule = DecisionRule(0.75, LOW + 1e-9, 1.0)  # accepts 6 of 7 known ones, and nothing as neither
    found["decision"] = compute_metrics(replace(classifier, decision_rule=rule), LOGITS, LABELS)[
        "decision"
    ]
    assert found["decision"] == {
        "target_precision": 0.75, "coverage": 0.6, "precision": 1.0,
        "known": {"num_predicted": 7, "num_accepted": 6, "precision": 1.0},
        "reject": {"num_predicted": 3, "num_accepted": 0},
    }  # fmt: skip
    low, high = found["intervals"]["accuracy"]
    assert (low, high) == pytest.approx(wilson_interval(0.9, 10))
    assert set(found["expected_if_calibrated"]) == {"ece", "adaptive_ece", "classwise_ece"}


def test_metrics_that_do_not_apply_are_absent(classifier: Classifier) -> None:
    alone = compute_metrics(classifier, LOGITS[:3], LABELS[:3])
    assert "rejection" not in alone
    assert "auroc" not in alone["selective"]
    assert "null" not in json.dumps(alone)
    assert "NaN" not in json.dumps(alone)


@pytest.mark.parametrize("num", [36, 5 * BATCH_SIZE + 3])
def test_the_time_left_counts_whole_batches(
    classifier: Classifier, tmp_path: Path, draw: Draw, monkeypatch: Patch, num: int
) -> None:
    clock = fake_clock(monkeypatch)
    draw(tmp_path / "images" / "dog" / "0.png", "dog")
    images = find_evaluation_images(tmp_path / "images", classifier.classes, None)
    images.paths, images.labels = images.paths * num, images.labels * num

    class Slow(Classifier):
        def logits(self, pixels: Tensor) -> Tensor:
            clock.now += 40
            return super().logits(pixels)

    evaluate(Slow(**vars(classifier)), images, tmp_path / "out")
    done = [done for _, done, _ in clock.estimates()]
    assert done == [*range(BATCH_SIZE, num, BATCH_SIZE), num]
    if num > BATCH_SIZE:
        clock.check(40, clock.now, step=40)
