from collections.abc import Sequence
from itertools import combinations, permutations
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from neither.data.fingerprints import MAX_DISTANCE
from neither.data.splits import SPLITS, separate_duplicates
from records import make_dhash, make_fingerprints

NOWHERE, TRAIN, VAL, TEST = range(4)


class Case:
    """Some images, the splits they begin in, and who is linked to whom."""

    def __init__(
        self,
        looks: Sequence[NDArray[np.uint16] | None],
        splits: Sequence[int],
        given: Sequence[bool] | bool = False,
        groups: Sequence[str | None] = (),
    ) -> None:
        self.records = make_fingerprints(looks)
        self.splits = np.array(splits, np.int8)
        self.given = np.broadcast_to(np.array(given, bool), len(looks)).copy()
        self.groups = list(groups) or [None] * len(looks)

    def separate(self) -> list[int]:
        """Return which images are left out, once it is sure that each was for a reason."""
        before = self.splits.copy()
        out, partner = separate_duplicates(self.records, self.splits, self.given, self.groups)
        assert (self.splits == before).all()
        kept = (self.splits > 0) & ~out
        assert not (out & (self.splits == NOWHERE)).any()
        assert ((partner >= 0) == out).all()
        for one, other in combinations(np.flatnonzero(kept).tolist(), 2):
            assert self.splits[one] == self.splits[other] or not self.linked(one, other)
        for place in np.flatnonzero(out).tolist():
            cause = int(partner[place])
            assert kept[cause], "the image in the way is itself left out"
            assert self.linked(place, cause)
            assert self.splits[place] != self.splits[cause]
            if self.given[place]:
                assert self.given[cause], "what the user put there gives way to chance"
                assert self.splits[place] < self.splits[cause]
        places: list[int] = np.flatnonzero(out).tolist()
        return places

    def linked(self, one: int, other: int) -> bool:
        """Say by the definition whether no split may come between two images."""
        a, b = self.records[one], self.records[other]
        if self.groups[one] is not None and self.groups[one] == self.groups[other]:
            return True
        if a["dhash"].any() and b["dhash"].any():
            return int(np.bitwise_count(a["dhash"] ^ b["dhash"]).sum()) <= MAX_DISTANCE
        return bool((a["sha256"] == b["sha256"]).all())

    def in_order(self, order: Sequence[int]) -> "Case":
        case = Case([None] * len(order), self.splits[order].tolist(), self.given[order].tolist(),
                    [self.groups[place] for place in order])  # fmt: skip
        case.records = self.records[order]
        return case


def near(*flipped: int, of: int = 0) -> NDArray[np.uint16]:
    return make_dhash(of, flipped)


def chain(num: int, of: int = 0) -> list[NDArray[np.uint16]]:
    """Return looks each of which is near the next, and no other."""
    return [make_dhash(of, range(5 * place)) for place in range(num)]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Some images in a few clusters of looks, some flat, some copies, some in named groups."""
    num = draw(st.integers(0, 10))
    flips = st.sets(st.sampled_from(range(9)), max_size=9)
    looks: list[NDArray[np.uint16] | None] = []
    for _ in range(num):
        # Each place stands for two bits, so that nine of them span more than the distance.
        cluster, places = draw(st.integers(0, 1)), draw(flips)
        flipped = [2 * place + bit for place in places for bit in (0, 1)]
        looks.append(draw(st.none() | st.just(make_dhash(cluster, flipped))))
    layout = draw(st.sampled_from(["flat", "all given", "no val"]))
    splits = draw(st.lists(st.integers(0, 3), min_size=num, max_size=num))
    groups = draw(st.lists(st.sampled_from([None, None, "p", "q"]), min_size=num, max_size=num))
    given = [layout == "all given" or (layout == "no val" and side == TEST) for side in splits]
    # A group's images that were not put anywhere share a hash, and so a side.
    first: dict[str, int] = {}
    for place, group in enumerate(groups):
        if group is not None and not given[place] and splits[place]:
            splits[place] = first.setdefault(group, splits[place])
    case = Case(looks, splits, given, groups)
    for place in range(num):
        if looks[place] is None:  # the same bytes now and then
            case.records["sha256"][place] = draw(st.integers(1, 2))
    return case


@given(cases())
@settings(deadline=None, max_examples=300)
def test_no_link_goes_across_and_nothing_is_left_out_without_need(case: Case) -> None:
    out = case.separate()
    kept = [place for place in range(len(case.splits)) if case.splits[place] and place not in out]
    for place in out:
        assert any(case.linked(place, other) and case.splits[other] != case.splits[place]
                   for other in kept)  # fmt: skip


@given(cases(), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=200)
def test_the_same_images_are_left_out_in_any_order(case: Case, random: Random) -> None:
    order = list(range(len(case.splits)))
    random.shuffle(order)
    again = case.in_order(order).separate()
    assert sorted(order[place] for place in again) == case.separate()


@given(cases())
@settings(deadline=None, max_examples=100)
def test_what_the_user_put_into_test_stays_whole(case: Case) -> None:
    out = case.separate()
    assert not any(case.given[place] and case.splits[place] == TEST for place in out)


def test_images_of_one_split_may_be_alike() -> None:
    assert Case([near(0), near(1), near(1), None], [TRAIN] * 4).separate() == []
    assert Case([near(0), near(1)], [TRAIN, NOWHERE]).separate() == []


@pytest.mark.parametrize(("one", "other"), [(TRAIN, VAL), (TRAIN, TEST), (VAL, TEST)])
def test_of_two_alike_the_lower_split_gives_way(one: int, other: int) -> None:
    for by_user in (False, True):
        assert Case([near(0), near(1)], [one, other], by_user).separate() == [0]
        assert Case([near(0), near(1)], [other, one], by_user).separate() == [1]
        assert Case([near(0), near(0)], [one, other], by_user).separate() == [0]


def test_what_val_loses_to_test_train_need_not_give_way_to() -> None:
    train, val, test = chain(3)
    assert Case([train, val, test], [TRAIN, VAL, TEST], True).separate() == [1]
    assert Case([train, val, test, val], [TRAIN, VAL, TEST, TRAIN], True).separate() == [1, 3]


def test_given_val_and_test_are_kept_however_many_they_cost() -> None:
    twins = [near(bit) for bit in range(9)]
    assert Case([*twins, near()], [TRAIN] * 9 + [VAL], True).separate() == list(range(9))
    by_user = [False] * 9 + [True]
    assert Case([*twins, near()], [TRAIN, VAL, VAL] * 3 + [TEST], by_user).separate() == [*range(9)]


@pytest.mark.parametrize("side", [TRAIN, VAL, TEST])
def test_the_odd_one_out_of_ten_goes_and_not_the_nine(side: int) -> None:
    other = TEST if side != TEST else TRAIN
    looks = [near(bit) for bit in range(10)]
    for odd in (0, 4, 9):
        splits = [other] * 10
        splits[odd] = side
        assert Case(looks, splits).separate() == [odd]
        assert Case([near()] * 10, splits).separate() == [odd]  # all the same look
        alike = [near()] * 10
        alike[odd] = near(1)
        assert Case(alike, splits).separate() == [odd]


@pytest.mark.parametrize("side", [TRAIN, VAL])
def test_the_bridge_goes_first_and_what_it_links_stays(side: int) -> None:
    """A new picture between two others changes nothing for them."""
    one, bridge, other = chain(3)
    assert Case([one, bridge, other], [TRAIN, side, VAL]).separate() == [1]
    assert Case([other, one, bridge], [TRAIN, VAL, side]).separate() == [2]


def test_one_bridge_goes_instead_of_many_that_it_links() -> None:
    around = [near(*range(5 * ray, 5 * ray + 5)) for ray in range(6)]
    assert Case([near(), *around], [VAL] + [TRAIN] * 6).separate() == [0]
    assert Case([near(), *around], [TEST] + [TRAIN, VAL] * 3).separate() == [0]


def test_nothing_stays_out_that_later_choices_make_needless() -> None:
    """The centre is in the way of most; but once all around it are out for others, it may stay."""
    rays = [[5 * ray + bit for bit in range(5)] for ray in range(3)]
    middle = [near(*ray) for ray in rays]
    outer = [near(*ray, *(30 + 20 * number + 4 * leaf + bit for bit in range(4)))
             for number, ray in enumerate(rays) for leaf in range(2)]  # fmt: skip
    case = Case([near(), *middle, *outer], [TRAIN] + [VAL] * 3 + [TRAIN] * 6)
    assert case.separate() == [1, 2, 3]


@pytest.mark.parametrize("splits", [*permutations([TRAIN, VAL, TEST])])
def test_what_is_told_to_be_in_the_way_is_itself_still_there(
    splits: tuple[int, ...],
) -> None:
    """Of three that are alike two are left out, both for the third."""
    out = Case([near(0), near(1), near(2)], splits).separate()
    assert out == [place for place in range(3) if splits[place] != TEST]


def test_copies_of_a_flat_image_are_linked_by_their_bytes_alone() -> None:
    case = Case([None] * 4, [TRAIN, VAL, VAL, TRAIN])
    assert case.separate() == []
    case.records["sha256"][1] = case.records["sha256"][0]
    assert case.separate() == [0]


def test_a_flat_image_is_never_taken_for_one_with_a_look() -> None:
    case = Case([near(), None, near(of=1), None], [TRAIN, VAL, TEST, TRAIN])
    assert case.separate() == []


def test_a_named_group_stays_on_the_side_that_counts_most() -> None:
    looks = [make_dhash(number) for number in range(6)]
    groups = ["p", "p", "p", "q", "q", None]
    splits = [TRAIN, VAL, TEST, TRAIN, VAL, TRAIN]
    assert Case(looks, splits, True, groups).separate() == [0, 1, 3]
    by_user = [side == TEST for side in splits]
    splits[:5] = [
        TRAIN,
        TRAIN,
        TEST,
        VAL,
        VAL,
    ]  # by the hash of their group, but for the third
    assert Case(looks, splits, by_user, groups).separate() == [0, 1]


def test_a_group_and_a_look_link_alike() -> None:
    train, val, test = make_dhash(0), make_dhash(1), make_dhash(2)
    groups = [None, "p", "p", None]
    case = Case([train, train, val, test], [TRAIN, TRAIN, VAL, TEST], True, groups)
    assert case.separate() == [1]  # of the group of val; its twin in train is in no group


def test_the_names_of_the_sides_are_those_of_the_splits() -> None:
    assert [SPLITS[side] for side in (NOWHERE, TRAIN, VAL, TEST)] == ["", "train", "val", "test"]


def test_many_images_without_copies_all_stay() -> None:
    random = np.random.default_rng(0)
    num = 20_000
    records = make_fingerprints([None] * num)
    records["dhash"] = random.integers(0, 2**16, (num, 8), dtype=np.uint16)
    splits = random.integers(1, 4, num).astype(np.int8)
    out, _ = separate_duplicates(records, splits, np.zeros(num, bool), [None] * num)
    assert not out.any()
