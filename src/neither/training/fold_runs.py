"""A run for each fold of a cross-validation, where the network is trained and not only its head."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neither.config.schema import Config
from neither.data.dataset import Split
from neither.data.fingerprints import hex_digests
from neither.data.folds import split_fold
from neither.data.split_file import csv_line, safe_cell
from neither.data.splits import SPLITS
from neither.inference.classifier import load_classifier
from neither.runtime import files
from neither.runtime.console import info, printable
from neither.runtime.devices import choose_device_config
from neither.runtime.errors import DataError, UsageError
from neither.training.trainer import run_training


def plan_folds(
    config: Config,
    images: Split,
    is_val: NDArray[np.bool_],
    fingerprints: NDArray[np.void],
    folds: Tensor,
    groups: Sequence[str],
) -> list[bytes]:
    """Return the content of the manifest of each fold's run: the fold is test, the rest train.

    Given are N images of train and val, which of them are of val (these stay there if they can: see
    `split_fold`), their fingerprints, folds from 0, and groups, as `group_names` returns them.

    Raises:
        DataError: if some run would lack images of a class.
    """
    hashes = hex_digests(fingerprints)
    names = [config.classes[label] for label in images.labels.tolist()]
    paths = [safe_cell(str(path.resolve())) for path in _find(config, images.paths)]
    manifests = []
    for fold in range(int(folds.max()) + 1):
        is_left_out = (folds == fold).numpy()
        labels = images.labels.numpy()
        splits = split_fold(is_left_out, is_val, groups, labels, fingerprints, config.seed)
        if splits is None:
            source = images.sources[int(is_left_out.argmax())]
            raise DataError(
                f"{config.data.source}: without fold {fold + 1}"
                f"{f' (source {printable(source)})' if source else ''} train or val of a run has "
                "no image of some class; add images of each class from other sources"
            )
        # The hashes are not read: they show whether the same images are behind the paths.
        columns = zip(paths, names, [SPLITS[split] for split in splits], hashes, strict=True)
        rows = [["path", "label", "split", "sha256"], *columns]
        manifests.append(b"".join(map(csv_line, rows)))
    return manifests


def train_folds(
    config: Config, folder: Path, images: Split, folds: Tensor, manifests: Sequence[bytes]
) -> Tensor:
    """Train a run for each fold on the others, or go on with it where it stopped.

    The runs are in the folders `0`, `1`, ... of a folder; manifests are those of `plan_folds`.

    Returns:
        (1, N, C) float64 logits, each image's from the run that has not seen its fold.

    Raises:
        UsageError: if the folder holds runs of other folds.
    """
    places = [folder / str(fold) for fold in range(len(manifests))]
    for place, content in zip(places, manifests, strict=True):
        manifest = place / "images.csv"
        if manifest.exists() and manifest.read_bytes() != content:
            raise UsageError(
                f"{folder}: these folds are of other images, or of another --folds; start again "
                "with --fresh, which keeps them under another name"
            )
    logits = torch.zeros(1, len(images.paths), len(config.classes), dtype=torch.float64)
    for fold, (place, content) in enumerate(zip(places, manifests, strict=True)):
        place.mkdir(parents=True, exist_ok=True)
        files.write_atomic(place / "images.csv", content)
        indices = (folds == fold).nonzero()[:, 0].tolist()
        info(f"fold {fold + 1} of {len(places)}: {len(indices):,} images left out")
        with run_training(_configure(config, fold, place / "images.csv"), place / "run", False):
            device = choose_device_config(config.device, "float32").device
            classifier = load_classifier(place / "run", device)
            paths = _find(config, [images.paths[index] for index in indices])
            results = classifier.predict_files(paths)
            for index, path, result in zip(indices, paths, results, strict=True):
                if result.logits is None:
                    raise DataError(f"{path}: {result.prediction.error}")
                logits[0, index] = result.logits.double()
    return logits


def _configure(config: Config, fold: int, manifest: Path) -> Config:
    """Return the config of the run of a fold.

    The manifest has absolute paths, correct classes, and each group in one split: what the config
    says of paths and labels is done.
    """
    data: dict[str, Any] = {
        "root": None, "manifest": str(manifest), "sources": None, "group_pattern": None,
        "aliases": {}, "ignored_folders": (), "corrections": None,
    }  # fmt: skip
    changes = {
        "name": f"{config.name}-{fold}",
        "data": config.data.model_copy(update=data),
        "decision": config.decision.model_copy(update={"cross_validation": None}),
    }
    return config.model_copy(update=changes)


def _find(config: Config, paths: Sequence[str]) -> list[Path]:
    """Return where images are that the config's folder or manifest names."""
    return [config.data.folder / path for path in paths]
