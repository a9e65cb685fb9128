"""What a run has recorded of itself, for its reports."""

import csv
import json
import math
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from neither.terminal import printable, warn

_MOST_WARNINGS = 20
_MOST_BYTES = 1 << 26


def read_rows(run: Path) -> list[dict[str, Any]]:
    """Read `metrics.jsonl`, a row an epoch; without it a report has no curves of training."""
    rows = _read(run / "metrics.jsonl", lambda text: list(map(_to_row, _lines(text))))
    return list({row["epoch"]: row for row in rows}.values())


def read_suspects(run: Path) -> list[Mapping[str, str]]:
    """Read `suspects.csv`: the training images whose label the model doubts."""
    return _read(run / "suspects.csv", _to_suspects)


def read_warnings(run: Path) -> list[str]:
    """Read from `log.txt` what deserved a look, each once."""
    marks = [line.partition(" warning: ")[2] for line in _read(run / "log.txt", _lines)]
    return list(dict.fromkeys(filter(None, marks)))[:_MOST_WARNINGS]


def _lines(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n")


def _to_suspects(text: str) -> list[Mapping[str, str]]:
    rows: list[Mapping[str, str]] = list(csv.DictReader(StringIO(text, newline="")))
    for row in rows:
        texts = (row["path"], row["label"], row["looks_like"])
        if None in texts or not 0 <= float(row["doubted"]) <= 1:
            raise ValueError("a row of another form")
    return rows


def _to_row(line: str) -> dict[str, Any]:
    row = json.loads(line)
    splits = {split: _finite(row[split]) for split in ("train", "val") if split in row}
    return {"epoch": int(row["epoch"]), "train": splits["train"]} | splits


def _finite(figures: Mapping[str, Any]) -> dict[str, float]:
    """Keep what can be drawn."""
    return {name: float(value) for name, value in figures.items()
            if isinstance(value, int | float) and math.isfinite(value)}  # fmt: skip


def _read(path: Path, parse: Callable[[str], list[Any]]) -> list[Any]:
    """Parse the text of a file; a report goes without what is missing, huge or damaged."""
    if not path.is_file():  # a device never ends
        return []
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES).decode("utf-8", "surrogateescape")
        return parse(text)
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        ArithmeticError,
        RecursionError,
        csv.Error,
    ) as error:
        warn(f"{printable(path)}: cannot be read: {error}; the report goes without it")
        return []
