"""Decoded images on disk, so that each is decoded once for all runs and epochs.

The cache is `~/.cache/neither/images` (or below `XDG_CACHE_HOME`). It has a folder for each source
of images and way to decode them, and can be deleted at any time. A folder holds shards: files of
some 4,096 decoded images with their fingerprints, each published whole and never changed. A shard
names its images by path, size, inode and times, so no index can be lost or damaged, and a process
that is killed loses one shard at most. A shard that no run has used for a month is deleted.
"""

import os
import re
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from hashlib import blake2b, sha256
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import numpy as np
import PIL
from numpy.typing import NDArray

from neither.data.fingerprints import FINGERPRINT
from neither.data.preprocessing import Preprocessing
from neither.runtime import files, locks
from neither.runtime.console import info
from neither.runtime.errors import OutputError, UsageError

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
