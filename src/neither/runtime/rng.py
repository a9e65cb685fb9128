"""Every random stream as a function of (seed, stream, epoch, place).

Counter-based: a number depends on its counters alone, not on how many were drawn before it, by
whom, or in what batches. So resuming, cutting batches otherwise, or using several processes changes
nothing, and no generator state has to be saved.

The mixing function is the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable
pseudorandom number generators", 2014), applied once per counter.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


class Stream(IntEnum):
    """What the numbers are for; two streams never share a number."""

    ORDER = 1
    AUGMENTATION = 2
    WEIGHTS = 3
    MIXING = 4
    STEP = 5


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _key(*counters: int) -> np.uint64:
    key = np.zeros(1, dtype=np.uint64)
    for counter in counters:
        # Python integers wrap by hand: NumPy warns when a scalar overflows, though not an array.
        key = _mix(key + np.array([(counter + 1) * _GOLDEN & _MASK], dtype=np.uint64))
    return np.uint64(key[0])


def random_bits(
    seed: int, stream: Stream, epoch: int, places: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """Draw 64 random bits for each place, shape as `places`."""
    counters = (places.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN)
    return _mix(_mix(counters + _key(seed, stream, epoch)))


def uniform(
    seed: int, stream: Stream, epoch: int, places: NDArray[np.int64], num: int
) -> NDArray[np.float32]:
    """Draw `num` uniform numbers in [0, 1) for each of B places; shape (B, num)."""
    first = random_bits(seed, stream, epoch, places)[:, None]
    columns = (np.arange(num, dtype=np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN)
    # 24 bits are what a float32 holds exactly, so 1.0 itself cannot come out.
    top = _mix(first + columns) >> np.uint64(40)
    return top.astype(np.float32) * np.float32(2**-24)


def permutation(seed: int, epoch: int, num: int) -> NDArray[np.int64]:
    """Return the order of an epoch: the numbers 0 .. num - 1, each once; shape (num,)."""
    return np.argsort(random_bits(seed, Stream.ORDER, epoch, np.arange(num)), kind="stable")


def weights_seed(seed: int) -> int:
    """Return the seed of torch's generator for the first weights, in [0, 2**63)."""
    return int(_key(seed, Stream.WEIGHTS)) >> 1


def step_seed(seed: int, step: int) -> int:
    """Return the seed of torch's generator for what a network draws in a step, in [0, 2**63)."""
    return int(_key(seed, Stream.STEP, step)) >> 1


def hash_fraction(seed: int, group: str | bytes) -> float:
    """Place a named group at a fixed point in [0, 1); a split is an interval of it.

    A cryptographic hash (SHA-256) here, as names are chosen by people and shares must still hold.
    """
    from hashlib import sha256

    content = group.encode("utf-8", "surrogatepass") if isinstance(group, str) else group
    digest = sha256(seed.to_bytes(8, "little") + content).digest()
    return int.from_bytes(digest[:8], "little") / 2**64


@contextmanager
def seeded(seed: int, device: "torch.device | None" = None) -> Iterator[None]:
    """Let torch draw from a seed inside the block; its generators are then as they were before.

    Args:
        seed: in [0, 2**63).
        device: whose generator is used besides the CPU's, if it is a GPU.
    """
    import torch  # not for those who only need numbers of numpy

    with torch.random.fork_rng(devices=[device] if device and device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would touch every device
        if device and device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
