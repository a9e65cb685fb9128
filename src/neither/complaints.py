"""What is wrong with a config, in words: where, which key, what was wanted and what was got."""

import difflib
import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from neither.strict_yaml import Document, Problem

Loc = tuple[str | int, ...]

_PATTERNS = {
    "device": "auto, cpu, cuda, cuda:N or mps",
    "name": "letters, digits, dots, - and _, at most 100, no dot first",
}


def from_pydantic(
    error: ValidationError, document: Document, model: type[BaseModel]
) -> tuple[list[Problem], set[Loc]]:
    """Put the errors of one validation into words; also return the places that are bad."""
    listed = error.errors(include_url=False)
    items = [item for item in listed if not _is_echo(item, listed)]
    problems = [
        Problem(document.where(item["loc"]), dotted(item["loc"]), _say(item, document, model))
        for item in items
    ]
    return problems, {item["loc"] for item in items}


def dotted(loc: Loc) -> str:
    """Write a place as people do: section.key."""
    return ".".join(map(str, loc))


def place(problem: Problem) -> tuple[bool, int]:
    """Sort problems as the file is read, the command line's last."""
    line = re.search(r":(\d+)", problem.where)
    return problem.where.startswith("command line"), int(line[1]) if line else 0


def overlap(one: Loc, other: Loc) -> bool:
    """Say whether one place lies within the other."""
    return all(left == right for left, right in zip(one, other, strict=False))


def without(values: dict[str, Any], bad: set[Loc], path: Loc = ()) -> dict[str, Any]:
    """Copy the values, leaving out the bad ones."""
    kept = {}
    for key, value in values.items():
        here = (*path, key)
        if isinstance(value, dict) and here not in bad:
            kept[key] = without(value, bad, here)
        elif not any(loc[: len(here)] == here for loc in bad):
            kept[key] = value
    return kept


def _is_echo(item: ErrorDetails, listed: Sequence[ErrorDetails]) -> bool:
    """Tell what only follows from another error: no default worked out, bad items not counted."""
    inner = any(other["loc"][:-1] == item["loc"] for other in listed)
    return item["type"] == "default_factory_not_called" or (item["type"] == "too_short" and inner)


def _say(item: ErrorDetails, document: Document, model: type[BaseModel]) -> str:
    loc, kind, got = item["loc"], item["type"], item["input"]
    if kind == "missing":
        return "is required"
    if kind == "extra_forbidden":
        return "unknown key" + _suggestion(loc, model)
    written = document.written.get(loc, got) or "nothing"
    if isinstance(got, tuple):
        written = f"[{', '.join(map(str, got))}]"
    if kind == "string_type" and isinstance(got, bool | int | float):
        read = str(got).lower() if isinstance(got, bool) else "a number"
        return f'want text, but YAML reads {written} as {read}: quote it, "{written}"'
    if kind == "tuple_type":
        return f"want a list such as [a, b], got {got!r}"
    if kind in ("model_type", "model_attributes_type"):
        return "want a section with keys below it"
    if kind == "value_error":
        return f"{item['ctx']['error']}, got {got!r}"
    want = item["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    if kind in ("too_short", "too_long"):
        limit = item["ctx"].get("min_length") or item["ctx"].get("max_length")
        want = f"at {'least' if kind == 'too_short' else 'most'} {limit} items"
    if kind == "string_pattern_mismatch":
        want = _PATTERNS[str(loc[-1])]
    return f"want {want}, got {got!r}" if isinstance(got, str) else f"want {want}, got {written}"


def _suggestion(loc: Loc, model: type[BaseModel]) -> str:
    """Find the known key that was meant: one that stands elsewhere, or one spelled much alike."""
    known: list[tuple[str, ...]] = []
    for name, field in model.model_fields.items():
        known.append((name,))
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            known += [(name, below) for below in field.annotation.model_fields]
    key = str(loc[-1])
    for path in known:
        if len(path) > 1 and dotted(path) == key:
            return f"; in a file, write {path[-1]} in a line of its own below {path[0]}:"
        if path[-1] == key:
            return f"; it belongs at {dotted(path)}"
    beside = [path for path in known if path[:-1] == loc[:-1]]
    close = _closest(key, beside) or _closest(key, known)
    if close:
        return f"; did you mean {dotted(close)}?"
    return f"; known here: {', '.join(path[-1] for path in beside)}" if beside else ""


def _closest(key: str, paths: Sequence[tuple[str, ...]]) -> tuple[str, ...] | None:
    close = difflib.get_close_matches(key, [path[-1] for path in paths], n=1)
    return next((path for path in paths if path[-1] in close), None)
