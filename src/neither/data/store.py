"""Every image of a run decoded once, in parallel, with its fingerprint."""

import errno
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neither.data.cache import Cache, DecodedImages, file_keys, open_cache
from neither.data.decode import decode_file
from neither.data.fingerprints import FINGERPRINT, compute_fingerprints, hex_digests
from neither.data.preprocessing import Preprocessing
from neither.data.scan import ImageTable
from neither.data.workers import parallel_map
from neither.runtime import signals
from neither.runtime.console import printable, progress_bar
from neither.runtime.errors import DataError

_SHARD_IMAGES, _SHARD_BYTES = 4096, 2**26  # a shard is written when it reaches either limit
_CHUNK_IMAGES, _CHUNK_BYTES = 32, 2**21  # what a decoding process sends at once, likewise
_MAX_NAMED = 10
_MISSING = os.strerror(errno.ENOENT).lower()  # only a manifest can name a file that does not exist


@dataclass(frozen=True)
class ImageStore:
    """The fingerprints and pixels of N images, the unreadable ones included."""

    # (N,) records of `FINGERPRINT`; all zero for a file that could not be read
    fingerprints: NDArray[np.void]
    reasons: dict[int, str]  # why an image is unreadable, by its index
    shards: Sequence[NDArray[np.uint8]] = ()  # (n, S, S, 3) uint8 RGB each, mapped from disk
    # (N,) int64, the row of each image in the concatenated shards
    shard_rows: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def is_readable(self) -> NDArray[np.bool_]:
        """Return (N,) bool, which images have pixels."""
        readable = np.ones(len(self.fingerprints), bool)
        readable[list(self.reasons)] = False
        return readable

    @property
    def hashes(self) -> list[str]:
        """Return the SHA-256 of each file in hex, zeros for one that could not be read."""
        return hex_digests(self.fingerprints)

    def gather(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Copy the pixels of (B,) readable images from disk; return (B, S, S, 3) uint8."""
        numbers = self.shard_rows[indices]
        starts = np.cumsum([0, *map(len, self.shards)])
        shards = np.searchsorted(starts, numbers, side="right") - 1
        rows = numbers - starts[shards]
        pixels = np.empty((len(indices), *self.shards[0].shape[1:]), np.uint8)
        for index, (shard, row) in enumerate(zip(shards.tolist(), rows.tolist(), strict=True)):
            pixels[index] = self.shards[shard][row]
        return pixels


def join(one: ImageStore, other: ImageStore) -> ImageStore:
    """Return the images of two stores, those of the first first."""
    num, num_rows = len(one.fingerprints), sum(map(len, one.shards))
    return ImageStore(
        np.concatenate([one.fingerprints, other.fingerprints]),
        one.reasons | {num + index: reason for index, reason in other.reasons.items()},
        [*one.shards, *other.shards],
        np.concatenate([one.shard_rows, num_rows + other.shard_rows]),
    )


def build_store(
    table: ImageTable, preprocessing: Preprocessing, fallback: Path, max_unreadable: float
) -> ImageStore:
    """Decode the images that are not cached yet, and map all of them.

    Decoded images go to the folder `fallback` where the cache cannot be written.

    Raises:
        DataError: as soon as more than the fraction `max_unreadable` of the images are unreadable.
        OutputError: if the disk is full, or a decoding process was killed.
        Stopped: if a signal asks to stop; what was decoded so far is kept.
    """
    keys = file_keys(table.root, table.paths)
    with open_cache(table.source, preprocessing, fallback) as cache:
        numbers = cache.find(keys)
        new = np.flatnonzero(numbers < 0)
        numbers[new] = len(cache) + np.arange(len(new))
        if len(new):
            _decode_new(cache, table, new, keys[new], preprocessing, max_unreadable)
    all_reasons = list(chain.from_iterable(shard.reasons for shard in cache.shards))
    reasons = {index: all_reasons[number] for index, number in enumerate(numbers.tolist())
               if all_reasons[number]}  # fmt: skip
    check_unreadable(table, reasons, max_unreadable)
    empty = np.zeros(0, FINGERPRINT)
    fingerprints = np.concatenate([empty, *(shard.fingerprints for shard in cache.shards)])[numbers]
    return ImageStore(fingerprints, reasons, [shard.pixels for shard in cache.shards], numbers)


def check_unreadable(
    table: ImageTable,
    reasons: Mapping[int, str],
    max_unreadable: float,
    num_decoded: int | None = None,
) -> None:
    """Raise a `DataError` if more than the fraction `max_unreadable` of a table are unreadable.

    The reasons are by index. `num_decoded` is how many images were decoded, if not all.
    """
    num_images = len(table.paths)
    if len(reasons) <= max_unreadable * num_images:
        return
    lines = [f"{printable(table.paths[index])}: {reason}" for index, reason in reasons.items()]
    named = lines[:_MAX_NAMED]
    if {*reasons.values()} == {_MISSING}:
        named.append("The paths of a CSV file start at its folder, with / between their parts")
    of = f"{num_images:,} images"
    if num_decoded is not None and num_decoded < num_images:
        of = f"the first {num_decoded:,} images ({num_images:,} in all)"
    raise DataError(
        f"{len(reasons):,} of {of} are unreadable, more than data.max_unreadable, "
        f"{max_unreadable:.3g}, allows",
        *named,
        "Repair or remove them (scripts/check_data.py lists all), or raise data.max_unreadable",
    )


def _decode_new(
    cache: Cache,
    table: ImageTable,
    indices: NDArray[np.int64],
    keys: NDArray[np.bytes_],
    preprocessing: Preprocessing,
    max_unreadable: float,
) -> None:
    """Decode images and add them to the cache in order; stop when too many are unreadable."""
    paths = [table.paths[index] for index in indices.tolist()]
    image_bytes = 3 * preprocessing.image_size**2
    chunk_size = max(1, min(_CHUNK_IMAGES, _CHUNK_BYTES // image_bytes))
    shard_size = max(1, min(_SHARD_IMAGES, _SHARD_BYTES // image_bytes))
    chunks = ((paths[start : start + chunk_size], keys[start : start + chunk_size])
              for start in range(0, len(paths), chunk_size))  # fmt: skip
    decode = partial(_decode_chunk, root=table.root, preprocessing=preprocessing)
    num_done = num_pending = 0
    pending: list[DecodedImages] = []
    reasons: dict[int, str] = {}
    with (
        progress_bar("decoding", len(paths)) as bar,
        closing(parallel_map(decode, chunks, 1)) as decoded,
    ):
        try:
            for images in decoded:
                pending.append(images)
                num_pending += len(images.keys)
                own = indices[num_done : num_done + len(images.keys)].tolist()
                pairs = zip(own, images.reasons, strict=True)
                reasons |= {index: reason for index, reason in pairs if reason}
                num_done += len(images.keys)
                check_unreadable(table, reasons, max_unreadable, num_done)
                bar.update(num_done, len(paths))
                if num_pending >= shard_size:
                    shard, pending, num_pending = pending, [], 0
                    cache.add(shard)
        finally:  # whatever ends the work, nothing is decoded twice
            if pending:
                cache.add(pending)


def _decode_chunk(
    chunk: tuple[Sequence[str], NDArray[np.bytes_]], root: Path, preprocessing: Preprocessing
) -> DecodedImages:
    paths, keys = chunk
    size, keys = preprocessing.image_size, keys.copy()
    pixels = np.zeros((len(paths), size, size, 3), np.uint8)
    fingerprints = np.zeros(len(paths), FINGERPRINT)
    decoded = []
    for index, path in enumerate(paths):
        signals.poll()
        image = decode_file(root / path, preprocessing, with_traits=True)
        decoded.append(image)
        if image.pixels is not None:
            pixels[index] = image.pixels
        elif image.sha256:
            fingerprints["sha256"][index] = np.frombuffer(image.sha256, np.uint8)
        else:  # a transient read error is not cached; the next run tries again
            keys[index] = b""
    readable = [index for index, image in enumerate(decoded) if image.traits is not None]
    fingerprints[readable] = compute_fingerprints(
        [image.traits for image in decoded if image.traits is not None],
        [image.sha256 for image in decoded if image.traits is not None],
    )
    return DecodedImages(keys, fingerprints, [image.reason for image in decoded], pixels)
