"""Each property of softmax (P) and pitfall of the metrics (T) has a test with its marker."""

import re
from pathlib import Path

ROWS = {f"P{number}" for number in range(1, 23)} | {f"T{number}" for number in range(1, 8)}
NOT_TESTED = {"P13"}  # a property of a custom CUDA kernel; this project has none


def test_every_row_is_marked() -> None:

    text = "".join(path.read_text("utf-8") for path in Path(__file__).parent.rglob("test_*.py"))
    marks = re.findall(r"pytest\.mark\.property\(([^)]*)\)", text)
    assert {row for mark in marks for row in re.findall(r"\w+", mark)} == ROWS - NOT_TESTED
