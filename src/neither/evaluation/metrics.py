"""Metrics of predicted classes and logits, and their 95 % intervals.

All metrics come from sums and counts that are divided once, so a last, partial batch counts
exactly. Intervals say how far a metric would move with other images of the same kind.
"""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from neither.models.softmax import to_log_probabilities

_NUM_DRAWS = 1000
_MAX_CHUNK_SIZE = 4_000_000  # numbers
_SEED = 0
_OUTER = torch.tensor([0.025, 0.975], dtype=torch.float64)


def confusion_matrix(labels: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
    """Count each pair of true and predicted class, from (N,) int64 labels and predictions.

    Returns:
        (C, C) int64 on the same device; row = true class, column = predicted class.
    """
    counts = torch.zeros(num_classes**2, dtype=torch.int64, device=labels.device)
    pairs = labels * num_classes + predicted
    # Not bincount: on a GPU that waits for the result.
    counts.scatter_add_(0, pairs, torch.ones_like(pairs))
    return counts.view(num_classes, num_classes)


def accuracy(confusion: Tensor) -> float:
    """Return the fraction of images whose predicted class is the true one, in [0, 1].

    Raises:
        ValueError: if there is no image.
    """
    total = int(confusion.sum())
    if total == 0:
        raise ValueError("no image to compute an accuracy of")
    return int(confusion.trace()) / total


def recalls(confusion: Tensor) -> list[float | None]:
    """Return the recall of each class; None for a class without images."""
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
        0 or more; ln C if all classes are equally probable. The sum is rounded once (`math.fsum`),
        so the order of the images does not change a digit.

    Raises:
        ValueError: if there is no image, or a logit is not finite.
    """
    if len(labels) == 0:
        raise ValueError("no image to average over")
    return math.fsum(cross_entropies(logits, labels, temperature).tolist()) / len(labels)


def cross_entropies(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return the (N,) float64 cross entropy of each image, in nats; `nll` is their mean."""
    return -to_log_probabilities(logits, temperature).gather(1, labels[:, None])[:, 0]


def per_class_metrics(
    confusion: Tensor, classes: Sequence[str]
) -> dict[str, dict[str, float | int]]:
    """Return precision, recall, f1 and the number of images of each class, by name.

    A metric whose denominator is 0 is absent.
    """
    columns = confusion.diagonal(), confusion.sum(dim=1), confusion.sum(dim=0)
    rows = zip(classes, *(column.tolist() for column in columns), strict=True)
    metrics: dict[str, dict[str, float | int]] = {}
    for name, hits, num_images, num_predicted in rows:
        metrics[name] = {"precision": hits / num_predicted} if num_predicted else {}
        if num_images:
            metrics[name]["recall"] = hits / num_images
            metrics[name]["f1"] = 2 * hits / (num_images + num_predicted)
        metrics[name]["num_images"] = num_images
    return metrics


def curve_metrics(loss: float, confusion: Tensor, classes: Sequence[str]) -> dict[str, float]:
    """Return the metrics that make curves over epochs; train and val have the same names."""
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


def wilson_interval(fraction: float, num: int) -> tuple[float, float]:
    """Return the 95 % interval of a fraction of `num` images (Wilson, 1927), in [0, 1].

    Unlike the bootstrap it has a width even if all of a few images are classified correctly.
    """
    z = 1.96
    scale = 1 + z * z / num
    middle = (fraction + z * z / (2 * num)) / scale
    half = z / scale * math.sqrt(fraction * (1 - fraction) / num + z * z / (4 * num * num))
    return max(0.0, middle - half), min(1.0, middle + half)


def describe_mean(values: Sequence[float]) -> dict[str, Any]:
    """Describe two or more independent values: their mean, and how certain it is.

    Returns:
        values; mean; std, of the values; interval: the 95 % confidence interval of the mean, from
        Student's t distribution (1908).
    """
    mean, spread, free = statistics.fmean(values), statistics.stdev(values), len(values) - 1
    # With t = sqrt(n) tan(a), for n degrees of freedom, the density of a is that of cos(a)^(n - 1).
    angles = torch.linspace(0, math.pi / 2, 1_000_001, dtype=torch.float64)
    mass = angles.cos().pow(free - 1).cumsum(dim=0)
    angle = float(angles[torch.searchsorted(mass, 0.95 * mass[-1])])
    half = math.sqrt(free) * math.tan(angle) * spread / math.sqrt(len(values))
    interval = [mean - half, mean + half]
    return {"values": list(values), "mean": mean, "std": spread, "interval": interval}


def _bootstrap(num_images: int, compute: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """Return the 95 % percentile interval of a metric of N images (Efron's bootstrap, 1979).

    `compute` takes (D, N) float64, how often each image occurs in each of D resampled sets, and
    returns the (D,) metrics; NaN where a set has none.
    """
    generator = torch.Generator().manual_seed(_SEED)
    metrics = []
    for num in chunk_draws(num_images):
        drawn = torch.randint(num_images, (num, num_images), generator=generator)
        counts = torch.zeros(num, num_images, dtype=torch.float64)
        metrics.append(compute(counts.scatter_add_(1, drawn, torch.ones_like(counts))))
    low, high = torch.cat(metrics).nanquantile(_OUTER).tolist()
    return low, high


def mean_interval(values: Tensor) -> tuple[float, float]:
    """Return the bootstrap interval of the mean of (N,) float64 values, one for each image."""
    return _bootstrap(len(values), lambda counts: counts @ values / len(values))


def macro_recall_interval(labels: Tensor, hits: Tensor) -> tuple[float, float]:
    """Return the bootstrap interval of the macro recall of (N,) labels and hits (bool)."""
    members = [(labels == index).double() for index in sorted(set(labels.tolist()))]

    def compute(counts: Tensor) -> Tensor:
        recalls = [counts @ (own * hits) / (counts @ own) for own in members]
        return torch.stack(recalls).nanmean(dim=0)

    return _bootstrap(len(labels), compute)


def chunk_draws(draw_size: int) -> Iterator[int]:
    """Yield numbers of draws, 1,000 together, such that each chunk of draws fits into memory."""
    chunk = max(1, min(_NUM_DRAWS, _MAX_CHUNK_SIZE // draw_size))
    for start in range(0, _NUM_DRAWS, chunk):
        yield min(chunk, _NUM_DRAWS - start)


def unique_scores(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct values of (N,) scores, ascending, and each score's (N,) index in them."""
    values, indices = scores.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    return values, indices


def sum_by_group(values: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """Return the (num_groups,) float64 sums of (N,) values by their (N,) groups."""
    sums = torch.zeros(num_groups, dtype=torch.float64)
    return sums.index_add_(0, groups, values.double())
