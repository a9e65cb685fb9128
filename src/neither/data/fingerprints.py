"""Fingerprints of images, and the duplicates and near-duplicates that they show.

A fingerprint holds the size, format and two hashes of an image:

- The difference hash (dHash; Krawetz, "Kind of like that", 2013) has 128 bits: whether each cell of
  a 9x9 thumbnail is clearly brighter than its left neighbor, and than the one above. It hardly
  changes when an image is encoded again or resized, so near-duplicates have a small Hamming
  distance.
- The coarse hash is one number: a 3x3 thumbnail in units of its own contrast, rounded, with
  brightness and contrast in steps of 8 gray levels. Near-duplicates mostly have the same one, so
  splits are made by it; see `splits.py`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import IntFlag
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from neither.data.image_file import AVIF, FORMATS, HEIC
from neither.runtime import signals

Item = TypeVar("Item", int, tuple[int, str])

KNOWN_FORMATS = (*FORMATS, HEIC, AVIF)  # cached by index: add at the end
THUMBNAIL_SIDE = 9  # pixels
FINGERPRINT = np.dtype([
    ("sha256", "u1", 32),  # of the file
    ("dhash", "<u2", 8),  # all zero for a flat image
    ("coarse_hash", "<u4"),  # zero for a flat image
    ("width", "<u4"),  # in pixels, upright
    ("height", "<u4"),
    ("format", "u1"),  # index in KNOWN_FORMATS
    ("flags", "u1"),  # sum of `ImageFlag`s
    ("brightness", "u1"),  # mean luma, 0 to 255
    ("contrast", "u1"),  # standard deviation of the thumbnail's luma, 0 to 127
])  # fmt: skip

MAX_DISTANCE = 7  # bits of 128: re-encoded and resized images differ by less, other images by more
MAX_DISTANCE_FRACTION = 1 / 8  # of the bits that are set in either hash
MAX_LEVELS = 2  # difference in brightness, and in contrast

_MIN_CONTRAST = 2.0  # gray levels; the hash of a flatter image is noise
_MAX_CHROMA = 6  # gray levels between the channels of a grayscale image, for JPEG's rounding
_LUMA = np.array([299, 587, 114])  # ITU-R BT.601 in integers, for the same bits on any machine
_LEVEL = 1000  # one gray level, in these units
_LIGHT_STEP = 8 * _LEVEL  # of brightness and contrast in the coarse hash
# A cell is clearly brighter by 2 levels, or by less in an image of low contrast. Without a minimum,
# flat areas such as skies hash the noise of encoding: of 150 demo images at JPEG quality 40, 23 %
# were not recognized.
_MAX_STEP = 2 * _LEVEL
_STEP_OF_CONTRAST = 0.2
_BIT_ORDER = np.arange(128) * 37 % 128  # so that each band of 16 bits covers the whole image
_NUM_BANDS = 8  # of 16 bits: two hashes that differ in at most 7 bits agree in at least one


class ImageFlag(IntFlag):
    """Properties of an image."""

    ROTATED = 1  # turned upright by its EXIF tag
    INVALID_EXIF = 2  # the EXIF orientation is invalid and was ignored
    ANIMATED = 4  # more than one frame or page, of which the first is used
    GRAYSCALE = 8  # without color, whatever its mode
    FLAT = 16  # too little contrast for a hash, such as a single color
    INVALID_PROFILE = 32  # the color profile is damaged or for other pixels, and was ignored


class ImageTraits(NamedTuple):
    """What a fingerprint is computed from, besides the SHA-256."""

    width: int  # in pixels, upright
    height: int  # in pixels, upright
    format: str  # as Pillow names it
    flags: ImageFlag  # those that only the file shows
    thumbnail: bytes  # 9 rows of 9 RGB pixels, each the mean of its part of the image


def compute_fingerprints(
    traits: Sequence[ImageTraits], digests: Sequence[bytes]
) -> NDArray[np.void]:
    """Compute the fingerprints of N images at once, which costs little more than of one.

    The digests are the SHA-256 of their files, 32 bytes each; the result is (N,) records of
    `FINGERPRINT`.
    """
    fingerprints = np.zeros(len(traits), FINGERPRINT)
    if not traits:
        return fingerprints
    thumbnails = np.frombuffer(b"".join(each.thumbnail for each in traits), np.uint8)
    colors = thumbnails.reshape(-1, THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3).astype(np.int64)
    luma = colors @ _LUMA
    brightness, contrast = luma.mean(axis=(1, 2)), luma.std(axis=(1, 2))
    flat = contrast < _MIN_CONTRAST * _LEVEL
    gray = np.abs(np.diff(colors, axis=3)).max(axis=(1, 2, 3)) <= _MAX_CHROMA
    file_flags = np.array([each.flags for each in traits])
    fingerprints["sha256"] = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
    fingerprints["dhash"] = np.where(flat[:, None], 0, _dhash(luma, contrast))
    fingerprints["coarse_hash"] = np.where(flat, 0, _coarse_hash(luma, brightness, contrast))
    fingerprints["width"] = [each.width for each in traits]
    fingerprints["height"] = [each.height for each in traits]
    fingerprints["format"] = [KNOWN_FORMATS.index(each.format) for each in traits]
    fingerprints["flags"] = file_flags + gray * ImageFlag.GRAYSCALE + flat * ImageFlag.FLAT
    fingerprints["brightness"] = np.rint(brightness / _LEVEL)
    fingerprints["contrast"] = np.rint(contrast / _LEVEL)
    return fingerprints


def _dhash(luma: NDArray[np.int64], contrast: NDArray[np.float64]) -> NDArray[np.uint16]:
    step = np.minimum(np.rint(_STEP_OF_CONTRAST * contrast), _MAX_STEP)[:, None, None]
    across = luma[:, :8, 1:] > luma[:, :8, :-1] + step
    down = luma[:, 1:, :8] > luma[:, :-1, :8] + step
    bits = np.concatenate([across.reshape(-1, 64), down.reshape(-1, 64)], axis=1)
    return np.ascontiguousarray(np.packbits(bits[:, _BIT_ORDER], axis=1)).view("<u2")


def _coarse_hash(
    luma: NDArray[np.int64], brightness: NDArray[np.float64], contrast: NDArray[np.float64]
) -> NDArray[np.int64]:
    cells = luma.reshape(-1, 3, 3, 3, 3).mean(axis=(2, 4)).reshape(-1, 9)
    steps = np.rint((cells - brightness[:, None]) / np.maximum(contrast, 1)[:, None])
    digits = steps.astype(np.int64) + 3  # steps of -3 .. 3
    layout: NDArray[np.int64] = (digits * 7 ** np.arange(9)).sum(axis=1)
    # Where all images show one object on an even background, the cells alone hardly differ.
    light = np.floor(brightness / _LIGHT_STEP) * 16 + np.floor(contrast / _LIGHT_STEP)  # < 512
    return (layout * 512 + light.astype(np.int64)) % (2**32 - 1) + 1


def hex_digests(fingerprints: NDArray[np.void]) -> list[str]:
    """Return the SHA-256 of each of (N,) records in hex; zeros for a file that was not read."""
    return [each.tobytes().hex() for each in fingerprints["sha256"]]


def group_exact_duplicates(fingerprints: NDArray[np.void]) -> NDArray[np.int64]:
    """Number the distinct contents of files.

    Returns:
        (N,) int64; files with the same bytes have the same number, files without a hash have -1.
    """
    # Half of a SHA-256 is enough to distinguish contents.
    return _number_rows(np.ascontiguousarray(fingerprints["sha256"][:, :16]).view("<u8"))


def find_near_duplicates(
    fingerprints: NDArray[np.void],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find images that look the same.

    Two difference hashes are near if few bits differ, also relative to the number of bits that are
    set: images with an even background, such as an object on white, have hardly any bits set
    without being duplicates. Brightness and contrast must agree too.

    Returns:
        numbers: (N,) int64, the number of each image's hash; -1 for flat images, which have none.
        pairs: (P, 2) int64, numbers of near hashes, each pair once, the smaller first.
    """
    has_hash = fingerprints["dhash"].any(axis=1)
    columns = [fingerprints[name] for name in ("dhash", "brightness", "contrast")]
    rows = np.column_stack(columns).astype(np.uint16)
    rows[~has_hash] = 0
    numbers = _number_rows(rows)
    distinct = np.zeros((int(numbers.max(initial=-1)) + 1, _NUM_BANDS + 2), np.uint16)
    distinct[numbers[has_hash]] = rows[has_hash]
    light = distinct[:, _NUM_BANDS:].astype(np.int16)
    near = _near_pairs(np.ascontiguousarray(distinct[:, :_NUM_BANDS]), light)
    codes = [np.zeros(0, np.int64), *(low * len(distinct) + high for low, high in near)]
    pairs = np.divmod(np.sort(np.concatenate(codes)), max(len(distinct), 1))
    return numbers, np.stack(pairs, axis=1)


def connect(pairs: Iterable[tuple[Item, Item]]) -> Callable[[Item], Item]:
    """Return a function from an item to the smallest one that the pairs connect it to."""
    parents: dict[Item, Item] = {}

    def root(item: Item) -> Item:
        while (parent := parents.setdefault(item, item)) != item:
            parents[item] = item = parents[parent]
        return item

    for one, other in pairs:
        first, second = sorted((root(one), root(other)))
        parents[second] = first
    return root


def _number_rows(rows: NDArray[np.unsignedinteger]) -> NDArray[np.int64]:
    """Number the distinct rows; -1 for rows of zeros."""
    numbers = np.full(len(rows), -1, np.int64)
    used = np.flatnonzero(rows.any(axis=1))
    if len(used):
        order = used[np.lexsort(rows[used].T)]
        is_new = np.r_[False, (rows[order[1:]] != rows[order[:-1]]).any(axis=1)]
        numbers[order] = np.cumsum(is_new)
    return numbers


def _near_pairs(
    hashes: NDArray[np.uint16], light: NDArray[np.int16]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield pairs of near hashes, each once.

    By the pigeonhole principle near hashes agree in a band (Norouzi et al., "Fast search in Hamming
    space with multi-index hashing", 2012), so only hashes that share a band are compared.
    """
    words = hashes.view("<u8")
    for band in range(_NUM_BANDS):
        order = np.argsort(hashes[:, band], kind="stable")
        values = hashes[order, band]
        starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
        sizes = np.diff(np.r_[starts, len(values)])
        # All buckets of one size are compared at once.
        for size in np.unique(sizes[sizes > 1]):
            members = order[starts[sizes == size, None] + np.arange(size)]
            for one, other in _near_in_buckets(members, words, light):
                # Only in the first band in which they agree: nearly equal hashes agree in most.
                new = (hashes[one, :band] != hashes[other, :band]).all(axis=1)
                yield np.minimum(one, other)[new], np.maximum(one, other)[new]


def _near_in_buckets(
    members: NDArray[np.int64], words: NDArray[np.uint64], light: NDArray[np.int16]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Compare all pairs in each bucket; `members` is (buckets, size)."""
    size = members.shape[1]
    for gap in range(1, size):
        signals.poll()
        one, other = members[:, : size - gap].ravel(), members[:, gap:].ravel()
        distance = np.bitwise_count(words[one] ^ words[other]).sum(axis=1)
        num_set = np.bitwise_count(words[one] | words[other]).sum(axis=1)
        near = (distance <= MAX_DISTANCE) & (distance <= num_set * MAX_DISTANCE_FRACTION)
        near &= (np.abs(light[one] - light[other]) <= MAX_LEVELS).all(axis=1)
        if near.any():
            yield one[near], other[near]
