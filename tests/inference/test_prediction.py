"""Decisions, and rows that read back whatever the names contain."""

import csv
import io
import json
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neither.inference.prediction import (
    UNSURE,
    Prediction,
    csv_header,
    decide,
    to_bars,
    to_csv,
    to_json,
)
from neither.models.checkpoint import DecisionRule
from neither.models.softmax import to_probabilities

CLASSES = ("dog", "human, or so")
READABLE = Prediction(
    "dog/1.png", {"dog": 0.25, "human, or so": 0.75}, "human, or so", "unsure", "why", 0.75, "dog"
)
UNREADABLE = Prediction("=2.png", error="empty file")

# Any name that a POSIX file system allows: no NUL; bytes that are not UTF-8 become surrogates.
names = st.binary(min_size=1, max_size=12).filter(lambda name: b"\0" not in name).map(
    lambda name: name.decode("utf-8", "surrogateescape")
)  # fmt: skip


def read(content: bytes) -> list[list[str]]:
    text = content.decode("utf-8", "surrogateescape")
    return list(csv.reader(io.StringIO(text, newline=""), strict=True))


@pytest.mark.parametrize(("threshold", "decision", "reason"), [
    (None, "human", "no threshold"), (0.625, "human", "0.6250 >= 0.6250"),
    (0.63, UNSURE, "0.6250 < 0.6300"), (0.6250001, UNSURE, "0.6250000 < 0.6250001"),
    (0.625 + 2**-53, UNSURE, "0.6250000000000000 < 0.6250000000000001"),
])  # fmt: skip
def test_the_threshold(threshold: float | None, decision: str, reason: str) -> None:
    probabilities = {"dog": 0.25, "human": 0.625, "neither": 0.125}
    expected = Prediction("", probabilities, "human", decision, reason, 0.625)
    assert decide(probabilities, DecisionRule(0.98, threshold), None) == expected
    # The threshold of the reject class, and only that, counts where it is predicted.
    rule = DecisionRule(0.98, 1.0, threshold, is_certified=True)
    assert decide(probabilities, rule, "human") == replace(expected, certified=True)
    assert decide(probabilities, rule, "neither").decision == UNSURE


def test_of_equal_probabilities_the_first_is_predicted() -> None:
    assert (
        decide({"dog": 0.4, "human": 0.2, "neither": 0.4}, DecisionRule(), None).predicted == "dog"
    )


def test_csv_bytes() -> None:
    assert csv_header(CLASSES).decode() == (
        'path,status,predicted,decision,reason,certified,confidence,prob_dog,"prob_human, or so",'
        "true_label,error\n"
    )
    assert to_csv(READABLE, CLASSES).decode() == (
        'dog/1.png,ok,"human, or so",unsure,why,false,0.750000,0.250000,0.750000,dog,\n'
    )
    assert to_csv(UNREADABLE, CLASSES) == b"./=2.png,unreadable,,,,,,,,,empty file\n"


def test_json_omits_keys_that_do_not_apply() -> None:
    assert to_json(READABLE) == (
        '{"path": "dog/1.png", "status": "ok", "predicted": "human, or so", "decision": "unsure", '
        '"reason": "why", "certified": false, "confidence": 0.75, '
        '"probabilities": {"dog": 0.25, "human, or so": 0.75}}\n'
    )
    assert to_json(UNREADABLE) == (
        '{"path": "=2.png", "status": "unreadable", "error": "empty file"}\n'
    )


def test_bars_are_as_long_as_the_probabilities() -> None:
    prediction = replace(READABLE, probabilities={"dog": 0.25, "human": 0.75})
    block, half = "\u2588", "\u258c"
    assert to_bars(prediction) == (
        f"unsure      dog {2 * block}{half}        0.25"
        f"  human {7 * block}{half}   0.75  dog/1.png\n"
    )
    assert to_bars(prediction, blocks=False) == (
        "unsure      dog ##........ 0.25  human ########.. 0.75  dog/1.png\n"
    )
    assert to_bars(UNREADABLE) == "unreadable  =2.png: empty file\n"


def test_of_many_classes_the_three_most_probable_have_bars() -> None:
    probabilities = dict(zip("abcdef", [0.05, 0.4, 0.1, 0.3, 0.05, 0.1], strict=True))
    line = to_bars(decide(probabilities, DecisionRule(), None), blocks=False)
    assert re.findall(r"\b([a-f]) [#.]", line) == ["b", "d", "c"]


@pytest.mark.parametrize("probability", [0.0, 0.001, 0.0499, 0.5, 0.9999, 1.0])
@pytest.mark.parametrize("blocks", [True, False])
def test_a_bar_has_a_fixed_width(blocks: bool, probability: float) -> None:
    line = to_bars(Prediction("x", {"a": probability}, "a", "a"), blocks)
    assert len(line) == len("a           a 0123456789 0.00  x\n")


def test_a_name_cannot_control_the_terminal() -> None:
    readable = Prediction("\x1b[2J.jpg", {"a": 1.0}, "a", "a")
    assert "\x1b" not in to_bars(readable)
    assert "\x1b" not in to_bars(Prediction("\x1b[2J.jpg", error="\x1b"))


@given(st.lists(st.tuples(names, names, names), min_size=1, max_size=4))
def test_every_name_reads_back(rows: list[tuple[str, str, str]]) -> None:
    lines = [csv_header(CLASSES)]
    for path, label, error in rows:
        lines.append(to_csv(replace(READABLE, path=path, true_label=label), CLASSES))
        unreadable = Prediction(path, true_label=label, error=error)
        lines.append(to_csv(unreadable, CLASSES))
        assert json.loads(to_json(unreadable))["path"] == path
    _, *found = read(b"".join(lines))
    assert len(found) == 2 * len(rows)
    for index, (path, label, error) in enumerate(rows):
        good, bad = found[2 * index : 2 * index + 2]
        assert good[0] == bad[0]
        assert good[0] in (path, f"./{path}")
        assert good[0][0] not in "=+-@"
        assert good[0][0] >= " "
        assert good[-2:] == [label, ""]
        assert bad[-2:] == [label, error]


@pytest.mark.property("P20")
@given(st.lists(st.floats(-30, 30), min_size=3, max_size=3))
def test_printed_probabilities_sum_to_one_and_keep_the_prediction(scores: list[float]) -> None:
    classes = ("dog", "human", "neither")
    probabilities = to_probabilities(torch.tensor([scores], dtype=torch.float64))[0].tolist()
    prediction = decide(dict(zip(classes, probabilities, strict=True)), DecisionRule(), None)
    (row,) = read(to_csv(prediction, classes))
    printed = [float(cell) for cell in row[7:10]]
    assert sum(printed) == pytest.approx(1, abs=2e-6)
    first, second, _ = sorted(probabilities, reverse=True)
    if first - second >= 1e-6:
        assert classes[printed.index(max(printed))] == row[2]
