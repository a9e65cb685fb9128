from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from neither.config import loader
from neither.config.loader import Problem, Value, overlap, override, read_yaml
from neither.config.schema import KeyPath


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    size: int = 1
    label: str = ""
    shape: Literal["round", "square"] = "round"
    pair: tuple[int, int] = (0, 1)


class Whole(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    title: str = ""
    part: Part = Part()


def complain(text: str, *overrides: str) -> tuple[list[str], set[KeyPath]]:
    document = read_yaml(text.encode(), "c.yaml")
    for assignment in overrides:
        override(document, assignment)
    with pytest.raises(ValidationError) as caught:
        Whole.model_validate(document.values)
    problems, bad = loader.from_pydantic(caught.value, document, Whole)
    return [str(problem) for problem in problems], bad


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("part: {size: x}", "part.size: want integer, got 'x'"),
        ("part: {size: 1.5}", "part.size: want integer, got 1.5"),
        ("part: {size: on}", "part.size: want integer, got on"),
        ("part: {size: 1_0}", "part.size: want integer, got '1_0'"),
        ("part: {size: }", "part.size: want integer, got nothing"),
        ("part: {label: 1e3}",
         'part.label: want text, but YAML reads 1e3 as a number: quote it, "1e3"'),
        ("part: {label: Off}",
         'part.label: want text, but YAML reads Off as false: quote it, "Off"'),
        ("part: {shape: oval}", "part.shape: want 'round' or 'square', got 'oval'"),
        ("part: {pair: [1, 2, 3]}", "part.pair: want at most 2 items, got [1, 2, 3]"),
        ("part: {pair: [1]}", "part.pair.1: is required"),
        ("part: 5", "part: want a section with keys below it"),
        ("part: {sise: 5}", "part.sise: unknown key; did you mean part.size?"),
        ("part: {title: x}", "part.title: unknown key; it belongs at title"),
        ("size: 5", "size: unknown key; it belongs at part.size"),
        ("part.size: 5",
         "part.size: unknown key; in a file, write size in a line of its own below part:"),
        ("labell: x", "labell: unknown key; did you mean part.label?"),
        ("zzz: x", "zzz: unknown key; known here: title, part"),
    ],
)  # fmt: skip
def test_each_error_is_put_into_plain_words(text: str, said: str) -> None:
    assert complain(text)[0] == [f"c.yaml:1: {said}"]


def test_the_bad_places_are_told_with_the_problems() -> None:
    problems, bad = complain("title: 5\npart:\n  size: x\n  sise: 1\n", "part.label=7")
    assert bad == {("title",), ("part", "size"), ("part", "sise"), ("part", "label")}
    assert {problem.partition(": want")[0] for problem in problems} == {
        "c.yaml:1: title",
        "c.yaml:3: part.size",
        "c.yaml:4: part.sise: unknown key; did you mean part.size?",
        "command line: part.label=7: part.label",
    }


def test_problems_are_sorted_by_line_number_and_the_command_line_comes_last() -> None:
    wheres = ["command line: a=1", "c.yaml:10", "c.yaml:9:80", "c.yaml", "c.yaml:100"]
    problems = sorted((Problem(where, "", "") for where in wheres), key=loader._sort_key)
    assert [problem.where for problem in problems] == [
        "c.yaml", "c.yaml:9:80", "c.yaml:10", "c.yaml:100", "command line: a=1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("one", "other", "answer"),
    [
        (("a",), ("a", "b"), True),
        (("a", "b"), ("a",), True),
        (("a", "b"), ("a", "b"), True),
        (("a", "b"), ("a", "c"), False),
        (("b",), ("a", "b"), False),
    ],
)
def test_places_overlap_when_one_holds_the_other(
    one: KeyPath, other: KeyPath, answer: bool
) -> None:
    assert overlap(one, other) is answer


def test_bad_values_are_left_out_and_the_rest_is_copied() -> None:
    part: dict[str, Value] = {"size": "x", "label": "y", "pair": (1, "z")}
    values: dict[str, Value] = {"title": "t", "part": part, "other": {"size": 1}}
    bad: set[KeyPath] = {("part", "size"), ("part", "pair", 1), ("other",)}
    assert loader.without(values, bad) == {"title": "t", "part": {"label": "y"}}
    assert values["part"] == {"size": "x", "label": "y", "pair": (1, "z")}
