"""Each property of softmax and each trap of the metrics has a test that bears its number."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
NUMBERED = re.compile(r"(?:test_)?([pt]\d+)_")
PROPERTIES = {f"p{number}" for number in range(1, 23)}
TRAPS = {f"t{number}" for number in range(1, 8)}
LEFT_OUT = {"p13": "it would test torch's kernels, of which none here is our own"}


def numbered_functions() -> set[str]:
    """Return the numbers that functions in test files bear in their names."""
    found = set()
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and (match := NUMBERED.match(node.name)):
                found.add(match[1])
    return found


def test_every_property_and_every_trap_is_tested() -> None:
    assert numbered_functions() == (PROPERTIES | TRAPS) - LEFT_OUT.keys()


@pytest.mark.parametrize(
    ("name", "number"),
    [("test_p7_where", "p7"), ("p12_two_of", "p12"), ("test_t5_a", "t5"), ("test_page", None)],
)
def test_a_name_bears_a_number_or_none(name: str, number: str | None) -> None:
    match = NUMBERED.match(name)
    assert (match and match[1]) == number
