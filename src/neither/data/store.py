"""Every image decoded once, in parallel, and kept for all epochs and all runs."""

import errno
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from neither.data.cache import Cache, Index, Rows, identify_files, open_cache
from neither.data.decode import decode_file_with_traits
from neither.data.fingerprints import FINGERPRINT, compute_fingerprints
from neither.data.preprocessing import Preprocessing
from neither.data.workers import parallel_map
from neither.runtime import signals
from neither.runtime.console import printable, progress_bar
from neither.runtime.errors import DataError

_SAVE_EVERY_SECONDS = 10.0
_AT_ONCE = 32  # images a message to a process
_MAX_NAMED = 10
_MISSING = os.strerror(errno.ENOENT).lower()  # only a manifest can name what is not there


@dataclass(frozen=True)
class ImageStore:
    """The fingerprints and pixels of N images, the unreadable ones included.

    Attributes:
        fingerprints: (N,) records of `FINGERPRINT`; all zero for a file that could not be read.
        reasons: why an image is unreadable, by its index.
        pixels: (R, S, S, 3) uint8 RGB, mapped from disk; rows of other files may lie between.
        rows: (N,) int64, the row of each image in `pixels`; negative if it is unreadable.
    """

    fingerprints: NDArray[np.void]
    reasons: dict[int, str]
    pixels: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 1, 1, 3), np.uint8))
    rows: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def is_readable(self) -> NDArray[np.bool_]:
        """Return (N,) bool, which images have pixels."""
        readable = np.ones(len(self.fingerprints), bool)
        readable[list(self.reasons)] = False
        return readable


def build_store(
    root: Path,
    paths: Sequence[str],
    source: Path,
    preprocessing: Preprocessing,
    spare: Path,
    max_unreadable: float,
) -> ImageStore:
    """Decode the images that the cache does not know yet, and map all of them.

    Args:
        root: of the images.
        paths: below the root.
        source: the folder, or the manifest, that names them.
        preprocessing: how to decode them.
        spare: a folder for decoded images where the cache cannot be written.
        max_unreadable: the share of images, in [0, 1], that may be unreadable.

    Raises:
        DataError: as soon as more are unreadable.
        OutputError: if the disk is full, or a decoding process was killed.
        Stopped: if a signal asks for an end; what was decoded until then is kept.
    """
    keys = identify_files(root, paths)
    with open_cache(source, preprocessing, spare) as cache:
        cache.drop_others(cache.index.list_current(keys))
        places = cache.index.find(keys)
        new = np.flatnonzero(places < 0)
        places[new] = cache.index.extend(keys[new])
        limit = UnreadableLimit(max_unreadable, len(paths))
        if len(new):
            missing = [paths[place] for place in new.tolist()]
            try:
                _fill(cache, places[new], root, missing, preprocessing, limit)
            except (signals.Stopped, DataError):
                cache.save()
                raise
            cache.save()
        rows = cache.index.rows[places]
        reasons = {
            int(place): cache.index.reasons[-1 - rows[place]] for place in np.flatnonzero(rows < 0)
        }
        limit.check([f"{printable(paths[place])}: {why}" for place, why in reasons.items()])
        facts = cache.index.facts
        if len(places) != len(facts) or (np.diff(places) != 1).any():  # spares a copy on first runs
            facts = facts[places]
        return ImageStore(facts, reasons, cache.pixels(), rows)


@dataclass(frozen=True)
class UnreadableLimit:
    """How many of all images may be unreadable.

    Attributes:
        share: in [0, 1].
        num_images: of which it is the share.
    """

    share: float
    num_images: int

    def check(self, unreadable: Sequence[str]) -> None:
        """Raise a DataError if these, each a path with its reason, are too many."""
        if len(unreadable) > self.share * self.num_images:
            named = "\n       ".join(unreadable[:_MAX_NAMED])
            if all(each.endswith(_MISSING) for each in unreadable):
                named += "\n       The paths of a CSV file start at its folder"
            raise DataError(
                f"{len(unreadable):,} of {self.num_images:,} images are unreadable, more than "
                f"data.max_unreadable, {self.share:.3g}, allows\n       {named}\n       Mend or "
                "remove them (scripts/check_data.py lists all), or raise data.max_unreadable"
            )


class _Part(NamedTuple):
    """What became of a few images.

    Attributes:
        rows: (n,) int64, where the pixels of each were written; negative if it is unreadable.
        facts: (n,) records of `FACTS`.
        reasons: why an image is unreadable, by its place among these.
    """

    rows: NDArray[np.int64]
    facts: NDArray[np.void]
    reasons: dict[int, str]


def _fill(
    cache: Cache,
    places: NDArray[np.int64],
    root: Path,
    paths: Sequence[str],
    preprocessing: Preprocessing,
    limit: UnreadableLimit,
) -> None:
    """Decode images and enter them at their places in the index; stop when too many are bad."""
    work = partial(_decode_part, root=root, preprocessing=preprocessing)
    cut = (paths[start : start + _AT_ONCE] for start in range(0, len(paths), _AT_ONCE))
    parts = parallel_map(work, ((part, cache.reserve(len(part))) for part in cut), 1)
    unreadable: list[str] = []
    saved, done = time.monotonic(), 0
    with progress_bar("decoding", len(paths)) as bar:
        for part in parts:
            _enter(cache.index, places[done : done + len(part.rows)], part)
            for place, reason in part.reasons.items():
                unreadable.append(f"{printable(paths[done + place])}: {reason}")
            limit.check(unreadable)
            done += len(part.rows)
            bar.update(done, len(paths))
            if time.monotonic() - saved > _SAVE_EVERY_SECONDS:
                cache.save()
                saved = time.monotonic()


def _decode_part(
    part: tuple[Sequence[str], Rows], root: Path, preprocessing: Preprocessing
) -> _Part:
    """Decode a few images and write their pixels, in whatever process."""
    paths, rows = part
    decoded = []
    for path in paths:
        signals.poll()
        decoded.append(decode_file_with_traits(root / path, preprocessing))
    good = [place for place, each in enumerate(decoded) if each.pixels is not None]
    rows.write([each.pixels for each in decoded if each.pixels is not None])
    lie = np.full(len(paths), -1)
    lie[good] = rows.first + np.arange(len(good))
    facts = np.zeros(len(paths), FINGERPRINT)
    facts[good] = compute_fingerprints(
        [each.traits for each in decoded if each.traits is not None],
        [each.sha256 for each in decoded if each.traits is not None],
    )
    for place, each in enumerate(decoded):
        if each.reason and each.sha256:
            facts["sha256"][place] = np.frombuffer(each.sha256, np.uint8)
    return _Part(lie, facts, {n: each.reason for n, each in enumerate(decoded) if each.reason})


def _enter(index: Index, places: NDArray[np.int64], part: _Part) -> None:
    index.facts[places] = part.facts
    index.rows[places] = part.rows
    for place, reason in part.reasons.items():
        index.rows[places[place]] = index.number(reason)
