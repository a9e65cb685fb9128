"""How far a figure would move with other images of the same kind."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

_NUM_DRAWS = 1000
_MOST_AT_ONCE = 4_000_000  # counts
_SEED = 0
_OUTER = torch.tensor([0.025, 0.975], dtype=torch.float64)


def interval(num_images: int, figures_of: Callable[[Tensor], Tensor]) -> tuple[float, float]:
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
    return interval(len(values), lambda counts: counts @ values / len(values))


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

    return interval(len(labels), figures_of)


def share_interval(share: float, num: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of `num` images (Wilson, 1927), in [0, 1].

    Unlike the bootstrap it says something where all of a few images are right.
    """
    z = 1.96
    middle = (share + z * z / (2 * num)) / (1 + z * z / num)
    half = z / (1 + z * z / num) * math.sqrt(share * (1 - share) / num + z * z / (4 * num * num))
    return max(0.0, middle - half), min(1.0, middle + half)
