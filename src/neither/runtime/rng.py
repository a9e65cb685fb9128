"""Counter-based random numbers: each is a pure function of (seed, stream, epoch, index).

A number does not depend on how many were drawn before it, by which process, or in what batches. So
resuming, another batch size or several processes change nothing, and no generator state is saved.

The mixing function is the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable
pseudorandom number generators", 2014), applied once per counter.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


class Stream(IntEnum):
    """What the numbers are used for; two streams never share a number."""

    ORDER = 1
    AUGMENTATION = 2
    WEIGHTS = 3
    CUTMIX = 4
    STEP = 5
    VIEW = 6


def random_bits(
    seed: int, stream: Stream, epoch: int, indices: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """Return 64 random bits for each index; same shape as `indices`."""
    counters = (indices.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN)
    return _mix(_mix(counters + _key(seed, stream, epoch)))


def uniform(
    seed: int, stream: Stream, epoch: int, indices: NDArray[np.int64], num: int
) -> NDArray[np.float32]:
    """Return `num` uniform numbers in [0, 1) for each of B indices; shape (B, num)."""
    first = random_bits(seed, stream, epoch, indices)[:, None]
    columns = (np.arange(num, dtype=np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN)
    # A float32 holds 24 bits exactly, so that 1.0 cannot occur.
    top = _mix(first + columns) >> np.uint64(40)
    return top.astype(np.float32) * np.float32(2**-24)


def permutation(seed: int, epoch: int, num: int) -> NDArray[np.int64]:
    """Return the order of an epoch: a permutation of 0 .. num - 1; shape (num,)."""
    return np.argsort(random_bits(seed, Stream.ORDER, epoch, np.arange(num)), kind="stable")


def weights_seed(seed: int) -> int:
    """Return the seed of torch's generator for the initial weights, in [0, 2**63)."""
    return int(_key(seed, Stream.WEIGHTS)) >> 1


def step_seed(seed: int, step: int) -> int:
    """Return the seed of torch's generator for one training step (dropout), in [0, 2**63)."""
    return int(_key(seed, Stream.STEP, step)) >> 1


def hash_fraction(seed: int, group: str | bytes) -> float:
    """Map the name of a group to a fixed number in [0, 1); a split is an interval of it.

    The hash is cryptographic (SHA-256), so that the split fractions hold for any naming scheme.
    """
    content = group.encode("utf-8", "surrogatepass") if isinstance(group, str) else group
    digest = sha256(seed.to_bytes(8, "little") + content).digest()
    return int.from_bytes(digest[:8], "little") / 2**64


@contextmanager
def seeded(seed: int, device: "torch.device | None" = None) -> Iterator[None]:
    """Seed torch's generators of the CPU and of `device` inside the block, and restore them."""
    import torch  # takes seconds; most callers of this module only need NumPy

    with torch.random.fork_rng(devices=[device] if device and device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would touch every device
        if device and device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _key(*counters: int) -> np.uint64:
    key = np.zeros(1, dtype=np.uint64)
    for counter in counters:
        # NumPy warns when a scalar overflows, but not an array; so wrap in Python.
        key = _mix(key + np.array([(counter + 1) * _GOLDEN & _MASK], dtype=np.uint64))
    return np.uint64(key[0])
