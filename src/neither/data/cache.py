"""Decoded images on disk, so that each is decoded once for all runs and all epochs.

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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray

from neither import files
from neither.data.index import Index
from neither.data.preprocessing import Preprocessing
from neither.data.rows import Rows, allot, deleted, unwritable
from neither.errors import OutputError
from neither.terminal import say

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
        with files.replacing(self.folder / "index.npz") as file:
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
                say(f"{folder}: cannot be written ({error.strerror}), so this run keeps decoded "
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
    is_held = stack.enter_context(files.waited_for(folder, why))
    files.sweep_temporaries(folder)
    return is_held


def _sweep(home: Path) -> None:
    """Remove what nobody has used for a month; what is in use was touched when it was opened."""
    for folder in home.iterdir():
        with suppress(OSError):  # whatever others are just replacing is in use
            used = max((path.stat().st_mtime for path in folder.glob("*")), default=time.time())
            if time.time() - used > _MAX_UNUSED_DAYS * 86_400:
                shutil.rmtree(folder, ignore_errors=True)
