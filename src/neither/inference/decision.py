"""From probabilities to a decision: a class, or `unsure` where a person should look."""

from collections.abc import Sequence
from dataclasses import dataclass

UNSURE = "unsure"
_FEWEST_DIGITS, _MOST_DIGITS = 4, 17  # 17 tell any two numbers of float64 apart


@dataclass(frozen=True)
class Decision:
    """What to do with one image.

    Attributes:
        predicted: the class of the largest probability.
        decided: the same, or `unsure`.
        reason: why, in numbers.
        confidence: the largest probability.
    """

    predicted: str
    decided: str
    reason: str
    confidence: float


def decide(
    probabilities: Sequence[float], classes: Sequence[str], threshold: float | None
) -> Decision:
    """Accept the most probable class if its probability reaches the threshold.

    Args:
        probabilities: of one image, in the order of the classes.
        classes: their names.
        threshold: the least probability to accept; without one every prediction is accepted.
    """
    confidence = max(probabilities)
    predicted = classes[probabilities.index(confidence)]
    if threshold is None:
        return Decision(predicted, predicted, "no threshold", confidence)
    is_sure = confidence >= threshold
    digits = _FEWEST_DIGITS if is_sure else _digits_apart(confidence, threshold)
    reason = f"{confidence:.{digits}f} {'>=' if is_sure else '<'} {threshold:.{digits}f}"
    return Decision(predicted, predicted if is_sure else UNSURE, reason, confidence)


def _digits_apart(one: float, other: float) -> int:
    """Return how many decimals show that two numbers differ: nobody believes 0.9877 < 0.9877."""
    digits = range(_FEWEST_DIGITS, _MOST_DIGITS)
    return next((num for num in digits if f"{one:.{num}f}" != f"{other:.{num}f}"), _MOST_DIGITS)
