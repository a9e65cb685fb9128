"""Start from an own run: which images it has seen, and whether training made it better."""

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from neither.config.schema import Config
from neither.data.dataset import Dataset, Split
from neither.data.fingerprints import hex_digests
from neither.data.split_file import read_hashes
from neither.evaluation.evaluation import Evaluation
from neither.inference.classifier import Classifier
from neither.models.checkpoint import Checkpoint, find_run
from neither.runtime.console import info, warn
from neither.runtime.errors import UserError
from neither.training.validation import logit_metrics


def check_seen_images(
    config: Config, initial: Checkpoint, data: Dataset, left_out: str = ""
) -> None:
    """Warn of val images that the initial network has seen, and where a fresh run may be better.

    `left_out` is what is computed for images of train that are left out, if anything.
    """
    path = config.model.weights
    seen = find_trained_on(Path(path).expanduser())
    if seen is None:
        info(f"{path}: the images that it was trained on are not known; val may hold some of them")
        return
    num_train, num_val = (count_seen(data, split, seen) for split in (data.train, data.val))
    if num_val:
        warn(
            f"{path} was trained on {num_val:,} of the {len(data.val.rows):,} images of val: "
            "metrics on them are too good; leave them out, or use seed and split fractions of that "
            "run"
        )
    if left_out and num_train and initial.model.trainable == "all":
        warn(f"{path} was trained on {num_train:,} of the images of train: {left_out} are too good")
    name = initial.model.name
    is_from_random = name == "small_cnn" or (
        initial.model.weights == "none" and name != "softmax_regression"  # whose loss is convex
    )
    if 0 < num_train < len(data.train.rows) and config.model.trainable == "all" and is_from_random:
        warn(
            f"{path} was trained from random weights on {num_train:,} of these "
            f"{len(data.train.rows):,} training images. A network that continues from such weights "
            "often generalises worse than one trained on all images from the start (Ash and Adams, "
            "2020): where time allows, compare it with a run with model.weights=none"
        )


def find_trained_on(path: Path) -> set[str] | None:
    """Return the SHA-256 of the images that a run was trained on; None if they are not known."""
    with suppress(UserError):
        return read_hashes(find_run(path) / "splits.csv", "train")
    return None


def count_seen(data: Dataset, split: Split, seen: Collection[str]) -> int:
    """Count the images of a split with one of these SHA-256."""
    fingerprints = data.image_fingerprints[split.rows.numpy()]
    return sum(digest in seen for digest in hex_digests(fingerprints))


def compare(initial: Classifier, name: str, evaluation: Evaluation) -> dict[str, Any]:
    """Compare a run with its initial network, of this name, on val images of classes both know.

    Returns:
        `compared_with` in metrics.json. If there are no such images, it has no metrics.
    """
    classes, labelled = evaluation.metrics["classes"], evaluation.labelled
    lacking = [each for each in classes if each not in initial.classes]
    comparison: dict[str, Any] = {"weights": name, "lacking": lacking, "num_images": 0}
    if labelled is None:
        return comparison
    own = [initial.classes.index(each) if each in initial.classes else -1 for each in classes]
    labels = torch.tensor(own)[labelled.labels]
    indices = (labels >= 0).nonzero()[:, 0].tolist()
    results = initial.predict_files(labelled.files[index] for index in indices)
    pairs = [(index, result.logits) for index, result in zip(indices, results, strict=True)
             if result.logits is not None]  # fmt: skip
    if not pairs:
        return comparison
    rows = torch.tensor([index for index, _ in pairs])
    before = initial.scores(torch.stack([logits for _, logits in pairs]))
    after = labelled.probabilities[rows].log()
    comparison["before"] = logit_metrics(before, labels[rows], initial.classes)
    comparison["after"] = logit_metrics(after, labelled.labels[rows], classes)
    info(
        f"val images of classes that {name} knows, {len(pairs):,}: macro recall "
        f"{comparison['before']['macro_recall']:.3f} before, "
        f"{comparison['after']['macro_recall']:.3f} now"
    )
    return comparison | {"num_images": len(pairs)}
