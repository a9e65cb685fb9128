"""The official CIFAR sets, downloaded, checked and read by torchvision."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neither import downloads
from neither.files import cache_folder
from neither.terminal import say


@dataclass(frozen=True)
class OfficialSet:
    """One of four: the train or the test set of CIFAR-10 or CIFAR-100 (Krizhevsky, 2009).

    Attributes:
        name: cifar10 or cifar100.
        part: train or test.
        pixels: (N, 32, 32, 3) uint8 RGB.
        kinds: N fine labels, such as dog or aquarium_fish.
    """

    name: str
    part: str
    pixels: NDArray[np.uint8]
    kinds: list[str]


def download_folder() -> Path:
    """Return where downloads lie, so that no command downloads twice.

    Raises:
        OutputError: if the user has no home.
    """
    return cache_folder() / "cifar"


def fetch_sets(folder: Path) -> list[OfficialSet]:
    """Read all four sets, downloading only what does not lie in the folder with the right sums.

    Raises:
        OutputError: if a set cannot be had, saying which files to put where by hand.
        Stopped: if a signal asks for an end; a download goes on from nothing the next time.
    """
    # Here, as the commands check the installation before anything imports torchvision.
    from torchvision.datasets import CIFAR10, CIFAR100

    sources = {"cifar10": CIFAR10, "cifar100": CIFAR100}
    archives = " and ".join(source.filename for source in sources.values())
    sets = []
    for name, source in sources.items():
        say(f"reading {source.__name__}; what is not yet in {folder} is downloaded")
        for part in ("train", "test"):

            def read(name: str = name, part: str = part) -> OfficialSet:
                data = sources[name](folder, train=part == "train", download=True)
                return OfficialSet(name, part, data.data, [data.classes[k] for k in data.targets])

            otherwise = f"put {archives}, fetched elsewhere, into {folder}"
            sets.append(downloads.fetch(read, source.__name__, source.url, otherwise))
    return sets
