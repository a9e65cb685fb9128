import os
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from neither.config.schema import Data
from neither.data.fingerprints import MAX_DISTANCE, ImageFlag
from neither.data.scan import ImageTable
from neither.data.splits import (
    ADDED,
    SPLITS,
    SplitAssignment,
    assign_splits,
    check_class_counts,
    log_split_summary,
    separate_duplicates,
)
from neither.runtime.errors import DataError
from records import make_dhash, make_fingerprints, make_store, make_table

Messages = Callable[[], str]


def different(num: int, of: int = 0) -> NDArray[np.void]:
    """Return the fingerprints of images that are all different."""
    return make_fingerprints([make_dhash(1000 * of + number) for number in range(num)])


def split(
    names: Sequence[str],
    records: NDArray[np.void],
    seed: int = 0,
    **keys: Any,  # noqa: ANN401
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the split and the reason of each image by its name."""
    table = make_table(names)
    unreadable = keys.pop("unreadable", None)
    assignment = assign_splits(
        table, make_store(records, unreadable), seed, Data(root="photos", **keys)
    )
    assigned = dict(zip(names, [SPLITS[side] for side in assignment.split_indices], strict=True))
    reasons = {names[index]: why for index, why in assignment.reasons.items()}
    assert {name for name in names if not assigned[name]} == set(reasons)
    return assigned, reasons


def numbered(num: int, label: str = "dog") -> list[str]:
    return [f"{label}/{number:05}.jpg" for number in range(num)]


@pytest.mark.parametrize("group_size", [1, 4])
@pytest.mark.parametrize("label", ["dog", "human"])
def test_fractions_hold_in_each_class_and_with_groups(label: str, group_size: int) -> None:
    num = 4000
    names = [f"{label}/person {number // group_size}/{number}.jpg" for number in range(num)]
    pattern = "person [0-9]+" if group_size > 1 else None
    assigned, _ = split(names, different(num, len(label)), group_pattern=pattern,
                        val_fraction=0.2, test_fraction=0.1)  # fmt: skip
    counts = Counter(assigned.values())
    for name, fraction in (("train", 0.7), ("val", 0.2), ("test", 0.1)):
        deviation = (num * group_size * fraction * (1 - fraction)) ** 0.5  # binomial
        assert abs(counts[name] - num * fraction) < 5 * deviation


def test_the_seed_determines_the_split() -> None:
    names, records = numbered(200), different(200)
    assert split(names, records) == split(names, records)
    assert split(names, records, seed=1) != split(names, records)


def test_the_split_depends_neither_on_order_nor_on_other_images() -> None:
    names, records = numbered(100), different(100)
    assigned, _ = split(names, records)
    order = np.random.default_rng(0).permutation(100)
    assert split([names[index] for index in order], records[order])[0] == assigned
    few = order[:30]
    assert split([names[index] for index in few], records[few])[0].items() <= assigned.items()


@st.composite
def photos(draw: st.DrawFn) -> tuple[list[str], NDArray[np.void]]:
    """Draw images, many of them near-duplicates, some with the name of a person."""
    num = draw(st.integers(1, 14))
    flips = st.sets(st.sampled_from(range(0, 20, 2)), max_size=6)
    hashes = [make_dhash(draw(st.integers(0, 3)), [*draw(flips)]) for _ in range(num)]
    records = make_fingerprints(hashes)
    records["coarse_hash"] = draw(st.lists(st.integers(1, 6), min_size=num, max_size=num))
    for index in range(2, num):
        if draw(st.integers(0, 4)) == 0:  # an exact duplicate
            records[index] = records[draw(st.integers(0, index - 1))]
    people = draw(st.lists(st.sampled_from(["", "", "ann", "bob"]), min_size=num, max_size=num))
    return [f"dog/{person}-{number}.jpg" for number, person in enumerate(people)], records


HALVES: dict[str, Any] = {"val_fraction": 0.35, "test_fraction": 0.3}


@given(photos(), st.data(), st.sampled_from([None, "(ann|bob)-"]), st.integers(0, 9))
def test_adding_images_moves_none(
    images: tuple[list[str], NDArray[np.void]], data: st.DataObject, groups: str | None, seed: int
) -> None:
    names, records = images
    # Always the first two, which differ: if all images are the same, other rules hold.
    some = sorted(
        {0, 1} & {*range(len(names))} | data.draw(st.sets(st.integers(0, len(names) - 1)))
    )
    every, _ = split(names, records, seed, group_pattern=groups, **HALVES)
    few, _ = split(
        [names[index] for index in some], records[some], seed, group_pattern=groups, **HALVES
    )
    for name, side in few.items():
        assert "" in (side, every[name]) or side == every[name]


@given(photos(), st.integers(0, 9))
def test_duplicates_are_in_one_split(images: tuple[list[str], NDArray[np.void]], seed: int) -> None:
    names, records = images
    assigned, reasons = split(names, records, seed, group_pattern="(ann|bob)-", **HALVES)
    people = [name.removeprefix("dog/").split("-")[0] for name in names]
    for one, other in combinations(range(len(names)), 2):
        apart = int(np.bitwise_count(records["dhash"][one] ^ records["dhash"][other]).sum())
        if apart <= MAX_DISTANCE or people[one] == people[other] != "":
            assert len({assigned[names[one]], assigned[names[other]]} - {""}) < 2
    for why in reasons.values():
        what, _, rest = why.partition(" dog/")
        other_name, _, side = ("dog/" + rest).partition(", which is in ")
        assert what in ("the same bytes as", "nearly the same as",
                        "in one group ann with", "in one group bob with")  # fmt: skip
        assert assigned[other_name] == side


def test_exact_duplicates_have_the_same_hash_and_split() -> None:
    num = 300
    records = np.concatenate([different(num)] * 2)
    names = numbered(num) + [f"dog/copy of {number}.jpg" for number in range(num)]
    assigned, reasons = split(names, records)
    assert [assigned[name] for name in names[:num]] == [assigned[name] for name in names[num:]]
    assert reasons == {}


@given(st.floats(0, 0.5), st.floats(0.01, 0.4), st.floats(0, 0.09))
def test_a_larger_val_moves_images_from_train_only(test: float, val: float, more: float) -> None:
    names, records = numbered(100), different(100)
    small, _ = split(names, records, val_fraction=val, test_fraction=test)
    large, _ = split(names, records, val_fraction=val + more, test_fraction=test)
    moved = {(small[path], large[path]) for path in small if small[path] != large[path]}
    assert moved <= {("train", "val")}


def test_a_missing_val_is_split_from_train() -> None:
    names = [f"{name}/dog/{number}.jpg" for name in ("train", "test") for number in range(400)]
    assigned, _ = split(names, different(800), val_fraction=0.25, test_fraction=0.5)
    moved = Counter((path.split("/")[0], name) for path, name in assigned.items())
    assert set(moved) == {("train", "train"), ("train", "val"), ("test", "test")}
    assert 60 < moved["train", "val"] < 140


def test_duplicates_across_folders_are_excluded_from_the_lower_split() -> None:
    names = [f"{name}/dog/{number}.jpg" for number in range(3) for name in ("train", "val", "test")]
    records = different(9)
    records["dhash"][[3, 4]] = make_dhash(1), make_dhash(1, [3])  # train and val
    records["sha256"][6] = records["sha256"][8]  # train and test, the same bytes
    records["dhash"][[6, 8]] = make_dhash(2)
    records["dhash"][7] = make_dhash(2, range(7))  # val and test
    assigned, reasons = split(names, records)
    assert reasons == {
        "train/dog/1.jpg": "nearly the same as val/dog/1.jpg, which is in val",
        "train/dog/2.jpg": "the same bytes as test/dog/2.jpg, which is in test",
        "val/dog/2.jpg": "nearly the same as test/dog/2.jpg, which is in test",
    }
    assert Counter(assigned.values()) == {"train": 1, "val": 2, "test": 3, "": 3}


def test_a_group_across_folders_is_kept_in_one_split() -> None:
    names = ["train/dog/ann 1.jpg", "train/dog/bob 1.jpg", "val/dog/bob 2.jpg",
             "val/dog/ann 2.jpg", "test/dog/ann 3.jpg", "train/dog/cid.jpg"]  # fmt: skip
    _, reasons = split(names, different(6), group_pattern="ann|bob")
    assert reasons == {
        "train/dog/ann 1.jpg": "in one group ann with test/dog/ann 3.jpg, which is in test",
        "val/dog/ann 2.jpg": "in one group ann with test/dog/ann 3.jpg, which is in test",
        "train/dog/bob 1.jpg": "in one group bob with val/dog/bob 2.jpg, which is in val",
    }
    assert split(names, different(6))[1] == {}
    names = [os.fsdecode(b"dog/\xff-%d.jpg" % number) for number in range(6)]
    assigned, _ = split(names, different(6), group_pattern="/(.*)-", **HALVES)
    assert len(set(assigned.values())) == 1


def test_an_unreadable_image_is_excluded_with_its_reason() -> None:
    names = ["train/dog/a", "train/dog/b", "val/dog/c", "test/dog/d"]
    assigned, reasons = split(names, different(4), unreadable={0: "damaged", 3: "empty file"})
    assert assigned == dict(zip(names, ["", "train", "val", ""], strict=True))
    assert reasons == {"train/dog/a": "damaged", "test/dog/d": "empty file"}


def test_an_unreadable_image_excludes_no_other() -> None:
    names, records = ["train/dog/a", "val/dog/b", "test/dog/c", "train/dog/d"], different(4)
    records["dhash"][:] = make_dhash(0), make_dhash(0), make_dhash(0), make_dhash(9)
    records["sha256"][:3] = records["sha256"][0]
    _, reasons = split(names, records, unreadable={1: "damaged", 2: "damaged"})
    assert set(reasons) == {"val/dog/b", "test/dog/c"}


@pytest.mark.fault("D24")
def test_the_same_bytes_in_two_classes_are_an_error_with_both_paths() -> None:
    names = ["dog/a.jpg", "dog/b.jpg", "human/c\n.jpg", "human/d.jpg", "human/e.jpg"]
    records = different(5)
    records[2], records[3] = records[0], records[1]
    with pytest.raises(DataError) as caught:
        split(names, records)
    pairs = [r"dog/a.jpg and human/c\n.jpg", "dog/b.jpg and human/d.jpg"]
    assert str(caught.value).split("\n       ")[1:3] == pairs
    with pytest.raises(DataError, match="50 files have the same bytes") as caught:
        split(numbered(50) + numbered(50, "human"), np.concatenate([different(50)] * 2))
    assert str(caught.value).count(" and human/") == 10


def test_unreadable_files_have_no_label_conflicts() -> None:
    names, records = ["dog/a.jpg", "human/b.jpg", "dog/c.jpg", "human/d.jpg"], different(4)
    records["sha256"][1] = records["sha256"][0]
    _, reasons = split(names, records, unreadable={0: "empty file", 1: "empty file"})
    assert set(reasons) == {"dog/a.jpg", "human/b.jpg"}


@pytest.mark.fault("D30")
@pytest.mark.parametrize("kind", ["identical", "black", "black and identical"])
@pytest.mark.parametrize("folders", [False, True])
def test_identical_or_black_images_are_split_with_a_warning(
    kind: str, folders: bool, messages: Messages
) -> None:
    num = 120
    records = different(num) if kind == "identical" else make_fingerprints([None] * num)
    if "identical" in kind:
        records[:] = records[0]
    names = [f"{('dog', 'human')[number % 2]}/{number}.jpg" for number in range(num)]
    if folders:
        names = [f"{('train', 'val', 'test')[number % 3]}/{name}"
                 for number, name in enumerate(names)]  # fmt: skip
    assigned, reasons = split(names, records)
    assert reasons == {}
    assert {"train", "val", "test"} == set(assigned.values())
    assert "variance is zero" in messages()


def test_flat_images_are_distinguished_by_their_bytes(messages: Messages) -> None:
    records = make_fingerprints([None] * 40)
    records["flags"] |= np.uint8(ImageFlag.FLAT)
    records["brightness"] = 100
    records["sha256"][20:] = records["sha256"][:20]
    assigned, reasons = split(numbered(40), records)
    splits = [*assigned.values()]
    assert splits[:20] == splits[20:]
    assert (reasons, messages()) == ({}, "")
    with pytest.raises(DataError, match="the same bytes as one of another class"):
        split([*numbered(20), *(f"human/{n}.jpg" for n in range(20))], records)


def counted(
    table: ImageTable, splits: Sequence[int], reasons: dict[int, str] | None = None
) -> None:
    check_class_counts(
        table, SplitAssignment(np.array(splits, np.int8), reasons or {}), ["dog", "human"]
    )


@pytest.mark.fault("D28")
@pytest.mark.parametrize("empty", ["train", "val"])
def test_a_class_without_images_in_train_or_val_is_an_error(empty: str) -> None:
    table = make_table(["dog/a", "dog/b", "human/c", "human/d", "human/e"])
    counted(table, [1, 2, 1, 2, 3])
    index = SPLITS.index(empty)
    splits = [1, 2, *[0 if split == index else split for split in (1, 2)], 3]
    with pytest.raises(DataError, match=f"class human has no image in {empty}") as caught:
        counted(table, splits)
    assert ("raise data.val_fraction" in str(caught.value)) == (empty == "val")
    assert "left out" not in str(caught.value)
    with pytest.raises(DataError) as caught:
        counted(table, splits, {index + 1: "the same bytes as \x1b[1m"})
    assert str(caught.value).endswith(r"(1 of its images are left out: the same bytes as \x1b[1m)")


def test_few_images_of_a_class_in_val_are_a_warning(messages: Messages) -> None:
    table = make_table([*numbered(20), *numbered(20, "human")])
    counted(table, ([1] * 10 + [2] * 10) * 2)
    assert messages() == ""
    counted(table, [1] * 10 + [2] * 10 + [1] * 11 + [2] * 9)
    assert "class human has only 9 images in val" in messages()


EXCLUDED, TRAIN, VAL, TEST = range(4)


class Case:
    """Images with their splits before duplicates are separated."""

    def __init__(
        self,
        hashes: Sequence[NDArray[np.uint16] | None],
        splits: Sequence[int],
        given: Sequence[bool] | bool = False,
        groups: Sequence[str | None] = (),
    ) -> None:
        self.records = make_fingerprints(hashes)
        self.splits = np.array(splits, np.int8)
        self.given = np.broadcast_to(np.array(given, bool), len(hashes)).copy()
        self.groups = list(groups) or [None] * len(hashes)

    def separate(self) -> list[int]:
        """Return the excluded images, after checking that each is excluded for a reason."""
        before = self.splits.copy()
        partner = separate_duplicates(self.records, self.splits, self.given, self.groups)
        out = partner >= 0
        assert (self.splits == before).all()
        kept = (self.splits > 0) & ~out
        assert not (out & (self.splits == EXCLUDED)).any()
        for one, other in combinations(np.flatnonzero(kept).tolist(), 2):
            assert self.splits[one] == self.splits[other] or not self.linked(one, other)
        for index in np.flatnonzero(out).tolist():
            cause = int(partner[index])
            assert kept[cause], "the partner is itself excluded"
            assert self.linked(index, cause)
            assert self.splits[index] != self.splits[cause]
            if self.given[index]:
                assert self.given[cause], "a given split is excluded for a hashed one"
                assert self.splits[index] < self.splits[cause]
        indices: list[int] = np.flatnonzero(out).tolist()
        return indices

    def linked(self, one: int, other: int) -> bool:
        """Return whether two images must be in one split, by the definition."""
        a, b = self.records[one], self.records[other]
        if self.groups[one] is not None and self.groups[one] == self.groups[other]:
            return True
        if a["dhash"].any() and b["dhash"].any():
            return int(np.bitwise_count(a["dhash"] ^ b["dhash"]).sum()) <= MAX_DISTANCE
        return bool((a["sha256"] == b["sha256"]).all())

    def in_order(self, order: Sequence[int]) -> "Case":
        case = Case([None] * len(order), self.splits[order].tolist(), self.given[order].tolist(),
                    [self.groups[index] for index in order])  # fmt: skip
        case.records = self.records[order]
        return case


def near(*flipped: int, of: int = 0) -> NDArray[np.uint16]:
    return make_dhash(of, flipped)


def chain(num: int, of: int = 0) -> list[NDArray[np.uint16]]:
    """Return hashes each of which is near the next, and to no other."""
    return [make_dhash(of, range(5 * index)) for index in range(num)]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw images in a few clusters, some flat, some exact duplicates, some in named groups."""
    num = draw(st.integers(0, 10))
    flips = st.sets(st.sampled_from(range(9)), max_size=9)
    hashes: list[NDArray[np.uint16] | None] = []
    for _ in range(num):
        # Each index is two bits, so that nine of them span more than the distance.
        cluster, indices = draw(st.integers(0, 1)), draw(flips)
        flipped = [2 * index + bit for index in indices for bit in (0, 1)]
        hashes.append(draw(st.none() | st.just(make_dhash(cluster, flipped))))
    layout = draw(st.sampled_from(["flat", "all given", "no val"]))
    splits = draw(st.lists(st.integers(0, 3), min_size=num, max_size=num))
    groups = draw(st.lists(st.sampled_from([None, None, "p", "q"]), min_size=num, max_size=num))
    given = [layout == "all given" or (layout == "no val" and side == TEST) for side in splits]
    # Images of a group without given splits have the same hash, and so the same split.
    first: dict[str, int] = {}
    for index, group in enumerate(groups):
        if group is not None and not given[index] and splits[index]:
            splits[index] = first.setdefault(group, splits[index])
    case = Case(hashes, splits, given, groups)
    for index in range(num):
        if hashes[index] is None:  # the same bytes now and then
            case.records["sha256"][index] = draw(st.integers(1, 2))
    return case


@given(cases())
def test_no_link_crosses_splits_and_no_exclusion_is_unnecessary(case: Case) -> None:
    out = case.separate()
    assert not any(case.given[index] and case.splits[index] == TEST for index in out)
    kept = [index for index in range(len(case.splits)) if case.splits[index] and index not in out]
    for index in out:
        assert any(case.linked(index, other) and case.splits[other] != case.splits[index]
                   for other in kept)  # fmt: skip


@given(cases(), st.randoms(use_true_random=False))
def test_the_same_images_are_excluded_in_any_order(case: Case, random: Random) -> None:
    order = list(range(len(case.splits)))
    random.shuffle(order)
    again = case.in_order(order).separate()
    assert sorted(order[index] for index in again) == case.separate()


@pytest.mark.parametrize(("one", "other"), [(TRAIN, VAL), (TRAIN, TEST), (VAL, TEST)])
def test_of_two_duplicates_that_of_the_lower_split_is_excluded(one: int, other: int) -> None:
    for is_given in (False, True):
        assert Case([near(0), near(1)], [one, other], is_given).separate() == [0]
        assert Case([near(0), near(1)], [other, one], is_given).separate() == [1]
        assert Case([near(0), near(0)], [one, other], is_given).separate() == [0]


@pytest.mark.parametrize("side", [TRAIN, VAL, TEST])
def test_one_duplicate_is_excluded_instead_of_nine(side: int) -> None:
    other = TEST if side != TEST else TRAIN
    hashes = [near(bit) for bit in range(10)]
    for single in (0, 4, 9):
        splits = [other] * 10
        splits[single] = side
        assert Case(hashes, splits).separate() == [single]
        assert Case([near()] * 10, splits).separate() == [single]


@pytest.mark.parametrize("side", [TRAIN, VAL])
def test_an_image_that_links_two_others_is_excluded(side: int) -> None:
    one, bridge, other = chain(3)
    assert Case([one, bridge, other], [TRAIN, side, VAL]).separate() == [1]
    assert Case([other, one, bridge], [TRAIN, VAL, side]).separate() == [2]


def test_an_exclusion_that_becomes_unnecessary_is_undone() -> None:
    """The center has the most links, but all linked images are excluded because of others."""
    rays = [[5 * ray + bit for bit in range(5)] for ray in range(3)]
    middle = [near(*ray) for ray in rays]
    outer = [near(*ray, *(30 + 20 * number + 4 * leaf + bit for bit in range(4)))
             for number, ray in enumerate(rays) for leaf in range(2)]  # fmt: skip
    case = Case([near(), *middle, *outer], [TRAIN] + [VAL] * 3 + [TRAIN] * 6)
    assert case.separate() == [1, 2, 3]


def log_summary(
    splits: list[int],
    reasons: dict[int, str] | None = None,
    unreadable: dict[int, str] | None = None,
    flags: int = 0,
) -> None:
    names = [f"{('dog', 'human')[index % 2]}/{index}.jpg" for index in range(len(splits))]
    records = make_fingerprints([make_dhash(number) for number in range(len(splits))])
    records["flags"] = flags
    all_reasons = {**(unreadable or {}), **(reasons or {})}
    assignment = SplitAssignment(np.array(splits, np.int8), all_reasons)
    log_split_summary(
        make_table(names), make_store(records, unreadable), assignment, ["dog", "human"]
    )


def test_the_counts_of_each_split_and_class_are_logged(messages: Messages) -> None:
    log_summary([1] * 2000 + [2] * 10 + [3, 0, 3], {2011: "a duplicate"})
    lines = messages().splitlines()
    assert lines[:3] == [
        "train   2,000 images: dog 1,000, human 1,000",
        "val        10 images: dog 5, human 5",
        "test        2 images: dog 2, human 0",
    ]


def test_excluded_images_are_logged_with_their_reason(messages: Messages) -> None:
    log_summary([1, 1, 0, 0, 0], {3: "the same bytes as dog/0.jpg, which is in train"},
         {2: "empty file", 4: "damaged \x1b[1m"})  # fmt: skip
    message = messages()
    assert "warning: 2 unreadable images are left out" in message
    assert "  dog/2.jpg: empty file\n" in message
    assert "  dog/4.jpg: damaged \\x1b[1m\n" in message
    assert "warning: 1 images " in message
    assert "  human/3.jpg: the same bytes as dog/0.jpg, which is in train\n" in message
    log_summary([1, 1, 0, 0], {2: ADDED, 3: ADDED})  # not in splits.csv
    assert "left out" not in messages()
    log_summary([0] * 60, dict.fromkeys(range(30), "a"), dict.fromkeys(range(30, 60), "b"))
    message = messages()
    assert message.count(".jpg: a") == message.count(".jpg: b") == 10
