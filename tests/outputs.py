"""What a command wrote: its files, the rows of its curves, and comparisons to the bit."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor, equal


def contents(root: Path) -> dict[str, bytes]:
    """Return the bytes of each file by its path below the root."""
    return {path.relative_to(root).as_posix(): path.read_bytes()
            for path in sorted(root.rglob("*")) if path.is_file()}  # fmt: skip


def read_rows(run: Path) -> list[dict[str, Any]]:
    """Return the rows of `metrics.jsonl` without the only value that is not repeatable."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row["train"].pop("images_per_second", None)
    return rows


def assert_same(one: object, other: object, name: str = "") -> None:
    """Compare nested values, tensors to the bit."""
    assert type(one) is type(other), name
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        assert equal(one, other), name
    elif isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys(), name
        for key in one:
            assert_same(one[key], other[key], f"{name}.{key}")
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        assert len(one) == len(other), name
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{name}.{index}")
    else:
        assert one == other, name
