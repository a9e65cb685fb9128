"""Rows that read back as they were meant, whatever stands in them."""

import csv
import io
import json
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neither.inference.prediction import (
    Decision,
    Prediction,
    csv_header,
    decide,
    encode,
    to_bars,
    to_csv,
    to_json,
)
from neither.models.softmax import to_probabilities

CLASSES = ("dog", "human, or so")

# Any name that a POSIX file system allows: no NUL; bytes that are no UTF-8 come as surrogates.
names = st.binary(min_size=1, max_size=12).filter(lambda name: b"\0" not in name).map(
    lambda name: name.decode("utf-8", "surrogateescape")
)  # fmt: skip


def read(content: bytes) -> list[list[str]]:
    text = content.decode("utf-8", "surrogateescape")
    return list(csv.reader(io.StringIO(text, newline=""), strict=True))


def test_the_header_names_the_columns() -> None:
    assert read(encode(csv_header(CLASSES))) == [
        ["path", "status", "predicted", "decision", "reason", "confidence",
         "prob_dog", "prob_human, or so", "true_label", "error"]
    ]  # fmt: skip


DECIDED = Decision("human", "unsure", "why", 0.75)
GOOD = Prediction("dog/1.png", [0.25, 0.75], DECIDED, "dog")
BAD = Prediction("=2.png", error="empty file")


def test_rows_as_they_are_written() -> None:
    classes = ("dog", "human")
    assert to_csv(GOOD, classes) == (
        "dog/1.png,ok,human,unsure,why,0.750000,0.250000,0.750000,dog,\n"
    )
    assert to_csv(BAD, classes) == "./=2.png,unreadable,,,,,,,,empty file\n"


def test_json_leaves_out_what_does_not_apply() -> None:
    classes = ("dog", "human")
    assert json.loads(to_json(GOOD, classes)) == {
        "path": "dog/1.png", "status": "ok", "predicted": "human", "decision": "unsure",
        "reason": "why", "confidence": 0.75, "probabilities": {"dog": 0.25, "human": 0.75},
    }  # fmt: skip
    assert json.loads(to_json(BAD, classes)) == {
        "path": "=2.png", "status": "unreadable", "error": "empty file",
    }  # fmt: skip


def test_bars_are_as_long_as_the_probabilities() -> None:
    classes = ("dog", "human")
    block, half = "\u2588", "\u258c"
    assert to_bars(GOOD, classes) == (
        f"unsure      dog {2 * block}{half}        0.25"
        f"  human {7 * block}{half}   0.75  dog/1.png\n"
    )
    assert to_bars(GOOD, classes, blocks=False) == (
        "unsure      dog ##........ 0.25  human ########.. 0.75  dog/1.png\n"
    )
    assert to_bars(BAD, classes) == "unreadable  =2.png: empty file\n"


def test_of_many_classes_the_three_likeliest_have_bars() -> None:
    classes = tuple("abcdef")
    shares = [0.05, 0.4, 0.1, 0.3, 0.05, 0.1]
    line = to_bars(Prediction("x", shares, decide(shares, classes, None)), classes, blocks=False)
    assert re.findall(r"\b([a-f]) [#.]", line) == ["b", "d", "c"]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.0499, 0.5, 0.9999, 1.0])
def test_a_bar_never_leaves_its_cells(share: float) -> None:
    for blocks in (True, False):
        line = to_bars(Prediction("x", [share], decide([share], ("a",), None)), ("a",), blocks)
        assert len(line) == len("a           a 0123456789 0.00  x\n")


def test_a_name_cannot_drive_the_terminal() -> None:
    evil = Prediction("\x1b[2J.jpg", [1.0], decide([1.0], ("a",), None))
    assert "\x1b" not in to_bars(evil, ("a",))
    assert "\x1b" not in to_bars(Prediction("\x1b[2J.jpg", error="\x1b"), ("a",))


@given(st.lists(st.tuples(names, names, names), min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_every_name_reads_back(rows: list[tuple[str, str, str]]) -> None:
    lines = [csv_header(CLASSES)]
    for path, label, error in rows:
        lines.append(to_csv(Prediction(path, [0.1, 0.9], DECIDED, label), CLASSES))
        bad = Prediction(path, true_label=label, error=error)
        lines.append(to_csv(bad, CLASSES))
        assert json.loads(to_json(bad, CLASSES))["path"] == path
    _, *found = read(b"".join(map(encode, lines)))
    assert len(found) == 2 * len(rows)
    for number, (path, label, error) in enumerate(rows):
        good, bad_row = found[2 * number : 2 * number + 2]
        assert good[0] == bad_row[0]
        assert good[0] in (path, f"./{path}")
        assert good[0][0] not in "=+-@"
        assert good[0][0] >= " "
        assert good[-2:] == [label, ""]
        assert bad_row[-2:] == [label, error]


@given(st.lists(st.floats(-30, 30), min_size=3, max_size=3))
@settings(max_examples=100, deadline=None)
def test_p20_what_is_printed_sums_to_one_and_keeps_the_answer(scores: list[float]) -> None:
    probabilities = to_probabilities(torch.tensor([scores], dtype=torch.float64))[0].tolist()
    classes = ("dog", "human", "neither")
    decision = decide(probabilities, classes, None)
    (row,) = read(encode(to_csv(Prediction("1.png", probabilities, decision), classes)))
    shown = [float(cell) for cell in row[6:9]]
    assert sum(shown) == pytest.approx(1, abs=2e-6)
    first, second, _ = sorted(probabilities, reverse=True)
    if first - second >= 1e-6:
        assert classes[shown.index(max(shown))] == row[2]
