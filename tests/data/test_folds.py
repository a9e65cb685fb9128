"""Folds: groups and look-alikes stay together, each class in each fold, by seed and name alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from neither.data.folds import assign_folds, group_names
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


@pytest.mark.parametrize("num_groups", [2, 3, 4])
def test_a_class_with_few_groups_gives_few_folds(num_groups: int) -> None:
    labels = [0] * 20 + [1] * num_groups
    folds = deal([str(index) for index in range(len(labels))], labels)
    assert classes_of_folds(folds, labels) == [{0, 1}] * num_groups


@pytest.mark.parametrize("num_images", [1, 9])
def test_a_class_with_one_group_gives_no_folds(num_images: int) -> None:
    labels = [0] * 20 + [1] * num_images
    groups = [str(index) for index in range(20)] + ["the only one"] * num_images
    assert not deal(groups, labels).any()


def test_a_class_without_images_is_no_class() -> None:
    labels = [0, 2] * 10
    folds = deal([str(index) for index in range(20)], labels)
    assert classes_of_folds(folds, labels) == [{0, 2}] * 5


@pytest.mark.parametrize("num_sources", [2, 3, 7])
def test_groups_that_hold_all_classes_are_dealt_out_too(num_sources: int) -> None:
    labels = [index % 3 for index in range(42)]
    groups = [f"source {index // 3 % num_sources}" for index in range(42)]
    folds = deal(groups, labels)
    assert classes_of_folds(folds, labels) == [{0, 1, 2}] * min(num_sources, 5)
    order = np.random.default_rng(0).permutation(42)
    shuffled = deal([groups[index] for index in order], [labels[index] for index in order])
    assert shuffled.tolist() == folds[order].tolist()


@settings(max_examples=100, deadline=None)
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
