from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neither.config.loader import Document, override, read_yaml, write_yaml


def read(text: str | bytes) -> Document:
    return read_yaml(text if isinstance(text, bytes) else text.encode(), "c.yaml")


def problems(text: str | bytes) -> list[str]:
    return [str(problem) for problem in read(text).problems]


def test_values_are_read_with_the_lines_of_their_keys() -> None:
    document = read("# a comment\na: 1\nb:\n  # another\n  c: x\n  d:\n    - 2.5\n    - no\n")
    assert document.values == {"a": 1, "b": {"c": "x", "d": (2.5, False)}}
    assert document.problems == []
    places = {("a",): 2, ("b",): 3, ("b", "c"): 5, ("b", "d"): 6, ("b", "d", 1): 8}
    assert {path: document.lines[path] for path in places} == places
    assert document.where(("b", "d", 1)) == "c.yaml:8"
    assert document.where(("b", "unknown", "below")) == "c.yaml:3"
    assert document.where(("unknown",)) == "c.yaml:2"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "c.yaml:1: want a mapping of sections and keys, got nothing"),
        ("# only a comment\n", "c.yaml:1: want a mapping of sections and keys, got nothing"),
        ("---\n", "c.yaml:1: want a mapping of sections and keys, got a single value"),
        ("- a\n- b\n", "c.yaml:1: want a mapping of sections and keys, got a list"),
        ("just words", "c.yaml:1: want a mapping of sections and keys, got a single value"),
        ("a: 1\n---\nb: 2\n", "c.yaml:2:1: want one document, not several"),
        ("a:\n\tb: 1\n", "c.yaml:2:1: found character '\\t' that cannot start any token; "
         "indent with spaces"),
        ("a: [1, 2\n", "c.yaml:2:1: expected ',' or ']', but got '<stream end>'"),
        ("a: b: c\n", "c.yaml:1:5: mapping values are not allowed here"),
        ("a: 1\nb: &x 2\n", "c.yaml:2:4: anchors and aliases are not allowed"),
        ("a: 1\nb: *x\n", "c.yaml:2:4: anchors and aliases are not allowed"),
        ("a: &x\n  b: 1\n", "c.yaml:1:4: anchors and aliases are not allowed"),
        ("a: 1\nb: c\0d\n", "c.yaml:2:5: a character that YAML does not allow"),
        (b"a: 1\nb: c\xff\n", "c.yaml:2:5: not UTF-8 text"),
        (b"\xef\xbb\xbfa: 1\nb: \xc3\xa4\xff\n", "c.yaml:2:5: not UTF-8 text"),
        ("a: 1".encode("utf-16"), "c.yaml:1:1: not UTF-8 text"),
        ('a: "\\UFFFFFFFF"', "c.yaml: an escape stands for a character that does not exist"),
        ('a: "\\U00110000"', "c.yaml: an escape stands for a character that does not exist"),
        ("a:\n  <<: {b: 1}\n", "c.yaml:2: a: merge keys (<<) are not allowed"),
        ("a: 1\n? [b]\n: 2\n", "c.yaml:2: a key must be a plain word"),
        ("a: 1\nb: 2\na: 3\n", "c.yaml:3: a: stands twice, first in line 1"),
        ("s:\n  b: 2\n  b: 2\n", "c.yaml:3: s.b: stands twice, first in line 2"),
        ("s: [{b: 2,\n  b: 2}]\n", "c.yaml:2: s.0.b: stands twice, first in line 1"),
    ],
)  # fmt: skip
def test_what_is_not_plain_yaml_is_refused_with_its_place(text: str | bytes, said: str) -> None:
    assert problems(text) == [said]


def test_duplicates_of_a_file_are_said_all_at_once() -> None:
    assert problems("a: 1\na: 2\nb:\n  <<: {}\n  c: 1\n  c: 1\na: 3\n") == [
        "c.yaml:2: a: stands twice, first in line 1",
        "c.yaml:4: b: merge keys (<<) are not allowed",
        "c.yaml:6: b.c: stands twice, first in line 5",
        "c.yaml:7: a: stands twice, first in line 1",
    ]


def test_a_byte_order_mark_is_accepted() -> None:
    assert read(b"\xef\xbb\xbfa: 1\n").values == {"a": 1}


def test_windows_line_ends_are_accepted() -> None:
    document = read(b"a: 1\r\nb: x\r\n")
    assert (document.values, document.lines[("b",)]) == ({"a": 1, "b": "x"}, 2)


def test_a_tag_runs_nothing(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    for tag in ("!!python/object/apply:os.mkdir", "!!python/object/new:os.mkdir"):
        (said,) = problems(f"a: {tag} [{canary}]\n")
        assert said.startswith("c.yaml:1:4: tags are not allowed: ")
        document = read("a: 1")
        override(document, f"a={tag} [{canary}]")
        assert len(document.problems) == 1
    assert not canary.exists()


@pytest.mark.parametrize("tag", ["!!str 5", "!!int '5'", "!local x", "!<tag:yaml.org,2002:set> {}"])
def test_harmless_tags_are_refused_too(tag: str) -> None:
    (said,) = problems(f"a: {tag}\n")
    assert "tags are not allowed" in said


def test_aliases_that_would_expand_without_end_are_refused_unexpanded() -> None:
    text = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for one, other in zip("abcdefghijklmnop", "bcdefghijklmnopq", strict=True):
        text += f"{other}: &{other} [{', '.join([f'*{one}'] * 9)}]\n"
    assert problems(text) == ["c.yaml:1:4: anchors and aliases are not allowed"]


def test_a_file_may_have_64_kilobytes_and_no_more() -> None:
    text = "a: 1\n#".ljust(65_536, "x")
    assert read(text).values == {"a": 1}
    assert problems(text + "x") == ["c.yaml: a config has at most 65,536 bytes"]


@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_nesting_may_be_20_levels_deep_and_no_more(brackets: str) -> None:
    before, after = ("[", "]") if brackets == "[]" else ("{a: ", "}")
    assert problems("a: " + before * 18 + brackets + after * 18) == []
    (said,) = problems("a: " + before * 19 + brackets + after * 19 + "x")
    assert said.endswith(": nested deeper than 20 levels")
    (said,) = problems("a: " + before * 10_000)
    assert said.endswith(": nested deeper than 20 levels")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("-7", -7), ("+7", 7), ("010", 10), ("1e-3", 1e-3), ("1E5", 1e5), (".5", 0.5),
        ("5.", 5.0), ("-.inf", float("-inf")), (".INF", float("inf")), ("9" * 5000, float("inf")),
        ("true", True), ("No", False), ("off", False), ("~", None), ("", None), ("null", None),
        ("'1'", "1"), ("1_000", "1_000"), ("0x1F", "0x1F"), ("12:30", "12:30"), ("1.2.3", "1.2.3"),
        ("2024-01-01", "2024-01-01"), ("=", "="), ("1e", "1e"), ("e5", "e5"), ("\u0663", "\u0663"),
        ("nO", "nO"), ("y", "y"), ("nan", "nan"), ("inf", "inf"), (".", "."), ("-", (None,)),
    ],
)  # fmt: skip
def test_scalars_are_read_as_people_mean_them(text: str, value: object) -> None:
    found = read(f"a:\n  {text}\n").values["a"]
    assert found == value
    assert type(found) is type(value)


def test_an_override_replaces_one_value_and_names_itself() -> None:
    document = read("a: 1\ns:\n  b: 2\n  c: 3\n")
    override(document, "s.b=[x, 1e-3]")
    assert document.values == {"a": 1, "s": {"b": ("x", 1e-3), "c": 3}}
    assert document.where(("s", "b", 0)) == "command line: s.b=[x, 1e-3]"
    assert document.where(("s", "c")) == "c.yaml:4"
    assert document.written["s", "b", 1] == "1e-3"


def test_an_override_of_a_section_leaves_no_trace_of_what_stood_there() -> None:
    document = read("s:\n  b: 2\n  c: 3\n")
    override(document, "s.b=5")
    override(document, "s={b: 7}")
    assert document.values == {"s": {"b": 7}}
    assert document.where(("s", "b")) == "command line: s={b: 7}"
    assert document.written["s", "b"] == "7"
    assert ("s", "c") not in document.lines


def test_an_override_makes_the_sections_that_it_needs() -> None:
    document = read("a: 1")
    override(document, "s.t.b=2")
    assert document.values == {"a": 1, "s": {"t": {"b": 2}}}
    assert document.where(("s", "t", "missing")) == "command line: s.t.b=2"


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("a", "want section.key=value"),
        ("=1", "want section.key=value"),
        ("a.=1", "want section.key=value"),
        (".a=1", "want section.key=value"),
        ("a..b=1", "want section.key=value"),
        ("a.b=1", "a.b: a is not a section"),
        ("a=&x 1", "a: anchors and aliases are not allowed"),
        ("a=[1", "a: expected ',' or ']', but got '<stream end>'"),
        ("a={b: 1, b: 2}", "a.b: stands twice, first in line 1"),
        ("a=\udcff", "a: a character that YAML does not allow"),
    ],
)
def test_a_bad_override_is_named_as_it_was_typed(assignment: str, said: str) -> None:
    document = read("a: 1")
    override(document, assignment)
    assert [str(problem) for problem in document.problems] == [
        f"command line: {assignment}: {said}"
    ]


@given(st.text() | st.text("ab:-[]{}&*!|>#'\"%\\ \n\t0", max_size=60))
@settings(deadline=None, max_examples=150)
def test_any_text_is_read_or_refused_but_never_breaks(text: str) -> None:
    document = read(text.encode("utf-8", "surrogatepass"))
    assert isinstance(document.values, dict)
    assert all(problem.where.startswith("c.yaml") for problem in document.problems)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"])) | st.from_regex(
    r"[-+.0-9eE_:xo]{1,6}|<<|no|null|~|=", fullmatch=True
)


@given(
    st.dictionaries(
        WORDS.filter(lambda text: text != "" and text != "<<" and len(text) < 100),
        SCALARS | WORDS | st.lists(SCALARS | WORDS, max_size=3).map(tuple),
        min_size=1,
        max_size=5,
    )
)
@settings(deadline=None, max_examples=100)
def test_what_is_written_reads_back_the_same(values: dict[str, object]) -> None:
    document = read(write_yaml({key: list(value) if isinstance(value, tuple) else value
                                for key, value in values.items()}))  # fmt: skip
    assert document.problems == []
    assert document.values == values
    assert list(map(type, document.values.values())) == list(map(type, values.values()))
