"""Find copies: files with the same bytes, and images that look the same."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from neither import stopping

MAX_DISTANCE = 7  # bits of 128: re-encoded and resized copies differ by less, other images by more
MAX_SHARE = 1 / 8  # of the bits that are set in either
MAX_LEVELS = 2  # between their brightness, and between their contrast
_BANDS = 8  # of 16 bits: two looks that differ in 7 bits at most agree in one band at least


def group_equal(facts: NDArray[np.void]) -> NDArray[np.int64]:
    """Number the distinct contents of N files; those that could not be read have none.

    Args:
        facts: (N,) records of `FACTS`.

    Returns:
        (N,) int64, the same number for the same bytes, -1 for no bytes.
    """
    # Half of a SHA-256 is plenty to tell contents apart.
    return _number_rows(np.ascontiguousarray(facts["sha256"][:, :16]).view("<u8"))


def group_alike(facts: NDArray[np.void]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find images that look the same.

    Looks are alike if few bits differ, and few of those that are set: even images, such as a thing
    on white, have nearly all bits clear without being copies. Brightness and contrast must agree
    too, which looks do not tell.

    Args:
        facts: (N,) records of `FACTS`.

    Returns:
        looks: (N,) int64, the number of each image's look, -1 for images without one.
        pairs: (P, 2) int64, numbers of looks that are alike, each pair once, the smaller first.
    """
    has_look = facts["look"].any(axis=1)
    rows = np.zeros((len(facts), _BANDS + 2), np.uint16)
    rows[:, :_BANDS] = facts["look"]
    rows[:, _BANDS], rows[:, _BANDS + 1] = facts["brightness"], facts["contrast"]
    rows[~has_look] = 0
    numbers = _number_rows(rows)
    distinct = np.zeros((int(numbers.max(initial=-1)) + 1, _BANDS + 2), np.uint16)
    distinct[numbers[has_look]] = rows[has_look]
    light = distinct[:, _BANDS:].astype(np.int16)
    found = list(_pairs(np.ascontiguousarray(distinct[:, :_BANDS]), light))
    if not found:
        return numbers, np.zeros((0, 2), np.int64)
    codes = np.sort(np.concatenate([low * len(distinct) + high for low, high in found]))
    return numbers, np.stack(np.divmod(codes, len(distinct)), axis=1)


def _number_rows(rows: NDArray[np.unsignedinteger]) -> NDArray[np.int64]:
    """Number the distinct rows; -1 for those of zeros."""
    numbers = np.full(len(rows), -1, np.int64)
    used = np.flatnonzero(rows.any(axis=1))
    if len(used):
        order = used[np.lexsort(rows[used].T)]
        is_new = np.r_[False, (rows[order[1:]] != rows[order[:-1]]).any(axis=1)]
        numbers[order] = np.cumsum(is_new)
    return numbers


def _pairs(
    looks: NDArray[np.uint16], light: NDArray[np.int16]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield pairs of looks that are alike, each once.

    By the pigeonhole principle near looks agree in a band (Norouzi et al., "Fast search in Hamming
    space with multi-index hashing", 2012), so that few others need be compared.
    """
    words = looks.view("<u8")
    if not len(looks):
        return
    for band in range(_BANDS):
        order = np.argsort(looks[:, band], kind="stable")
        values = looks[order, band]
        starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
        sizes = np.diff(np.r_[starts, len(values)])
        # Buckets of the same size are gone through all at once.
        for size in np.unique(sizes[sizes > 1]):
            members = order[starts[sizes == size, None] + np.arange(size)]
            for one, other in _near_in_buckets(members, words, light):
                # Only in the first band in which they agree: nearly equal looks agree in most.
                new = (looks[one, :band] != looks[other, :band]).all(axis=1)
                yield np.minimum(one, other)[new], np.maximum(one, other)[new]


def _near_in_buckets(
    members: NDArray[np.int64], words: NDArray[np.uint64], light: NDArray[np.int16]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Compare each with each of its bucket; `members` is (buckets, size)."""
    size = members.shape[1]
    for gap in range(1, size):
        stopping.poll()
        one, other = members[:, : size - gap].ravel(), members[:, gap:].ravel()
        distance = np.bitwise_count(words[one] ^ words[other]).sum(axis=1)
        num_set = np.bitwise_count(words[one] | words[other]).sum(axis=1)
        near = (distance <= MAX_DISTANCE) & (distance <= num_set * MAX_SHARE)
        near &= (np.abs(light[one] - light[other]) <= MAX_LEVELS).all(axis=1)
        if near.any():
            yield one[near], other[near]
