"""How much the confidence is worth: accuracy on the images that are not left to a person."""

from dataclasses import dataclass

import torch
from torch import Tensor

from neither.evaluation.groups import add_up, group_ties
from neither.evaluation.rejection import auroc

COVERAGES = (0.95, 0.9, 0.8)


@dataclass(frozen=True)
class Selective:
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


def measure_selective(confidences: Tensor, hits: Tensor) -> Selective:
    """Measure what withholding the least sure predictions gains.

    Args:
        confidences: (N,) float64, N of 1 or more.
        hits: (N,) bool, which predictions are right.
    """
    num = len(hits)
    errors = errors_among_first(confidences, hits)
    counts = torch.arange(1, num + 1, dtype=torch.float64)
    risks = errors / counts
    sound = (risks <= 0.01 + 1e-12).nonzero()
    both = bool(hits.any()) and not bool(hits.all())
    return Selective(
        float(risks.mean()),
        float(errors.mean() / num),
        {f"{share:g}": 1 - float(risks[max(1, round(share * num)) - 1]) for share in COVERAGES},
        (int(sound.max()) + 1) / num if len(sound) else 0.0,
        auroc(confidences[hits], confidences[~hits]) if both else None,
    )


def errors_among_first(confidences: Tensor, hits: Tensor) -> Tensor:
    """Return the number of errors among the k surest, for each k.

    Images of one confidence have no order: each counts as their mean.
    """
    values, tied = group_ties(confidences)
    shares = add_up(~hits, tied, len(values)) / tied.bincount()
    return shares[tied.sort(descending=True).values].cumsum(dim=0)
