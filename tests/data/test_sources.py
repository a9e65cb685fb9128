"""The sources of images: who names them, how they are counted, and what is said of them once."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from neither.data.sources import (
    count_by_source,
    find_source_problems,
    log_sources,
    name_sources,
    weigh_images,
)
from neither.data.splits import SplitAssignment
from records import make_table

CAMERAS = {"kitchen": {"apple": 30, "pear": 30}, "garden": {"apple": 40, "pear": 20}}


def problems(counts: dict[str, dict[str, int]]) -> str:
    return "\n".join(find_source_problems({name: Counter(each) for name, each in counts.items()}))


@pytest.mark.parametrize(
    ("pattern", "sources"),
    [
        (r"([^/]+)_[^/]*$", ["cam", "cam_b", "cam", "", "caf\u00e9"]),
        ("cam(_b)?", ["", "_b", "", "", ""]),  # a group that matches nothing names no source
        ("(dog|human)/(cam)", ["dog/cam", "dog/cam", "human/cam", "", ""]),
        ("(?<=/)[a-z]{1,3}", ["cam", "cam", "cam", "x", "caf"]),  # without a group: the whole match
    ],
)
def test_the_match_of_the_pattern_is_the_source(pattern: str, sources: list[str]) -> None:
    table = make_table(["dog/cam_1.jpg", "dog/cam_b_2.jpg", "human/cam_1.jpg", "human/x.jpg",
                        "human/cafe\u0301_1.jpg"])  # fmt: skip
    name_sources(table, pattern)
    assert table.sources == sources


def test_without_a_pattern_the_sources_are_those_of_the_manifest() -> None:
    table = make_table(["dog/a.jpg"])
    name_sources(table, None)
    assert table.sources == [""]
    table.sources = ["phone"]
    for pattern in (None, "dog"):
        name_sources(table, pattern)
        assert table.sources == ["phone"]


def test_a_pattern_that_matches_nothing_is_one_warning(messages: Callable[[], str]) -> None:
    table = make_table(["dog/a.jpg", "human/b.jpg"])
    name_sources(table, "(cam[0-9]+)")
    assert table.sources == ["", ""]
    written = messages()
    assert written.startswith("warning: data.sources: ")
    assert written.count("\n") == 1


@pytest.mark.parametrize("pattern", [None, "[^/]+$"])
def test_names_of_single_images_are_no_sources(
    pattern: str | None, messages: Callable[[], str]
) -> None:
    """A column of URLs, or an expression that matches the whole path."""
    table = make_table([f"dog/{number}.jpg" for number in range(40)])
    if pattern is None:
        table.sources = [f"https://photos/{number}" for number in range(39)] + [""]
    name_sources(table, pattern)
    assert table.sources == [""] * 40
    assert messages().count("\n") == 1
    table.sources = [f"shoot {number // 2}" for number in range(40)]
    name_sources(table, None)
    assert all(table.sources)


def test_names_of_classes_are_no_sources(messages: Callable[[], str]) -> None:
    """Many datasets have files such as dog/dog_0001.jpg."""
    table = make_table(["dog/dog_1.jpg", "dog/dog_2.jpg", "human/human_1.jpg", "human/human_2.jpg"])
    name_sources(table, "([^/]+)_")
    assert table.sources == [""] * 4
    assert messages().count("\n") == 1
    table.sources = ["a", "b", "a", "a"]
    name_sources(table, None)
    assert all(table.sources)


def test_the_largest_source_comes_first_and_none_last() -> None:
    sources = ["b", "", "a", "c", "c", "", ""]
    counts = count_by_source(sources, ["dog", "dog", "dog", "human", "dog", "human", "dog"])
    assert [*counts.items()] == [
        ("c", {"human": 1, "dog": 1}), ("a", {"dog": 1}), ("b", {"dog": 1}),
        ("", {"dog": 2, "human": 1}),
    ]  # fmt: skip
    assert count_by_source(["", ""], ["dog", "human"]) == {}


def test_sources_with_all_classes_have_no_problems() -> None:
    assert problems(CAMERAS) == ""
    assert problems({}) == ""
    assert problems(CAMERAS | {"tiny": {"pear": 3}}) == ""  # one class alone may be chance


def test_one_source_in_all_is_one_line() -> None:
    for counts in ({"only": {"apple": 90, "pear": 90}},
                   {"only": {"apple": 90}, "": {"pear": 90}}):  # fmt: skip
        assert problems(counts).count("\n") == 0
        assert "have the same, only:" in problems(counts)


def test_a_class_of_one_source_is_named_with_it() -> None:
    assert "one source alone: cup (hall)" in problems(CAMERAS | {"hall": {"cup": 1}})
    alone = problems(CAMERAS | {"hall": {"cup": 9, "apple": 9}, "": {"mug": 4, "cup": 7}})
    assert "one source alone: cup (hall), mug (none)" in alone
    assert "apple (" not in alone


def test_sources_that_give_their_class_away_are_counted_once() -> None:
    counts = {f"site {number}": {"apple" if number % 2 else "pear": 100} for number in range(6)}
    text = problems(CAMERAS | counts)
    assert text.count("\n") == 0
    assert "6 of 8 sources give their class away" in text
    assert "site 0 (pear, 100)" in text


def test_no_message_grows_with_the_number_of_sources_or_classes() -> None:
    counts = {f"shoot {number}": {f"class {number // 2}": 50} for number in range(2000)}
    assert len(problems(counts)) < 500
    counts = {f"shoot {number}": {f"class {number}": 50} for number in range(1000)}
    text = problems(counts)
    assert "and 990 more" in text
    assert len(text) < 1000


def test_the_log_has_the_used_images_by_class_and_source(messages: Callable[[], str]) -> None:
    names = [f"{label}/{name}" for label in ("dog", "human")
             for name in ("a_1.jpg", "a_2.jpg", "b_1.jpg", "b_2.jpg", "c.jpg")]  # fmt: skip
    table = make_table(names)
    # dog: a in train and test, b in test; human: a and b in train and val; a human is left out.
    splits = SplitAssignment(np.array([1, 3, 3, 3, 1, 1, 2, 1, 0, 2], np.int8), {})
    log_sources(table, splits)
    assert messages() == ""
    name_sources(table, "([a-z])_")
    log_sources(table, splits)
    text = messages()
    assert "source a: 4 images: dog 2, human 2\n" in text
    assert "source b: 3 images: dog 2, human 1\n" in text
    assert "no source: 2 images: dog 1, human 1\n" in text
    assert "val: 1 of 2 images are of sources that train has too" in text
    assert "test: 3 of 3 images are of sources that train has too" in text


def test_a_thousand_sources_are_a_screen_of_the_log(messages: Callable[[], str]) -> None:
    table = make_table([f"{label}/{number}.jpg" for label in "ab" for number in range(1000)])
    name_sources(table, "([0-9]+)")
    log_sources(table, SplitAssignment(np.ones(2000, np.int8), {}))
    text = messages()
    assert "and 980 more sources" in text
    assert text.count("\n") < 30


def test_a_source_prints_on_one_line(messages: Callable[[], str]) -> None:
    table = make_table(["dog/a.jpg", "human/b.jpg"])
    table.root, table.sources = Path(), ["red\x1b[31m\n", "red\x1b[31m\n"]
    log_sources(table, SplitAssignment(np.ones(2, np.int8), {}))
    text = messages()
    assert r"source red\x1b[31m\n: 2 images" in text
    assert "\x1b" not in text


def test_sources_of_a_class_count_nearly_the_same_in_a_fit() -> None:
    sources = ["big"] * 1000 + ["small"] * 100 + [""] * 50 + ["big"] * 10
    labels = np.repeat([0, 1], [1150, 10])
    weights = weigh_images(sources, labels)
    big, small = weights[:1000].sum(), weights[1000:1100].sum()
    assert big + small == pytest.approx(1100)
    assert big / small == pytest.approx((1000 / 1050) / (100 / 150))
    assert (weights[1100:1150] == 1).all()  # without a source
    assert weights[1150:] == pytest.approx(np.ones(10))  # the only source of its class
    assert (weigh_images([""] * 3, np.array([0, 1, 1])) == 1).all()
