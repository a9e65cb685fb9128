"""Images that exist as records only, for tests that need no files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neither.data.fingerprints import FINGERPRINT, ImageFlag
from neither.data.scan import ImageTable
from neither.data.store import ImageStore

DHASH_BITS = 128


def make_dhash(number: int, flipped: Sequence[int] = ()) -> NDArray[np.uint16]:
    """Return the hash of this number, far from all others, with some of its 128 bits flipped."""
    bits = np.random.default_rng([7, number]).integers(0, 2, DHASH_BITS, dtype=np.uint8)
    bits[list(flipped)] ^= 1
    dhash: NDArray[np.uint16] = np.packbits(bits).view("<u2")
    return dhash


def make_fingerprints(hashes: Sequence[NDArray[np.uint16] | None]) -> NDArray[np.void]:
    """Return (N,) records of `FINGERPRINT`, each file with bytes of its own.

    Args:
        hashes: of each image; None for a flat one.
    """
    records = np.zeros(len(hashes), FINGERPRINT)
    random = np.random.default_rng(11)
    records["sha256"] = random.integers(0, 256, (len(hashes), 32), dtype=np.uint8)
    records["coarse_hash"] = random.permutation(len(hashes)) + 1
    for index, dhash in enumerate(hashes):
        if dhash is None:
            records["flags"][index] = ImageFlag.FLAT
            records["coarse_hash"][index] = 0
        else:
            records["dhash"][index] = dhash
    return records


def make_store(records: NDArray[np.void], reasons: dict[int, str] | None = None) -> ImageStore:
    """Return a store without pixels."""
    return ImageStore(records, reasons or {})


def make_table(names: Sequence[str], root: str = "photos") -> ImageTable:
    """Return images as found in `[train/|val/|test/]<label>/name`."""
    table = ImageTable(Path(root), Path(root))
    for name in names:
        first, _, rest = name.partition("/")
        split = first if first in ("train", "val", "test") else ""
        label = rest.partition("/")[0] if split else first
        table.add([name], label, split)
    return table


def rows(table: ImageTable) -> list[tuple[str, str, str]]:
    """Return path, label and split of each image."""
    return list(zip(table.paths, table.labels, table.splits, strict=True))
