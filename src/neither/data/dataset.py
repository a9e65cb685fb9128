"""The images of one run: found, decoded, split for good, ready to train on."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neither.config.schema import Data
from neither.data.corrections import apply_answers, read_answers
from neither.data.fingerprints import FINGERPRINT
from neither.data.image_file import describe_no_images
from neither.data.layout import find_training_images, require_folder
from neither.data.manifest import find_training_rows
from neither.data.preprocessing import Preprocessing
from neither.data.scan import ImageTable
from neither.data.sources import log_sources, name_sources
from neither.data.split_file import data_fingerprint, match_splits, write_splits
from neither.data.splits import (
    DROPPED_IN_REVIEW,
    SPLITS,
    assign_splits,
    assign_unlabelled,
    check_class_counts,
    log_split_summary,
    log_unlabelled,
)
from neither.data.store import ImageStore, build_store, join
from neither.runtime.console import info, printable, warn
from neither.runtime.errors import DataError, UsageError, prefixed
from neither.runtime.limits import free_memory

_MEMORY_FRACTION = 0.5  # of what is free: the rest is for the network and other programs


class MappedPixels:
    """The pixels of M images on disk, which are gathered as those of a tensor are.

    Attributes:
        shape: (M, S, S, 3).
    """

    def __init__(self, store: ImageStore, indices: NDArray[np.int64]) -> None:
        """Take the images of these (M,) indices."""
        self._store = store
        self._indices = indices
        self.shape = torch.Size((len(indices), *store.shards[0].shape[1:]))

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Copy (B,) images from disk; return (B, S, S, 3) uint8."""
        return torch.from_numpy(self._store.gather(self._indices[rows.numpy()]))


@dataclass(frozen=True)
class Split:
    """The images of one split."""

    paths: list[str]  # below the root
    rows: Tensor  # (N,) int64, the row of each image in `Dataset.pixels`
    labels: Tensor  # (N,) int64, the index of each image's class
    # where each image comes from; empty for images without a source
    sources: list[str] = field(default_factory=list)


NO_IMAGES = Split([], torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))


@dataclass(frozen=True)
class Dataset:
    """The images that a run trains and validates on."""

    # (M, S, S, 3) uint8 RGB of train, val and unlabelled images, in memory or mapped from disk
    pixels: Tensor | MappedPixels
    train: Split  # the images to train on
    val: Split  # the images that choose the best epoch
    classes: Sequence[str]  # their names, in the order of the labels
    preprocessing: Preprocessing  # how the images were decoded
    fingerprint: str  # a hash of every path, label, split and content
    # (M,) records of `FINGERPRINT`
    image_fingerprints: NDArray[np.void] = field(default_factory=lambda: np.zeros(0, FINGERPRINT))
    # images to train on without labels (these are -1), below `data.unlabelled`
    unlabelled: Split = NO_IMAGES


def load_dataset(
    settings: Data,
    classes: Sequence[str],
    seed: int,
    preprocessing: Preprocessing,
    run_folder: Path,
) -> Dataset:
    """Find, decode and split the images of a run, and write its `splits.csv`.

    A run that has a `splits.csv` keeps to it.

    Raises:
        UsageError: if the folder, manifest or file of corrections does not exist.
        DataError: if folders or corrections are not as required, too many images are unreadable, or
            images of the run are changed or missing.
        OutputError: if decoded images cannot be kept, or a decoding process was killed.
    """
    answers = read_answers(settings.corrections, classes, settings.aliases)
    table = find_images(settings, classes)
    unlabelled = find_unlabelled(settings)
    for each in (table, unlabelled):
        for note in each.notes:
            info(note)
        for message in each.unreadable_folders:
            warn(message)
    store = build_store(table, preprocessing, run_folder / "cache", settings.max_unreadable)
    splits_file = run_folder / "splits.csv"
    if splits_file.exists():
        assignment, added = match_splits(splits_file, table, store, answers)
        if added:
            info(f"{len(added):,} images added since this run began are left out, "
                f"{printable(added[0])} among them; --fresh takes them in")  # fmt: skip
    else:
        assignment = assign_splits(table, store, seed, settings)
        splits = [SPLITS[index] for index in assignment.split_indices]
        for index in apply_answers(table, store.hashes, splits, answers):
            assignment.split_indices[index] = 0
            assignment.reasons[index] = DROPPED_IN_REVIEW
        check_class_counts(table, assignment, classes)
        write_splits(splits_file, table, store, assignment)
    log_split_summary(table, store, assignment, classes)
    log_sources(table, assignment)
    masks = [assignment.split_indices == SPLITS.index(split) for split in ("train", "val")]
    used = np.flatnonzero(masks[0] | masks[1])  # nothing of test may reach training
    train, val = (_select(table, np.flatnonzero(mask), used, classes) for mask in masks)
    fingerprint, others = data_fingerprint(table, store, assignment), NO_IMAGES
    if unlabelled.paths:
        with prefixed("data.unlabelled"):
            own = build_store(
                unlabelled, preprocessing, run_folder / "cache", settings.max_unreadable
            )
        store = join(store, own)
        file = run_folder / "unlabelled.csv"
        if file.exists():
            with prefixed("data.unlabelled"):
                own_assignment, _ = match_splits(file, unlabelled, own)
        else:
            pattern = settings.group_pattern
            own_assignment = assign_unlabelled(unlabelled, table, store, assignment, pattern)
            write_splits(file, unlabelled, own, own_assignment)
        log_unlabelled(unlabelled, own, own_assignment)
        fingerprint += data_fingerprint(unlabelled, own, own_assignment)
        indices = np.flatnonzero(own_assignment.split_indices)
        paths = [unlabelled.paths[index] for index in indices.tolist()]
        rows = torch.arange(len(used), len(used) + len(indices))
        others = Split(paths, rows, torch.full_like(rows, -1))
        used = np.concatenate([used, len(table.paths) + indices])
    pixels = _load_pixels(MappedPixels(store, used), settings.store)
    return Dataset(
        pixels, train, val, classes, preprocessing, fingerprint, store.fingerprints[used], others
    )


def find_images(settings: Data, classes: Sequence[str]) -> ImageTable:
    """Find the images that a config names, in a folder or by a manifest, with their sources.

    Raises:
        UsageError: if the folder or manifest does not exist.
        DataError: if it is not as it must be.
    """
    find = find_training_images if settings.manifest is None else find_training_rows
    table = find(settings.source, classes, settings.ignored_folders, settings.aliases)
    name_sources(table, settings.sources)
    return table


def find_unlabelled(settings: Data) -> ImageTable:
    """Find the images of `data.unlabelled`, in all folders below it; none if it is not set.

    Raises:
        UsageError: if the folder does not exist, or lies inside `data.root` or around it.
        DataError: if it has no images, or cannot be read.
    """
    folder = Path(settings.unlabelled or "").expanduser()
    table = ImageTable(folder, folder)
    if settings.unlabelled is None:
        return table
    with prefixed("data.unlabelled"):
        require_folder(folder)
        one, other = folder.resolve(), settings.source.resolve()
        if one.is_relative_to(other) or other.is_relative_to(one):
            raise UsageError(f"{folder}: not apart from {settings.source}; name a folder beside it")
        table.add(table.scan(folder), "", "train")
        if not table.paths:
            raise DataError(f"{folder}: {describe_no_images(table.listing.others)}")
    return table


def _select(
    table: ImageTable, indices: NDArray[np.int64], used: NDArray[np.int64], classes: Sequence[str]
) -> Split:
    class_indices = {name: index for index, name in enumerate(classes)}
    return Split(
        [table.paths[index] for index in indices],
        torch.from_numpy(np.searchsorted(used, indices)),
        torch.tensor([class_indices[table.labels[index]] for index in indices], dtype=torch.int64),
        [table.sources[index] for index in indices],
    )


def _load_pixels(pixels: MappedPixels, store: str) -> Tensor | MappedPixels:
    """Bring pixels to memory if `data.store` says so, or says auto and they fit."""
    num_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # of torchrun, on this machine
    fits = pixels.shape.numel() <= _MEMORY_FRACTION * free_memory() / num_ranks
    if store == "memory" or (store == "auto" and fits):
        return pixels[torch.arange(pixels.shape[0])]
    return pixels
