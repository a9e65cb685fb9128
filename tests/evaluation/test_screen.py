"""What a person sees of the figures."""

from typing import Any

import pytest

from neither.evaluation.screen import show_metrics

UNLABELLED: dict[str, Any] = {"num_images": 4, "num_unreadable": 0, "classes": ["dog", "human"]}
LABELLED: dict[str, Any] = UNLABELLED | {
    "accuracy": 0.75,
    "macro_recall": 0.625,
    "nll": 0.43219,
    "confusion_matrix": [[3, 1], [0, 0]],
    "per_class": {
        "dog": {"precision": 1.0, "recall": 0.75, "f1": 0.857, "num_images": 4},
        "human": {"precision": 0.0, "num_images": 0},
    },
}


def shown(metrics: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines on standard output, without those that tables are drawn with."""
    show_metrics("photos", metrics)
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.replace("│", " ").replace("┃", " ").splitlines()
    return [" ".join(line.split()) for line in lines]


def test_the_confusion_matrix_has_a_row_for_each_class(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(LABELLED, capsys)
    assert "dog human images recall precision f1" in lines
    assert "dog 3 1 4 75.0 % 100.0 % 85.7 %" in lines
    assert "human 0 0 0 - 0.0 % -" in lines
    assert "accuracy 75.0 %, macro recall 62.5 %, nll 0.4322 on 4 images" in lines


def test_an_unlabelled_folder_says_why_there_is_no_accuracy(
    capsys: pytest.CaptureFixture[str],
) -> None:
    (line,) = shown(UNLABELLED, capsys)
    assert "photos: no image has a class as its label, so there is no accuracy" in line


def test_foreign_folders_get_rows_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    foreign = {"tea [red]pot\x1b": {"num_images": 1200, "decided": {"dog": 1150, "human": 50}}}
    lines = shown(LABELLED | {"foreign": foreign}, capsys)
    assert "tea [red]pot\\x1b 1150 50 1200" in lines
    assert lines[-1].endswith(" on 4 images")  # the foreign ones are no part of accuracy


def test_unreadable_files_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(UNLABELLED | {"num_unreadable": 1234}, capsys)
    assert lines[-1] == "1,234 files could not be read"
