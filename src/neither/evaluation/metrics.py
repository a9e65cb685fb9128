"""Figures that sum up how good a classifier's answers are.

All come from sums and counts that are divided once, so the last, partial batch counts exactly.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from neither.model.softmax import to_log_probabilities


def count_confusions(labels: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
    """Count each pair of true and predicted class.

    Args:
        labels: (N,) int64, the true classes.
        predicted: (N,) int64.
        num_classes: C.

    Returns:
        (C, C) int64 on the same device; row = true class, column = predicted class.
    """
    counts = torch.zeros(num_classes**2, dtype=torch.int64, device=labels.device)
    pairs = labels * num_classes + predicted
    # Not bincount: on a GPU that waits for the result.
    counts.scatter_add_(0, pairs, torch.ones_like(pairs))
    return counts.view(num_classes, num_classes)


def accuracy(confusion: Tensor) -> float:
    """Return the share of images whose predicted class is the true one, in [0, 1].

    Raises:
        ValueError: if there is no image.
    """
    total = int(confusion.sum())
    if total == 0:
        raise ValueError("no image to take a share of")
    return int(confusion.trace()) / total


def recalls(confusion: Tensor) -> list[float | None]:
    """Return for each class the share of its images that were found; None without images."""
    hits, totals = confusion.diagonal().tolist(), confusion.sum(dim=1).tolist()
    return [hit / total if total else None for hit, total in zip(hits, totals, strict=True)]


def macro_recall(confusion: Tensor) -> float:
    """Average the recall of the classes, so that a rare class counts as much as a common one.

    Also known as balanced accuracy (Brodersen et al., 2010).

    Args:
        confusion: (C, C) int64 counts; row = true class, column = predicted class.

    Returns:
        In [0, 1]. Classes without images are left out of the average.

    Raises:
        ValueError: if no class has an image.
    """
    present = [recall for recall in recalls(confusion) if recall is not None]
    if not present:
        raise ValueError("no class has an image")
    return math.fsum(present) / len(present)


def nll(logits: Tensor, labels: Tensor, temperature: float) -> float:
    """Average the negative log-likelihood of the true classes: cross entropy, in nats.

    Args:
        logits: (N, C).
        labels: (N,) int64.
        temperature: T > 0.

    Returns:
        0 or more; ln C for a classifier that knows nothing and says so. The sum is rounded once
        (`math.fsum`), so the order of the images does not change a digit.

    Raises:
        ValueError: if there is no image, or a logit is not finite.
    """
    if len(labels) == 0:
        raise ValueError("no image to average over")
    return math.fsum(losses(logits, labels, temperature).tolist()) / len(labels)


def losses(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return the (N,) float64 cross entropy of each image, in nats; `nll` is their mean."""
    return -to_log_probabilities(logits, temperature).gather(1, labels[:, None])[:, 0]


def per_class(confusion: Tensor, classes: Sequence[str]) -> dict[str, dict[str, float | int]]:
    """Return precision, recall, f1 and the number of images of each class, by name.

    What has nothing to be divided by is absent.

    Args:
        confusion: (C, C) int64 counts.
        classes: C names.
    """
    return {name: _class_figures(confusion, number) for number, name in enumerate(classes)}


def curve_figures(loss: float, confusion: Tensor, classes: Sequence[str]) -> dict[str, float]:
    """Name the figures that make curves; train and val share the names.

    Args:
        loss: mean over the images.
        confusion: (C, C) int64 counts.
        classes: C names.
    """
    named = {
        f"recall/{name}": recall
        for name, recall in zip(classes, recalls(confusion), strict=True)
        if recall is not None
    }
    return {
        "loss": loss,
        "accuracy": accuracy(confusion),
        "macro_recall": macro_recall(confusion),
        **named,
    }


def _class_figures(confusion: Tensor, number: int) -> dict[str, float | int]:
    hits = int(confusion[number, number])
    true, predicted = int(confusion[number].sum()), int(confusion[:, number].sum())
    figures: dict[str, float | int] = {}
    if predicted:
        figures["precision"] = hits / predicted
    if true:
        figures["recall"] = hits / true
        figures["f1"] = 2 * hits / (true + predicted)
    return figures | {"num_images": true}
