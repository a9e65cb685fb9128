"""Sentences and tables show each number of the metrics and claim no more than it shows."""

from typing import Any

import pytest

from neither.reporting.text import (
    calibration_sentence,
    count_unseen,
    decision_rule_sentences,
    is_near_chance,
    print_metrics,
    summary_sentences,
)

UNLABELLED: dict[str, Any] = {
    "num_images": 4, "num_unreadable": 0, "classes": ["dog", "human"], "reject_class": "human",
    "temperature": 1.2345, "calibrated_on": "val", "certified": False,
    "num_lacking": {"known": 1234},
}  # fmt: skip
LABELLED: dict[str, Any] = UNLABELLED | {
    "accuracy": 0.75, "macro_recall": 0.625, "nll": 0.43219, "refinement": 0.41, "brier": 0.25,
    "ece": 0.031, "adaptive_ece": 0.035, "classwise_ece": 0.021,
    "expected_if_calibrated": {
        "ece": {"mean": 0.022, "q95": 0.04},
        "adaptive_ece": {"mean": 0.023, "q95": 0.03},
        "classwise_ece": {"mean": 0.01, "q95": 0.015},
    },
    "intervals": {"accuracy": [0.5, 1.0], "macro_recall": [0.25, 0.755], "nll": [0.4, 0.5]},
    "rejection": {"auroc": 0.975, "fpr_at_95_tpr": 0.125, "oscr": 0.95},
    "selective": {"accuracy_at": {"0.95": 0.8, "0.9": 0.85, "0.8": 0.9},
                  "aurc": 0.0123, "augrc": 0.0111},
    "threshold": 0.8125, "reject_threshold": 0.625,
    "decision": {
        "target_precision": 0.98, "coverage": 0.75, "precision": 1.0,
    },
    "confusion_matrix": [[3, 1], [0, 0]],
    "per_class": {
        "dog": {"precision": 1.0, "recall": 0.75, "f1": 0.857, "num_images": 4},
        "human": {"precision": 0.0, "num_images": 0},
    },
}  # fmt: skip


def printed(metrics: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines on standard output, without the lines of tables."""
    print_metrics("photos", metrics)
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.replace("│", " ").replace("┃", " ").splitlines()
    return [" ".join(line.split()) for line in lines]


def test_every_metric_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(LABELLED, capsys)
    assert "dog human images recall precision f1" in lines
    assert "dog 3 1 4 75.0 % 100.0 % 85.7 %" in lines
    assert "human 0 0 0 - 0.0 % -" in lines
    text = "\n".join(lines)
    for numbers in (
        "accuracy 75.0 % (50.0 - 100.0 %), macro recall 62.5 % (25.0 - 75.5 %)",
        "nll 0.4322 (0.4000 - 0.5000), 0.4100 ", "Brier 0.2500", "temperature 1.234",
        "ECE 3.1 % (2.2 %, 4.0 %)", "3.5 % (2.3 %, 3.0 %)", "2.1 % (1.0 %, 1.5 %)",
        "AUROC 0.9750", "12.5 %", "OSCR 0.9500",
        "80.0 % of the most confident 95 %", "85.0 % of the most confident 90 %",
        "90.0 % of the most confident 80 %", "AURC 0.0123, AUGRC 0.0111",
        "dog from a probability of 0.8125, human from a probability of 0.6250",
        "75.0 % of the images accepted, 100.0 % of these correct (target on val: 98.0 %): 3 of 3",
        "Not certified: val lacks at least 1,234 more predictions of dog",
    ):  # fmt: skip
        assert numbers in text, numbers


def test_priors_are_printed_with_the_target(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(LABELLED | {"priors": {"dog": 0.001, "human": 0.999}}, capsys)
    assert any(line.endswith(": dog 0.1 %, human 99.9 %") for line in lines)
    assert any("class frequencies there" in line for line in lines)


def test_unlabelled_and_unreadable_images_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    unlabelled = {"unlabelled": {"num_images": 3, "decided": {"dog": 1, "human": 2}}}
    lines = printed(UNLABELLED | unlabelled | {"num_unreadable": 1234}, capsys)
    assert "no accuracy" in lines[0]
    assert "decisions: dog 1, human 2" in lines
    assert lines[-1].startswith("1,234 files")


def test_out_of_distribution_folders_have_rows(capsys: pytest.CaptureFixture[str]) -> None:
    folders = {"tea [red]pot\x1b": {"num_images": 1200, "decided": {"dog": 1150, "human": 50}}}
    lines = printed(LABELLED | {"out_of_distribution": folders}, capsys)
    assert "tea [red]pot\\x1b 1150 50 1200" in lines
    assert "on 4 images, with 95 % intervals:" in lines  # without the 1,200


def test_accepted_images_of_unseen_kinds_are_said_first(capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong dog counts; neither and unsure do not."""
    rows = {
        "fish": {"num_images": 20, "decided": {"dog": 7, "neither": 9, "unsure": 4}},
        "snow": {"num_images": 12, "decided": {"dog": 3, "neither": 9, "unsure": 0}},
    }
    per_class = {name: {"recall": 0.9, "num_images": 50} for name in ("dog", "neither")}
    metrics = make_metrics(out_of_distribution=rows, num_trained_on=9, per_class=per_class)
    assert count_unseen(metrics) == (10, 32)
    first, *others = summary_sentences(metrics)
    assert first.startswith("Of 32 images of unseen kinds, 10 (31.2 %) are decided dog")
    assert len(others) == 4
    assert first in " ".join(printed(metrics, capsys))
    for row in rows.values():
        row["decided"] = {"dog": 0, "neither": 9, "unsure": 3}
    assert "unseen" not in summary_sentences(metrics)[0]
    # Without a reject class each decision is one of the classes.
    assert count_unseen(metrics | {"classes": ["dog", "neither"], "reject_class": None})[0] == 18


@pytest.mark.parametrize(("values", "parts"), [
    ({"certified": True, "num_lacking": {}}, ["Certified: with 90 %", "0.8125", "0.6250"]),
    ({"num_lacking": {"known": 12, "reject": 3}}, ["12 more predictions of dog and 3 more "]),
    ({"num_lacking": {}, "calibrated_on": "left-out sources"}, ["fitted to left-out sources"]),
    ({"threshold": None}, ["No threshold reached", "for dog:", "human from"]),
    ({"classes": list("abcdef"), "reject_class": "f"}, ["another class from", ", f from"]),
    ({"classes": list("abcdef"), "reject_class": None}, ["any class from"]),
])  # fmt: skip
def test_each_rule_is_described(values: dict[str, Any], parts: list[str]) -> None:
    metrics = {key: value for key, value in (LABELLED | values).items() if value is not None}
    text = " ".join(decision_rule_sentences(metrics))
    assert [part for part in parts if part not in text] == []
    assert text.count("ertified") == 1


def make_metrics(**other: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return metrics of 100 images of which 90 are classified correctly."""
    decision = {"target_precision": 0.98, "coverage": 0.6, "precision": 0.95}
    per_class = {"dog": {"recall": 0.9}, "neither": {"recall": 0.91}}
    return LABELLED | {
        "num_images": 100, "accuracy": 0.9, "macro_recall": 0.9, "reject_class": "neither",
        "classes": ["dog", "neither"],
        "confusion_matrix": [[45, 5], [5, 45]], "per_class": per_class, "decision": decision,
    } | other  # fmt: skip


def test_the_summary_is_accuracy_confidence_and_the_reject_class() -> None:
    first, second, third = summary_sentences(make_metrics())
    assert first == "Of 100 images like these, about 90 are classified correctly (83 to 94)."
    assert ("about 60" in second, "95.0 %" in second) == (True, True)
    assert third == "Of 100 images of neither, about 91 are classified as neither."

    first, *_ = summary_sentences(make_metrics(num_trained_on=99))
    assert first.startswith("99 of these 100 images")
    first, *_ = summary_sentences(make_metrics(num_changed=98))
    assert first.startswith("98 of these 100 images")


@pytest.mark.parametrize(("decision", "part"), [
    ({"coverage": 0.02, "precision": 1.0}, "2 of 100 predictions are confident, 2 of them"),
    ({"coverage": 0.0}, "No prediction is confident"),
    ({"coverage": 1.0, "precision": 0.9}, "Of 100 predictions, all are confident; 90.0 %"),
])  # fmt: skip
def test_few_confident_predictions_are_counted(decision: dict[str, float], part: str) -> None:
    lines = summary_sentences(make_metrics(decision={"target_precision": 0.98} | decision))
    assert sum(part in line for line in lines) == 1
    without = make_metrics()
    del without["threshold"], without["reject_threshold"]
    assert "No threshold reached a precision of 98.0 %" in summary_sentences(without)[1]


def test_hardly_better_than_chance_is_mentioned() -> None:
    assert "chance" in summary_sentences(make_metrics(macro_recall=0.55))[1]
    assert is_near_chance(0.45, 3)
    assert not is_near_chance(0.48, 3)
    assert not is_near_chance(1.0, 1)
    assert not is_near_chance(0.0, 1)


@pytest.mark.parametrize(
    ("ece", "bound", "verdict"),
    [(0.06, 0.05, "not well"), (0.04, 0.05, "are well"), (0.06, 0.07, "too few")],
)
def test_calibration_is_judged(ece: float, bound: float, verdict: str) -> None:
    metrics: dict[str, Any] = {"ece": ece, "expected_if_calibrated": {"ece": {"q95": bound}}}
    assert verdict in calibration_sentence(metrics | {"calibrated_on": "val"})
    # A temperature for images from elsewhere is not judged by images from home.
    other = calibration_sentence(metrics | {"calibrated_on": "left-out sources"})
    assert verdict not in other


@pytest.mark.parametrize(
    ("fraction", "part"),
    [(1.0, "all are"), (0.998, "more than 99 are"), (0.994, "about 99 are"),
     (0.002, "less than 1"), (0.0, "none are")],
)  # fmt: skip
def test_only_all_is_all_and_only_none_is_none(fraction: float, part: str) -> None:
    assert part in summary_sentences(make_metrics(accuracy=fraction))[0]
