"""Read a config: strict YAML, `section.key=value` overrides, and all errors in one message.

Each error names its file and line (or the override), the dotted key and, for an unknown key, the
likely one. PyYAML alone keeps the last of two equal keys, expands aliases without limit, and reads
`1e-3` as text; the loader below does not.
"""

import difflib
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import eq
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from neither.config.schema import RENAMED_KEYS, Config, cross_check
from neither.runtime.errors import UsageError

_MAX_BYTES = 64 * 1024
_MAX_DEPTH = 20

Value = None | bool | int | float | str | tuple["Value", ...] | dict[str, "Value"]
KeyPath = tuple[str | int, ...]


class ConfigProblem(NamedTuple):
    """One error: its location (`file:line` or the override), the dotted key and a message."""

    location: str
    key: str
    message: str

    def __str__(self) -> str:
        return ": ".join(filter(None, self))


@dataclass
class Document:
    """The values of a YAML file, with the location and the text of each."""

    source: str
    values: dict[str, Value] = field(default_factory=dict)
    locations: dict[KeyPath, str] = field(default_factory=dict)
    texts: dict[KeyPath, str] = field(default_factory=dict)
    problems: list[ConfigProblem] = field(default_factory=list)

    def location(self, path: KeyPath) -> str:
        """Return the location of a key, or of the nearest section around it."""
        while path and path not in self.locations:
            path = path[:-1]
        return self.locations.get(path, self.source)


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file and apply `section.key=value` overrides.

    Raises:
        UsageError: naming every error with its file, line and dotted key.
    """
    if not path.is_file():
        reason = "not a regular file" if path.exists() else "no such file"
        raise UsageError(f"{path}: {reason}; expected a config such as configs/photos_quick.yaml")
    try:
        with path.open("rb") as file:
            document = read_yaml(file.read(_MAX_BYTES + 1), str(path))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    for assignment in overrides:
        override(document, assignment)
    return check_config(document)


def read_yaml(content: bytes, source: str) -> Document:
    """Parse a YAML mapping: UTF-8, at most 64 KB and 20 levels deep, no aliases, no tags.

    `source` is the name of the file for messages.

    Raises:
        UsageError: if the file is not such a mapping. Duplicate keys are listed in `problems`.
    """
    if len(content) > _MAX_BYTES:
        raise UsageError(f"{source}: a config has at most {_MAX_BYTES:,} bytes")
    document = Document(source)
    try:
        node = _parse(content)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        raise UsageError(f"{where}: {error.problem}") from error
    if not isinstance(node, yaml.MappingNode):
        is_list = isinstance(node, yaml.SequenceNode)
        got = "nothing" if node is None else "a list" if is_list else "a single value"
        raise UsageError(f"{source}:1: expected a mapping of sections and keys, got {got}")
    document.values = _convert(node, (), document)
    return document


def override(document: Document, assignment: str) -> None:
    """Set one `section.key=value` of the command line in a document."""
    where = f"command line: {assignment}"
    dotted, equals, text = assignment.partition("=")
    *sections, last = path = tuple(dotted.split("."))
    if not equals or not all(path):
        document.problems.append(ConfigProblem(where, "", "expected section.key=value"))
        return
    try:
        node = _parse(text)
    except yaml.MarkedYAMLError as error:
        document.problems.append(ConfigProblem(where, dotted, str(error.problem)))
        return
    keys = document.values
    for depth, name in enumerate(sections, start=1):
        if name not in keys:
            document.locations[path[:depth]] = where
        below = keys.setdefault(name, {})
        if not isinstance(below, dict):
            document.problems.append(ConfigProblem(where, dotted, f"{name} is not a section"))
            return
        keys = below
    for record in (document.locations, document.texts):
        for old in [old for old in record if old[: len(path)] == path]:
            del record[old]
    document.locations[path] = where
    keys[last] = None if node is None else _convert(node, path, document, where)
    document.texts[path] = text


def check_config(document: Document) -> Config:
    """Validate a document; raise `UsageError` with all its errors."""
    problems, invalid = list(document.problems), set[KeyPath]()
    try:
        config = Config.model_validate(document.values)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        with_invalid_items = {details["loc"][:-1] for details in errors}
        for details in errors:
            loc, kind = details["loc"], details["type"]
            has_invalid_items = kind == "too_short" and loc in with_invalid_items
            if has_invalid_items or kind == "default_factory_not_called":
                continue  # the cause, an item or another value, is an error of its own
            message = _message(details, document)
            problems.append(ConfigProblem(document.location(loc), _dotted(loc), message))
            invalid.add(loc[:2])
        config = Config.model_validate(_replace_invalid(document.values, invalid))
    for dotted, message in cross_check(config):
        paths = [tuple(key.split(".")) for key in dotted]
        is_reported = any(all(map(eq, path, loc)) for path in paths for loc in invalid)
        if not is_reported:
            problems.append(ConfigProblem(document.location(paths[0]), dotted[0], message))
    if problems:
        raise UsageError(*sorted(problems, key=_file_order))
    return config


def to_yaml(config: Config) -> str:
    """Write a config as YAML that reads back as the same config, with every key."""
    values = config.model_dump(mode="json")
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """Parse one document without aliases and tags, of limited depth."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:  # noqa: ANN401
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        is_key, problem = isinstance(parent, yaml.MappingNode) and index is None, ""
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            problem = "anchors and aliases are not allowed"
        elif tag := getattr(event, "tag", None):
            problem = f"tags are not allowed: {tag}"
        elif self.depth >= _MAX_DEPTH and isinstance(event, yaml.CollectionStartEvent):
            problem = f"nested deeper than {_MAX_DEPTH} levels"
        elif is_key and not isinstance(event, yaml.ScalarEvent):
            problem = "a key must be a plain word"
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    """Also quote text that only `_Loader` reads as a number, such as 08."""


# Numbers are decimal; there are no times and dates. YAML 1.1's words for booleans are kept, so that
# an unquoted `no` as a class name is an error.
_SCALARS: dict[str, tuple[str, Callable[[str], Value]]] = {
    "bool": (
        "yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF",
        lambda text: text.lower() in ("yes", "true", "on"),
    ),
    # int() refuses thousands of digits; as a float the value fails the range check.
    "int": ("[-+]?[0-9]+", lambda text: int(text) if len(text) < 1000 else float("inf")),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
    ),
    "null": ("~|null|Null|NULL|", lambda _: None),
}
for _tag, (_pattern, _) in _SCALARS.items():
    for _class in (_Loader, _Dumper):
        _regex = re.compile(f"^(?:{_pattern})$")
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _regex, None)


def _parse(content: bytes | str) -> yaml.Node | None:
    """Parse one document; every failure is a `MarkedYAMLError`."""
    before, problem = "", ""
    try:
        text = content if isinstance(content, str) else content.removeprefix(BOM_UTF8).decode()
        return _Loader(text).get_single_node()
    except UnicodeDecodeError as error:
        before, problem = error.object[: error.start].decode(), "not UTF-8 text"
    except yaml.reader.ReaderError as error:
        before, problem = text[: error.position], "a character that YAML does not allow"
    except (ValueError, OverflowError):  # of chr(), for an escape such as "\UFFFFFFFF"
        raise yaml.MarkedYAMLError(problem="an escape of a character that does not exist") from None
    except yaml.MarkedYAMLError as error:
        if error.problem == "but found another document":
            error.problem = "expected one document, not several"
        elif "'\\t'" in str(error.problem):
            error.problem = f"{error.problem}; indent with spaces"
        raise
    column = len(before) - before.rfind("\n") - 1
    mark = yaml.Mark("", 0, before.count("\n"), column, None, 0)
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def _convert(node: yaml.Node, path: KeyPath, document: Document, where: str = "") -> Any:  # noqa: ANN401
    """Turn a node into values, and record the location and text of each in the document."""
    location = where or f"{document.source}:{node.start_mark.line + 1}"
    document.locations.setdefault(path, location)  # a key in a mapping has its own already
    if isinstance(node, yaml.SequenceNode):
        items = enumerate(node.value)
        return tuple(_convert(item, (*path, index), document, where) for index, item in items)
    if not isinstance(node, yaml.MappingNode):
        document.texts[path] = node.value
        kind = node.tag.rpartition(":")[2]
        return _SCALARS[kind][1](node.value) if kind in _SCALARS else node.value
    values: dict[str, Value] = {}
    for key_node, value_node in node.value:
        inner = (*path, key_node.value)
        location = where or f"{document.source}:{key_node.start_mark.line + 1}"
        if key_node.value in values:
            message = f"duplicate key; the first is at {document.locations[inner]}"
            document.problems.append(ConfigProblem(location, _dotted(inner), message))
        else:
            document.locations[inner] = location
            values[key_node.value] = _convert(value_node, inner, document, where)
    return values


def _dotted(path: KeyPath) -> str:
    return ".".join(map(str, path))


def _file_order(problem: ConfigProblem) -> tuple[bool, int]:
    """Order problems by line, those of the command line last."""
    line = re.search(r":(\d+)$", problem.location)
    return problem.location.startswith("command line"), int(line[1]) if line else 0


def _replace_invalid(values: dict[str, Value], invalid: set[KeyPath]) -> dict[str, Any]:
    """Drop invalid values and fill in required ones, so that the rest can be cross-checked."""
    kept: dict[str, Any] = {"name": "x", "classes": ("a", "b"), "data": {}, "train": {}}
    for name, value in values.items():
        if isinstance(value, dict) and (name,) not in invalid:
            kept[name] = {key: below for key, below in value.items() if (name, key) not in invalid}
        elif not any(path[0] == name for path in invalid):
            kept[name] = value
    return kept | {"train": {"epochs": 1} | kept["train"]}


_MESSAGES = {
    "missing": "is required",
    "model_type": "must be a section with keys below it",
    "tuple_type": "must be a list such as [a, b], got {got}",
    "too_short": "must have at least {min_length} items, got {got}",
    "too_long": "must have at most {max_length} items, got {got}",
    "value_error": "{error}, got {got}",
    "device": "must be auto, cpu, cuda, cuda:N or mps, got {got}",
    "name": "must be 1 to 100 letters, digits, dots, - and _, no dot, - or _ first, got {got}",
}


def _message(error: ErrorDetails, document: Document) -> str:
    loc, kind, value = error["loc"], error["type"], error["input"]
    if kind == "extra_forbidden":
        return f"unknown key{_suggestion(loc)}"
    text = document.texts.get(loc, value) or "nothing"
    if kind == "string_type" and isinstance(value, bool | int | float):
        read_as = str(value).lower() if isinstance(value, bool) else "a number"
        return f'must be text, but YAML reads {text} as {read_as}: quote it, "{text}"'
    got = repr(value) if isinstance(value, str) else text
    if isinstance(value, tuple):
        got = f"[{', '.join(map(str, value))}]"
    template = _MESSAGES.get(_dotted(loc) if kind == "string_pattern_mismatch" else kind)
    if template is not None:
        return template.format(got=got, **error.get("ctx", {}))
    want = error["msg"].replace("Input should", "must").replace("a valid string", "text")
    return f"{want}, got {got}"


_KEYS = list(Config.model_fields)
for _name, _info in Config.model_fields.items():
    if isinstance(_info.annotation, type) and issubclass(_info.annotation, BaseModel):
        _KEYS += [f"{_name}.{key}" for key in _info.annotation.model_fields]


def _suggestion(loc: KeyPath) -> str:
    """Find the known key that was meant: renamed, in another section, or spelled alike."""
    key = str(loc[-1])
    for old, new in RENAMED_KEYS.items():
        if key in (old, old.rpartition(".")[2]):
            return f"; version 2 calls it {new}"
    if key in _KEYS and "." in key:
        section, _, name = key.partition(".")
        return f"; in a file, write {name}: in a line of its own below {section}:"
    siblings = [each for each in _KEYS if each.rpartition(".")[0] == _dotted(loc[:-1])]
    for keys, cutoff in ((_KEYS, 1.0), (siblings, 0.6), (_KEYS, 0.6)):
        names = {each.rpartition(".")[2]: each for each in reversed(keys)}
        if close := difflib.get_close_matches(key, names, n=1, cutoff=cutoff):
            return f"; did you mean {names[close[0]]}?"
    return f"; known here: {', '.join(each.rpartition('.')[2] for each in siblings)}"
