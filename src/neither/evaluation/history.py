"""What a run has recorded of itself, for its reports."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from neither.terminal import printable, warn

_MOST_WARNINGS = 20


def read_rows(run: Path) -> list[dict[str, Any]]:
    """Read `metrics.jsonl`, a row an epoch; without it a report has no curves of training."""
    return _read(run / "metrics.jsonl", lambda lines: [_to_row(json.loads(line)) for line in lines])


def read_suspects(run: Path) -> list[Mapping[str, str]]:
    """Read `suspects.csv`: the training images whose label the model doubts."""
    return _read(run / "suspects.csv", lambda lines: list(csv.DictReader(lines)))


def read_warnings(run: Path) -> list[str]:
    """Read from `log.txt` what deserved a look, each once."""
    marked = _read(run / "log.txt", lambda lines: [line for line in lines if " warning: " in line])
    warnings = dict.fromkeys(line.split(" warning: ", 1)[1] for line in marked)
    return list(warnings)[:_MOST_WARNINGS]


def _to_row(row: dict[str, Any]) -> dict[str, Any]:
    return {"epoch": int(row["epoch"]), "train": dict(row["train"])} | {
        split: dict(row[split]) for split in ("val",) if split in row
    }


def _read(path: Path, parse: Callable[[Iterator[str]], list[Any]]) -> list[Any]:
    """Parse the lines of a file; a report goes without what is missing or damaged."""
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            return parse(line.rstrip("\r\n") for line in file)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        warn(f"{printable(path)}: cannot be read: {error}; the report goes without it")
        return []
