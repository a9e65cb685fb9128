"""A teacher: a finished run whose probabilities a network learns beside the labels (distillation).

Teacher and student see the same views of an image (Beyer et al., "Knowledge distillation: a good
teacher is patient and consistent", 2022): a view is a crop that depends on the seed and the image.
The teacher answers a few views of each image once, before training, at its own image size, and
epoch after epoch the student is shown one after the other. All other changes, which hardly matter
to the teacher (flip, rotation, color) or are made up for (CutMix), are the student's alone.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neither.config.schema import Config
from neither.data.augmentation import crop
from neither.data.batches import view_uniforms
from neither.data.dataset import Dataset, Split
from neither.data.scan import ImageTable
from neither.data.store import build_store
from neither.inference.classifier import compute_outputs
from neither.inference.embedding import compute_cached
from neither.models.checkpoint import Checkpoint, load_checkpoint
from neither.models.efficientnet_lite import fused
from neither.models.softmax import to_probabilities
from neither.runtime.console import warn
from neither.runtime.errors import CheckpointError, DataError, prefixed
from neither.training.run_folder import RunFolder
from neither.training.warm_start import count_seen, find_trained_on

_NUM_VIEWS = 8


def load_teacher(config: Config, run: RunFolder) -> Checkpoint | None:
    """Load the teacher of a run, or its copy in the folder of a resumed one; None if it has none.

    Raises:
        UsageError: if there is no such run or checkpoint.
        CheckpointError: if the checkpoint cannot be used, or has other classes.
    """
    if config.train.teacher is None:
        return None
    path = Path(config.train.teacher).expanduser()
    if run.resumed is not None:  # the run may have been trained again since then, or be gone
        path = run.teacher
    with prefixed("train.teacher"):
        teacher = load_checkpoint(path)
    if set(teacher.classes) != set(config.classes):
        raise CheckpointError(
            f"train.teacher: {path}: its classes are {', '.join(teacher.classes)}, those of this "
            f"run {', '.join(config.classes)}; they must be the same, in any order"
        )
    return teacher


def check_seen_by_teacher(config: Config, data: Dataset, left_out: bool = False) -> None:
    """Warn of val images that the teacher was trained on, or of all if some of all are left out."""
    path = Path(config.train.teacher or "").expanduser()
    seen = find_trained_on(path) or set()
    num = count_seen(data, data.val, seen) + left_out * count_seen(data, data.train, seen)
    if num:
        what = "images that are left out" if left_out else f"{len(data.val.rows):,} images of val"
        warn(
            f"train.teacher: {path} was trained on {num:,} of the {what}: metrics on them are too "
            "good"
        )


def answer_views(
    teacher: Checkpoint, config: Config, run: RunFolder, data: Dataset, device: torch.device
) -> Tensor:
    """Compute the teacher's calibrated probabilities for each view of each image to train on.

    They are kept on disk, so a run that is stopped resumes, and a second run computes nothing.
    Images become squares in the way of the student.

    Returns:
        (N, K, C) float32 on the CPU, in the order of `config.classes`: those of train, and then
        those without labels.

    Raises:
        DataError: if images have changed since they were found.
        CheckpointError: if the logits are not finite.
        Stopped: if a signal asks to stop; what was computed is kept.
    """
    own = replace(teacher.preprocessing, resize=data.preprocessing.resize)
    network = fused(teacher.build().to(device))
    settings = (own.fingerprint(), _NUM_VIEWS, config.seed, config.augmentation.crop_scale)

    def ask(split: Split, table: ImageTable) -> Tensor:
        hashes = data.image_fingerprints["sha256"][split.rows.numpy()]
        store = build_store(table, own, run.folder / "cache", config.data.max_unreadable)
        if not np.array_equal(store.fingerprints["sha256"], hashes):
            raise DataError(f"{table.source}: images were changed just now; start again")

        def answer(rows: NDArray[np.int64]) -> Tensor:
            pixels, indices = torch.from_numpy(store.gather(rows)), torch.arange(len(rows))
            views = []
            for view in range(_NUM_VIEWS):
                uniforms = torch.from_numpy(view_uniforms(config.seed, view, hashes[rows]))
                images = crop(pixels, uniforms, config.augmentation)
                views.append(compute_outputs(network, images, indices, own, device))
            return torch.stack(views, dim=1)

        name = "asking the teacher"
        return compute_cached(name, network, settings, device, answer, hashes, table.source)

    train, unlabelled = data.train, data.unlabelled
    logits = ask(train, ImageTable(config.data.folder, config.data.source, train.paths))
    if unlabelled.paths:
        folder = Path(config.data.unlabelled or "").expanduser()
        more = ask(unlabelled, ImageTable(folder, folder, unlabelled.paths))
        logits = torch.cat([logits, more])
    try:
        probabilities = to_probabilities(logits.flatten(0, 1), teacher.temperature)
    except ValueError as error:
        raise CheckpointError(f"train.teacher: {config.train.teacher}: {error}") from error
    order = [teacher.classes.index(name) for name in config.classes]
    return probabilities[:, order].float().view_as(logits)
