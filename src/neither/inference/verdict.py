"""What a classifier says of one picture."""

from collections.abc import Mapping
from dataclasses import dataclass

from neither.inference.decision import Decision


@dataclass(frozen=True)
class Verdict:
    """What a classifier says of one picture; the words are those of `predictions.csv`.

    Attributes:
        predicted: the most probable class.
        decision: the same, or `unsure` if its probability is below the threshold fitted on val.
        reason: why, in numbers.
        confidence: the largest probability.
        probabilities: of each class by its name, calibrated, in [0, 1], together 1.
    """

    predicted: str
    decision: str
    reason: str
    confidence: float
    probabilities: Mapping[str, float]

    @classmethod
    def of(cls, decision: Decision, probabilities: Mapping[str, float]) -> "Verdict":
        """Put a decision beside what it was taken by."""
        return cls(decision.predicted, decision.decided, decision.reason, decision.confidence,
                   probabilities)  # fmt: skip
