"""Selective prediction: accept confident predictions only. The threshold, and what it gains.

`selective_metrics` rank images by the confidence of their prediction, `rejection_metrics` by how
little they look like the reject class. Images with the same score count half in the areas under
curves; a threshold accepts all images that reach it.
"""

from typing import Any

import torch
from torch import Tensor

from neither.evaluation.metrics import sum_by_group, unique_scores

_COVERAGES = (0.95, 0.9, 0.8)
_FALSE_POSITIVE_RATES = (0.1, 0.01, 0.001)
_EPSILON = 1e-12
_NO_SCORE = -1.0  # below every probability


def choose_threshold(confidences: Tensor, hits: Tensor, target: float) -> float | None:
    """Find the smallest threshold at which the accepted predictions reach a target precision.

    Args:
        confidences: (N,) float64, N of 1 or more.
        hits: (N,) bool, which predictions are correct.
        target: least fraction of the accepted predictions that is correct, in (0, 1].

    Returns:
        An epsilon below one of the confidences, so that this one is accepted even if its last bit
        is rounded differently elsewhere, but above the next lower one. None if no threshold reaches
        the target.
    """
    values, inverse = unique_scores(confidences)

    def sum_from_top(counts: Tensor) -> Tensor:
        return sum_by_group(counts, inverse, len(values)).flip(0).cumsum(dim=0).flip(0)

    num_accepted, num_correct = sum_from_top(torch.ones_like(confidences)), sum_from_top(hits)
    reached = (num_correct >= target * num_accepted - 1e-9).nonzero()
    if not len(reached):
        return None
    index = int(reached.min())
    threshold = float(values[index]) - _EPSILON
    is_between = index == 0 or threshold > float(values[index - 1])
    return threshold if is_between else float(values[index])


def selective_metrics(confidences: Tensor, hits: Tensor) -> dict[str, Any]:
    """Compute what withholding the least confident predictions gains.

    Args:
        confidences: (N,) float64, N of 1 or more.
        hits: (N,) bool, which predictions are correct.

    Returns:
        aurc: area under the risk-coverage curve: mean error rate over all coverages (Geifman and
            El-Yaniv, 2017).
        augrc: area under the generalised risk-coverage curve: mean over all coverages of the
            fraction of images that are accepted and wrong (Traub et al., 2024).
        accuracy_at: accuracy of the most confident 95, 90 and 80 %, by coverage.
        coverage_at_99: largest fraction of images whose accuracy is 99 %; 0 if there is none.
        auroc: probability that a correct prediction is more confident than a wrong one; absent if
            all are correct, or all wrong.
    """
    num = len(hits)
    errors = _cumulative_errors(confidences, hits)
    risks = errors / torch.arange(1, num + 1, dtype=torch.float64)
    reached = (risks <= 0.01 + 1e-12).nonzero()
    metrics: dict[str, Any] = {
        "aurc": float(risks.mean()),
        "augrc": float(errors.mean() / num),
        "accuracy_at": {
            f"{each:g}": 1 - float(risks[max(1, round(each * num)) - 1]) for each in _COVERAGES
        },
        "coverage_at_99": (int(reached.max()) + 1) / num if len(reached) else 0.0,
    }
    if hits.any() and not hits.all():
        metrics["auroc"] = auroc(confidences[hits], confidences[~hits])
    return metrics


def rejection_metrics(probabilities: Tensor, labels: Tensor, reject: int) -> dict[str, Any]:
    """Compute how well images of the other, known classes are separated from the reject class.

    Args:
        probabilities: (N, C) float64.
        labels: (N,) int64.
        reject: index of the reject class.

    Returns:
        Nothing if there is no known image, or none to reject; else

        auroc: probability that a known image has a higher 1 - p(reject class) than one to reject.
        fpr_at_95_tpr: fraction of images to reject that are accepted where 95 % of the known are.
        oscr: area under the fraction of known images that are accepted and correct, over the
            fraction of images to reject that are accepted (Dhamija et al., 2018).
        ccr_at_fpr: that fraction of known images where at most so many to reject are accepted, by
            false positive rate.
    """
    is_known = labels != reject
    if is_known.all() or not is_known.any():
        return {}
    scores = 1 - probabilities[:, reject]
    others = probabilities.clone()
    others[:, reject] = _NO_SCORE
    best, predicted = others.max(dim=1)
    # A known image that is taken for another known class is never correct, whatever the threshold.
    correct = best[is_known].where(predicted[is_known] == labels[is_known], _NO_SCORE)
    rejected = best[~is_known]
    return {
        "auroc": auroc(scores[is_known], scores[~is_known]),
        "fpr_at_95_tpr": fpr_at_tpr(scores[is_known], scores[~is_known], 0.95),
        "oscr": auroc(correct, rejected),
        "ccr_at_fpr": {
            f"{rate:g}": _tpr_at_fpr(correct, rejected, rate) for rate in _FALSE_POSITIVE_RATES
        },
    }


def risk_coverage(
    probabilities: Tensor, labels: Tensor, max_points: int = 200
) -> list[tuple[float, float]]:
    """Compute the risk-coverage curve, from the most confident image on.

    Args:
        probabilities: (N, C) float64, N of 1 or more.
        labels: (N,) int64.
        max_points: of the curve; more would only make a larger file.

    Returns:
        Points (coverage, risk): fraction of images accepted, fraction of these that is wrong.
    """
    confidences, predicted = probabilities.max(dim=1)
    num = len(labels)
    risks = _cumulative_errors(confidences, predicted == labels) / torch.arange(1, num + 1)
    chosen = {round(index) for index in torch.linspace(0, num - 1, max_points).tolist()}
    return [((index + 1) / num, float(risks[index])) for index in sorted(chosen)]


def most_confident_mistakes(probabilities: Tensor, labels: Tensor, limit: int) -> list[int]:
    """Return the indices of wrong predictions by falling confidence, at most `limit`."""
    confidences, predicted = probabilities.max(dim=1)
    wrong = (predicted != labels).nonzero()[:, 0]
    order = confidences[wrong].argsort(descending=True, stable=True)
    indices: list[int] = wrong[order][:limit].tolist()
    return indices


def auroc(positive: Tensor, negative: Tensor) -> float:
    """Return the area under the ROC curve: P(a positive scores higher than a negative).

    Args:
        positive: (P,) float64, P of 1 or more.
        negative: (M,) float64, M of 1 or more.
    """
    values, inverse = unique_scores(torch.cat([positive, negative]))
    positives = inverse[: len(positive)].bincount(minlength=len(values)).double()
    negatives = inverse[len(positive) :].bincount(minlength=len(values)).double()
    below = negatives.cumsum(dim=0) - negatives / 2
    return float((positives * below).sum() / (len(positive) * len(negative)))


def fpr_at_tpr(positive: Tensor, negative: Tensor, tpr: float) -> float:
    """Return the false positive rate at the highest threshold that reaches a true positive rate.

    A score is accepted if it is at least the threshold. OpenOOD swaps the roles: there the images
    to reject are the positives, and the values differ much.

    Args:
        positive: (P,) float64, P of 1 or more.
        negative: (M,) float64, M of 1 or more.
        tpr: fraction of positives to accept, in (0, 1].
    """
    ordered = positive.sort(descending=True).values
    num_accepted = max(1, min(len(ordered), -int(-(tpr * len(ordered) - 1e-9) // 1)))  # rounded up
    return float((negative >= ordered[num_accepted - 1]).double().mean())


def _tpr_at_fpr(positive: Tensor, negative: Tensor, fpr: float) -> float:
    """Return the true positive rate at the lowest threshold that keeps a false positive rate."""
    ordered = negative.sort(descending=True).values
    num_accepted = int(fpr * len(ordered) + 1e-9)
    if num_accepted == len(ordered):
        return 1.0
    # At the score of the next negative, one too many would be accepted: count only what is above.
    return float((positive > ordered[num_accepted]).double().mean())


def _cumulative_errors(confidences: Tensor, hits: Tensor) -> Tensor:
    """Return the (N,) number of errors among the k most confident images, for each k.

    Images with the same confidence have no order: each counts as the mean of all of them.
    """
    values, inverse = unique_scores(confidences)
    error_rates = sum_by_group(~hits, inverse, len(values)) / inverse.bincount()
    return error_rates[inverse.sort(descending=True).values].cumsum(dim=0)
