"""What a person sees of the figures."""

from typing import Any

import pytest

from neither.reporting.text import print_metrics

UNLABELLED: dict[str, Any] = {
    "num_images": 4, "num_unreadable": 0, "classes": ["dog", "human"], "reject_class": "human",
    "temperature": 1.2345,
}  # fmt: skip
LABELLED: dict[str, Any] = UNLABELLED | {
    "accuracy": 0.75,
    "macro_recall": 0.625,
    "nll": 0.43219,
    "refinement": 0.4,
    "brier": 0.25,
    "ece": 0.031,
    "adaptive_ece": 0.035,
    "classwise_ece": 0.021,
    "expected_if_calibrated": {
        "ece": {"mean": 0.02, "q95": 0.04},
        "adaptive_ece": {"mean": 0.02, "q95": 0.03},
        "classwise_ece": {"mean": 0.01, "q95": 0.015},
    },
    "intervals": {"accuracy": [0.5, 1.0], "macro_recall": [0.25, 0.75], "nll": [0.4, 0.5]},
    "rejection": {"auroc": 0.975, "fpr_at_95_tpr": 0.125, "oscr": 0.95},
    "selective": {
        "accuracy_at": {"0.95": 0.8, "0.9": 0.85, "0.8": 0.9},
        "aurc": 0.0123,
        "augrc": 0.0111,
    },
    "threshold": 0.8125,
    "decision": {"target_precision": 0.98, "coverage": 0.75, "precision": 1.0},
    "confusion_matrix": [[3, 1], [0, 0]],
    "per_class": {
        "dog": {"precision": 1.0, "recall": 0.75, "f1": 0.857, "num_images": 4},
        "human": {"precision": 0.0, "num_images": 0},
    },
}


def shown(metrics: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines on standard output, without those that tables are drawn with."""
    print_metrics("photos", metrics)
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.replace("│", " ").replace("┃", " ").splitlines()
    return [" ".join(line.split()) for line in lines]


def test_the_confusion_matrix_has_a_row_for_each_class(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(LABELLED, capsys)
    assert "dog human images recall precision f1" in lines
    assert "dog 3 1 4 75.0 % 100.0 % 85.7 %" in lines
    assert "human 0 0 0 - 0.0 % -" in lines
    assert lines[-9:] == [
        "on 4 images, with 95 % intervals:",
        "accuracy 75.0 % (50.0 - 100.0), macro recall 62.5 % (25.0 - 75.0)",
        "nll 0.4322 (0.4000 - 0.5000), 0.4000 at their best temperature; Brier 0.2500",
        "calibration at temperature 1.234; in brackets what chance alone gives, mean and 95 %:",
        "ECE 3.1 % (2.0 %, 4.0 %), adaptive 3.5 % (2.0 %, 3.0 %), by class 2.1 % (1.0 %, 1.5 %)",
        "human against the rest, by 1 - p(human):",
        "AUROC 0.9750; 12.5 % pass where 95 % of the rest do; OSCR 0.9500",
        "right: 80.0 % of the surest 95 %, 85.0 % of the surest 90 %, 90.0 % of the surest 80 %; "
        "AURC 0.0123, AUGRC 0.0111",
        "accepted from a probability of 0.8125 on: 75.0 % of the images, 100.0 % of them right "
        "(promised on val: 98.0 %)",
    ]


def test_another_mix_of_classes_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(LABELLED | {"priors": {"dog": 0.001, "human": 0.999}}, capsys)
    assert "answered for another mix of classes than in training: dog 0.1 %, human 99.9 %" in lines
    assert lines[-1].endswith("(promised on val, with the mix of classes there: 98.0 %)")


def test_without_a_threshold_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {key: value for key, value in LABELLED.items() if key != "threshold"}
    assert shown(metrics, capsys)[-1] == (
        "no threshold kept the promised precision on val: every prediction is accepted"
    )


def test_an_unlabelled_folder_says_why_there_is_no_accuracy(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line, _ = shown(UNLABELLED, capsys)
    assert "photos: no image has a class as its label, so there is no accuracy" in line


def test_foreign_folders_get_rows_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    foreign = {"tea [red]pot\x1b": {"num_images": 1200, "decided": {"dog": 1150, "human": 50}}}
    lines = shown(LABELLED | {"out_of_distribution": foreign}, capsys)
    assert "tea [red]pot\\x1b 1150 50 1200" in lines
    assert "on 4 images, with 95 % intervals:" in lines  # without the foreign ones


def test_unreadable_files_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(UNLABELLED | {"num_unreadable": 1234}, capsys)
    assert lines[-1] == "1,234 files could not be read"
