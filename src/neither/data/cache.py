"""Rows of a file of pixels, each allotted to one writer, so that many can write at once.

The index of the cache: which file's pixels lie in which row, and the facts about each.

Decoded images on disk, so that each is decoded once for all runs and all epochs.

The cache lies in `~/.cache/neither` (or below `XDG_CACHE_HOME`), one folder for each folder of
images and way to decode it, and may be deleted at any time. Entries that nobody has used for a
month delete themselves.

A row of pixels is only ever written once, and the index, which says which row is whose, is replaced
as a whole after they are on disk. So a reader that maps the pixels never sees them change, and a
writer that is killed loses its last seconds at most.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import blake2b, sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
from numpy.typing import NDArray

from neither.data.fingerprints import FINGERPRINT
from neither.data.preprocessing import Preprocessing
from neither.runtime import files
from neither.runtime.console import info
from neither.runtime.errors import OutputError


class Rows(NamedTuple):
    """Some rows of a file that only this writer may fill; it may lie in another process.

    Attributes:
        path: of the file.
        identity: its device and inode, as another run may find the file deleted and make it anew.
        first: the number of the first row.
        row_bytes: bytes that each row takes.
    """

    path: Path
    identity: tuple[int, int]
    first: int
    row_bytes: int

    def write(self, pixels: Sequence[NDArray[np.uint8]]) -> None:
        """Fill the rows from the first on; what is not filled stays zero.

        Raises:
            OutputError: if the disk is full, or the file was deleted.
        """
        try:
            with self.path.open("r+b") as file:
                if _identify(file.fileno()) != self.identity:
                    raise FileNotFoundError
                file.seek(self.first * self.row_bytes)
                file.write(b"".join(each.tobytes() for each in pixels))
        except FileNotFoundError:
            raise deleted(self.path.parent) from None
        except OSError as error:
            raise unwritable(self.path.parent, error) from error


def allot(path: Path, row_bytes: int, least: int, num: int) -> Rows:
    """Lengthen a file, or make it, by rows of zeros.

    They lie behind all that were ever allotted: the processes of a run that was killed may go on
    for a moment and write to theirs.

    Args:
        path: of the file.
        row_bytes: bytes that each row takes.
        least: of the number of the first row.
        num: how many rows.

    Raises:
        OutputError: if the file cannot be written.
    """
    try:
        with path.open("ab") as file:
            first = max(least, -(-file.tell() // row_bytes))
            file.truncate((first + num) * row_bytes)
            return Rows(path, _identify(file.fileno()), first, row_bytes)
    except OSError as error:
        raise unwritable(path.parent, error) from error


def deleted(folder: Path) -> OutputError:
    """Say that the cache is gone."""
    return OutputError(
        f"{folder}: the cache was deleted while images were decoded into it; start the same "
        "command again"
    )


def unwritable(folder: Path, error: OSError) -> OutputError:
    """Say why the cache cannot be written, and what to do."""
    return OutputError(
        f"{folder}: decoded images cannot be kept here: {error.strerror}; free some space, or name "
        "a folder on another disk with the variable XDG_CACHE_HOME"
    )


def _identify(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


@dataclass
class Index:
    """What the cache knows, one record a file.

    Attributes:
        keys: (M, 2) uint64, one number for the file's path and one for its size, times and inode;
            zero if it has none.
        facts: (M,) records of `FACTS`; of a file that gave no image only its hash, if any.
        rows: (M,) int64, where the pixels lie, or -1 - r for the reason numbered r.
        reasons: why files gave no image, each text once.
        num_rows: of the pixels.
        generation: of the file of pixels.
    """

    keys: NDArray[np.uint64] = field(default_factory=lambda: np.zeros((0, 2), np.uint64))
    facts: NDArray[np.void] = field(default_factory=lambda: np.zeros(0, FINGERPRINT))
    rows: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    reasons: list[str] = field(default_factory=list)
    num_rows: int = 0
    generation: int = 0

    def is_sound(self) -> bool:
        """Tell what was written here from what a damaged or foreign file gave."""
        num = len(self.keys)
        return (
            (self.keys.dtype, self.keys.shape) == (np.dtype(np.uint64), (num, 2))
            and (self.facts.dtype, self.facts.shape) == (FINGERPRINT, (num,))
            and (self.rows.dtype, self.rows.shape) == (np.dtype(np.int64), (num,))
            and all(isinstance(reason, str) for reason in self.reasons)
            and bool(((self.rows >= -len(self.reasons)) & (self.rows < self.num_rows)).all())
        )

    def find(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the place of each of (N, 2) keys, or -1 where it is unknown."""
        if not len(self.keys):
            return np.full(len(keys), -1, np.int64)
        codes = _join(self.keys)
        order = np.argsort(codes, kind="stable")
        near = np.searchsorted(codes[order], _join(keys)).clip(max=len(order) - 1)
        places = order[near]
        known = (self.keys[places] == keys).all(axis=1) & keys.any(axis=1)
        return np.where(known, places, -1)

    def list_current(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the places of all records but those of earlier states of the files of these keys.

        Files that are not among them stay: another config may name them.
        """
        current = ~np.isin(self.keys[:, 0], keys[:, 0])
        found = self.find(keys)
        current[found[found >= 0]] = True
        return np.flatnonzero(current)

    def extend(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Add records to be filled and return their places; those left empty are not saved."""
        first, num = len(self.keys), len(self.keys) + len(keys)
        old_keys, old_facts, old_rows = self.keys, self.facts, self.rows
        # Not concatenate, which would need new records as an array first.
        self.keys, self.facts = np.zeros((num, 2), np.uint64), np.zeros(num, FINGERPRINT)
        self.rows = np.zeros(num, np.int64)
        self.keys[:first], self.facts[:first], self.rows[:first] = old_keys, old_facts, old_rows
        self.keys[first:] = keys
        return np.arange(first, num)

    def number(self, reason: str) -> int:
        """Return what stands in `rows` for a reason."""
        if reason not in self.reasons:
            self.reasons.append(reason)
        return -1 - self.reasons.index(reason)


def identify_files(root: Path, paths: Iterable[str]) -> NDArray[np.uint64]:
    """Return two numbers for each of N files; (N, 2) uint64, zero where there is no such file.

    The first stays the same as long as the path does; the second hangs on size, inode, and times of
    last change, and so changes when the file does.
    """
    keys, above = bytearray(), os.fspath(root)
    for path in paths:
        try:
            status = os.stat(os.path.join(above, path))  # noqa: PTH116, PTH118 - a hundred thousand
        except (OSError, ValueError):
            keys += bytes(16)
            continue
        identity = (status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
        keys += blake2b(os.fsencode(path), digest_size=8).digest()
        keys += blake2b(b"%d %d %d %d" % identity, digest_size=8).digest()
    return np.frombuffer(keys, np.uint64).reshape(-1, 2)


def _join(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return one number for each pair, to look it up by; unsigned numbers wrap around."""
    return keys[:, 0] + keys[:, 1] * np.uint64(0x9E3779B97F4A7C15)


_MAX_UNUSED_DAYS = 30
_SLACK_ROWS = 1024  # rows of files that are gone which are not worth a copy of all others


class Cache:
    """One folder of the cache, held by this process alone."""

    def __init__(
        self, folder: Path, image_size: int, is_held: Callable[[], bool] = lambda: True
    ) -> None:
        """Read the index.

        Args:
            folder: an existing one.
            image_size: pixels a side of the squares.
            is_held: says whether the folder is still the one that was locked.
        """
        self.folder = folder
        self._is_held = is_held
        self._shape = (image_size, image_size, 3)
        self._row_bytes = image_size * image_size * 3
        self.index = self._read()

    def pixels(self) -> NDArray[np.uint8]:
        """Map all rows, (R, S, S, 3) uint8; the map outlives the cache, and even its files."""
        shape = (self.index.num_rows, *self._shape)
        if not self.index.num_rows:
            return np.zeros(shape, np.uint8)
        return np.memmap(self._pixels_file(), np.uint8, "c", shape=shape)

    def reserve(self, num: int) -> Rows:
        """Allot rows behind all others, to be written by any process."""
        self._require_held()
        rows = allot(self._pixels_file(), self._row_bytes, self.index.num_rows, num)
        self.index.num_rows = rows.first + num
        return rows

    def save(self) -> None:
        """Bring pixels and index to disk, in this order."""
        self._require_held()
        try:
            if self.index.num_rows:
                with self._pixels_file().open("r+b") as file:
                    os.fsync(file.fileno())
            self._write_index()
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def _write_index(self) -> None:
        # What could not even be read may be readable tomorrow under the same key.
        index = self.index
        lasting = index.facts["sha256"].any(axis=1) & index.keys.any(axis=1)
        saved = slice(None) if lasting.all() else lasting  # the usual case needs no copies
        with files.atomic_writer(self.folder / "index.npz") as file:
            np.savez(
                file,
                keys=index.keys[saved],
                facts=index.facts[saved],
                rows=index.rows[saved],
                reasons=np.frombuffer(json.dumps(index.reasons).encode(), np.uint8),
                counts=np.array([index.num_rows, index.generation]),
            )

    def drop_others(self, places: NDArray[np.int64]) -> None:
        """Forget all but some records, if the others' pixels fill more than half of the file."""
        index = self.index
        live = np.flatnonzero(index.rows[places] >= 0)
        if index.num_rows <= 2 * len(live) + _SLACK_ROWS:
            return
        kept = Index(index.keys[places], index.facts[places], index.rows[places].copy(),
                     index.reasons, 0, index.generation + 1)  # fmt: skip
        pixels, old_file = self.pixels(), self._pixels_file()
        self.index = kept
        for start in range(0, len(live), _SLACK_ROWS):
            some = live[start : start + _SLACK_ROWS]
            rows = self.reserve(len(some))
            rows.write(list(pixels[kept.rows[some]]))
            kept.rows[some] = rows.first + np.arange(len(some))
        self.save()
        old_file.unlink(missing_ok=True)

    def _read(self) -> Index:
        """Read the index; without a sound one, start anew beside whatever still is mapped."""
        try:
            index = self._load()
        except Exception:  # damage shows as any of a dozen kinds
            index = Index()
            current = None
        else:
            current = f"pixels-{index.generation}.u8"
        for path in self.folder.glob("pixels-[0-9]*.u8"):
            if path.name != current:
                path.unlink()
        return index

    def _load(self) -> Index:
        # Not left to numpy to open, which does not close what turns out to be damaged.
        with (
            (self.folder / "index.npz").open("rb") as file,
            np.load(file, allow_pickle=False) as content,
        ):
            num_rows, generation = content["counts"].tolist()
            reasons = json.loads(content["reasons"].tobytes())
            index = Index(
                content["keys"], content["facts"], content["rows"], reasons, num_rows, generation
            )
        size = (self.folder / f"pixels-{generation}.u8").stat().st_size if num_rows else 0
        if not index.is_sound() or size < num_rows * self._row_bytes:
            raise ValueError("this index is damaged, or not of these pixels")
        return index

    def _require_held(self) -> None:
        """Never mix rows with those of another run, which found the folder deleted and made it."""
        if not self._is_held():
            raise deleted(self.folder)

    def _pixels_file(self) -> Path:
        return self.folder / f"pixels-{self.index.generation}.u8"


@contextmanager
def open_cache(source: Path, preprocessing: Preprocessing, spare: Path) -> Iterator[Cache]:
    """Open the cache of a folder of images, after all who are writing to it now.

    Args:
        source: the folder, or the manifest, that names the images.
        preprocessing: how they are decoded.
        spare: a folder to use where the cache cannot be written, or would lie among the images.

    Raises:
        OutputError: if neither can be written.
        Stopped: if a signal asks for an end while waiting.
    """
    with ExitStack() as stack:
        folder = spare
        home = _home(source)
        if home is not None:
            folder = home / _name(source, preprocessing)
            try:
                is_held = _enter(stack, folder)
                _sweep(home)
            except OSError as error:
                info(f"{folder}: cannot be written ({error.strerror}), so this run keeps decoded "
                    "images to itself")  # fmt: skip
                folder = spare
        if folder == spare:
            files.make_folder(spare)
            is_held = _enter(stack, spare)
        yield Cache(folder, preprocessing.image_size, is_held)


def _home(source: Path) -> Path | None:
    """Return where all entries lie, unless nowhere, or among the images."""
    try:
        home = files.cache_folder() / "images"
    except OutputError:
        return None
    return None if home.resolve().is_relative_to(source.resolve()) else home


def _name(source: Path, preprocessing: Preprocessing) -> str:
    source = source.resolve()
    # Another version of Pillow may decode to other pixels.
    key = (preprocessing.image_size, preprocessing.resize, preprocessing.decoder, PIL.__version__)
    digest = sha256(os.fsencode(source) + repr(key).encode()).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9]', '_', source.name)[:40]}-{digest[:16]}"


def _enter(stack: ExitStack, folder: Path) -> Callable[[], bool]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".lock").touch()  # used today, as `_sweep` will see
    why = "another run is decoding these images; waiting for it"
    is_held = stack.enter_context(files.wait_for_lock(folder, why))
    files.remove_temporaries(folder)
    return is_held


def _sweep(home: Path) -> None:
    """Remove what nobody has used for a month; what is in use was touched when it was opened."""
    for folder in home.iterdir():
        with suppress(OSError):  # whatever others are just replacing is in use
            used = max((path.stat().st_mtime for path in folder.glob("*")), default=time.time())
            if time.time() - used > _MAX_UNUSED_DAYS * 86_400:
                shutil.rmtree(folder, ignore_errors=True)
