"""Images that share a score, and sums over groups of images."""

import torch
from torch import Tensor


def group_ties(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the different scores, from the lowest to the highest, and each image's place there.

    Args:
        scores: (N,).
    """
    values, places = scores.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    return values, places


def add_up(values: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """Return the (num_groups,) float64 sums of (N,) values by their (N,) groups."""
    sums = torch.zeros(num_groups, dtype=torch.float64)
    return sums.index_add_(0, groups, values.double())
