"""What is known of an image besides its pixels: size, format, and what it looks like.

The look is a difference hash (Krawetz, "Kind of like that", 2013) of 128 bits: is each cell of a
9x9 thumbnail clearly brighter than its neighbour to the left, and than the one above? It hardly
changes when an image is encoded anew or resized, and lets copies be found among a hundred thousand.

The scene is coarser: a 3x3 thumbnail in units of its own contrast, rounded to whole numbers, with
brightness and contrast in steps of 8 grey levels. Near duplicates mostly share it, which is what
splits made by hash rest on; see `splits.py`.

Find copies: files with the same bytes, and images that look the same.
"""

from collections.abc import Iterator, Sequence
from enum import IntFlag
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from neither.data.preprocessing import FORMATS, HEIC
from neither.runtime import signals

KNOWN_FORMATS = (*FORMATS, HEIC)
THUMBNAIL_SIDE = 9  # pixels a side
FINGERPRINT = np.dtype([
    ("sha256", "u1", 32),  # of the file
    ("dhash", "<u2", 8),  # all zero for a flat image
    ("coarse_hash", "<u4"),  # zero for a flat image
    ("width", "<u4"),  # in pixels, upright
    ("height", "<u4"),
    ("format", "u1"),  # a place in KNOWN_FORMATS
    ("flags", "u1"),  # the sum of the `Flag`s that hold
    ("brightness", "u1"),  # mean luma, 0 to 255
    ("contrast", "u1"),  # standard deviation of the thumbnail's luma, 0 to 127
])  # fmt: skip

_MIN_CONTRAST = 2.0  # grey levels: the look of anything flatter is noise
_MAX_CHROMA = 6  # grey levels between the channels of a grey picture, for JPEG's rounding
_LUMA = np.array([299, 587, 114])  # ITU-R BT.601, in whole numbers, so that no bit can differ
_LEVEL = 1000  # a grey level, in these
_SHADE = 8 * _LEVEL  # steps of brightness and contrast that tell scenes apart
# What is clearly brighter: by 2 levels, less in a dull image. Else even areas, such as skies, hold
# the noise of encoding: of 150 demo images at JPEG quality 40, 23 % were not recognised.
_MAX_STEP = 2 * _LEVEL
_STEP_OF_CONTRAST = 0.2
_ORDER = np.arange(128) * 37 % 128  # so that any 16 bits of a look come from all over the image


class ImageFlag(IntFlag):
    """What else is worth knowing of an image."""

    ROTATED = 1  # its EXIF tag turned it
    INVALID_EXIF = 2  # its EXIF tag makes no sense and was ignored
    ANIMATED = 4  # more than one frame or page, of which the first counts
    GRAYSCALE = 8  # no colour, whatever its mode says
    FLAT = 16  # too even to have a look: one-coloured, mostly


class ImageTraits(NamedTuple):
    """What decoding tells of an image besides its pixels.

    Attributes:
        width: in pixels, upright.
        height: likewise.
        format: as Pillow names it.
        flags: those that only the file tells.
        thumbnail: 9 rows of 9 RGB pixels, each the mean of its part of the image.
    """

    width: int
    height: int
    format: str
    flags: ImageFlag
    thumbnail: bytes


def compute_fingerprints(
    traits: Sequence[ImageTraits], digests: Sequence[bytes]
) -> NDArray[np.void]:
    """Work out the fingerprints of N images at once, as that costs little more than of one.

    Args:
        traits: of the images.
        digests: SHA-256 of their files, 32 bytes each.

    Returns:
        (N,) records of `FINGERPRINT`.
    """
    fingerprints = np.zeros(len(traits), FINGERPRINT)
    if not traits:
        return fingerprints
    pixels = np.frombuffer(b"".join(each.thumbnail for each in traits), np.uint8)
    colours = pixels.reshape(-1, THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3).astype(np.int64)
    luma = colours @ _LUMA
    brightness = luma.mean(axis=(1, 2))
    contrast = luma.std(axis=(1, 2))
    flat = contrast < _MIN_CONTRAST * _LEVEL
    grey = np.abs(np.diff(colours, axis=3)).max(axis=(1, 2, 3)) <= _MAX_CHROMA
    fingerprints["sha256"] = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
    fingerprints["dhash"] = np.where(flat[:, None], 0, _looks(luma, contrast))
    fingerprints["coarse_hash"] = np.where(flat, 0, _scenes(luma, brightness, contrast))
    fingerprints["width"] = [each.width for each in traits]
    fingerprints["height"] = [each.height for each in traits]
    fingerprints["format"] = [KNOWN_FORMATS.index(each.format) for each in traits]
    fingerprints["flags"] = (
        [each.flags for each in traits] + grey * ImageFlag.GRAYSCALE + flat * ImageFlag.FLAT
    )
    fingerprints["brightness"] = np.rint(brightness / _LEVEL)
    fingerprints["contrast"] = np.rint(contrast / _LEVEL)
    return fingerprints


def _looks(luma: NDArray[np.int64], contrast: NDArray[np.float64]) -> NDArray[np.uint16]:
    step = np.minimum(np.rint(_STEP_OF_CONTRAST * contrast), _MAX_STEP)[:, None, None]
    across = luma[:, :8, 1:] > luma[:, :8, :-1] + step
    down = luma[:, 1:, :8] > luma[:, :-1, :8] + step
    bits = np.concatenate([across.reshape(-1, 64), down.reshape(-1, 64)], axis=1)
    return np.ascontiguousarray(np.packbits(bits[:, _ORDER], axis=1)).view("<u2")


def _scenes(
    luma: NDArray[np.int64], brightness: NDArray[np.float64], contrast: NDArray[np.float64]
) -> NDArray[np.int64]:
    cells = luma.reshape(-1, 3, 3, 3, 3).mean(axis=(2, 4)).reshape(-1, 9)
    steps = np.rint((cells - brightness[:, None]) / np.maximum(contrast, 1)[:, None])
    digits = steps.astype(np.int64) + 3  # steps of -3 .. 3
    numbers: NDArray[np.int64] = (digits * 7 ** np.arange(9)).sum(axis=1)
    # Where all images show one thing on an even ground, the cells alone would hardly differ.
    light = np.floor(brightness / _SHADE) * 16 + np.floor(contrast / _SHADE)  # below 512
    return (numbers * 512 + light.astype(np.int64)) % (2**32 - 1) + 1


MAX_DISTANCE = 7  # bits of 128: re-encoded and resized copies differ by less, other images by more
MAX_SHARE = 1 / 8  # of the bits that are set in either
MAX_LEVELS = 2  # between their brightness, and between their contrast
_BANDS = 8  # of 16 bits: two looks that differ in 7 bits at most agree in one band at least


def group_exact_duplicates(fingerprints: NDArray[np.void]) -> NDArray[np.int64]:
    """Number the distinct contents of N files; those that could not be read have none.

    Args:
        fingerprints: (N,) records of `FINGERPRINT`.

    Returns:
        (N,) int64, the same number for the same bytes, -1 for no bytes.
    """
    # Half of a SHA-256 is plenty to tell contents apart.
    return _number_rows(np.ascontiguousarray(fingerprints["sha256"][:, :16]).view("<u8"))


def find_near_duplicates(
    fingerprints: NDArray[np.void],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find images that look the same.

    Looks are alike if few bits differ, and few of those that are set: even images, such as a thing
    on white, have nearly all bits clear without being copies. Brightness and contrast must agree
    too, which looks do not tell.

    Args:
        fingerprints: (N,) records of `FINGERPRINT`.

    Returns:
        looks: (N,) int64, the number of each image's look, -1 for images without one.
        pairs: (P, 2) int64, numbers of looks that are alike, each pair once, the smaller first.
    """
    has_look = fingerprints["dhash"].any(axis=1)
    rows = np.zeros((len(fingerprints), _BANDS + 2), np.uint16)
    rows[:, :_BANDS] = fingerprints["dhash"]
    rows[:, _BANDS], rows[:, _BANDS + 1] = fingerprints["brightness"], fingerprints["contrast"]
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
        signals.poll()
        one, other = members[:, : size - gap].ravel(), members[:, gap:].ravel()
        distance = np.bitwise_count(words[one] ^ words[other]).sum(axis=1)
        num_set = np.bitwise_count(words[one] | words[other]).sum(axis=1)
        near = (distance <= MAX_DISTANCE) & (distance <= num_set * MAX_SHARE)
        near &= (np.abs(light[one] - light[other]) <= MAX_LEVELS).all(axis=1)
        if near.any():
            yield one[near], other[near]
