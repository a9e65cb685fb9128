"""Each row of the fault matrix has a test that bears its name, or a reason to have none."""

import ast
from pathlib import Path

TESTS = Path(__file__).parent
MATRIX = {"C": 21, "D": 34, "K": 20, "R": 31, "E": 15}
NOT_AUTOMATED = {
    "D29": "a hundred thousand files: benchmarks/many_files.py measures seconds and bytes a path",
    "R16": "a small /dev/shm takes a mount; what lies there are 2 KB a decoding process",
    "R19": "no step is without images: a bad one is left out before training begins",
}


def marked_rows() -> set[str]:
    """Return the arguments of all `fault` marks."""
    rows = set()
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.fault":
                rows |= {argument.value for argument in node.args
                         if isinstance(argument, ast.Constant)}  # fmt: skip
    return {row for row in rows if isinstance(row, str)}


def test_every_row_is_tested_or_listed_with_the_reason_why_not() -> None:
    matrix = {
        f"{part}{number:02}" for part, last in MATRIX.items() for number in range(1, last + 1)
    }
    assert len(matrix) == 121
    assert marked_rows() == matrix - NOT_AUTOMATED.keys()
    assert len(NOT_AUTOMATED) <= 11
