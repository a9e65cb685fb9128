"""What a run has recorded of itself, for its reports."""

import csv
import json
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from neither.terminal import printable, warn

_MOST_WARNINGS = 20
_MOST_BYTES = 1 << 26


def read_rows(run: Path) -> list[dict[str, Any]]:
    """Read `metrics.jsonl`, a row an epoch; without it a report has no curves of training."""
    return _read(run / "metrics.jsonl", lambda text: list(map(_to_row, _lines(text))))


def read_suspects(run: Path) -> list[Mapping[str, str]]:
    """Read `suspects.csv`: the training images whose label the model doubts."""
    return _read(
        run / "suspects.csv", lambda text: list(csv.DictReader(StringIO(text, newline="")))
    )


def read_warnings(run: Path) -> list[str]:
    """Read from `log.txt` what deserved a look, each once."""
    marks = [line.partition(" warning: ")[2] for line in _read(run / "log.txt", _lines)]
    return list(dict.fromkeys(filter(None, marks)))[:_MOST_WARNINGS]


def _lines(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n")


def _to_row(line: str) -> dict[str, Any]:
    row = json.loads(line)
    val = {"val": dict(row["val"])} if "val" in row else {}
    return {"epoch": int(row["epoch"]), "train": dict(row["train"])} | val


def _read(path: Path, parse: Callable[[str], list[Any]]) -> list[Any]:
    """Parse the text of a file; a report goes without what is missing, huge or damaged."""
    if not path.is_file():  # a device never ends
        return []
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES).decode("utf-8", "surrogateescape")
        return parse(text)
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        warn(f"{printable(path)}: cannot be read: {error}; the report goes without it")
        return []
