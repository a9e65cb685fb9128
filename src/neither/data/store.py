"""Every image decoded once, in parallel, and kept for all epochs and all runs."""

import errno
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neither import stopping
from neither.data.cache import Cache, open_cache
from neither.data.decode import Decoded, decode_file
from neither.data.facts import describe
from neither.data.index import identify_files
from neither.data.preprocessing import Preprocessing
from neither.data.processes import map_in_processes
from neither.errors import DataError
from neither.terminal import printable, progress

_SAVE_EVERY_SECONDS = 10.0
_AT_ONCE = 256  # images written together
_MAX_NAMED = 10
_MISSING = os.strerror(errno.ENOENT).lower()  # only a manifest can name what is not there


@dataclass(frozen=True)
class Store:
    """The pixels and facts of all images, the unreadable ones included.

    Attributes:
        pixels: (R, S, S, 3) uint8 RGB, mapped from disk; rows of other files may lie between.
        rows: (N,) int64, where the pixels of each image lie; negative if it is unreadable.
        facts: (N,) records of `FACTS`; all zero for a file that could not even be read.
        reasons: why an image is unreadable, by its place.
    """

    pixels: NDArray[np.uint8]
    rows: NDArray[np.int64]
    facts: NDArray[np.void]
    reasons: dict[int, str]


def build_store(
    root: Path,
    paths: Sequence[str],
    source: Path,
    preprocessing: Preprocessing,
    spare: Path,
    max_unreadable: float,
) -> Store:
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
        limit = Limit(max_unreadable, len(paths))
        if len(new):
            coming = map_in_processes(
                partial(decode_file, preprocessing=preprocessing),
                (root / paths[place] for place in new.tolist()),
            )
            try:
                _fill(cache, places[new], coming, [paths[place] for place in new.tolist()], limit)
            except (stopping.Stopped, DataError):
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
        return Store(cache.pixels(), rows, facts, reasons)


@dataclass(frozen=True)
class Limit:
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


def _fill(
    cache: Cache,
    places: NDArray[np.int64],
    coming: Iterator[Decoded],
    paths: Sequence[str],
    limit: Limit,
) -> None:
    """Write images as they come to their places in the index; stop as soon as too many are bad."""
    unreadable: list[str] = []
    saved = time.monotonic()
    with progress("decoding", len(paths)) as bar:
        for start in range(0, len(paths), _AT_ONCE):
            batch = list(islice(coming, _AT_ONCE))
            _write(cache, places[start : start + len(batch)], batch)
            unreadable += [
                f"{printable(path)}: {each.reason}"
                for path, each in zip(paths[start : start + len(batch)], batch, strict=True)
                if each.reason
            ]
            limit.check(unreadable)
            bar.reach(start + len(batch), len(paths))
            if time.monotonic() - saved > _SAVE_EVERY_SECONDS:
                cache.save()
                saved = time.monotonic()


def _write(cache: Cache, places: NDArray[np.int64], batch: Sequence[Decoded]) -> None:
    index = cache.index
    pixels = [each.pixels for each in batch if each.pixels is not None]
    good = places[[each.pixels is not None for each in batch]]
    first = cache.append(pixels)
    index.rows[good] = np.arange(first, first + len(good))
    index.facts[good] = describe(
        [each.traits for each in batch if each.traits is not None],
        [each.sha256 for each in batch if each.traits is not None],
    )
    for place, each in zip(places.tolist(), batch, strict=True):
        if each.reason:
            index.rows[place] = index.number(each.reason)
            if each.sha256:
                index.facts["sha256"][place] = np.frombuffer(each.sha256, np.uint8)
