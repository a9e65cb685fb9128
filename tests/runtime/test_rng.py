import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from neither.runtime.rng import (
    Stream,
    hash_fraction,
    permutation,
    random_bits,
    step_seed,
    uniform,
    weights_seed,
)

SEEDS = st.integers(0, 2**63 - 1)
EPOCHS = st.integers(0, 100_000)
STREAMS = st.sampled_from(Stream)
PLACES = arrays(np.int64, array_shapes(max_dims=1, max_side=20), elements=st.integers(0, 2**40))


def mix(value: int) -> int:
    """SplitMix64's finaliser in plain integers."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
    return value ^ (value >> 31)


def plain_bits(seed: int, stream: int, epoch: int, place: int) -> int:
    golden, key = 0x9E3779B97F4A7C15, 0
    for counter in (seed, stream, epoch):
        key = mix((key + (counter + 1) * golden) % 2**64)
    return mix(mix(((place + 1) * golden + key) % 2**64))


@given(SEEDS, STREAMS, EPOCHS, PLACES)
@settings(deadline=None)
def test_bits_are_those_of_plain_integers(
    seed: int, stream: Stream, epoch: int, places: np.ndarray
) -> None:
    assert random_bits(seed, stream, epoch, places).tolist() == [
        plain_bits(seed, stream, epoch, place) for place in places.tolist()
    ]


@given(SEEDS, EPOCHS, st.integers(1, 60), st.integers(1, 60))
@settings(deadline=None)
def test_numbers_are_the_same_however_places_are_cut(
    seed: int, epoch: int, num: int, batch: int
) -> None:
    places = np.arange(num)
    whole = uniform(seed, Stream.AUGMENTATION, epoch, places, 5)
    parts = [uniform(seed, Stream.AUGMENTATION, epoch, places[at : at + batch], 5)
             for at in range(0, num, batch)]  # fmt: skip
    assert np.array_equal(whole, np.concatenate(parts))


@given(SEEDS, EPOCHS, st.integers(1, 10), st.integers(1, 10))
@settings(deadline=None)
def test_asking_for_more_numbers_changes_none(seed: int, epoch: int, few: int, more: int) -> None:
    places = np.arange(3)
    long = uniform(seed, Stream.ORDER, epoch, places, few + more)
    assert np.array_equal(uniform(seed, Stream.ORDER, epoch, places, few), long[:, :few])


def test_every_counter_gives_other_numbers() -> None:
    places = np.arange(50)
    drawn = {
        uniform(seed, stream, epoch, places, 4).tobytes()
        for seed in (0, 1, 2**63 - 1)
        for stream in Stream
        for epoch in (0, 1, 2)
    }
    assert len(drawn) == 3 * len(Stream) * 3
    numbers = uniform(0, Stream.ORDER, 0, np.arange(1000), 16)
    assert len(np.unique(numbers)) > 0.999 * numbers.size  # 24 bits: few meet by chance


def test_uniforms_fill_the_unit_interval_evenly() -> None:
    numbers = uniform(0, Stream.AUGMENTATION, 3, np.arange(20_000), 6)
    assert numbers.dtype == np.float32
    assert numbers.shape == (20_000, 6)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    for column in numbers.T:
        counts = np.histogram(column, bins=20, range=(0, 1))[0]
        assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000)
    correlations = np.corrcoef(numbers.T) - np.eye(6)
    assert np.abs(correlations).max() < 5 / np.sqrt(20_000)


def test_one_is_never_drawn_even_of_all_ones() -> None:
    assert np.float32((1 << 24) - 1) * np.float32(2**-24) < 1
    numbers = uniform(1, Stream.ORDER, 0, np.arange(100_000), 10)
    assert numbers.max() < np.float32(1)


@given(SEEDS, EPOCHS, st.integers(0, 300))
@settings(deadline=None)
def test_an_order_holds_every_number_once(seed: int, epoch: int, num: int) -> None:
    order = permutation(seed, epoch, num)
    assert sorted(order.tolist()) == list(range(num))
    assert np.array_equal(order, permutation(seed, epoch, num))


def test_orders_differ_by_seed_and_epoch_and_mix_well() -> None:
    orders = [permutation(seed, epoch, 1000) for seed in (0, 1) for epoch in range(5)]
    assert len({order.tobytes() for order in orders}) == len(orders)
    for order in orders:
        assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 5 / np.sqrt(1000)


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_the_seed_of_the_weights_fits_torch(seed: int) -> None:
    assert 0 <= weights_seed(seed) < 2**63
    assert weights_seed(seed) == weights_seed(seed)
    assert weights_seed(seed) != weights_seed(seed ^ 1)
    assert step_seed(seed, 0) not in (weights_seed(seed), step_seed(seed, 1))
    assert 0 <= step_seed(seed, 2**40) < 2**63


@given(SEEDS, st.text(st.characters(exclude_categories=["Cs"])))
@settings(deadline=None)
def test_a_group_has_one_place_as_text_or_bytes(seed: int, group: str) -> None:
    place = hash_fraction(seed, group)
    assert 0 <= place < 1
    assert place == hash_fraction(seed, group.encode())


def test_groups_spread_evenly_and_otherwise_for_another_seed() -> None:
    places = np.array([[hash_fraction(seed, f"group {number}") for number in range(2000)]
                       for seed in (0, 1)])  # fmt: skip
    for row in places:
        assert np.abs(np.histogram(row, bins=10, range=(0, 1))[0] - 200).max() < 5 * np.sqrt(200)
    assert abs(np.corrcoef(places)[0, 1]) < 5 / np.sqrt(2000)


def test_the_streams_stay_what_they_were() -> None:
    # Runs and splits on users' disks hang on these numbers: they may never change.
    assert [int(stream) for stream in Stream] == [1, 2, 3, 4, 5]
    assert permutation(0, 0, 8).tolist() == [1, 2, 5, 7, 4, 6, 0, 3]
    assert hash_fraction(0, "dog") == 0.6937098217622101
