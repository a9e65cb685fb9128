"""The threshold that keeps a promise of precision."""

import torch
from torch import Tensor

from neither.evaluation.groups import add_up, group_ties

_HAIR = 1e-12


def choose_threshold(confidences: Tensor, hits: Tensor, target: float) -> float | None:
    """Find the smallest threshold at which the accepted predictions are as precise as promised.

    Args:
        confidences: (N,) float64, N of 1 or more.
        hits: (N,) bool, which predictions are right.
        target: the share of accepted predictions that should be right, in (0, 1].

    Returns:
        A hair below a confidence that occurs, so that this one is accepted however its last bit is
        rounded elsewhere, but above the next lower one; None if no threshold keeps the promise.
    """
    values, tied = group_ties(confidences)
    num = _from_the_top(torch.ones_like(confidences), tied, len(values))
    right = _from_the_top(hits.double(), tied, len(values))
    kept = (right >= target * num - 1e-9).nonzero()
    if not len(kept):
        return None
    place = int(kept.min())
    hair = float(values[place]) - _HAIR
    is_between = place == 0 or hair > float(values[place - 1])
    return hair if is_between else float(values[place])


def _from_the_top(values: Tensor, tied: Tensor, num: int) -> Tensor:
    """Add up the values of all images that are at least as sure, for each confidence."""
    return add_up(values, tied, num).flip(0).cumsum(dim=0).flip(0)
