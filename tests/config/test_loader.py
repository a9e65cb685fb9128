"""YAML in, one config or all errors at once out."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from neither.config.loader import Document, check_config, load_config, override, read_yaml, to_yaml
from neither.config.schema import RENAMED_KEYS, Config
from neither.runtime.errors import UsageError

MINIMAL = """\
name: photos
classes: [dog, human, neither]
data:
  root: photos
train:
  epochs: 60
"""  # every required key; what a test appends begins in line 7


def read(text: str | bytes) -> Document:
    return read_yaml(text if isinstance(text, bytes) else text.encode(), "c.yaml")


def load(text: str, *overrides: str) -> Config:
    document = read(text)
    for assignment in overrides:
        override(document, assignment)
    return check_config(document)


def errors(text: str, *overrides: str) -> list[str]:
    with pytest.raises(UsageError) as caught:
        load(text, *overrides)
    return [line.strip() for line in str(caught.value).split("\n")]


def error(text: str, *overrides: str) -> str:
    (line,) = errors(text, *overrides)
    return line


def test_values_have_the_lines_of_their_keys() -> None:
    document = read("# a comment\na: 1\nb:\n  # another\n  c: x\n  d:\n    - 2.5\n    - no\n")
    assert document.values == {"a": 1, "b": {"c": "x", "d": (2.5, False)}}
    assert document.problems == []
    lines: dict[tuple[str | int, ...], int] = {
        ("a",): 2, ("b",): 3, ("b", "c"): 5, ("b", "d", 1): 8,
        ("b", "unknown", "below"): 3, ("unknown",): 2,
    }  # fmt: skip
    assert {path: document.location(path) for path in lines} == {
        path: f"c.yaml:{line}" for path, line in lines.items()
    }
    document = read(b"\xef\xbb\xbfa: 1\r\nb: x\r\n")  # a byte order mark, Windows line ends
    assert document.values == {"a": 1, "b": "x"}
    assert document.location(("b",)) == "c.yaml:2"


@pytest.mark.fault("C06", "C07", "C08", "C09")
@pytest.mark.parametrize(("text", "location"), [
    ("", ":1"), ("# only a comment\n", ":1"), ("---\n", ":1"), ("- a\n- b\n", ":1"),
    ("just words", ":1"), ("a: 1\n---\nb: 2\n", ":2:1"), ("a:\n\tb: 1\n", ":2:1"),
    ("a: [1, 2\n", ":2:1"), ("a: b: c\n", ":1:5"), ("a: 1\nb: &x 2\n", ":2:4"),
    ("a: 1\nb: *x\n", ":2:4"), ("a: &x\n  b: 1\n", ":1:4"), ("a: 1\nb: c\0d\n", ":2:5"),
    (b"a: 1\nb: c\xff\n", ":2:5"), (b"\xef\xbb\xbfa: 1\nb: \xc3\xa4\xff\n", ":2:5"),
    ("a: 1".encode("utf-16"), ":1:1"), ('a: "\\UFFFFFFFF"', ""), ('a: "\\U00110000"', ""),
    ("a: 1\n? [b]\n: 2\n", ":2:3"), ("a: !!str 5\n", ":1:4"), ("a: !local x", ":1:4"),
    ("a: !<tag:yaml.org,2002:set> {}", ":1:4"), ("a: " + "[" * 10_000, ":1:23"),
])  # fmt: skip
def test_anything_but_one_plain_yaml_mapping_is_an_error(text: str | bytes, location: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(text)
    assert re.match(rf"c\.yaml{location}: \D", str(caught.value))
    assert "\n" not in str(caught.value)


@pytest.mark.fault("C05")
def test_duplicate_keys_are_listed_with_the_other_errors() -> None:
    text = MINIMAL.replace("60", "many") + "modle: {}\nreject_class: cat\nname: again\n"
    found = errors(text + "train:\n  epochs: 1\ndecision: {target_precision: 1,\n"
                   "  target_precision: 0.5}\n", "train.epoch=3")  # fmt: skip
    assert [each.split(": ")[:2] for each in found] == [
        ["c.yaml:6", "train.epochs"], ["c.yaml:7", "modle"], ["c.yaml:8", "reject_class"],
        ["c.yaml:9", "name"], ["c.yaml:10", "train"], ["c.yaml:13", "decision.target_precision"],
        ["command line", "train.epoch=3"],
    ]  # fmt: skip
    assert found[3].endswith("c.yaml:1")


@pytest.mark.fault("C11")
def test_a_tag_runs_nothing(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    for tag in ("!!python/object/apply:os.mkdir", "!!python/object/new:os.mkdir"):
        with pytest.raises(UsageError, match=r"c\.yaml:1:4: tags"):
            read(f"a: {tag} [{canary}]\n")
        document = read("a: 1")
        override(document, f"a={tag} [{canary}]")
        assert len(document.problems) == 1
    assert not canary.exists()


@pytest.mark.fault("C10")
def test_a_file_may_have_64_kilobytes_and_20_levels() -> None:
    text = "a: 1\n#".ljust(65_536, "x")
    assert read(text).values == {"a": 1}
    with pytest.raises(UsageError, match="65,536"):
        read(text + "x")
    for before, inner, after in (("[", "[]", "]"), ("{a: ", "{}", "}")):
        assert read("a: " + before * 18 + inner + after * 18).values
        with pytest.raises(UsageError, match="20 levels"):
            read("a: " + before * 19 + inner + after * 19)


@pytest.mark.fault("C03")
@pytest.mark.parametrize(("text", "value"), [
    ("1", 1), ("-7", -7), ("+7", 7), ("010", 10), ("1e-3", 1e-3), ("1E5", 1e5), (".5", 0.5),
    ("5.", 5.0), ("-.inf", float("-inf")), (".INF", float("inf")), ("9" * 5000, float("inf")),
    ("true", True), ("No", False), ("off", False), ("~", None), ("", None), ("null", None),
    ("'1'", "1"), ("1_000", "1_000"), ("0x1F", "0x1F"), ("12:30", "12:30"), ("1.2.3", "1.2.3"),
    ("2024-01-01", "2024-01-01"), ("=", "="), ("1e", "1e"), ("e5", "e5"), ("\u0663", "\u0663"),
    ("nO", "nO"), ("y", "y"), ("nan", "nan"), ("inf", "inf"), (".", "."), ("-", (None,)),
    ("0o7", "0o7"),
])  # fmt: skip
def test_scalars_are_decimal_numbers_booleans_null_or_text(text: str, value: object) -> None:
    found = read(f"a:\n  {text}\n").values["a"]
    assert found == value
    assert type(found) is type(value)


def test_an_override_replaces_or_adds_one_value_or_section() -> None:
    document = read("a: 1\ns:\n  b: 2\n  c: 3\n")
    override(document, "s.b=[x, 1e-3]")
    assert document.values == {"a": 1, "s": {"b": ("x", 1e-3), "c": 3}}
    assert document.location(("s", "b", 0)) == "command line: s.b=[x, 1e-3]"
    assert document.location(("s", "c")) == "c.yaml:4"
    assert document.texts["s", "b", 1] == "1e-3"
    override(document, "s={b: 7}")  # all of the section
    assert document.values == {"a": 1, "s": {"b": 7}}
    for key in ("b", "c"):
        assert document.location(("s", key)) == "command line: s={b: 7}"
    assert document.texts["s", "b"] == "7"
    override(document, "r.t.b=2")  # sections that are not in the file
    assert document.values == {"a": 1, "s": {"b": 7}, "r": {"t": {"b": 2}}}
    assert document.location(("r", "t", "missing")) == "command line: r.t.b=2"


@pytest.mark.fault("C17")
@pytest.mark.parametrize(("assignment", "key"), [
    ("a", ""), ("=1", ""), ("a.=1", ""), (".a=1", ""), ("a..b=1", ""), ("a.b=1", "a.b: "),
    ("a=&x 1", "a: "), ("a=[1", "a: "), ("a={b: 1, b: 2}", "a.b: "), ("a=\udcff", "a: "),
])  # fmt: skip
def test_a_malformed_override_is_one_problem(assignment: str, key: str) -> None:
    document = read("a: 1")
    override(document, assignment)
    (problem,) = document.problems
    assert str(problem).startswith(f"command line: {assignment}: {key}{problem.message}")


def test_overrides_take_precedence_and_the_last_one_wins() -> None:
    config = load(MINIMAL.replace("60", "many"), "train.epochs=7", "train.epochs=8",
                  "classes=[a, b]", "data.root=/data/x=1", "reject_class=b")  # fmt: skip
    assert (config.train.epochs, config.data.root) == (8, "/data/x=1")
    assert (config.classes, config.reject_class) == (("a", "b"), "b")


@pytest.mark.fault("C01")
@pytest.mark.parametrize(("text", "message"), [
    ("modle: {}", "7: modle: unknown key; did you mean model?"),
    ("model:\n  widht: 8", "8: model.widht: unknown key; did you mean model.width?"),
    ("model:\n  lr: 1", "8: model.lr: unknown key; did you mean train.lr?"),
    ("model: {seed: 1}", "7: model.seed: unknown key; did you mean seed?"),
    ("weight_decy: 1", "7: weight_decy: unknown key; did you mean train.weight_decay?"),
    ("train.lr: 1",
     "7: train.lr: unknown key; in a file, write lr: in a line of its own below train:"),
    ("model: {<<: {width: 8}}", "7: model.<<: unknown key; known here: name, width, weights, "
     "pooling, trainable"),
    ("checkpoint: {qqq: 1}",
     "7: checkpoint.qqq: unknown key; known here: save_every_minutes"),
])  # fmt: skip
def test_an_unknown_key_is_an_error_with_a_suggestion(text: str, message: str) -> None:
    assert error(MINIMAL + text) == f"c.yaml:{message}"


@pytest.mark.parametrize(("old", "new"), RENAMED_KEYS.items())
def test_a_key_of_version_1_is_one_error_that_names_the_new_key(old: str, new: str) -> None:
    section, _, key = old.partition(".")
    values = yaml.safe_load(MINIMAL)
    values.setdefault(section, {})[key] = 1
    for found in (
        error(yaml.safe_dump(values)),
        error(MINIMAL, f"{old}=1"),
        error(MINIMAL, f"{key}=1"),
        error(MINIMAL + f"{old}: 1"),
    ):
        assert "unknown key" in found
        assert found.endswith(f" {new}")


def test_a_missing_key_has_the_line_of_its_section() -> None:
    for key, line, line_number in (
        ("name", "name: photos\n", 1),
        ("classes", "classes: [dog, human, neither]\n", 1),
        ("train.epochs", "epochs: 60", 5),
        ("data", "data:\n  root: photos\n", 1),
    ):
        text = MINIMAL.replace(line, "lr: 1" if key == "train.epochs" else "")
        assert error(text).startswith(f"c.yaml:{line_number}: {key}: ")
    assert [each.split(": ")[1] for each in errors("{}\n")] == ["name", "classes", "data", "train"]


@pytest.mark.fault("C02", "C04", "C13", "C18", "C19")
@pytest.mark.parametrize(("key", "text", "message"), [
    ("train.epochs", "true", "must be a valid integer, got true"),
    ("train.epochs", '"64"', "must be a valid integer, got '64'"),
    ("train.epochs", "64.0", "must be a valid integer, got 64.0"),
    ("train.epochs", "", "must be a valid integer, got nothing"),
    ("train.epochs", "[64]", "must be a valid integer, got [64]"),
    ("train.lr", "9" * 500, "must be "), ("train.lr", "{a: 1}", "must be a valid number"),
    ("augmentation.horizontal_flip", "1", "must be a valid boolean, got 1"),
    ("data.root", "5", 'must be text, but YAML reads 5 as a number: quote it, "5"'),
    ("data.manifest", "Off", 'must be text, but YAML reads Off as false: quote it, "Off"'),
    ("data.aliases", "[a, b]", "must be a valid dictionary, got [a, b]"),
    ("data.ignored_folders", "cats", "must be a list such as [a, b], got 'cats'"),
    ("data.group_pattern", "'(p[0-9]+'", "not a regular expression: missing )"),
    ("data.root", "~nobody-at-all/x", "no such user's home folder, got '~nobody-at-all/x'"),
    ("classes", "[dog]", "must have at least 2 items, got [dog]"),
    ("augmentation.crop_scale", "[0.1, 0.2, 0.3]", "must have at most 2 items, got [0.1, "),
    ("data", "5", "must be a section with keys below it"),
    ("train.optimizer", "adam", "must be 'muon', 'sgd' or 'adamw', got 'adam'"),
    ("device", "gpu", "must be auto, cpu, cuda, cuda:N or mps, got 'gpu'"),
])  # fmt: skip
def test_a_bad_value_is_an_error_in_plain_words(key: str, text: str, message: str) -> None:
    assert error(MINIMAL, f"{key}={text}").startswith(
        f"command line: {key}={text}: {key}: {message}"
    )


@pytest.mark.fault("C12", "C13")
def test_items_and_keys_inside_a_value_have_their_own_line() -> None:
    text = MINIMAL.replace("[dog, human, neither]", "\n- dog\n- no\n- 7\n")
    assert [each.partition(": must")[0] for each in errors(text)] == [
        "c.yaml:4: classes.1", "c.yaml:5: classes.2",
    ]  # fmt: skip
    for alias, key in (("people: 5", ".people"), ("people: a/b", ".people"), ("x: cat", "")):
        text = MINIMAL.replace("root: photos", f"root: photos\n  aliases:\n    {alias}")
        line = 6 if key else 5
        assert error(text).startswith(f"c.yaml:{line}: data.aliases{key}: ")


def test_bad_values_cause_no_further_errors_and_hide_none() -> None:
    assert len(errors(MINIMAL + "  warmup_epochs: 50\n", "train.epochs=many")) == 1
    assert len(errors(MINIMAL.replace("root: photos", "manifest: 5"))) == 1
    assert len(errors(MINIMAL.replace("[dog, human, neither]", "[no, 7]"))) == 2
    assert len(errors(MINIMAL, "classes=7", "reject_class=cat")) == 1
    found = errors(MINIMAL, "data.image_size=9", "data.aliases={a: b}", "data.resize=no")
    assert len(found) == 3


NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).filter(
    lambda text: text.isprintable() and text == text.strip()
)
LIKE_NUMBERS = st.sampled_from(["08", "1e5", "no", "null", "~", "<<", "=", "1:30", "- a", "0x1",
                                "2024-01-01", "[a", "#a", "a #b", "a: b", ".inf", "true", "!a",
                                "&a", "a  b", "'", "%a", "1_0", "-", "{", "@"])  # fmt: skip
CLASSES = st.lists(
    (NAMES | LIKE_NUMBERS).filter(
        lambda text: not re.search(r'[/\\:*?"<>|]|^\.|^(train|val|valid|validation|test)$', text)
    ),
    min_size=2,
    max_size=6,
    unique=True,
)


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    classes = tuple(draw(CLASSES))
    ignored = tuple({*draw(st.lists(NAMES, max_size=2))} - {*classes})
    aliases = (NAMES | LIKE_NUMBERS).filter(lambda name: name not in classes + ignored)
    return {
        "name": draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", fullmatch=True)),
        "seed": draw(st.integers(0, 2**63 - 1)),
        "classes": classes,
        "reject_class": draw(st.none() | st.sampled_from(classes)),
        "data": {
            # "~0" would be the home of a user named 0, and is an error.
            "root": draw((NAMES | LIKE_NUMBERS).filter(lambda text: text == "~" or text[0] != "~")),
            "ignored_folders": ignored,
            "val_fraction": draw(st.floats(1e-9, 0.8)),
            "aliases": draw(st.dictionaries(aliases, st.sampled_from(classes), max_size=2)),
            "group_pattern": draw(st.sampled_from([None, "^(.*)_", r"p(\d+)", "a: b", "no", "08"])),
        },
        "augmentation": {"horizontal_flip": draw(st.booleans())},
        "train": {
            "epochs": draw(st.integers(0, 100_000)),
            "lr": draw(st.floats(0, 100, exclude_min=True)),
        },
    }


@given(configs())
def test_a_written_config_reads_back_as_the_same(values: dict[str, Any]) -> None:
    config = Config.model_validate(values)
    assert load(to_yaml(config)) == config


@given(st.text() | st.text("ab:-[]{}&*!|>#'\"%\\ \n\t0", max_size=60))
def test_any_text_is_read_or_an_error_with_its_location(text: str) -> None:
    message = "c.yaml"
    try:
        assert isinstance(read(text.encode("utf-8", "surrogatepass")).values, dict)
    except UsageError as error:
        message = str(error)
    assert message.startswith("c.yaml")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("abc", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["root", "epochs", "lr", "aliases", "x"]), inner)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*Config.model_fields, "nmae", "lr"]), VALUES))
def test_any_mapping_gives_a_config_or_errors_with_their_lines(values: dict[str, Any]) -> None:
    for found in errors(yaml.safe_dump(values)):  # none of these is complete
        assert re.match(r"c\.yaml:\d+: [\w.]+: \S", found)


KEYS = [name for name in Config.model_fields if name not in ("data", "train")]


@given(
    st.lists(st.sampled_from([*KEYS, "train.lr", "data.root", "a.b", "train.lr.x", "", "."]),
             max_size=3),
    st.lists(st.text(max_size=8), min_size=3, max_size=3),
)  # fmt: skip
def test_any_override_is_read_or_an_error_of_its_own(keys: list[str], texts: list[str]) -> None:
    overrides = [f"{key}={text}" for key, text in zip(keys, texts, strict=False)]
    message = "command line: "
    try:
        assert load(MINIMAL, *overrides).classes
    except UsageError as error:
        message = str(error)
    assert message.startswith("command line: ")  # the file itself has no error


@pytest.mark.fault("C14")
def test_a_config_must_be_a_regular_file_of_yaml(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("missing", "folder", "fifo", "link"):
        reason = "not a regular file" if name in ("folder", "fifo") else "no such file"
        with pytest.raises(UsageError, match=rf"{name}: {reason}"):
            load_config(tmp_path / name)
    path = tmp_path / "config.yaml"
    path.write_text("name: x\n  classes: [a, b\n")
    with pytest.raises(UsageError, match=rf"\A{path}:2:\d+: [^\n]+\Z"):
        load_config(path, ["train.epochs=2"])
