"""Selective prediction: accept confident predictions only. The thresholds, and what they gain.

`fit_decision_rule` chooses thresholds for a target precision. `selective_metrics` rank images by
the confidence of their prediction, `rejection_metrics` by how little they look like the reject
class. Images with the same score count half in the areas under curves; a threshold accepts all
images that reach it.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from neither.evaluation.metrics import sum_by_group, unique_scores
from neither.models.checkpoint import DecisionRule

_COVERAGES = (0.95, 0.9, 0.8)
_FALSE_POSITIVE_RATES = (0.1, 0.01, 0.001)
_EPSILON = 1e-12
_NO_SCORE = -1.0  # below every probability
_MAX_P_VALUE = 0.1  # thresholds are certified with 90 % confidence
_NUM_TESTS = 30  # after the first
_FIRST_FRACTION = 3  # a third of the predictions is tested first
_MAX_IMAGES = 10**12
_NUM_DRAWS = 2000  # of the bootstrap
_MAX_POINTS = 200  # of a curve; more would only make a larger file


def fit_decision_rule(
    probabilities: Tensor, labels: Tensor, reject: int | None, target: float
) -> DecisionRule:
    """Fit a threshold to the predictions of the reject class, and one to all others.

    A threshold that can be certified is; otherwise it is the smallest at which the precision on
    these images reaches the target, which says less of other images. It is 1, so that all is
    unsure, if none reaches the target.

    Args:
        probabilities: (N, C) float64, of images that were not trained on.
        labels: (N,) int64.
        reject: index of the reject class, if there is one.
        target: least precision, in (0, 1].
    """
    confidences, predicted = probabilities.max(dim=1)
    hits, is_rejected = predicted == labels, predicted == (-1 if reject is None else reject)

    def fit(chosen: Tensor) -> tuple[float, bool, int]:
        own = confidences[chosen], hits[chosen], target
        threshold, num_lacking = certify_threshold(*own)
        if threshold is not None:
            return threshold, True, 0
        return choose_threshold(*own) or 1.0, False, num_lacking

    threshold, is_certified, num_lacking = fit(~is_rejected)
    if reject is None:
        return DecisionRule(target, threshold, None, is_certified, num_lacking)
    other, is_other_certified, other_lacking = fit(is_rejected)
    is_certified = is_certified and is_other_certified
    return DecisionRule(target, threshold, other, is_certified, num_lacking, other_lacking)


def fit_pooled_rule(
    probabilities: Tensor, labels: Tensor, reject: int | None, target: float
) -> DecisionRule:
    """Fit one threshold to all predictions: the smallest at which they reach a precision.

    For images of left-out sources, which are no independent draws of those to come, so that nothing
    is certified. A threshold for each group of classes kept 98 % at 93.2 % there, one for all at
    97.0 %: `benchmarks/LOG.md`. The threshold is 1 if none reaches the target: then all is unsure,
    as nearly all is if a few images reach it. The arguments are those of `fit_decision_rule`.
    """
    confidences, predicted = probabilities.max(dim=1)
    threshold = choose_threshold(confidences, predicted == labels, target) or 1.0
    return DecisionRule(target, threshold, None if reject is None else threshold)


def certify_threshold(confidences: Tensor, hits: Tensor, target: float) -> tuple[float | None, int]:
    """Find the smallest threshold at which a precision is certified with 90 % confidence.

    Fixed-sequence testing (learn then test: Angelopoulos et al., 2021; selection with guaranteed
    risk: Geifman and El-Yaniv, 2017): from the most confident third of the predictions down to all
    in 30 equal steps, the hypothesis "the precision is below the target" is tested by an exact
    binomial bound. Each test has the full 10 %, as the first that fails is the last. From fewer
    predictions one confident mistake would end the sequence before any is certified. The threshold
    is one step before the last that passes, which is the likeliest to pass by luck: where few val
    sets can be certified at all, more than 10 % of those that are would be so by luck.

    Args:
        confidences: (N,) float64.
        hits: (N,) bool, which predictions are correct.
        target: least precision, in (0, 1].

    Returns:
        The threshold, as that of `choose_threshold`; None if the first test fails. Then also how
        many more predictions would let it pass if all are correct; 0 if no number does.
    """
    if target == 1:
        return None, 0
    least, num = num_to_certify(0, target), len(hits)
    if num == 0:
        return None, least
    values, num_accepted, num_correct = _counts_from_top(confidences, hits)
    first = min(num, _first_size(num // _FIRST_FRACTION, target))
    certified: list[float] = []
    for step in range(_NUM_TESTS + 1):
        size = first + step * (num - first) // _NUM_TESTS
        # Equal confidences are accepted together.
        index = int((num_accepted >= size).sum()) - 1
        accepted = int(num_accepted[index])
        num_errors = accepted - int(num_correct[index])
        if _binomial_cdf(num_errors, accepted, target) > _MAX_P_VALUE:
            if not certified:
                return None, num_to_certify(num_errors, target) - accepted
            return certified[-2:][0], 0
        certified.append(_accept_from(values, index))
    return certified[-1], 0


def num_to_certify(num_errors: int, target: float) -> int:
    """Return the fewest predictions that certify a precision in (0, 1) with so many errors.

    That is the smallest n at which so few errors have a probability of at most 10 %, if each of n
    predictions is correct with the probability `target` (Clopper and Pearson, 1934).
    """
    return num_errors + bisect_left(
        range(num_errors, _MAX_IMAGES), True,
        key=lambda num: _binomial_cdf(num_errors, num, target) <= _MAX_P_VALUE,
    )  # fmt: skip


def _first_size(limit: int, target: float) -> int:
    """Return how many predictions are tested first: at most so many, if these can be certified.

    With no more of them, one more mistake could not be certified.
    """
    sizes = range(limit + 1)
    num_errors = bisect_right(
        sizes, _MAX_P_VALUE, key=lambda errors: _binomial_cdf(errors, limit, target)
    )
    return num_to_certify(max(0, num_errors - 1), target)


def _binomial_cdf(num_errors: int, num: int, target: float) -> float:
    """Return the probability of at most so many errors among `num` predictions."""
    errors = torch.arange(num_errors + 1, dtype=torch.float64)
    log_binomials = math.lgamma(num + 1) - (errors + 1).lgamma() - (num - errors + 1).lgamma()
    log_terms = errors * math.log1p(-target) + (num - errors) * math.log(target)
    return float((log_binomials + log_terms).exp().sum())


def choose_threshold(confidences: Tensor, hits: Tensor, target: float) -> float | None:
    """Find the smallest threshold at which the accepted predictions reach a target precision.

    The arguments are those of `certify_threshold`.

    Returns:
        An epsilon below one of the confidences, so that this one is accepted even if its last bit
        is rounded differently elsewhere, but above the next lower one. None if no threshold reaches
        the target.
    """
    values, num_accepted, num_correct = _counts_from_top(confidences, hits)
    reached = (num_correct >= target * num_accepted - 1e-9).nonzero()
    return _accept_from(values, int(reached.min())) if len(reached) else None


def accepts(rule: DecisionRule, probabilities: Tensor, reject: int | None) -> Tensor:
    """Return (N,) bool, whether a rule accepts the prediction of each row of (N, C) probabilities.

    Without a threshold, all predictions of its classes are accepted.
    """
    confidences, predicted = probabilities.max(dim=1)
    is_reject = predicted == (-1 if reject is None else reject)
    thresholds = probabilities.new_tensor([rule.threshold or 0.0, rule.reject_threshold or 0.0])
    return confidences >= thresholds[is_reject.long()]


def bootstrap_precision(hits: Tensor, sources: Sequence[str]) -> tuple[float, float]:
    """Return the 5 % and 95 % quantiles of the precision if the sources are drawn anew.

    Images of one source are alike, so whole sources are drawn, with replacement (cluster bootstrap:
    Davison and Hinkley, 1997).

    Args:
        hits: (N,) bool, whether each accepted prediction is correct; N of 1 or more.
        sources: of the images; those without one are drawn singly.
    """
    names = [name or f" {index}" for index, name in enumerate(sources)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    indices = torch.tensor([numbers[name] for name in names])
    sizes = indices.bincount().double()
    correct = torch.zeros_like(sizes).index_add_(0, indices, hits.double())
    generator = torch.Generator().manual_seed(0)
    precisions = torch.zeros(_NUM_DRAWS, dtype=torch.float64)
    for number in range(_NUM_DRAWS):  # all at once would take gigabytes for many sources
        drawn = torch.randint(len(sizes), (len(sizes),), generator=generator)
        precisions[number] = correct[drawn].sum() / sizes[drawn].sum()
    low, high = torch.quantile(precisions, torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
    return low, high


def _counts_from_top(confidences: Tensor, hits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the distinct confidences, ascending; how many reach each; how many are correct."""
    values, inverse = unique_scores(confidences)

    def sum_from_top(counts: Tensor) -> Tensor:
        return sum_by_group(counts, inverse, len(values)).flip(0).cumsum(dim=0).flip(0)

    return values, sum_from_top(torch.ones_like(confidences)), sum_from_top(hits)


def _accept_from(values: Tensor, index: int) -> float:
    """Return a threshold that accepts a confidence but not the next lower one."""
    threshold = float(values[index]) - _EPSILON
    is_between = index == 0 or threshold > float(values[index - 1])
    return threshold if is_between else float(values[index])


def selective_metrics(confidences: Tensor, hits: Tensor) -> dict[str, Any]:
    """Compute what withholding the least confident predictions gains.

    Given are the (N,) float64 confidences, N of 1 or more, and which predictions are correct.

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

    Given are (N, C) float64 probabilities, (N,) int64 labels, and the index of the reject class.

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


def risk_coverage(probabilities: Tensor, labels: Tensor) -> list[tuple[float, float]]:
    """Compute the risk-coverage curve, whose area is `aurc`, from the most confident image on.

    Its points (coverage, risk), of (N, C) probabilities and (N,) labels, are the fraction of the
    predictions that is accepted, and the fraction of those that is wrong.
    """
    confidences, predicted = probabilities.max(dim=1)
    num, errors = len(labels), _cumulative_errors(confidences, predicted == labels).tolist()
    indices = {round(index) for index in torch.linspace(0, num - 1, _MAX_POINTS).tolist()}
    return [((each + 1) / num, errors[each] / (each + 1)) for each in sorted(indices)]


def most_confident_mistakes(probabilities: Tensor, labels: Tensor, limit: int) -> list[int]:
    """Return the indices of wrong predictions by falling confidence, at most `limit`."""
    confidences, predicted = probabilities.max(dim=1)
    wrong = (predicted != labels).nonzero()[:, 0]
    order = confidences[wrong].argsort(descending=True, stable=True)
    indices: list[int] = wrong[order][:limit].tolist()
    return indices


def auroc(positive: Tensor, negative: Tensor) -> float:
    """Return the area under the ROC curve: P(a positive scores higher than a negative).

    There are (P,) positive and (M,) negative scores, float64, each 1 or more.
    """
    values, inverse = unique_scores(torch.cat([positive, negative]))
    positives = inverse[: len(positive)].bincount(minlength=len(values)).double()
    negatives = inverse[len(positive) :].bincount(minlength=len(values)).double()
    below = negatives.cumsum(dim=0) - negatives / 2
    return float((positives * below).sum() / (len(positive) * len(negative)))


def fpr_at_tpr(positive: Tensor, negative: Tensor, tpr: float) -> float:
    """Return the false positive rate at the highest threshold that reaches a true positive rate.

    A score is accepted if it is at least the threshold. OpenOOD swaps the roles: there the images
    to reject are the positives, and the values differ much. The scores are those of `auroc`; the
    true positive rate is in (0, 1].
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
