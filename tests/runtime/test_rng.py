import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from neither.runtime.rng import (
    Stream,
    hash_fraction,
    permutation,
    random_bits,
    seeded,
    step_seed,
    uniform,
    weights_seed,
)

Patch = pytest.MonkeyPatch
SEEDS = st.integers(0, 2**63 - 1)
EPOCHS = st.integers(0, 100_000)
STREAMS = st.sampled_from(Stream)
INDICES = arrays(np.int64, array_shapes(max_dims=1, max_side=20), elements=st.integers(0, 2**40))


def mix(value: int) -> int:
    """SplitMix64's finaliser in Python integers."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
    return value ^ (value >> 31)


def reference_bits(seed: int, stream: int, epoch: int, index: int) -> int:
    golden, key = 0x9E3779B97F4A7C15, 0
    for counter in (seed, stream, epoch):
        key = mix((key + (counter + 1) * golden) % 2**64)
    return mix(mix(((index + 1) * golden + key) % 2**64))


@given(SEEDS, STREAMS, EPOCHS, INDICES)
def test_bits_are_as_specified(seed: int, stream: Stream, epoch: int, indices: np.ndarray) -> None:
    assert random_bits(seed, stream, epoch, indices).tolist() == [
        reference_bits(seed, stream, epoch, index) for index in indices.tolist()
    ]


@given(SEEDS, EPOCHS, st.integers(1, 60), st.integers(1, 60))
def test_uniforms_do_not_depend_on_batches(seed: int, epoch: int, num: int, size: int) -> None:
    indices = np.arange(num)
    whole = uniform(seed, Stream.AUGMENTATION, epoch, indices, 5)
    parts = [uniform(seed, Stream.AUGMENTATION, epoch, indices[start : start + size], 5)
             for start in range(0, num, size)]  # fmt: skip
    assert np.array_equal(whole, np.concatenate(parts))
    assert np.array_equal(whole[:, :2], uniform(seed, Stream.AUGMENTATION, epoch, indices, 2))


def test_every_counter_gives_other_numbers() -> None:
    drawn = {
        uniform(seed, stream, epoch, np.arange(50), 4).tobytes()
        for seed in (0, 1, 2**63 - 1)
        for stream in Stream
        for epoch in (0, 1, 2)
    }
    assert len(drawn) == 3 * len(Stream) * 3
    numbers = uniform(0, Stream.ORDER, 0, np.arange(1000), 16)
    assert len(np.unique(numbers)) > 0.999 * numbers.size  # of 24 bits


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


def test_one_is_never_drawn(monkeypatch: Patch) -> None:
    ones = np.full(3, 2**64 - 1, dtype=np.uint64)
    monkeypatch.setattr(
        "neither.runtime.rng._mix", lambda values: np.broadcast_to(ones[0], values.shape)
    )
    assert uniform(1, Stream.ORDER, 0, np.arange(3), 10).max() < np.float32(1)


def test_orders_are_permutations_that_differ_by_seed_and_epoch() -> None:
    assert permutation(0, 0, 0).tolist() == []
    orders = [permutation(seed, epoch, 1000) for seed in (0, 1) for epoch in range(5)]
    assert len({order.tobytes() for order in orders}) == len(orders)
    for order in orders:
        assert sorted(order.tolist()) == list(range(1000))
        assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 5 / np.sqrt(1000)


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_seeds_of_torch_are_valid_and_distinct(seed: int) -> None:
    seeds = [weights_seed(seed), weights_seed(seed ^ 1), step_seed(seed, 0), step_seed(seed, 2**40)]
    assert len(set(seeds)) == 4
    assert all(0 <= each < 2**63 for each in seeds)


def test_seeded_restores_the_generator_of_torch() -> None:
    before = torch.random.get_rng_state()
    drawn = []
    for _ in range(2):
        with seeded(7):
            drawn.append(torch.rand(3))
    assert torch.equal(*drawn)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_streams_never_change() -> None:
    # Existing runs and splits depend on these numbers.
    assert [int(stream) for stream in Stream] == [1, 2, 3, 4, 5, 6]
    assert permutation(0, 0, 8).tolist() == [1, 2, 5, 7, 4, 6, 0, 3]
    assert hash_fraction(0, "dog") == hash_fraction(0, b"dog") == 0.6937098217622101
    assert hash_fraction(1, "dog") == 0.11580160993499537
