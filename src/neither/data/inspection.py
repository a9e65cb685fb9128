"""A closer look at every file than training takes: full decoding, sharpness, mode."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from neither.data.content import UnreadableError, read_file
from neither.data.decode import examine, open_upright
from neither.data.facts import FACTS, Traits, describe
from neither.data.found import Found
from neither.data.preprocessing import Preprocessing
from neither.data.processes import map_in_processes
from neither.data.store import Store
from neither.terminal import progress

_FULL_SIZE = 2**16  # never read a JPEG at less than its size
_SHARPNESS_SIDE = 256  # pixels of the longer side that sharpness is measured at
_AT_ONCE = 256


@dataclass(frozen=True)
class Inspection:
    """What was seen of all images.

    Attributes:
        store: their facts, without pixels.
        modes: (N,) as Pillow names them; empty for the unreadable.
        sharpness: (N,) variance of the Laplacian of the luma, in grey levels squared, at 256 pixels
            of the longer side or less (Pech-Pacheco et al., "Diatom autofocusing in brightfield
            microscopy", 2000).
        spread: (N,) standard deviation of the luma, in grey levels.
    """

    store: Store
    modes: list[str]
    sharpness: NDArray[np.float64]
    spread: NDArray[np.float64]


@dataclass(frozen=True)
class _Seen:
    sha256: bytes
    traits: Traits | None = None
    mode: str = ""
    sharpness: float = 0.0
    spread: float = 0.0
    reason: str = ""


def inspect_images(found: Found) -> Inspection:
    """Decode every file fully, in parallel; nothing is written anywhere.

    Raises:
        OutputError: if a decoding process was killed.
        Stopped: if a signal asks for an end.
    """
    num = len(found.paths)
    facts = np.zeros(num, FACTS)
    modes, reasons = [""] * num, {}
    sharpness, spread = np.zeros(num), np.zeros(num)
    waiting: list[tuple[int, _Seen]] = []
    with progress("checking", num) as bar:
        paths = (found.root / path for path in found.paths)
        for place, seen in enumerate(map_in_processes(_inspect, paths)):
            modes[place], sharpness[place], spread[place] = seen.mode, seen.sharpness, seen.spread
            if seen.reason:
                reasons[place] = seen.reason
                facts["sha256"][place] = np.frombuffer(seen.sha256 or bytes(32), np.uint8)
            else:
                waiting.append((place, seen))
            if len(waiting) == _AT_ONCE:
                _describe(facts, waiting)
                waiting = []
            bar.advance()
    _describe(facts, waiting)
    rows = np.zeros(num, np.int64)
    rows[list(reasons)] = -1
    store = Store(np.zeros((0, 1, 1, 3), np.uint8), rows, facts, reasons)
    return Inspection(store, modes, sharpness, spread)


def _describe(facts: NDArray[np.void], seen: Sequence[tuple[int, _Seen]]) -> None:
    places = [place for place, _ in seen]
    traits = [each.traits for _, each in seen if each.traits is not None]
    facts[places] = describe(traits, [each.sha256 for _, each in seen])


def _inspect(path: Path) -> _Seen:
    digest = b""
    try:
        content = read_file(path)
        digest = sha256(content).digest()
        _, traits = examine(content, Preprocessing(64))
        full = open_upright(content, _FULL_SIZE)
    except UnreadableError as error:
        return _Seen(digest, reason=str(error))
    image = full.image.convert("L")
    spread = float(np.asarray(image).std())
    image.thumbnail((_SHARPNESS_SIDE, _SHARPNESS_SIDE), Image.Resampling.BOX)
    return _Seen(digest, traits, full.mode, _sharpness(image), spread)


def _sharpness(image: Image.Image) -> float:
    luma = np.asarray(image, dtype=np.int16)
    if min(luma.shape) < 3:
        return 0.0
    middle = luma[1:-1, 1:-1]
    laplacian = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * middle
    return float(laplacian.var())
