"""Do probabilities say how often they are right? Their errors, and how much of each is chance.

An error of calibration sorts predictions into groups and asks of each how far the mean probability
is from the share that came true. Even probabilities that are exactly right show some error on a
finite number of images, so each figure comes with what chance alone would show.

The temperature that makes a network's probabilities say how often it is right.

The threshold that keeps a promise of precision.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from neither.evaluation.metrics import group_ties, nll, sum_by_group
from neither.models.softmax import to_probabilities

NUM_BINS = 15
_NUM_DRAWS = 1000
_MOST_AT_ONCE = 4_000_000  # random numbers
_SEED = 0

_Hits = tuple[Tensor, Tensor]  # groups, and how much came true of each


@dataclass(frozen=True)
class CalibrationError:
    """One calibration error, beside what a perfectly calibrated classifier shows.

    Attributes:
        value: in [0, 1].
        expected: the mean that chance alone makes of it at this number of images.
        bound: what chance alone exceeds once in twenty times.
    """

    value: float
    expected: float
    bound: float


def brier_score(probabilities: Tensor, labels: Tensor) -> float:
    """Return the mean squared distance from the one-hot targets (Brier, 1950).

    Args:
        probabilities: (N, C) float64, N of 1 or more.
        labels: (N,) int64.

    Returns:
        In [0, 2]: the sum over all classes, twice scikit-learn's figure for two of them.
    """
    targets = F.one_hot(labels, probabilities.shape[1])
    return float((probabilities - targets).square().sum(dim=1).mean())


def expected_calibration_error(probabilities: Tensor, labels: Tensor) -> CalibrationError:
    """Return the expected calibration error of the predictions (Guo et al., 2017).

    Args:
        probabilities: (N, C) float64, N of 1 or more.
        labels: (N,) int64.
    """
    confidences, predicted = probabilities.max(dim=1)
    return _measure_tops(confidences, predicted == labels, bin_index(confidences))


def adaptive_calibration_error(probabilities: Tensor, labels: Tensor) -> CalibrationError:
    """Return the same with groups of equal numbers of images instead of equal widths.

    Args:
        probabilities: (N, C) float64, N of 1 or more.
        labels: (N,) int64.
    """
    confidences, predicted = probabilities.max(dim=1)
    # Images of one confidence have no order; each is counted as their mean.
    values, tied = group_ties(confidences)
    order = tied.argsort(stable=True)
    groups = torch.empty_like(tied)
    groups[order] = torch.arange(len(order)) * NUM_BINS // len(order)

    def shared_out(hits: Tensor) -> Tensor:  # (D, N), in the draws by chance as in what came true
        if len(values) == len(tied):
            return hits
        sums = hits.new_zeros(len(hits), len(values)).scatter_add_(1, tied.expand_as(hits), hits)
        return (sums / tied.bincount())[:, tied]

    return _measure_tops(confidences, predicted == labels, groups, shared_out)


def classwise_calibration_error(probabilities: Tensor, labels: Tensor) -> CalibrationError:
    """Return the mean over the classes of the error of each class's probability.

    Args:
        probabilities: (N, C) float64, N of 1 or more.
        labels: (N,) int64; classes without an image count too.
    """
    num_classes = probabilities.shape[1]
    groups = bin_index(probabilities) + NUM_BINS * torch.arange(num_classes)
    sums = sum_by_group(probabilities.flatten(), groups.flatten(), NUM_BINS * num_classes)
    steps = probabilities.cumsum(dim=1)[:, :-1].contiguous()

    def hit(labels: Tensor) -> _Hits:  # (N, D)
        return groups.gather(1, labels).mT, torch.ones(labels.mT.shape, dtype=torch.float64)

    def draw(numbers: Tensor) -> _Hits:
        return hit(torch.searchsorted(steps, numbers.mT.contiguous(), right=True))

    error = _measure(sums, hit(labels[:, None]), draw)
    return CalibrationError(
        *(each / num_classes for each in (error.value, error.expected, error.bound))
    )


def reliability_bins(probabilities: Tensor, labels: Tensor) -> list[dict[str, float]]:
    """Return what a reliability diagram shows: each bin of confidence that has an image.

    Args:
        probabilities: (N, C) float64, N of 1 or more.
        labels: (N,) int64.

    Returns:
        For each bin `num_images`, the mean `confidence` and the `accuracy`.
    """
    confidences, predicted = probabilities.max(dim=1)
    bins = bin_index(confidences)
    nums = bins.bincount(minlength=NUM_BINS)
    sums = sum_by_group(confidences, bins, NUM_BINS)
    right = sum_by_group((predicted == labels).double(), bins, NUM_BINS)
    return [
        {"num_images": num, "confidence": confidence / num, "accuracy": hits / num}
        for num, confidence, hits in zip(nums.tolist(), sums.tolist(), right.tolist(), strict=True)
        if num
    ]


def bin_center(confidence: float) -> float:
    """Return the middle of the bin that a mean confidence lies in, rounding of the mean aside."""
    return (math.ceil(confidence * NUM_BINS - 1e-9) - 0.5) / NUM_BINS


def bin_index(probabilities: Tensor) -> Tensor:
    """Return the bin, 0 to 14, of each probability.

    Bins are of equal width and closed on the right, ((m - 1) / 15, m / 15]; 0 is in the first.
    """
    edges = torch.arange(1, NUM_BINS, dtype=torch.float64) / NUM_BINS
    return torch.bucketize(probabilities, edges)


def _measure_tops(
    confidences: Tensor,
    hits: Tensor,
    groups: Tensor,
    shared_out: Callable[[Tensor], Tensor] = lambda hits: hits,
) -> CalibrationError:
    def draw(numbers: Tensor) -> _Hits:
        return groups.expand_as(numbers), shared_out((numbers < confidences).double())

    return _measure(
        sum_by_group(confidences, groups, NUM_BINS),
        (groups[None], shared_out(hits.double()[None])),
        draw,
    )


def _measure(sums: Tensor, hits: _Hits, draw: Callable[[Tensor], _Hits]) -> CalibrationError:
    """Work out sum over groups of (share of images) * |share of hits - mean probability|.

    The number of images in a group cancels: what is left is |sum of hits - sum of probabilities|
    over the number of all images.

    Args:
        sums: (G,) of the probabilities.
        hits: (1, N) groups and (1, N) weights of what came true.
        draw: makes (D, N) of each from (D, N) uniform numbers, by the probabilities themselves.
    """
    num_images = hits[0].shape[1]

    def errors_of(places: Tensor, weights: Tensor) -> Tensor:
        found = torch.zeros(len(places), len(sums), dtype=torch.float64)
        return (found.scatter_add_(1, places, weights) - sums).abs().sum(dim=1) / num_images

    generator = torch.Generator().manual_seed(_SEED)
    at_once = max(1, min(_NUM_DRAWS, _MOST_AT_ONCE // max(num_images, len(sums))))
    chance = []
    for start in range(0, _NUM_DRAWS, at_once):
        shape = (min(at_once, _NUM_DRAWS - start), num_images)
        numbers = torch.rand(shape, dtype=torch.float64, generator=generator)
        chance.append(errors_of(*draw(numbers)))
    drawn = torch.cat(chance)
    return CalibrationError(
        float(errors_of(*hits)), float(drawn.mean()), float(drawn.quantile(0.95))
    )


MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
PRIOR_WEIGHT = 3.0  # benchmarks/temperatures.py compares it with others
_NUM_HALVINGS = 100  # float64 has 53 bits; the rest costs nothing


def fit_temperature(logits: Tensor, labels: Tensor, prior: float = PRIOR_WEIGHT) -> float:
    """Find the temperature with the lowest negative log-likelihood (Guo et al., 2017), held to 1.

    In b = 1 / T the likelihood is convex. Added to it is 3 (b - 1 - ln b), as of a gamma
    distribution with its mode at b = 1 and the weight of about three images: hundreds of labels
    outvote it, but few that are all right, which alone would ask for T = 0, do not. The sum is
    strictly convex and its slope has one zero, which bisection finds. As the prior is 0 at T = 1
    and positive elsewhere, the result is never worse than T = 1 on these images.

    Args:
        logits: (N, C), finite, of images that were not trained on.
        labels: (N,) int64.
        prior: the weight of T = 1, in images; 0 for the labels alone.

    Returns:
        T in [0.05, 20]; the bounds are reached only by logits that hardly differ, or say nothing.

    Raises:
        ValueError: if there is no image, or a logit is not finite.
    """
    if len(labels) == 0:
        raise ValueError("no image to fit a temperature on")
    scores = logits.double()
    own = scores.gather(1, labels[:, None])[:, 0]
    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    for _ in range(_NUM_HALVINGS):
        middle = (low + high) / 2
        if _slope(scores, own, middle) + prior * (1 - 1 / middle) <= 0:
            low = middle
        else:
            high = middle
    found = min(max(2 / (low + high), MIN_TEMPERATURE), MAX_TEMPERATURE)
    # Where 1 is the best there is, rounding may make its neighbour worse by a last digit.
    return found if nll(scores, labels, found) <= nll(scores, labels, 1.0) else 1.0


def _slope(scores: Tensor, own: Tensor, inverse: float) -> float:
    """Return the likelihood's: what softmax expects of the scores less the true ones, summed."""
    expected = (to_probabilities(scores, 1 / inverse) * scores).sum(dim=1)
    return float((expected - own).sum())


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
    return sum_by_group(values, tied, num).flip(0).cumsum(dim=0).flip(0)
