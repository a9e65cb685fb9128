"""The images of one run: found, in their splits for good, decoded, ready to train on."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from neither.config import Data
from neither.data.decode import Preprocessing, hash_file
from neither.data.layout import find_training_images
from neither.data.processes import map_in_processes
from neither.data.splits import (
    Row,
    assign,
    check_counts,
    match_again,
    read_splits,
    write_splits,
)  # fmt: skip
from neither.data.store import build_store
from neither.terminal import printable, say, warn

_MAX_NAMED = 10  # unreadable files named on the screen; all of them stand in splits.csv


@dataclass(frozen=True)
class Split:
    """One split: rows of the store and their classes.

    Attributes:
        paths: below the root.
        rows: (N,) int64, where the pixels of each image lie in `Dataset.pixels`.
        labels: (N,) int64, the number of each image's class.
    """

    paths: list[str]
    rows: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Dataset:
    """All images of a run.

    Attributes:
        pixels: (N, S, S, 3) uint8 RGB.
        train: what is trained on.
        val: what chooses the best epoch.
        fingerprint: a hash of every path, label, split and content.
    """

    pixels: Tensor
    train: Split
    val: Split
    fingerprint: str


def load_dataset(
    settings: Data,
    classes: Sequence[str],
    seed: int,
    preprocessing: Preprocessing,
    run_folder: Path,
) -> Dataset:
    """Find, split and decode the images of a run, and write its `splits.csv`.

    A run that has a `splits.csv` keeps to it.

    Raises:
        DataError: if the folders, or the images since the run began, are not as they must be.
    """
    found = find_training_images(
        Path(settings.root).expanduser(), classes, settings.ignored_folders
    )
    for note in found.notes:
        say(note)
    for refusal in found.refused:
        warn(refusal)
    # Test images are read for their hash alone: nothing of them may reach training.
    seen = [image for image in found.images if image.split != "test"]
    unseen = [image for image in found.images if image.split == "test"]
    store = build_store(
        [found.root / image.path for image in seen], preprocessing, settings.store, run_folder
    )
    hashed = map_in_processes(hash_file, [found.root / image.path for image in unseen])
    decoded = [*store.decoded, *hashed]
    images = [*seen, *unseen]
    hashes = [each.sha256 for each in decoded]
    reasons = [each.reason for each in decoded]
    splits_file = run_folder / "splits.csv"
    if splits_file.exists():
        rows, added = match_again(read_splits(splits_file), images, hashes, reasons)
        if added:
            say(f"{len(added):,} images added since this run began are left out, "
                f"{printable(added[0])} among them; --fresh takes them in")  # fmt: skip
    else:
        rows = assign(images, hashes, reasons, seed, settings.val_fraction, settings.test_fraction)
        check_counts(rows, classes)
        write_splits(splits_file, rows)
    _report(rows, classes)
    readable = [image.path for image, each in zip(seen, store.decoded, strict=True)
                if not each.reason]  # fmt: skip
    places = {path: place for place, path in enumerate(readable)}
    return Dataset(
        torch.from_numpy(store.pixels),
        _select(rows, "train", classes, places),
        _select(rows, "val", classes, places),
        sha256("".join(map(str, rows)).encode("utf-8", "surrogateescape")).hexdigest(),
    )


def _select(
    rows: Sequence[Row], split: str, classes: Sequence[str], places: dict[str, int]
) -> Split:
    chosen = [row for row in rows if row.split == split]
    numbers = {name: number for number, name in enumerate(classes)}
    return Split(
        [row.path for row in chosen],
        torch.tensor([places[row.path] for row in chosen], dtype=torch.int64),
        torch.tensor([numbers[row.label] for row in chosen], dtype=torch.int64),
    )


def _report(rows: Sequence[Row], classes: Sequence[str]) -> None:
    counts = Counter((row.split, row.label) for row in rows)
    for split in ("train", "val", "test"):
        parts = ", ".join(f"{name} {counts[split, name]:,}" for name in classes)
        total = sum(counts[split, name] for name in classes)
        say(f"{split:5} {total:7,} images: {parts}")
    left_out = [row for row in rows if not row.split]
    if left_out:
        warn(f"{len(left_out):,} unreadable images are left out; splits.csv lists each")
        for row in left_out[:_MAX_NAMED]:
            warn(f"  {printable(row.path)}: {row.reason}")
