import tracemalloc
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from neither.data.fingerprints import (
    FINGERPRINT,
    MAX_DISTANCE,
    MAX_DISTANCE_FRACTION,
    MAX_LEVELS,
    ImageFlag,
    ImageTraits,
    compute_fingerprints,
    find_near_duplicates,
    group_exact_duplicates,
)
from records import DHASH_BITS, make_dhash, make_fingerprints


def facts_of(looks: NDArray[np.uint16]) -> NDArray[np.void]:
    records = np.zeros(len(looks), FINGERPRINT)
    records["dhash"] = looks
    return records


def by_brute_force(looks: NDArray[np.uint16]) -> set[tuple[int, int]]:
    """Compare each with each: the places of two images that look the same."""
    words = looks.view("<u8")
    distance = np.bitwise_count(words[:, None] ^ words[None]).sum(axis=2)
    used = looks.any(axis=1)
    num_set = np.bitwise_count(words[:, None] | words[None]).sum(axis=2)
    alike = (distance <= MAX_DISTANCE) & (distance <= MAX_DISTANCE_FRACTION * num_set)
    near = np.triu(alike, 1) & np.outer(used, used)
    one, other = np.nonzero(near)
    return set(zip(one.tolist(), other.tolist(), strict=True))


def as_places(numbers: NDArray[np.int64], pairs: NDArray[np.int64]) -> set[tuple[int, int]]:
    """Turn pairs of looks into the places of the images that have them."""
    near = set(map(tuple, pairs.tolist()))
    return {
        (one, other)
        for one, other in combinations(np.flatnonzero(numbers >= 0).tolist(), 2)
        if numbers[one] == numbers[other]
        or tuple(sorted((int(numbers[one]), int(numbers[other])))) in near
    }


def check(looks: NDArray[np.uint16]) -> None:
    numbers, pairs = find_near_duplicates(facts_of(looks))
    assert as_places(numbers, pairs) == by_brute_force(looks)
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert len(np.unique(pairs, axis=0)) == len(pairs)
    assert ((numbers < 0) == ~looks.any(axis=1)).all()
    assert set(numbers[numbers >= 0].tolist()) == set(range(int(numbers.max(initial=-1)) + 1))


FLIPS = st.lists(st.integers(0, DHASH_BITS - 1), max_size=2 * MAX_DISTANCE, unique=True)


@given(st.lists(st.tuples(st.integers(0, 2), FLIPS), max_size=30))
@settings(deadline=None, max_examples=150)
def test_clustered_looks_are_found_as_by_brute_force(looks: list[tuple[int, list[int]]]) -> None:
    made = [make_dhash(number, flips) for number, flips in looks]
    check(np.stack(made) if made else np.zeros((0, 8), np.uint16))


@given(st.lists(st.sampled_from([0, 1, 2, 3, 0xFFFF]), min_size=8, max_size=240))
@settings(deadline=None, max_examples=150)
def test_looks_of_few_bits_are_found_as_by_brute_force(words: list[int]) -> None:
    """With most bits alike, as drawn pictures have them, and none at all, as flat ones have."""
    check(np.array(words[: len(words) // 8 * 8], np.uint16).reshape(-1, 8))


@given(st.integers(0, 2**32), st.integers(0, 300))
@settings(deadline=None, max_examples=25)
def test_random_looks_are_found_as_by_brute_force(seed: int, num: int) -> None:
    random = np.random.default_rng(seed)
    bits = random.random((num, DHASH_BITS)) < random.choice([0.02, 0.1, 0.5])
    check(np.packbits(bits, axis=1).view("<u2"))


@pytest.mark.parametrize("seed", range(20))
def test_exactly_seven_bits_are_near_wherever_they_lie(seed: int) -> None:
    flips = np.random.default_rng(seed).permutation(DHASH_BITS)
    for num in range(1, MAX_DISTANCE + 3):
        records = make_fingerprints([make_dhash(0), make_dhash(0, flips[:num].tolist())])
        assert len(find_near_duplicates(records)[1]) == (num <= MAX_DISTANCE)


def test_one_bit_in_each_of_seven_bands_is_still_near() -> None:
    """The worst case of the search: only one of eight bands is the same."""
    for spared in range(8):
        flips = [16 * band + 3 for band in range(8) if band != spared]
        records = make_fingerprints([make_dhash(0), make_dhash(0, flips)])
        assert find_near_duplicates(records)[1].tolist() == [[0, 1]]


def test_thousands_of_equal_looks_are_one_look() -> None:
    looks = np.concatenate([np.tile(make_dhash(0), (5000, 1)), np.tile(make_dhash(1), (5000, 1))])
    tracemalloc.start()
    numbers, pairs = find_near_duplicates(facts_of(looks))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(pairs) == 0
    assert len(set(numbers[:5000].tolist())) == len(set(numbers[5000:].tolist())) == 1
    assert numbers[0] != numbers[5000]
    assert peak < 10_000_000  # fifty million pairs of images, and none of them written down


def test_thousands_of_nearly_equal_looks_are_all_paired_in_bounded_memory() -> None:
    """The frames of a film of a street at night: half a million pairs."""
    random = np.random.default_rng(0)
    bits = np.zeros((1000, DHASH_BITS), np.uint8)
    for row in bits:
        row[random.choice(DHASH_BITS, 3, replace=False)] = 1
    looks = np.packbits(bits, axis=1).view("<u2") ^ make_dhash(0)
    tracemalloc.start()
    numbers, pairs = find_near_duplicates(facts_of(looks))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    num = int(numbers.max()) + 1
    assert len(pairs) == num * (num - 1) // 2
    assert peak < 6 * pairs.nbytes


def test_numbers_do_not_hang_on_the_order_of_the_images() -> None:
    looks = np.stack([make_dhash(number % 5, range(number % 3)) for number in range(40)])
    numbers, pairs = find_near_duplicates(facts_of(looks))
    order = np.random.default_rng(0).permutation(len(looks))
    again, same_pairs = find_near_duplicates(facts_of(looks[order]))
    assert (again == numbers[order]).all()
    assert (pairs == same_pairs).all()


def test_files_with_the_same_bytes_have_one_number() -> None:
    records = make_fingerprints([make_dhash(number) for number in range(6)])
    records["sha256"][[1, 4]] = records["sha256"][0]
    records["sha256"][3] = 0  # could not be read
    numbers = group_exact_duplicates(records)
    assert numbers[0] == numbers[1] == numbers[4]
    assert numbers[3] == -1
    assert sorted({*numbers.tolist()}) == [-1, 0, 1, 2]


def test_bytes_that_differ_in_one_bit_are_other_bytes() -> None:
    for place in range(16):  # half of the hash is plenty
        records = make_fingerprints([make_dhash(0)] * 2)
        records["sha256"][1] = records["sha256"][0]
        assert len({*group_exact_duplicates(records).tolist()}) == 1
        records["sha256"][1, place] ^= 1
        assert len({*group_exact_duplicates(records).tolist()}) == 2


def test_no_images_have_no_groups() -> None:
    none = np.zeros(0, FINGERPRINT)
    assert group_exact_duplicates(none).shape == (0,)
    numbers, pairs = find_near_duplicates(none)
    assert (numbers.shape, pairs.shape) == ((0,), (0, 2))


@pytest.mark.parametrize("column", ["brightness", "contrast"])
def test_looks_of_other_light_are_no_copies(column: str) -> None:
    for levels in range(MAX_LEVELS + 3):
        records = make_fingerprints([make_dhash(0), make_dhash(0), make_dhash(1)])
        records[column] = 100
        records[column][1] += levels
        numbers, pairs = find_near_duplicates(records)
        assert (numbers[0] == numbers[1] or len(pairs) == 1) == (levels <= MAX_LEVELS)


def test_things_on_an_even_ground_are_no_copies_of_each_other() -> None:
    """Discs of any size, place and colour on white: looks of few bits, and few of them differ."""
    random = np.random.default_rng(0)
    traits, y, x = [], *np.mgrid[:90, :90]
    for _ in range(400):
        (left, top), radius = random.integers(30, 60, 2), random.integers(8, 25)
        disc = (x - left) ** 2 + (y - top) ** 2 < radius**2
        pixels = np.where(disc[:, :, None], random.integers(0, 200, 3), 255).astype(np.uint8)
        thumbnail = Image.fromarray(pixels).resize((9, 9), Image.Resampling.BOX).tobytes()
        traits.append(ImageTraits(90, 90, "PNG", ImageFlag(0), thumbnail))
    records = compute_fingerprints(
        traits, [bytes([1 + n // 250, 1 + n % 250]) * 16 for n in range(400)]
    )
    assert len(find_near_duplicates(records)[1]) < 80  # of 79,800 pairs
    _, sizes = np.unique(records["coarse_hash"], return_counts=True)
    assert sizes.max() < 40
