"""Every image of a run decoded once, in parallel, with its fingerprint, and kept on disk.

Decoded images lie in `~/.cache/neither/images` (or below `XDG_CACHE_HOME`), for all runs and
epochs. It has a folder for each source of images and way to decode them, and can be deleted at any
time. A folder holds shards: files of some 4,096 decoded images with their fingerprints, each
published whole and never changed. A shard names its images by path, size, inode and times, so no
index can be lost or damaged, and a process that is killed loses one shard at most. A shard that no
run has used for a month is deleted.
"""

import errno
import os
import re
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b, sha256
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import numpy as np
import PIL
from numpy.typing import NDArray

from neither.data.decode import decode_file
from neither.data.fingerprints import FINGERPRINT, compute_fingerprints, hex_digests
from neither.data.preprocessing import Preprocessing
from neither.data.scan import ImageTable
from neither.data.workers import parallel_map
from neither.runtime import files, locks, signals
from neither.runtime.console import info, printable, progress_bar
from neither.runtime.errors import DataError, OutputError, UsageError

_SHARD_IMAGES, _SHARD_BYTES = 4096, 2**26  # a shard is written when it reaches either limit
_CHUNK_IMAGES, _CHUNK_BYTES = 32, 2**21  # what a decoding process sends at once, likewise
_MAX_NAMED = 10
_MISSING = os.strerror(errno.ENOENT).lower()  # only a manifest can name a file that does not exist
_FORMAT = 2  # of the shards; folders of version 1 have other names and are deleted after a month
_MAX_UNUSED_DAYS = 30
_HEADER_BYTES = struct.Struct("<Q")
_KEY = np.dtype("S16")


class DecodedImages(NamedTuple):
    """Some images after decoding: the content of a shard, or a part of one."""

    # (n,) 16 bytes each, from `file_keys`; empty if an image is not to be found again
    keys: NDArray[np.bytes_]
    # (n,) records of `FINGERPRINT`; of an unreadable file only its hash, if any
    fingerprints: NDArray[np.void]
    reasons: list[str]  # (n,) why an image is unreadable; empty if it is readable
    pixels: NDArray[np.uint8]  # (n, S, S, 3) uint8 RGB; zero for an unreadable image
    path: Path | None = None  # of the shard that holds them; None if they are in memory


def file_keys(root: Path, paths: Iterable[str]) -> NDArray[np.bytes_]:
    """Return (N,) keys that change whenever a file does; empty where there is no file.

    A key depends on path, size, inode, and the times of modification and of status change. The last
    is what tells new content of the same size under an old date.
    """
    keys, prefix = bytearray(), os.fspath(root)
    for path in paths:
        try:
            status = os.stat(os.path.join(prefix, path))  # noqa: PTH116, PTH118 - a hundred thousand
        except (OSError, ValueError):
            keys += bytes(_KEY.itemsize)
            continue
        state = (status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
        content = os.fsencode(path) + b"\0%d %d %d %d" % state
        keys += blake2b(content, digest_size=_KEY.itemsize).digest()
    return np.frombuffer(keys, _KEY)


class Cache:
    """The shards of one source of images; images are numbered through all shards.

    Pixels are mapped from disk, and stay so even if the files are deleted.
    """

    def __init__(self, folder: Path, image_size: int) -> None:
        """Read the shards of a folder; damaged ones are ignored."""
        self.folder = folder
        self.shards: list[DecodedImages] = []  # those found, then those added
        self._image_size = image_size
        for path in sorted(folder.glob("*.shard")):
            with suppress(Exception):  # damage shows as any of a dozen kinds
                self.shards.append(_read_shard(path, image_size))

    def __len__(self) -> int:
        """Count the images."""
        return sum(len(shard.keys) for shard in self.shards)

    def find(self, keys: NDArray[np.bytes_]) -> NDArray[np.int64]:
        """Return the number of each image, -1 if it is not cached; mark its shard as used."""
        if not self.shards:
            return np.full(len(keys), -1, np.int64)
        known = np.concatenate([shard.keys for shard in self.shards])
        order = np.argsort(known, kind="stable")
        nearest = np.searchsorted(known[order], keys).clip(max=len(known) - 1)
        numbers: NDArray[np.int64] = order[nearest]
        numbers[(known[numbers] != keys) | (keys == b"")] = -1
        used = np.zeros(len(known), bool)
        used[numbers[numbers >= 0]] = True
        ends = np.cumsum([len(shard.keys) for shard in self.shards])
        for shard, part in zip(self.shards, np.split(used, ends[:-1]), strict=True):
            if shard.path is not None and part.any():
                with suppress(OSError):
                    os.utime(shard.path)
        return numbers

    def add(self, parts: Sequence[DecodedImages]) -> None:
        """Publish images as a new shard.

        Raises:
            OutputError: if the disk is full, or the cache was deleted.
        """
        keys = np.concatenate([part.keys for part in parts])
        fingerprints = np.concatenate([part.fingerprints for part in parts])
        reasons = list(chain.from_iterable(part.reasons for part in parts))
        if not keys.any():  # nothing that a later run could find
            pixels = np.concatenate([part.pixels for part in parts])
            self.shards.append(DecodedImages(keys, fingerprints, reasons, pixels))
            return
        header = BytesIO()
        np.savez(header, keys=keys, fingerprints=fingerprints, reasons=np.array(reasons))
        path = self.folder / f"{uuid4().hex}.shard"
        try:
            with files.atomic_writer(path) as file:
                file.write(_HEADER_BYTES.pack(header.tell()))
                file.write(header.getvalue())
                for part in parts:
                    file.write(part.pixels.data)
            self.shards.append(_read_shard(path, self._image_size))
        except FileNotFoundError as error:
            raise OutputError(
                f"{self.folder}: the cache was deleted while images were decoded into it; start "
                "the same command again"
            ) from error
        except OSError as error:
            raise OutputError(
                f"{self.folder}: decoded images cannot be kept here: {error.strerror}; free some "
                "space, or name a folder on another disk with the variable XDG_CACHE_HOME"
            ) from error


def _read_shard(path: Path, image_size: int) -> DecodedImages:
    """Read what `Cache.add` wrote: the length of a header, the header (an npz), the pixels."""
    with path.open("rb") as file:
        (num_bytes,) = _HEADER_BYTES.unpack(file.read(_HEADER_BYTES.size))
        with np.load(BytesIO(file.read(num_bytes)), allow_pickle=False) as header:
            keys, fingerprints, reasons = map(header.get, ("keys", "fingerprints", "reasons"))
        shape = (len(keys), image_size, image_size, 3)
        start = _HEADER_BYTES.size + num_bytes
        if (
            os.fstat(file.fileno()).st_size != start + np.prod(shape)
            or [keys.dtype, fingerprints.dtype, reasons.dtype.kind] != [_KEY, FINGERPRINT, "U"]
            or {keys.shape, fingerprints.shape, reasons.shape} != {(len(keys),)}
        ):
            raise ValueError("not a shard, damaged, or of another size")
        pixels = np.asarray(np.memmap(file, np.uint8, "r", start, shape))
    return DecodedImages(keys, fingerprints, reasons.tolist(), pixels, path)


@contextmanager
def open_cache(source: Path, preprocessing: Preprocessing, fallback: Path) -> Iterator[Cache]:
    """Open the cache of a folder or manifest of images; wait for another run that has it open.

    Where it cannot be written, or would be among the images, the folder `fallback` is used.

    Raises:
        OutputError: if neither can be written, or a lock file of another machine is in both.
    """
    with ExitStack() as stack:
        folder = Path("cache")
        try:
            home = files.cache_folder() / "images"
            files.require_outside(home, source)
            folder = home / _folder_name(source, preprocessing)
            _lock(stack, folder)
        except (OSError, OutputError, UsageError) as error:
            reason = str(error)
            if isinstance(error, OSError):
                reason = f"{folder}: cannot be written ({error.strerror})"
            info(f"{reason}, so this run keeps decoded images to itself")
            files.make_folder(fallback)
            _lock(stack, fallback)
            folder = fallback
        yield Cache(folder, preprocessing.image_size)
        if folder != fallback:
            delete_unused(folder.parent)


def _folder_name(source: Path, preprocessing: Preprocessing) -> str:
    source = source.resolve()
    # Another version of Pillow may decode to other pixels.
    key = (_FORMAT, preprocessing.image_size, preprocessing.resize, preprocessing.decoder,
           PIL.__version__)  # fmt: skip
    digest = sha256(os.fsencode(source) + repr(key).encode()).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9]', '_', source.name)[:40]}-{digest[:16]}"


def _lock(stack: ExitStack, folder: Path) -> None:
    """Make a folder, hold it until the stack unwinds, and remove what killed processes left."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".lock").touch()  # used today, as `delete_unused` will see
    why = "another run is decoding these images; waiting for it"
    stack.enter_context(locks.wait_for_lock(folder, why))
    files.remove_temporaries(folder)


def delete_unused(home: Path) -> None:
    """Delete files in the folders of a folder that no run has used for a month."""
    for path in home.glob("*/*"):
        with suppress(OSError):  # another run may delete or replace the same file
            if time.time() - path.lstat().st_mtime > _MAX_UNUSED_DAYS * 86_400:
                path.unlink()
                path.parent.rmdir()


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
