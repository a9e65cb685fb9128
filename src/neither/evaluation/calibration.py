"""Calibration: how far probabilities are off, the temperature that corrects them, the threshold.

A calibration error sorts predictions into groups and compares, in each group, the mean probability
with the fraction that came true. On a finite number of images even perfectly calibrated
probabilities show an error above 0, so each error comes with the values to expect in that case.

Everywhere here probabilities are (N, C) float64 and labels (N,) int64, with N of 1 or more.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from neither.evaluation.metrics import chunk_draws, nll, sum_by_group, unique_scores
from neither.models.softmax import to_probabilities

NUM_BINS = 15
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
PRIOR_WEIGHT = 3.0  # images; benchmarks/temperatures.py compares it with others
_NUM_BISECTIONS = 100  # float64 has 53 bits; the rest costs nothing
_SEED = 0

_Outcomes = tuple[Tensor, Tensor]  # (D, N) group of each image, (D, N) weight that came true


@dataclass(frozen=True)
class CalibrationError:
    """A calibration error, and what a perfectly calibrated classifier shows on as many images."""

    value: float  # in [0, 1]
    expected: float  # mean of the error if perfectly calibrated
    bound: float  # 95 % quantile of the error if perfectly calibrated


def brier_score(probabilities: Tensor, labels: Tensor) -> float:
    """Average the squared distance of the probabilities from the one-hot labels (Brier, 1950).

    Returns:
        In [0, 2]: the sum over all classes. For two classes it is twice scikit-learn's
        `brier_score_loss`.
    """
    targets = F.one_hot(labels, probabilities.shape[1])
    return float((probabilities - targets).square().sum(dim=1).mean())


def expected_calibration_error(probabilities: Tensor, labels: Tensor) -> CalibrationError:
    """Compute the ECE: |accuracy - confidence| over 15 bins of equal width (Guo et al., 2017)."""
    confidences, predicted = probabilities.max(dim=1)
    return _top_label_error(confidences, predicted == labels, bin_index(confidences))


def adaptive_calibration_error(probabilities: Tensor, labels: Tensor) -> CalibrationError:
    """Compute the ECE over 15 groups with equal numbers of images instead of equal widths.

    Images with the same confidence have no order: each counts as the mean of all of them.
    """
    confidences, predicted = probabilities.max(dim=1)
    values, inverse = unique_scores(confidences)
    order = inverse.argsort(stable=True)
    groups = torch.empty_like(inverse)
    groups[order] = torch.arange(len(order)) * NUM_BINS // len(order)

    def average_ties(hits: Tensor) -> Tensor:  # (D, N)
        sums = hits.new_zeros(len(hits), len(values)).scatter_add_(1, inverse.expand_as(hits), hits)
        return (sums / inverse.bincount())[:, inverse]

    return _top_label_error(confidences, predicted == labels, groups, average_ties)


def classwise_calibration_error(probabilities: Tensor, labels: Tensor) -> CalibrationError:
    """Average over the classes the ECE of each class's probability (Kull et al., 2019).

    Classes without an image count too.
    """
    num_classes = probabilities.shape[1]
    groups = bin_index(probabilities) + NUM_BINS * torch.arange(num_classes)
    sums = sum_by_group(probabilities.flatten(), groups.flatten(), NUM_BINS * num_classes)
    cumulative = probabilities.cumsum(dim=1)[:, :-1].contiguous()

    def outcomes(labels: Tensor) -> _Outcomes:  # (N, D)
        return groups.gather(1, labels).mT, torch.ones(labels.mT.shape, dtype=torch.float64)

    def simulate(uniform: Tensor) -> _Outcomes:
        return outcomes(torch.searchsorted(cumulative, uniform.mT.contiguous(), right=True))

    error = _calibration_error(sums, outcomes(labels[:, None]), simulate)
    bounds = (error.value, error.expected, error.bound)
    return CalibrationError(*(each / num_classes for each in bounds))


def reliability_bins(probabilities: Tensor, labels: Tensor) -> list[dict[str, float]]:
    """Compute the bins of a reliability diagram; bins without an image are left out.

    Returns:
        For each bin of confidence `num_images`, the mean `confidence` and the `accuracy`.
    """
    confidences, predicted = probabilities.max(dim=1)
    bins = bin_index(confidences)
    counts = bins.bincount(minlength=NUM_BINS).tolist()
    sums = sum_by_group(confidences, bins, NUM_BINS).tolist()
    hits = sum_by_group((predicted == labels).double(), bins, NUM_BINS).tolist()
    return [
        {"num_images": num, "confidence": sums[index] / num, "accuracy": hits[index] / num}
        for index, num in enumerate(counts)
        if num
    ]


def bin_index(probabilities: Tensor) -> Tensor:
    """Return the bin of each probability, 0 to 14.

    Bins have equal widths and are closed on the right, ((m - 1) / 15, m / 15]; 0 is in the first.
    """
    edges = torch.arange(1, NUM_BINS, dtype=torch.float64) / NUM_BINS
    return torch.bucketize(probabilities, edges)


def bin_center(confidence: float) -> float:
    """Return the center of the bin that contains a mean confidence, up to rounding of the mean."""
    return (math.ceil(confidence * NUM_BINS - 1e-9) - 0.5) / NUM_BINS


def _top_label_error(
    confidences: Tensor,
    hits: Tensor,
    groups: Tensor,
    average_ties: Callable[[Tensor], Tensor] = lambda hits: hits,
) -> CalibrationError:
    def simulate(uniform: Tensor) -> _Outcomes:
        return groups.expand_as(uniform), average_ties((uniform < confidences).double())

    observed = groups[None], average_ties(hits.double()[None])
    return _calibration_error(sum_by_group(confidences, groups, NUM_BINS), observed, simulate)


def _calibration_error(
    sums: Tensor, observed: _Outcomes, simulate: Callable[[Tensor], _Outcomes]
) -> CalibrationError:
    """Sum over groups (fraction of images) * |fraction of hits - mean probability|.

    The number of images in a group cancels: what remains is |sum of hits - sum of probabilities|
    divided by the number of all images.

    Given are the (G,) sums of the probabilities by group and the (1, N) observed outcomes;
    `simulate` draws (D, N) outcomes, distributed as the probabilities say, from (D, N) numbers that
    are uniform in [0, 1).
    """
    num_images = observed[0].shape[1]

    def errors(groups: Tensor, weights: Tensor) -> Tensor:
        hits = torch.zeros(len(groups), len(sums), dtype=torch.float64)
        return (hits.scatter_add_(1, groups, weights) - sums).abs().sum(dim=1) / num_images

    generator = torch.Generator().manual_seed(_SEED)
    simulated = torch.cat([
        errors(*simulate(torch.rand((num, num_images), dtype=torch.float64, generator=generator)))
        for num in chunk_draws(max(num_images, len(sums)))
    ])  # fmt: skip
    expected, bound = float(simulated.mean()), float(simulated.quantile(0.95))
    return CalibrationError(float(errors(*observed)), expected, bound)


def fit_temperature(logits: Tensor, labels: Tensor, prior: float = PRIOR_WEIGHT) -> float:
    """Find the temperature with the lowest negative log-likelihood (Guo et al., 2017).

    A prior keeps T near 1 where there are few labels: without it, a few labels that are all
    predicted correctly would give T = 0. In b = 1 / T the loss is convex. Added to it is
    prior * (b - 1 - ln b), a gamma distribution with its mode at b = 1; hundreds of labels outweigh
    it. Bisection finds the zero of the slope. The prior is 0 at T = 1 and positive elsewhere, so on
    these images the result is never worse than T = 1.

    Args:
        logits: (N, C), finite, of images that were not trained on.
        labels: (N,) int64.
        prior: weight of T = 1, in images; 0 to use the labels alone.

    Returns:
        T in [0.05, 20]. The bounds are reached only if the logits hardly differ or carry no
        information.

    Raises:
        ValueError: if there is no image, or a logit is not finite.
    """
    if len(labels) == 0:
        raise ValueError("no image to fit a temperature on")
    scores = logits.double()
    label_scores = scores.gather(1, labels[:, None])[:, 0]
    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    for _ in range(_NUM_BISECTIONS):
        inverse = (low + high) / 2
        expected_scores = (to_probabilities(scores, 1 / inverse) * scores).sum(dim=1)
        slope = float((expected_scores - label_scores).sum()) + prior * (1 - 1 / inverse)
        low, high = (inverse, high) if slope <= 0 else (low, inverse)
    fitted = min(max(2 / (low + high), MIN_TEMPERATURE), MAX_TEMPERATURE)
    # Where 1 is the optimum, rounding may make its neighbour worse in the last digit.
    return fitted if nll(scores, labels, fitted) <= nll(scores, labels, 1.0) else 1.0
