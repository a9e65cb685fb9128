"""Folds: groups and look-alikes stay together, each class in each fold, by seed and name alone."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from neither.data.folds import assign_folds, assign_source_folds, group_names
from records import make_dhash, make_fingerprints


def deal(
    groups: list[str], labels: list[int], num_folds: int = 5, seed: int = 0
) -> NDArray[np.int64]:
    folds = assign_folds(groups, np.array(labels, np.int64), num_folds, seed)
    assert folds.shape == (len(groups),)
    assert folds.dtype == np.int64
    return folds


def classes_of_folds(folds: NDArray[np.int64], labels: list[int]) -> list[set[int]]:
    """Return the classes in each fold."""
    return [{labels[index] for index in np.flatnonzero(folds == fold)}
            for fold in range(int(folds.max()) + 1)]  # fmt: skip


def test_look_alikes_are_a_group_and_others_are_alone() -> None:
    records = make_fingerprints([make_dhash(number) for number in range(5)])
    records["coarse_hash"] = [7, 8, 7, 0, 0]
    groups = group_names([f"{number}.jpg" for number in range(5)], records, None)
    assert groups[0] == groups[2]
    assert len(set(groups)) == 4
    records["sha256"][4] = records["sha256"][3]  # flat images with the same bytes
    assert len(set(group_names(list("abcde"), records, None))) == 3


def test_a_pattern_goes_before_looks() -> None:
    records = make_fingerprints([make_dhash(number) for number in range(4)])
    records["coarse_hash"] = [7, 7, 8, 8]
    groups = group_names(["a-1", "b-1", "a-2", "other"], records, r"^(a|b)-")
    assert groups[0] == groups[2] != groups[1]
    assert len(set(groups)) == 3


def test_a_group_is_in_one_fold_and_each_class_in_each() -> None:
    labels = [index % 3 for index in range(60)]
    groups = [f"{index % 3} {index // 6}" for index in range(60)]  # two images of a class each
    folds = deal(groups, labels)
    assert len({*zip(groups, folds.tolist(), strict=True)}) == len({*groups})
    assert classes_of_folds(folds, labels) == [{0, 1, 2}] * 5
    assert [int((folds == fold).sum()) for fold in range(5)] == [12] * 5


def test_folds_depend_on_the_seed_and_the_name_alone() -> None:
    labels = [index % 3 for index in range(60)]
    groups = [f"group {index}" for index in range(60)]
    folds = deal(groups, labels)
    assert folds.tolist() == deal(groups, labels).tolist()
    assert folds.tolist() != deal(groups, labels, seed=1).tolist()
    order = np.random.default_rng(0).permutation(60)
    shuffled = deal([groups[index] for index in order], [labels[index] for index in order])
    assert shuffled.tolist() == folds[order].tolist()


@pytest.mark.parametrize("num_sources", [2, 3, 7])
def test_groups_that_hold_all_classes_are_dealt_out_too(num_sources: int) -> None:
    labels = [index % 3 for index in range(42)]
    groups = [f"source {index // 3 % num_sources}" for index in range(42)]
    folds = deal(groups, labels)
    assert classes_of_folds(folds, labels) == [{0, 1, 2}] * min(num_sources, 5)
    order = np.random.default_rng(0).permutation(42)
    shuffled = deal([groups[index] for index in order], [labels[index] for index in order])
    assert shuffled.tolist() == folds[order].tolist()


@given(
    images=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), min_size=1, max_size=40),
    num_folds=st.integers(2, 6),
    seed=st.integers(0, 9),
)
def test_whatever_the_groups(images: list[tuple[int, int]], num_folds: int, seed: int) -> None:
    groups, labels = [str(group) for group, _ in images], [label for _, label in images]
    folds = deal(groups, labels, num_folds, seed)
    assert len({*zip(groups, folds.tolist(), strict=True)}) == len({*groups})
    assert int(folds.max()) < num_folds
    if folds.any():
        assert classes_of_folds(folds, labels) == [{*labels}] * (int(folds.max()) + 1)
    fewest = min(len({g for g, x in images if x == label}) for label in labels)
    is_pure = all(len({x for g, x in images if g == group}) == 1 for group, _ in images)
    if is_pure:
        assert int(folds.max()) + 1 == (min(fewest, num_folds))


def leave_out(
    images: list[tuple[str, int]], max_folds: int = 10, groups: list[str] | None = None
) -> list[int]:
    """Return the folds of images with a source and a label, after checks that hold for all."""
    sources, labels = [source for source, _ in images], [label for _, label in images]
    groups = groups or [str(index) for index in range(len(images))]
    folds = assign_source_folds(sources, groups, np.array(labels, np.int64), max_folds, 0)
    assert folds.dtype == np.int64
    present = [{*np.array(labels)[folds != fold].tolist()} for fold in range(int(folds.max()) + 1)]
    assert not folds.any() or present == [{*labels}] * min(len(present), max_folds)
    assert len({*zip(groups, folds.tolist(), strict=True)}) == len({*groups})
    order = np.random.default_rng(0).permutation(len(images))
    shuffled = assign_source_folds(
        [sources[index] for index in order], [groups[index] for index in order],
        np.array(labels, np.int64)[order], max_folds, 0,
    )  # fmt: skip
    assert shuffled.tolist() == folds[order].tolist()
    return [int(fold) for fold in folds]


def folds_of(images: list[tuple[str, int]], folds: list[int]) -> dict[str, set[int]]:
    """Return the folds of each source."""
    found: dict[str, set[int]] = {}
    for (source, _), fold in zip(images, folds, strict=True):
        found.setdefault(source, set()).add(fold)
    return found


def shoot(**counts: int) -> list[tuple[str, int]]:
    """Return that many images for each `source_label`."""
    return [(name[:-2], int(name[-1])) for name, num in counts.items() for _ in range(num)]


def test_each_source_is_left_out_once(messages: Callable[[], str]) -> None:
    images = shoot(a_0=60, b_0=70, c_1=80, d_1=90, e_1=50, e_0=50)
    found = folds_of(images, leave_out(images))
    assert sorted(map(sorted, found.values())) == [[0], [1], [2], [3], [4]]
    assert messages() == ""


def test_small_sources_are_merged_within_their_class() -> None:
    images = shoot(a_0=60, b_0=70, c_0=20, d_0=20, e_0=15, f_1=80, g_1=90, h_1=49, i_1=1)
    found = folds_of(images, leave_out(images))
    assert found["c"] == found["d"] == found["e"]
    assert found["h"] == found["i"]
    assert len({*map(tuple, found.values())}) == 6


def test_a_class_of_small_sources_alone_is_not_merged_to_one() -> None:
    images = shoot(a_0=60, b_0=70, c_1=10, d_1=10, e_1=10)
    found = folds_of(images, leave_out(images))
    assert all(len(each) == 1 for each in found.values())
    assert len({*map(tuple, (found["c"], found["d"], found["e"]))}) == 2


def test_a_thousand_sources_become_balanced_folds() -> None:
    images = [(f"shoot {number}", number % 3) for number in range(1000) for _ in range(5)]
    folds = leave_out(images)
    assert all(len(each) == 1 for each in folds_of(images, folds).values())
    sizes = np.bincount(folds)
    assert len(sizes) == 10
    assert sizes.max() - sizes.min() <= 60
    assert len(np.bincount(leave_out(images, max_folds=4))) == 4


def test_few_folds_hold_sources_of_each_class_back() -> None:
    images = shoot(a_0=900, b_1=500, c_1=400, d_0=60)
    found = folds_of(images, leave_out(images, max_folds=2))
    assert found["a"] != found["d"]
    assert found["b"] != found["c"]


def test_the_only_source_of_a_class_is_dealt_out_and_named(messages: Callable[[], str]) -> None:
    images = shoot(a_0=60, b_0=70, sole_1=80)
    found = folds_of(images, leave_out(images))
    assert (len(found["a"]), len(found["b"]), len(found["sole"])) == (1, 1, 5)
    assert found["a"] != found["b"]
    text = messages()
    assert "cannot be left out: 1, such as sole" in text
    assert text.count("\n") == 2  # one line a call


@pytest.mark.parametrize("source", ["", "one"])
def test_one_source_or_none_gives_the_folds_of_groups(source: str) -> None:
    images = [(source, index % 2) for index in range(60)]
    groups = [str(index // 2) for index in range(60)]
    labels = np.array([label for _, label in images], np.int64)
    folds = leave_out(images, 5, groups)
    assert folds == assign_folds(groups, labels, 5, 0).tolist()
    assert {*folds} == {0, 1, 2, 3, 4}


def test_images_without_a_source_are_dealt_out_by_class() -> None:
    images = shoot(a_0=60, b_0=70, c_1=80, d_1=90, _0=40, _1=20)
    folds = np.array(leave_out(images))
    loose = np.array([not source for source, _ in images])
    labels = np.array([label for _, label in images])
    for label, num in ((0, 8), (1, 4)):
        assert np.bincount(folds[loose & (labels == label)]).tolist() == [num] * 5


def test_groups_join_sources_and_images_without_one() -> None:
    images = shoot(a_0=60, b_0=70, c_0=80, d_1=90, e_1=90, _1=40)
    groups = [str(index) for index in range(len(images))]
    groups[0] = groups[60] = "group ann"  # in a and b
    groups[-1] = groups[210] = "group bob"  # without a source, and in d
    folds = leave_out(images, groups=groups)
    found = folds_of(images[:-1], folds[:-1])
    assert found["a"] == found["b"] != found["c"]
    assert {folds[-1]} == found["d"]


def test_look_alikes_of_two_sources_join_none() -> None:
    records = make_fingerprints([make_dhash(number) for number in range(4)])
    records["coarse_hash"] = 7
    paths, sources = ["ann-1", "2", "ann-3", "4"], ["a", "a", "b", ""]
    groups = group_names(paths, records, "^(ann)-", sources)
    assert groups[0] == groups[2]
    assert len({*groups}) == 3
    assert len({*group_names(paths, records, None, sources)}) == 3
    assert len({*group_names(paths, records, None, [""] * 4)}) == 1


def test_a_class_of_one_group_can_not_be_left_out() -> None:
    images = shoot(a_0=60, b_0=70, c_1=1)
    assert {*leave_out(images)} == {0}


@given(
    images=st.lists(
        st.tuples(st.sampled_from(["", "a", "b", "c", "d", "e"]), st.integers(0, 2),
                  st.integers(1, 70), st.booleans()), min_size=1, max_size=9),
    max_folds=st.integers(2, 6),
)  # fmt: skip
def test_whatever_the_sources(images: list[tuple[str, int, int, bool]], max_folds: int) -> None:
    """Outside each fold is each class, groups are whole, and so are sources if they can be."""
    every, groups = [], []
    for number, (source, label, num, is_group) in enumerate(images):
        every += [(source, label)] * num
        groups += [str(number) if is_group else f"{number} {each}" for each in range(num)]
    folds = leave_out(every, max_folds, groups)
    sources_of_class = [{source for source, each in every if each == label} for label in range(3)]
    is_pure = len({source for source, _ in every}) == sum(map(len, sources_of_class))
    if is_pure and not any("" in each or len(each) == 1 for each in sources_of_class):
        assert all(len(each) == 1 for each in folds_of(every, folds).values())
        assert any(folds)
