"""Sort CIFAR-10 and CIFAR-100 into dog, human and neither; torchvision downloads and reads them.

Every dog is from CIFAR-10 and every human from CIFAR-100, so a network could predict the class from
the source alone. To prevent that, each split consists of four quarters of the same size:

    dog      CIFAR-10's dog              human    CIFAR-100's baby, boy, girl, man, woman
    neither  CIFAR-10's 9 other kinds    neither  CIFAR-100's other kinds but 20, evenly

So half of either source is neither, in every split. A quarter is as large as the smallest group,
the humans: about 2,125 images in train, 375 in val and 500 in test; of the 5,000 dogs of the
official train set half are used. The 20 other kinds are in no split; `unseen` has the 100 images of
each in the official test set.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from neither.runtime import files, signals
from neither.runtime.console import info, progress_bar
from neither.runtime.rng import hash_fraction

VERSION = 1  # raise it whenever a change alters the output
HUMANS = ("baby", "boy", "girl", "man", "woman")
# One of each of CIFAR-100's 19 superclasses besides people, and the bear. Wolf, fox, bear and seal
# resemble dogs, the chimpanzee resembles humans. None is a kind of CIFAR-10 by another name.
UNSEEN = (
    "bear", "bicycle", "butterfly", "castle", "chair", "chimpanzee", "clock", "cup", "fox",
    "hamster", "mountain", "mushroom", "palm_tree", "ray", "rocket", "seal", "spider", "sunflower",
    "turtle", "wolf",
)  # fmt: skip
VAL_FRACTION = 0.15  # of the official train sets; the official test sets are the test split

_SEED = 0
_RECORD_NAME = "cifar.json"
_RECORD = {"version": VERSION, "seed": _SEED, "val_share": VAL_FRACTION, "unseen": list(UNSEEN)}


@dataclass(frozen=True)
class OfficialSet:
    """One of four: the train or the test set of CIFAR-10 or CIFAR-100 (Krizhevsky, 2009)."""

    name: str  # cifar10 or cifar100
    part: str  # train or test
    pixels: NDArray[np.uint8]  # (N, 32, 32, 3) uint8 RGB
    kinds: list[str]  # N fine labels, such as dog or aquarium_fish


def fetch_sets(folder: Path) -> list[OfficialSet]:
    """Read all four sets; download archives that are missing in the folder or fail their checksum.

    Raises:
        OutputError: if a set cannot be downloaded, naming the archives and the folder for them.
        Stopped: if a signal arrives.
    """
    # Imported here, after the command has checked that torch and torchvision match.
    from torchvision.datasets import CIFAR10, CIFAR100

    sources = {"cifar10": CIFAR10, "cifar100": CIFAR100}
    archives = " and ".join(source.filename for source in sources.values())
    sets = []
    for name, source in sources.items():
        info(f"reading {source.__name__}; what is not yet in {folder} is downloaded")
        for part in ("train", "test"):

            def read(name: str = name, part: str = part) -> OfficialSet:
                data = sources[name](folder, train=part == "train", download=True)
                return OfficialSet(name, part, data.data, [data.classes[k] for k in data.targets])

            otherwise = f"put {archives}, fetched elsewhere, into {folder}"
            sets.append(files.download(read, source.__name__, source.url, otherwise))
    return sets


def is_prepared(output_dir: Path) -> bool:
    """Return whether the folder is complete; raise `OutputError` if it holds anything else."""
    return files.is_complete(output_dir, _RECORD_NAME, _RECORD)


def write_images(sets: Iterable[OfficialSet], output_dir: Path) -> None:
    """Write the chosen images of the official sets as PNG files.

    The folder gets `{train,val,test}/{dog,human,neither}/`, `unseen/<kind>/` and `cifar.json`.
    """
    chosen = choose_images(sets)
    with (
        files.output_folder(output_dir, _RECORD_NAME, _RECORD) as partial,
        progress_bar("writing", len(chosen)) as bar,
    ):
        for folder in {Path(path).parent for path in chosen}:
            (partial / folder).mkdir(parents=True, exist_ok=True)
        # In this process: an image takes 0.2 ms, all of them less than starting processes.
        for path, pixels in chosen.items():
            signals.poll()
            Image.fromarray(pixels).save(partial / path, "PNG")
            bar.advance()


def choose_images(sets: Iterable[OfficialSet]) -> dict[str, NDArray[np.uint8]]:
    """Choose the images of each split and of the unseen kinds.

    Returns:
        (32, 32, 3) uint8 RGB pixels by path below the output folder, such as
        `unseen/wolf/cifar100_wolf_test_00123.png`: source, kind, official part and index in it.
    """
    groups: defaultdict[tuple[str, str, str], list[_Image]] = defaultdict(list)
    chosen: dict[str, NDArray[np.uint8]] = {}
    for each in sets:
        for index, (kind, pixels) in enumerate(zip(each.kinds, each.pixels, strict=True)):
            signals.poll()
            position = hash_fraction(_SEED, pixels.tobytes())
            name = f"{each.name}_{kind}_{each.part}_{index:05d}.png"
            label, split = _label(each.name, kind), each.part
            if split == "train" and position < VAL_FRACTION:
                split = "val"
            if label != "unseen":
                image = _Image(kind, position, name, pixels)
                groups[split, each.name, label].append(image)
            elif split == "test":
                chosen[f"unseen/{kind}/{name}"] = pixels
    for (split, _, label), images in groups.items():
        size = min(len(others) for (of, *_), others in groups.items() if of == split)
        for image in _spread_over_kinds(images)[:size]:
            chosen[f"{split}/{label}/{image.file_name}"] = image.pixels
    return chosen


class _Image(NamedTuple):
    kind: str
    position: float  # in [0, 1): a hash of the pixels
    file_name: str
    pixels: NDArray[np.uint8]


def _label(source: str, kind: str) -> str:
    if source == "cifar10":
        return "dog" if kind == "dog" else "neither"
    return "human" if kind in HUMANS else "unseen" if kind in UNSEEN else "neither"


def _spread_over_kinds(images: list[_Image]) -> list[_Image]:
    """Order images so that the first n, for any n, are spread evenly over the kinds."""
    num_seen: Counter[str] = Counter()
    ranked = []
    for image in sorted(images, key=lambda image: image.position):
        ranked.append((num_seen[image.kind], image.kind, image))
        num_seen[image.kind] += 1
    return [image for *_, image in sorted(ranked, key=lambda row: row[:2])]
