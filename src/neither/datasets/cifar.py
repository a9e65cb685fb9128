"""The official CIFAR sets, downloaded, checked and read by torchvision.

Which pictures of CIFAR-10 and CIFAR-100 are dog, human, neither, or of unseen kinds.

Every dog is of CIFAR-10 and every human of CIFAR-100, which a network could learn to tell by the
source alone: how a picture was chosen and scaled down. So that the source gives nothing away, each
split is made of four quarters of the same size:

    dog      CIFAR-10's dog              human    CIFAR-100's baby, boy, girl, man, woman
    neither  CIFAR-10's 9 other kinds    neither  CIFAR-100's other kinds but 20, evenly

Half of either source is neither, then, in every split. A quarter is as large as the smallest group,
the humans: about 2,125 pictures in train, 375 in val and 500 in test; so of the 5,000 dogs of the
official train set half are used. The 20 other kinds are in no split; `unseen` has the 100 pictures
that the official test set has of each.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from neither.runtime import files, signals
from neither.runtime.console import info
from neither.runtime.files import cache_folder, is_complete, output_folder
from neither.runtime.rng import hash_fraction


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
        info(f"reading {source.__name__}; what is not yet in {folder} is downloaded")
        for part in ("train", "test"):

            def read(name: str = name, part: str = part) -> OfficialSet:
                data = sources[name](folder, train=part == "train", download=True)
                return OfficialSet(name, part, data.data, [data.classes[k] for k in data.targets])

            otherwise = f"put {archives}, fetched elsewhere, into {folder}"
            sets.append(files.download(read, source.__name__, source.url, otherwise))
    return sets


VERSION = 1  # to be raised whenever a change alters which pictures lie where
HUMANS = ("baby", "boy", "girl", "man", "woman")
# One of each of CIFAR-100's 19 superclasses besides people, and the bear. Wolf, fox, bear and seal
# resemble dogs, the chimpanzee resembles humans. None is a kind of CIFAR-10 by another name.
UNSEEN = (
    "bear", "bicycle", "butterfly", "castle", "chair", "chimpanzee", "clock", "cup", "fox",
    "hamster", "mountain", "mushroom", "palm_tree", "ray", "rocket", "seal", "spider", "sunflower",
    "turtle", "wolf",
)  # fmt: skip
VAL_SHARE = 0.15  # of the official train sets; the official test sets are the test split

_SEED = 0
_RECORD_NAME = "cifar.json"
_RECORD = {"version": VERSION, "seed": _SEED, "val_share": VAL_SHARE, "unseen": list(UNSEEN)}


@dataclass(frozen=True, slots=True)
class _Picture:
    """One picture of an official set; `place` in [0, 1) follows from its pixels alone."""

    source: OfficialSet
    index: int
    place: float

    @property
    def kind(self) -> str:
        return self.source.kinds[self.index]

    @property
    def file_name(self) -> str:
        return f"{self.source.name}_{self.kind}_{self.source.part}_{self.index:05d}.png"

    @property
    def pixels(self) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = self.source.pixels[self.index]
        return pixels


def is_prepared(output_dir: Path) -> bool:
    """Tell whether the folder lies there already, complete.

    Raises:
        OutputError: if it holds anything else.
    """
    return is_complete(output_dir, _RECORD_NAME, _RECORD)


def write_images(
    sets: Iterable[OfficialSet],
    output_dir: Path,
    report: Callable[[int, int], None] | None = None,
) -> None:
    """Write the pictures of the official sets as PNG, pixel for pixel.

    Args:
        sets: train and test of CIFAR-10 and CIFAR-100.
        output_dir: gets `{train,val,test}/{dog,human,neither}/`, `unseen/<kind>/` and `cifar.json`.
        report: called now and then with the number of pictures written and of all.

    Raises:
        OutputError: if the folder cannot be written; nothing is left then.
        Stopped: if a signal asks for an end; nothing is left then either.
    """
    chosen = choose_images(sets)
    with output_folder(output_dir, _RECORD_NAME, _RECORD) as partial:
        for folder in {Path(path).parent for path in chosen}:
            (partial / folder).mkdir(parents=True, exist_ok=True)
        # In this process: a picture takes 0.2 ms, all of them less than processes need to start.
        for done, (path, pixels) in enumerate(chosen.items(), start=1):
            signals.poll()
            Image.fromarray(pixels).save(partial / path, "PNG")
            if report and (done % 50 == 0 or done == len(chosen)):
                report(done, len(chosen))


def choose_images(sets: Iterable[OfficialSet]) -> dict[str, NDArray[np.uint8]]:
    """Choose the pictures of each split and of the unseen kinds.

    Returns:
        (32, 32, 3) uint8 RGB pixels by path below the output folder, such as
        `unseen/wolf/cifar100_wolf_test_00123.png`: source, kind, official part and place in it.
    """
    groups: defaultdict[tuple[str, str, str], list[_Picture]] = defaultdict(list)
    chosen: dict[str, NDArray[np.uint8]] = {}
    for each in sets:
        for picture in _pictures(each):
            label = _label(each.name, picture.kind)
            split = _split(each.part, picture.place)
            if label != "unseen":
                groups[split, each.name, label].append(picture)
            elif split == "test":
                chosen[f"unseen/{picture.kind}/{picture.file_name}"] = picture.pixels
    for (split, _, label), pictures in groups.items():
        size = min(len(others) for (of, *_), others in groups.items() if of == split)
        for picture in _spread_over_kinds(pictures)[:size]:
            chosen[f"{split}/{label}/{picture.file_name}"] = picture.pixels
    return chosen


def _pictures(each: OfficialSet) -> Iterable[_Picture]:
    for index, pixels in enumerate(each.pixels):
        signals.poll()
        yield _Picture(each, index, hash_fraction(_SEED, pixels.tobytes()))


def _label(source: str, kind: str) -> str:
    if source == "cifar10":
        return "dog" if kind == "dog" else "neither"
    if kind in HUMANS:
        return "human"
    return "unseen" if kind in UNSEEN else "neither"


def _split(part: str, place: float) -> str:
    if part == "test":
        return "test"
    return "val" if place < VAL_SHARE else "train"


def _spread_over_kinds(pictures: list[_Picture]) -> list[_Picture]:
    """Order pictures so that the first n, for any n, come from all kinds as evenly as can be."""
    seen: Counter[str] = Counter()
    turns = []
    for picture in sorted(pictures, key=lambda picture: (picture.place, picture.index)):
        turns.append((seen[picture.kind], picture.kind, picture))
        seen[picture.kind] += 1
    return [picture for *_, picture in sorted(turns, key=lambda turn: turn[:2])]
