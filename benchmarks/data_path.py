"""How fast images reach the network, against torchvision's loader on the same cores.

    python benchmarks/data_path.py FOLDER [rounds]

FOLDER holds train/<class>/... . Prints one line a measurement: the median of the rounds (default 5)
and, in brackets, the slowest and the fastest. Measure on an idle machine.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import results
from PIL import Image

from neither.data.preprocessing import Preprocessing
from neither.data.workers import parallel_map
from neither.runtime.limits import num_cores

if TYPE_CHECKING:  # decoding processes import this file, and need no torch
    from neither.data.batches import Batches
    from neither.data.dataset import Dataset

SIZE = 64
LARGE = 1024
NUM_LARGE = 600  # of them, as all would take minutes a round
CLASSES = ("dog", "human", "neither")
PREPROCESSING = Preprocessing(SIZE)


def main() -> None:
    """Measure and print."""
    import torch

    root = Path(sys.argv[1])
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    print(f"{num_cores()} cores, torch {torch.__version__}, {rounds} rounds, {SIZE} pixels")
    with tempfile.TemporaryDirectory() as folder, cached_in(Path(folder) / "cache"):
        work = Path(folder)
        paths = sorted((root / "train").rglob("*.jpg"))
        compare("the pictures as they are", root / "train", paths, work / "a", rounds)
        large = enlarge(paths[:: len(paths) // NUM_LARGE], root / "train", work / "large")
        compare(
            f"shorter side {LARGE:,} pixels",
            work / "large",
            large,
            work / "b",
            rounds,
        )
        measure_training(root, work / "c", rounds)


def compare(title: str, folder: Path, paths: list[Path], run: Path, rounds: int) -> None:
    """Compare both ways from files to batches, and the store with Pillow alone."""
    import torch
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    print(f"\n{title} ({len(paths):,}):")
    loader = DataLoader(
        ImageFolder(folder, v2.Compose([
            v2.RandomResizedCrop(SIZE), v2.RandomHorizontalFlip(), v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(PREPROCESSING.mean, PREPROCESSING.std),
        ])),
        128, shuffle=True, num_workers=2,
    )  # fmt: skip
    theirs = show("torchvision ImageFolder + DataLoader, 2 workers", len(paths), rounds,
                  lambda: consume(iter(loader)))  # fmt: skip
    alone = show("Pillow alone: open, load", len(paths), rounds,
                 lambda: consume(parallel_map(load, paths)))  # fmt: skip
    square = show("Pillow alone: open, load, resize to the square", len(paths), rounds,
                  lambda: consume(parallel_map(load_square, paths)))  # fmt: skip
    built = show("building the store", len(paths), rounds, partial(build, folder, run))
    print(f"  {built / alone:.2f} of Pillow's decoding alone, {built / square:.2f} with the resize")
    data = build(folder, run, fresh=False)
    batches = cut(data)
    epochs = iter(range(1_000_000))
    consume(batches.iterate_epoch(0))
    ours = show("store + batch augmentation", len(data.train.rows), 4 * rounds,
                lambda: consume(batches.iterate_epoch(next(epochs))))  # fmt: skip
    print(f"  {ours / theirs:.1f} times torchvision's")


def measure_training(root: Path, run: Path, rounds: int) -> None:
    """Measure what share of training the data path takes, inside the loop."""
    from neither.config.schema import Config, Data, Train
    from neither.runtime.devices import choose_device_config
    from neither.training.state import build_state
    from neither.training.step import train_step

    data = build(root, run)
    config = Config(name="x", classes=CLASSES, data=Data(root="x"), train=Train(epochs=100))
    device_config = choose_device_config("auto", "auto")
    state = build_state(config, PREPROCESSING, device_config)
    state.set_training_labels(data.train.labels)
    batches, shares = cut(data), []
    for epoch in range(rounds + 1):
        waited, started = 0.0, time.perf_counter()
        coming = batches.iterate_epoch(epoch)
        while True:
            asked = time.perf_counter()
            batch = next(coming, None)
            waited += time.perf_counter() - asked
            if batch is None:
                break
            train_step(state, batch, 0.1, device_config)
        shares.append(waited / (time.perf_counter() - started))
    spread = f"({100 * min(shares[1:]):.1f} - {100 * max(shares[1:]):.1f})"
    print(f"\ntraining in {device_config.precision}: the data path takes "
          f"{100 * statistics.median(shares[1:]):.1f} % {spread} of the time")  # fmt: skip


def show(what: str, num: int, rounds: int, work: Callable[[], object]) -> float:
    """Print and return images per second, the median of some rounds."""
    return results.measure(what, num, rounds, work)["median"]


def build(folder: Path, run: Path, fresh: bool = True) -> "Dataset":
    """Load a folder as training does; fresh forgets what was decoded before."""
    from neither.config.schema import Data
    from neither.data.dataset import load_dataset

    run.mkdir(exist_ok=True)
    if fresh:
        for path in [*Path(os.environ["XDG_CACHE_HOME"]).rglob("*.*"), run / "splits.csv"]:
            path.unlink(missing_ok=True)
    settings = Data(root=str(folder), val_fraction=0.05, test_fraction=0.0)
    return load_dataset(settings, CLASSES, 0, PREPROCESSING, run)


def cut(data: "Dataset") -> "Batches":
    """Cut the train split into batches as training does."""
    import torch

    from neither.config.schema import Augmentation
    from neither.data.batches import Batches

    return Batches(data, Augmentation(), 128, 0, torch.device("cpu"))


def load(path: Path) -> None:
    """Decode a file fully."""
    with Image.open(path) as image:
        image.load()


def load_square(path: Path) -> Image.Image:
    """Decode a file fully and bring it to the square, as most projects do."""
    with Image.open(path) as image:
        return image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)


def enlarge(paths: list[Path], below: Path, folder: Path) -> list[Path]:
    """Write the same pictures with a shorter side of 1,024 pixels."""
    targets = [folder / path.relative_to(below) for path in paths]
    for path, target in zip(paths, targets, strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            scale = LARGE / min(image.size)
            size = (round(image.width * scale), round(image.height * scale))
            image.resize(size, Image.Resampling.BICUBIC).save(target, quality=88)
    return targets


def consume(items: Iterator[object]) -> None:
    """Go through all."""
    for _ in items:
        pass


@contextmanager
def cached_in(folder: Path) -> Iterator[None]:
    """Keep decoded images in a folder of the benchmark's own."""
    folder.mkdir()
    os.environ["XDG_CACHE_HOME"] = str(folder)
    yield


if __name__ == "__main__":
    main()
