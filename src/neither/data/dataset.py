"""The images of one run: found, in their splits for good, decoded, ready to train on."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neither.config.schema import Data
from neither.data.layout import find_training_images
from neither.data.manifest import find_training_rows
from neither.data.preprocessing import Preprocessing
from neither.data.scan import ImageTable
from neither.data.split_file import data_fingerprint, match_splits, write_splits
from neither.data.splits import (
    SPLITS,
    SplitAssignment,
    assign_splits,
    check_class_counts,
    log_split_summary,
)
from neither.data.store import ImageStore, build_store
from neither.runtime.console import info, printable, warn

_MEMORY_SHARE = 0.5  # of what is free: the rest is for the network and everybody else


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
        OutputError: if decoded images cannot be kept.
    """
    found = find_images(settings, classes)
    for note in found.notes:
        info(note)
    for refusal in found.unreadable_folders:
        warn(refusal)
    store = build_store(
        found.root, found.paths, found.source, preprocessing, run_folder / "cache",
        settings.max_unreadable,
    )  # fmt: skip
    splits_file = run_folder / "splits.csv"
    if splits_file.exists():
        assignment, added = match_splits(splits_file, found, store)
        if added:
            info(f"{len(added):,} images added since this run began are left out, "
                f"{printable(added[0])} among them; --fresh takes them in")  # fmt: skip
    else:
        assignment = assign_splits(found, store, seed, settings)
        check_class_counts(found, assignment, classes)
        write_splits(splits_file, found, store, assignment)
    log_split_summary(found, store, assignment, classes)
    used = np.flatnonzero(
        np.isin(assignment.split_indices, [SPLITS.index("train"), SPLITS.index("val")])
    )
    pixels, rows = _keep(store, used, settings.store)
    return Dataset(
        pixels,
        _select(found, assignment, "train", classes, rows),
        _select(found, assignment, "val", classes, rows),
        data_fingerprint(found, store, assignment),
    )


def find_images(settings: Data, classes: Sequence[str]) -> ImageTable:
    """Find the images that a config names, in a folder or by a manifest.

    Raises:
        UsageError: if the folder or manifest does not exist.
        DataError: if it is not as it must be.
    """
    find = find_training_images if settings.manifest is None else find_training_rows
    return find(settings.source, classes, settings.ignored_folders, settings.aliases)


def _keep(
    store: ImageStore, used: NDArray[np.int64], kind: str
) -> tuple[Tensor, NDArray[np.int64]]:
    """Return the pixels to train and validate on, and in which row of them each image lies.

    In memory only these are kept: nothing of test may reach training.
    """
    num_bytes = len(used) * int(np.prod(store.pixels.shape[1:]))
    if kind == "auto":
        kind = "memory" if num_bytes <= _MEMORY_SHARE * _free_memory() else "disk"
    if kind == "disk":
        return torch.from_numpy(store.pixels), store.rows
    rows = np.full(len(store.rows), -1, np.int64)
    rows[used] = np.arange(len(used))
    return torch.from_numpy(np.ascontiguousarray(store.pixels[store.rows[used]])), rows


def _select(
    found: ImageTable,
    assignment: SplitAssignment,
    split: str,
    classes: Sequence[str],
    rows: NDArray[np.int64],
) -> Split:
    places = np.flatnonzero(assignment.split_indices == SPLITS.index(split))
    numbers = {name: number for number, name in enumerate(classes)}
    return Split(
        [found.paths[place] for place in places],
        torch.from_numpy(rows[places]),
        torch.tensor([numbers[found.labels[place]] for place in places], dtype=torch.int64),
    )


def _free_memory() -> int:
    """Estimate the free memory in bytes; 4 GB where the system does not say.

    Of several processes that `torchrun` starts on a machine each has its part.
    """
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        free = 4 << 30
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
