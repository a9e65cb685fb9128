"""What a run has recorded of itself, whole, missing or damaged."""

from pathlib import Path

import pytest

from neither.reporting.html import read_label_issues, read_metrics_rows
from neither.runtime.console import log_to_folder

ROW = '{"epoch": 1, "step": 3, "train": {"loss": 1.0}, "val": {"loss": 0.5}}\n'


def test_what_is_there_is_read(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(ROW)
    (tmp_path / "label_issues.csv").write_text(
        "path,label,predicted,disagreement\ndog/1.png,dog,human,0.9\n"
    )
    assert read_metrics_rows(tmp_path) == [
        {"epoch": 1, "train": {"loss": 1.0}, "val": {"loss": 0.5}}
    ]
    assert read_label_issues(tmp_path) == [
        {"path": "dog/1.png", "label": "dog", "predicted": "human", "disagreement": "0.9"}
    ]


def test_what_is_missing_is_nothing(tmp_path: Path) -> None:
    assert not [
        *read_metrics_rows(tmp_path),
        *read_label_issues(tmp_path),
    ]


def test_what_cannot_be_drawn_is_left_out_and_an_epoch_stands_once(tmp_path: Path) -> None:
    odd = ROW.replace("1.0", "NaN").replace("0.5", '"x"')
    (tmp_path / "metrics.jsonl").write_text(ROW + odd)
    assert read_metrics_rows(tmp_path) == [{"epoch": 1, "train": {}, "val": {}}]


@pytest.mark.parametrize(
    "text",
    [
        "path;label\na;b\n",
        "path,label,predicted,disagreement\na,dog\n",
        "path,label,predicted,disagreement\na,dog,human,often\n",
    ],
)
def test_suspects_of_another_form_are_told_and_left_out(text: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "label_issues.csv").write_text(text)
    with log_to_folder(tmp_path):
        assert read_label_issues(run) == []
    assert "label_issues.csv: cannot be read" in (tmp_path / "log.txt").read_text()


def test_what_is_damaged_is_told_and_left_out(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for damaged in (
        "{",
        "[1]\n",
        '{"epoch": 1}\n',
        '{"epoch": 1, "train": 3}\n',
        '{"epoch": Infinity, "train": {}}\n',
    ):
        (run / "metrics.jsonl").write_text(ROW + damaged)
        with log_to_folder(tmp_path):
            assert read_metrics_rows(run) == []
        assert "metrics.jsonl: cannot be read" in (tmp_path / "log.txt").read_text()
        (tmp_path / "log.txt").unlink()
