"""Images that share a score, and sums over groups of images.

Figures that sum up how good a classifier's answers are.

All come from sums and counts that are divided once, so the last, partial batch counts exactly.

How far a figure would move with other images of the same kind.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from neither.models.softmax import to_log_probabilities


def group_ties(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the different scores, from the lowest to the highest, and each image's place there.

    Args:
        scores: (N,).
    """
    values, places = scores.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    return values, places


def sum_by_group(values: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """Return the (num_groups,) float64 sums of (N,) values by their (N,) groups."""
    sums = torch.zeros(num_groups, dtype=torch.float64)
    return sums.index_add_(0, groups, values.double())


def confusion_matrix(labels: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
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
    return math.fsum(cross_entropies(logits, labels, temperature).tolist()) / len(labels)


def cross_entropies(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return the (N,) float64 cross entropy of each image, in nats; `nll` is their mean."""
    return -to_log_probabilities(logits, temperature).gather(1, labels[:, None])[:, 0]


def per_class_metrics(
    confusion: Tensor, classes: Sequence[str]
) -> dict[str, dict[str, float | int]]:
    """Return precision, recall, f1 and the number of images of each class, by name.

    What has nothing to be divided by is absent.

    Args:
        confusion: (C, C) int64 counts.
        classes: C names.
    """
    return {name: _class_figures(confusion, number) for number, name in enumerate(classes)}


def curve_metrics(loss: float, confusion: Tensor, classes: Sequence[str]) -> dict[str, float]:
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


_NUM_DRAWS = 1000
_MOST_AT_ONCE = 4_000_000  # counts
_SEED = 0
_OUTER = torch.tensor([0.025, 0.975], dtype=torch.float64)


def bootstrap_interval(
    num_images: int, figures_of: Callable[[Tensor], Tensor]
) -> tuple[float, float]:
    """Return the middle 95 % of a figure over redrawn sets of images (Efron's bootstrap, 1979).

    Args:
        num_images: N of 1 or more.
        figures_of: takes (D, N) float64, how often each image is in each of D sets, and returns the
            (D,) figures; NaN where a set has none.
    """
    generator = torch.Generator().manual_seed(_SEED)
    at_once = max(1, min(_NUM_DRAWS, _MOST_AT_ONCE // num_images))
    figures = []
    for start in range(0, _NUM_DRAWS, at_once):
        num = min(at_once, _NUM_DRAWS - start)
        drawn = torch.randint(num_images, (num, num_images), generator=generator)
        counts = torch.zeros(num, num_images, dtype=torch.float64)
        figures.append(figures_of(counts.scatter_add_(1, drawn, torch.ones_like(counts))))
    low, high = torch.cat(figures).nanquantile(_OUTER).tolist()
    return low, high


def mean_interval(values: Tensor) -> tuple[float, float]:
    """Return the interval of a mean over images.

    Args:
        values: (N,) float64, one for each image.
    """
    return bootstrap_interval(len(values), lambda counts: counts @ values / len(values))


def macro_recall_interval(labels: Tensor, hits: Tensor) -> tuple[float, float]:
    """Return the interval of the mean of the classes' recalls.

    Args:
        labels: (N,) int64.
        hits: (N,) bool, which predictions are right.
    """
    members = [(labels == number).double() for number in sorted(set(labels.tolist()))]

    def figures_of(counts: Tensor) -> Tensor:
        recalls = [counts @ (own * hits) / (counts @ own) for own in members]
        return torch.stack(recalls).nanmean(dim=0)

    return bootstrap_interval(len(labels), figures_of)


def wilson_interval(share: float, num: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of `num` images (Wilson, 1927), in [0, 1].

    Unlike the bootstrap it says something where all of a few images are right.
    """
    z = 1.96
    middle = (share + z * z / (2 * num)) / (1 + z * z / num)
    half = z / (1 + z * z / num) * math.sqrt(share * (1 - share) / num + z * z / (4 * num * num))
    return max(0.0, middle - half), min(1.0, middle + half)
