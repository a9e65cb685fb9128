"""Read a small YAML file strictly, remembering where each value stands.

PyYAML alone keeps the last of two equal keys, follows aliases that expand without end, and reads
`1e-3` as text. Here each of these is refused or read as a person means it, with its line.
"""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

_MAX_BYTES = 64 * 1024
_MAX_DEPTH = 20

Path = tuple[str | int, ...]
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
    lines: dict[Path, int] = field(default_factory=dict)
    written: dict[Path, str] = field(default_factory=dict)
    overrides: dict[Path, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def where(self, path: Path) -> str:
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


def _convert(node: yaml.Node, path: Path, document: Document) -> Value:
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
    node: yaml.MappingNode, path: Path, document: Document
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
