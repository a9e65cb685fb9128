"""The YAML file as one frozen, validated object.

Each section is a class of its own, handed to the part of the program that it concerns. Everything
that is wrong with a file is said at once, with its line and dotted key, before torch is imported.

Read a small YAML file strictly, remembering where each value stands.

PyYAML alone keeps the last of two equal keys, follows aliases that expand without end, and reads
`1e-3` as text. Here each of these is refused or read as a person means it, with its line.

What is wrong with a config, in words: where, which key, what was wanted and what was got.
"""

import codecs
import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from neither.config.schema import RENAMED_KEYS, Config, KeyPath, contradictions
from neither.runtime.errors import UsageError

_MAX_BYTES = 64 * 1024
_MAX_DEPTH = 20

Value = None | bool | int | float | str | tuple["Value", ...] | dict[str, "Value"]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where (`file:line`), the dotted key, and what."""

    where: str
    key: str
    what: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.key, self.what) if part)


@dataclass
class Document:
    """The values of a file, where each stands and how it was written."""

    source: str
    values: dict[str, Value] = field(default_factory=dict)
    lines: dict[KeyPath, int] = field(default_factory=dict)
    written: dict[KeyPath, str] = field(default_factory=dict)
    overrides: dict[KeyPath, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def where(self, path: KeyPath) -> str:
        """Name the place of a value, or of the nearest section around it."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.overrides:
                return self.overrides[path[:end]]
            if path[:end] in self.lines:
                return f"{self.source}:{self.lines[path[:end]]}"
        return self.source


_BOOLEANS = "yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF"
_FLOATS = (
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)


class _Loader(yaml.SafeLoader):
    """Scalars as people write them: numbers in decimal, no times, no dates, no octals."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


class _Dumper(yaml.SafeDumper):
    """Quote also the text that only the loader above would take for a number, such as 08."""


# The words of YAML 1.1 stay booleans, so that an unquoted `no` as a class name is noticed.
for _tag, _pattern, _first_letters in (
    ("bool", _BOOLEANS, list("yYnNtTfFoO")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", _FLOATS, list("-+.0123456789")),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", ["<"]),
):
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first_letters
        )


def read_yaml(content: bytes, source: str) -> Document:
    """Read one mapping.

    Args:
        content: the file's bytes, UTF-8, at most 64 KB and 20 levels deep.
        source: the name to give in messages.

    Returns:
        The document; what is wrong with it is in `problems`, all at once where possible.
    """
    document = Document(source)
    try:
        node = _compose(_decode(content))
    except _RefusedError as error:
        document.problems.append(Problem(f"{source}{error.where}", "", str(error)))
        return document
    if not isinstance(node, yaml.MappingNode):
        is_list = isinstance(node, yaml.SequenceNode)
        found = "nothing" if node is None else "a list" if is_list else "a single value"
        document.problems.append(
            Problem(f"{source}:1", "", f"want a mapping of sections and keys, got {found}")
        )
        return document
    values = _convert(node, (), document)
    assert isinstance(values, dict)  # noqa: S101 - for mypy: a mapping node gives a dict
    document.values = values
    return document


def write_yaml(values: dict[str, Any]) -> str:
    """Write what `read_yaml` reads back as the same values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def override(document: Document, assignment: str) -> None:
    """Put one `section.key=value` from the command line over the document's values."""
    where = f"command line: {assignment}"
    dotted, equals, text = assignment.partition("=")
    keys = dotted.split(".")
    if not equals or not all(keys):
        document.problems.append(Problem(where, "", "want section.key=value"))
        return
    part = Document(where)
    try:
        node = _compose(text)
        value = None if node is None else _convert(node, tuple(keys), part)
    except _RefusedError as error:
        document.problems.append(Problem(where, dotted, str(error)))
        return
    document.problems += [Problem(where, problem.key, problem.what) for problem in part.problems]
    section = document.values
    for depth, key in enumerate(keys[:-1], start=1):
        if key not in section:
            document.overrides[tuple(keys[:depth])] = where
        below = section.setdefault(key, {})
        if not isinstance(below, dict):
            document.problems.append(Problem(where, dotted, f"{key} is not a section"))
            return
        section = below
    section[keys[-1]] = value
    for places in (document.lines, document.written, document.overrides):
        for path in [path for path in places if path[: len(keys)] == tuple(keys)]:
            del places[path]
    document.overrides[tuple(keys)] = where
    document.written |= part.written | {tuple(keys): text}


class _RefusedError(Exception):
    def __init__(self, what: str, mark: Any = None) -> None:  # noqa: ANN401 - two classes
        super().__init__(what)
        self.where = "" if mark is None else f":{mark.line + 1}:{mark.column + 1}"


def _decode(content: bytes) -> str:
    if len(content) > _MAX_BYTES:
        raise _RefusedError(f"a config has at most {_MAX_BYTES:,} bytes")
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        mark = _mark_after(content[: error.start].decode())
        raise _RefusedError("not UTF-8 text", mark) from error


def _compose(text: str) -> yaml.Node | None:
    """Parse to nodes, refusing by the flat stream of events before anything can expand."""
    try:
        depth, documents = 0, 0
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise _RefusedError("anchors and aliases are not allowed", event.start_mark)
            if tag := getattr(event, "tag", None):
                raise _RefusedError(f"tags are not allowed: {tag}", event.start_mark)
            documents += isinstance(event, yaml.DocumentStartEvent)
            if documents > 1:
                raise _RefusedError("want one document, not several", event.start_mark)
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:
                raise _RefusedError(f"nested deeper than {_MAX_DEPTH} levels", event.start_mark)
        return yaml.compose(text, Loader=_Loader)
    except yaml.reader.ReaderError as error:
        mark = _mark_after(text[: error.position])
        raise _RefusedError("a character that YAML does not allow", mark) from error
    except (ValueError, OverflowError) as error:  # of chr(), for an escape such as "\\UFFFFFFFF"
        raise _RefusedError("an escape stands for a character that does not exist") from error
    except yaml.MarkedYAMLError as error:
        hint = "; indent with spaces" if "'\\t'" in str(error.problem) else ""
        raise _RefusedError(
            f"{error.problem or error.context}{hint}", error.problem_mark
        ) from error


def _mark_after(text: str) -> yaml.Mark:
    lines = text.split("\n")
    return yaml.Mark("", 0, len(lines) - 1, len(lines[-1]), None, 0)


def _convert(node: yaml.Node, path: KeyPath, document: Document) -> Value:
    document.lines.setdefault(path, node.start_mark.line + 1)  # a key's own line is set already
    if isinstance(node, yaml.SequenceNode):
        return tuple(
            _convert(item, (*path, index), document) for index, item in enumerate(node.value)
        )
    if isinstance(node, yaml.MappingNode):
        return {key: _convert(value, (*path, key), document)
                for key, value in _unique(node, path, document)}  # fmt: skip
    document.written[path] = node.value
    return _scalar(node.tag.rpartition(":")[2], node.value)


def _unique(
    node: yaml.MappingNode, path: KeyPath, document: Document
) -> Iterator[tuple[str, yaml.Node]]:
    first_lines: dict[str, int] = {}
    for key_node, value in node.value:
        key, line = key_node.value, key_node.start_mark.line + 1
        where = f"{document.source}:{line}"
        dotted = ".".join(map(str, path))
        if not isinstance(key_node, yaml.ScalarNode):
            document.problems.append(Problem(where, dotted, "a key must be a plain word"))
        elif key_node.tag.endswith(":merge"):
            document.problems.append(Problem(where, dotted, "merge keys (<<) are not allowed"))
        elif key in first_lines:
            dotted = ".".join(map(str, (*path, key)))
            what = f"stands twice, first in line {first_lines[key]}"
            document.problems.append(Problem(where, dotted, what))
        else:
            first_lines[key] = line
            document.lines[*path, key] = line
            yield key, value


def _scalar(kind: str, text: str) -> Value:
    if kind == "bool":
        return text.lower() in ("yes", "true", "on")
    if kind == "int":
        # Python refuses to read endless digits; a float says "too large" to the range check.
        return int(text) if len(text) < 1000 else float("inf")
    if kind == "float":
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return None if kind == "null" else text


_PATTERNS = {
    "device": "auto, cpu, cuda, cuda:N or mps",
    "name": "letters, digits, dots, - and _, at most 100, no dot first",
}


def from_pydantic(
    error: ValidationError, document: Document, model: type[BaseModel]
) -> tuple[list[Problem], set[KeyPath]]:
    """Put the errors of one validation into words; also return the places that are bad."""
    listed = error.errors(include_url=False)
    items = [item for item in listed if not _is_echo(item, listed)]
    problems = [
        Problem(document.where(item["loc"]), dotted(item["loc"]), _say(item, document, model))
        for item in items
    ]
    return problems, {item["loc"] for item in items}


def dotted(loc: KeyPath) -> str:
    """Write a place as people do: section.key."""
    return ".".join(map(str, loc))


def _sort_key(problem: Problem) -> tuple[bool, int]:
    """Sort problems as the file is read, the command line's last."""
    line = re.search(r":(\d+)", problem.where)
    return problem.where.startswith("command line"), int(line[1]) if line else 0


def overlap(one: KeyPath, other: KeyPath) -> bool:
    """Say whether one place lies within the other."""
    return all(left == right for left, right in zip(one, other, strict=False))


def without(values: dict[str, Any], bad: set[KeyPath], path: KeyPath = ()) -> dict[str, Any]:
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


def _suggestion(loc: KeyPath, model: type[BaseModel]) -> str:
    """Find the known key that was meant: one that stands elsewhere, or one spelled much alike."""
    known: list[tuple[str, ...]] = []
    for name, info in model.model_fields.items():
        known.append((name,))
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            known += [(name, below) for below in info.annotation.model_fields]
    key = str(loc[-1])
    for old, new in RENAMED_KEYS.items():
        if old in (dotted(loc), key) or old.rpartition(".")[2] == key:
            return f"; since version 2 it is {new}"
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


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file and put `section.key=value` overrides over it.

    Raises:
        UsageError: naming everything that is wrong, each with file, line and dotted key.
    """
    if not path.is_file():
        reason = "not a regular file" if path.exists() else "no such file"
        raise UsageError(f"{path}: {reason}; want a config such as configs/photos_quick.yaml")
    try:
        with path.open("rb") as file:
            document = read_yaml(file.read(1 << 20), str(path))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    if document.problems and not document.values:  # not YAML: all else would be echoes of that
        return check_config(document)
    for assignment in overrides:
        override(document, assignment)
    return check_config(document)


def check_config(document: Document) -> Config:
    """Turn a document into a config.

    Raises:
        UsageError: naming everything that is wrong with it.
    """
    problems = list(document.problems)
    config: Config | None = None
    if document.values or not problems:
        config, found, bad = _validate(document)
        problems += found
        problems += [
            Problem(document.where(keys[0]), dotted(keys[0]), what)
            for keys, what in (contradictions(config) if config else ())
            if not any(overlap(loc, key) for loc in bad for key in keys)
        ]
    if config is None or problems:
        lines = (str(problem) for problem in sorted(problems, key=_sort_key))
        raise UsageError("\n       ".join(lines))
    return config


def to_yaml(config: Config) -> str:
    """Write a config as YAML that reads back as the same config, every key spelled out."""
    return write_yaml(config.model_dump(mode="json"))


def _validate(document: Document) -> tuple[Config | None, list[Problem], set[KeyPath]]:
    """Check types and ranges; give a config to check further even where some keys are bad."""
    try:
        return Config.model_validate(document.values), [], set()
    except ValidationError as error:
        problems, bad = from_pydantic(error, document, Config)
    # Stand-ins for what is missing or wrong, so that contradictions among the rest show too.
    values = without(document.values, bad)
    sections: dict[str, dict[str, int]] = {"data": {}, "train": {"epochs": 1}}
    values |= {name: stand_in | values.get(name, {}) for name, stand_in in sections.items()}
    values = {"name": "x", "classes": ("a", "b")} | values
    try:
        return Config.model_validate(values), problems, bad
    except ValidationError:  # a section is no mapping at all
        return None, problems, bad
