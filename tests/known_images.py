"""Images of which only the facts exist, for tests of what hangs on facts alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neither.data.fingerprints import FINGERPRINT, ImageFlag
from neither.data.scan import ImageTable
from neither.data.store import ImageStore

LOOK_BITS = 128


def make_look(number: int, flipped: Sequence[int] = ()) -> NDArray[np.uint16]:
    """Return the look of this number, far from all others, with some of its 128 bits flipped."""
    bits = np.random.default_rng([7, number]).integers(0, 2, LOOK_BITS, dtype=np.uint8)
    bits[list(flipped)] ^= 1
    look: NDArray[np.uint16] = np.packbits(bits).view("<u2")
    return look


def make_facts(looks: Sequence[NDArray[np.uint16] | None]) -> NDArray[np.void]:
    """Return (N,) records of `FACTS`, each file with bytes of its own.

    Args:
        looks: of each image; None for a flat one.
    """
    facts = np.zeros(len(looks), FINGERPRINT)
    random = np.random.default_rng(11)
    facts["sha256"] = random.integers(0, 256, (len(looks), 32), dtype=np.uint8)
    facts["scene"] = random.permutation(len(looks)) + 1
    for place, look in enumerate(looks):
        if look is None:
            facts["flags"][place] = ImageFlag.FLAT
            facts["scene"][place] = 0
        else:
            facts["look"][place] = look
    return facts


def make_store(facts: NDArray[np.void], reasons: dict[int, str] | None = None) -> ImageStore:
    """Return a store without pixels."""
    return ImageStore(facts, reasons or {})


def make_found(names: Sequence[str], root: str = "photos") -> ImageTable:
    """Return images as found in `[train/|val/|test/]<label>/name`."""
    found = ImageTable(Path(root), Path(root))
    for name in names:
        first, _, rest = name.partition("/")
        split = first if first in ("train", "val", "test") else ""
        label = rest.partition("/")[0] if split else first
        found.add([name], label, split)
    return found
