"""Rows that read back as they were meant, whatever stands in them."""

import csv
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neither.evaluation.predictions import PredictionWriter
from neither.inference.decision import Decision, decide
from neither.model.softmax import to_probabilities

CLASSES = ("dog", "human, or so")

# Any name that a POSIX file system allows: no NUL; bytes that are no UTF-8 come as surrogates.
names = st.binary(min_size=1, max_size=12).filter(lambda name: b"\0" not in name).map(
    lambda name: name.decode("utf-8", "surrogateescape")
)  # fmt: skip


def read(content: bytes) -> list[list[str]]:
    text = content.decode("utf-8", "surrogateescape")
    return list(csv.reader(io.StringIO(text, newline=""), strict=True))


def test_the_header_names_the_columns() -> None:
    file = io.BytesIO()
    with PredictionWriter(file, CLASSES):
        pass
    assert read(file.getvalue()) == [
        ["path", "status", "predicted", "decision", "reason", "confidence",
         "prob_dog", "prob_human, or so", "true_label", "error"]
    ]  # fmt: skip


def test_rows_as_they_are_written() -> None:
    file = io.BytesIO()
    with PredictionWriter(file, ("dog", "human")) as writer:
        writer.write("dog/1.png", [0.25, 0.75], Decision("human", "unsure", "why", 0.75), "dog")
        writer.write_unreadable("=2.png", "", "empty file")
    assert file.getvalue().splitlines()[1:] == [
        b"dog/1.png,ok,human,unsure,why,0.750000,0.250000,0.750000,dog,",
        b"./=2.png,unreadable,,,,,,,,empty file",
    ]
    assert b"\r" not in file.getvalue()


@given(st.lists(st.tuples(names, names, names), min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_every_name_reads_back(rows: list[tuple[str, str, str]]) -> None:
    file = io.BytesIO()
    with PredictionWriter(file, CLASSES) as writer:
        for path, label, error in rows:
            writer.write(path, [0.1, 0.9], Decision("a", "a", "", 0.9), label)
            writer.write_unreadable(path, label, error)
    _, *found = read(file.getvalue())
    assert len(found) == 2 * len(rows)
    for number, (path, label, error) in enumerate(rows):
        good, bad = found[2 * number : 2 * number + 2]
        assert good[0] == bad[0]
        assert good[0] in (path, f"./{path}")
        assert good[0][0] not in "=+-@"
        assert good[0][0] >= " "
        assert good[-2:] == [label, ""]
        assert bad[-2:] == [label, error]


def test_the_file_stays_open_for_its_owner() -> None:
    file = io.BytesIO()
    with PredictionWriter(file, CLASSES):
        pass
    file.write(b"more")
    assert file.getvalue().endswith(b"more")


@given(st.lists(st.floats(-30, 30), min_size=3, max_size=3))
@settings(max_examples=100, deadline=None)
def test_p20_what_is_printed_sums_to_one_and_keeps_the_answer(scores: list[float]) -> None:
    probabilities = to_probabilities(torch.tensor([scores], dtype=torch.float64))[0].tolist()
    classes = ("dog", "human", "neither")
    file = io.BytesIO()
    with PredictionWriter(file, classes) as writer:
        writer.write("1.png", probabilities, decide(probabilities, classes, None), "")
    row = read(file.getvalue())[1]
    shown = [float(cell) for cell in row[6:9]]
    assert sum(shown) == pytest.approx(1, abs=2e-6)
    first, second, _ = sorted(probabilities, reverse=True)
    if first - second >= 1e-6:
        assert classes[shown.index(max(shown))] == row[2]
