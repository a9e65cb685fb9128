"""How well a score tells the classes apart from the reject class.

Known images are those of the other classes. In the areas, images tied in their score count half;
where a threshold is meant, those at it are all accepted.

How much the confidence is worth: accuracy on the images that are not left to a person.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from neither.evaluation.metrics import group_ties, sum_by_group

_NO_SCORE = -1.0  # below every probability


@dataclass(frozen=True)
class RejectionMetrics:
    """What separates known images from those to be rejected, at all thresholds and at some.

    Attributes:
        auroc: the chance that a known image has a higher 1 - p(reject) than one to be rejected.
        fpr_at_95_tpr: the share of images to be rejected that pass where 95 % of the known do.
        oscr: area under the share of known images that are both right and accepted, over the share
            of images to be rejected that are accepted (Dhamija et al., 2018).
        ccr_at_fpr: that share of known images where at most so many to be rejected are accepted.
    """

    auroc: float
    fpr_at_95_tpr: float
    oscr: float
    ccr_at_fpr: dict[str, float]


def rejection_metrics(
    probabilities: Tensor, labels: Tensor, reject: int
) -> RejectionMetrics | None:
    """Measure how known images and those of the reject class are told apart.

    Args:
        probabilities: (N, C) float64.
        labels: (N,) int64.
        reject: the number of the reject class.

    Returns:
        None if either kind has no image.
    """
    is_known = labels != reject
    if is_known.all() or not is_known.any():
        return None
    scores = 1 - probabilities[:, reject]
    others = probabilities.clone()
    others[:, reject] = _NO_SCORE
    best, predicted = others.max(dim=1)
    # A known image that is taken for another class is never right, whatever is accepted.
    right = best[is_known].where(predicted[is_known] == labels[is_known], _NO_SCORE)
    return RejectionMetrics(
        auroc(scores[is_known], scores[~is_known]),
        fpr_at_tpr(scores[is_known], scores[~is_known], 0.95),
        auroc(right, best[~is_known]),
        {f"{rate:g}": _right_at(right, best[~is_known], rate) for rate in (0.1, 0.01, 0.001)},
    )


def auroc(positive: Tensor, negative: Tensor) -> float:
    """Return the chance that a positive scores above a negative: the area under the ROC curve.

    Args:
        positive: (P,) float64, P of 1 or more.
        negative: (M,) float64, M of 1 or more.
    """
    values, places = group_ties(torch.cat([positive, negative]))
    above = places[: len(positive)].bincount(minlength=len(values)).double()
    below = places[len(positive) :].bincount(minlength=len(values)).double()
    passed = below.cumsum(dim=0) - below / 2
    return float((above * passed).sum() / (len(positive) * len(negative)))


def fpr_at_tpr(positive: Tensor, negative: Tensor, rate: float) -> float:
    """Return the share of negatives accepted by the highest threshold that accepts `rate`.

    Accepted is what scores at least the threshold. OpenOOD has it the other way round: there the
    images to be rejected are the positives, and the figures differ much.

    Args:
        positive: (P,) float64, P of 1 or more.
        negative: (M,) float64, M of 1 or more.
        rate: in (0, 1], of positives to be accepted.
    """
    ordered = positive.sort(descending=True).values
    threshold = ordered[_ceil_count(rate, len(ordered)) - 1]
    return float((negative >= threshold).double().mean())


def _right_at(right: Tensor, negative: Tensor, rate: float) -> float:
    """Return the share of `right` at or above the lowest threshold that lets in `rate`."""
    ordered = negative.sort(descending=True).values
    num = int(rate * len(ordered) + 1e-9)
    # One more than `num` would pass at the score of the next, so only what is above it counts.
    return float((right > ordered[num]).double().mean()) if num < len(ordered) else 1.0


def _ceil_count(rate: float, total: int) -> int:
    """Return the least whole number that is `rate` of a total, whatever rounding does to it."""
    return max(1, min(total, -int(-(rate * total - 1e-9) // 1)))


COVERAGES = (0.95, 0.9, 0.8)


@dataclass(frozen=True)
class SelectiveMetrics:
    """What happens when the least sure predictions are withheld.

    Attributes:
        aurc: mean error rate over all coverages (Geifman and El-Yaniv, 2017).
        augrc: mean over all coverages of the share of images that are accepted and wrong (Traub et
            al., 2024).
        accuracy_at: accuracy of the surest 95, 90 and 80 %.
        coverage_at_99: the largest share of images whose accuracy is 99 %; 0 if there is none.
        auroc: the chance that a right prediction is surer than a wrong one; None if all are either.
    """

    aurc: float
    augrc: float
    accuracy_at: dict[str, float]
    coverage_at_99: float
    auroc: float | None


def selective_metrics(confidences: Tensor, hits: Tensor) -> SelectiveMetrics:
    """Measure what withholding the least sure predictions gains.

    Args:
        confidences: (N,) float64, N of 1 or more.
        hits: (N,) bool, which predictions are right.
    """
    num = len(hits)
    errors = cumulative_errors(confidences, hits)
    counts = torch.arange(1, num + 1, dtype=torch.float64)
    risks = errors / counts
    sound = (risks <= 0.01 + 1e-12).nonzero()
    both = bool(hits.any()) and not bool(hits.all())
    return SelectiveMetrics(
        float(risks.mean()),
        float(errors.mean() / num),
        {f"{share:g}": 1 - float(risks[max(1, round(share * num)) - 1]) for share in COVERAGES},
        (int(sound.max()) + 1) / num if len(sound) else 0.0,
        auroc(confidences[hits], confidences[~hits]) if both else None,
    )


def cumulative_errors(confidences: Tensor, hits: Tensor) -> Tensor:
    """Return the number of errors among the k surest, for each k.

    Images of one confidence have no order: each counts as their mean.
    """
    values, tied = group_ties(confidences)
    shares = sum_by_group(~hits, tied, len(values)) / tied.bincount()
    return shares[tied.sort(descending=True).values].cumsum(dim=0)
