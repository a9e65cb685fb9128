"""Every image decoded once, kept as one uint8 array for all epochs."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from neither.data.decode import Decoded, Preprocessing, decode_file
from neither.data.processes import map_in_processes
from neither.terminal import progress

_MEMORY_SHARE = 0.5  # of what is free: the rest is for the network and everybody else


@dataclass(frozen=True)
class Store:
    """The pixels of all readable images.

    Attributes:
        pixels: (N, S, S, 3) uint8 RGB, in the order of the paths, unreadable ones left out.
        decoded: for each path its hash and reason, without the pixels.
    """

    pixels: NDArray[np.uint8]
    decoded: list[Decoded]


def build_store(
    paths: Sequence[Path],
    preprocessing: Preprocessing,
    kind: Literal["auto", "memory", "disk"],
    folder: Path,
) -> Store:
    """Decode all images, in parallel.

    Args:
        paths: of the files.
        preprocessing: how to decode them.
        kind: where to keep the pixels; auto takes memory if they fill at most half of what is free.
        folder: where a store on disk may lie; it vanishes with the process.

    Raises:
        OutputError: if a decoding process was killed.
        Stopped: if a signal asks for an end.
    """
    shape = (len(paths), preprocessing.image_size, preprocessing.image_size, 3)
    if kind == "auto":
        fits = int(np.prod(shape)) <= _MEMORY_SHARE * _free_memory()
        kind = "memory" if fits else "disk"
    pixels = _allocate(shape, kind, folder)
    decoded: list[Decoded] = []
    num = 0
    with progress("decoding", len(paths)) as bar:
        for image in map_in_processes(partial(decode_file, preprocessing=preprocessing), paths):
            if image.pixels is not None:
                pixels[num] = image.pixels
                num += 1
            decoded.append(replace(image, pixels=None))
            bar.advance()
    return Store(pixels[:num], decoded)


def _allocate(shape: tuple[int, ...], kind: str, folder: Path) -> NDArray[np.uint8]:
    if kind == "memory" or shape[0] == 0:
        return np.empty(shape, np.uint8)
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, np.uint8, "w+", shape=shape)


def _free_memory() -> int:
    """Estimate the free memory in bytes; 4 GB where the system does not say."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 4 << 30
