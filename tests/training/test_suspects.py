"""The rows of label_issues.csv: who is on the list, in which order, and safe to open."""

import csv
import errno
import os
from pathlib import Path

import pytest
import torch

from neither.data.dataset import Split
from neither.runtime import files
from neither.runtime.console import log_to_folder
from neither.training.label_issues import LabelStats, find_label_issues, write_label_issues

CLASSES = ("dog", "human", "neither")
SPLIT = Split(
    ["a.png", "=b,\udcff.png", "c.png", "d.png"], torch.arange(4), torch.tensor([0, 1, 2, 0])
)


def make_doubts() -> LabelStats:
    doubts = LabelStats(SPLIT.labels)
    doubts.num_epochs += torch.tensor([10, 10, 10, 0], dtype=torch.int32)
    doubts.num_doubted += torch.tensor([6, 9, 5, 0], dtype=torch.int32)
    doubts.confidences += torch.tensor([3.0, 4.0, 1.0, 0.0])
    doubts.losses += torch.tensor([30.0, 12.0, 40.0, 0.0])
    doubts.rivals += torch.tensor([2, 0, 1, 0], dtype=torch.int16)
    return doubts


def test_who_is_doubted_in_most_epochs_is_listed_by_falling_loss() -> None:
    rows = find_label_issues(make_doubts(), SPLIT, CLASSES)
    assert rows == [
        {"path": "a.png", "label": "dog", "predicted": "neither", "disagreement": "0.600",
         "confidence": "0.300", "loss": "3.000"},
        {"path": "=b,\udcff.png", "label": "human", "predicted": "dog", "disagreement": "0.900",
         "confidence": "0.400", "loss": "1.200"},
    ]  # fmt: skip


def test_the_file_holds_the_rows_and_no_formula(tmp_path: Path) -> None:
    rows = find_label_issues(make_doubts(), SPLIT, CLASSES)
    write_label_issues(tmp_path / "label_issues.csv", rows)
    with (tmp_path / "label_issues.csv").open(newline="", errors="surrogateescape") as file:
        read = list(csv.DictReader(file))
    assert read[0] == rows[0]
    assert read[1] == rows[1] | {"path": "./=b,\udcff.png"}


def test_a_full_disk_is_told_and_does_not_raise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(_: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "atomic_writer", full_disk)
    with log_to_folder(tmp_path):
        write_label_issues(tmp_path / "label_issues.csv", [])
    assert "label_issues.csv: cannot be written" in (tmp_path / "log.txt").read_text()
