"""How far a figure would move with other images of the same kind."""

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
