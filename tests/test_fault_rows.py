"""Each row of the fault matrix is covered by a test with its marker."""

import re
from pathlib import Path

LAST_ROWS = {"C": 21, "D": 34, "K": 20, "R": 31, "E": 15}  # config, data, checkpoint, run, evaluate
NOT_TESTED = {
    "D29",  # 100,000 files: benchmarks/many_files.py
    "R16",  # a small /dev/shm needs a mount; a decoding process keeps 2 KB there
    "R19",  # no step is without images: unreadable ones are left out before training
}


def test_every_row_is_marked() -> None:
    rows = {f"{part}{i:02}" for part, last in LAST_ROWS.items() for i in range(1, last + 1)}
    text = "".join(path.read_text("utf-8") for path in Path(__file__).parent.rglob("test_*.py"))
    marks = re.findall(r"pytest\.mark\.fault\(([^)]*)\)", text)
    assert {row for mark in marks for row in re.findall(r"[A-Z]\d\d", mark)} == rows - NOT_TESTED
