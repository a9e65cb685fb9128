"""The rule that turns probabilities into decisions: which predictions are accepted."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

CalibratedOn = Literal["val", "left-out sources", "cross-validation"]
_Fraction = Annotated[float, Ge(0), Le(1)]
_Count = Annotated[int, Ge(0)]


@dataclass(frozen=True)
class DecisionRule:
    """Thresholds of probabilities, and what is known of them; stored in every checkpoint.

    A reject class has a threshold of its own: it is a wrong answer of another class that hurts.
    """

    target_precision: _Fraction = 1.0  # the precision that each threshold was chosen for
    # smallest probability to accept of a class that is not the reject class; None accepts every
    # such prediction, as no threshold reaches the target
    threshold: _Fraction | None = None
    # likewise for the reject class; None too if there is none
    reject_threshold: _Fraction | None = None
    is_certified: bool = False  # whether the thresholds keep the target with 90 % confidence each
    # how many more predictions of a class that is not the reject class, all correct, would certify
    # the first threshold; 0 if it is certified, or if that is unknown
    num_lacking: _Count = 0
    num_reject_lacking: _Count = 0  # likewise for the second

    def to_json(self) -> dict[str, Any]:
        """Return what `metrics.json` and exported files say; keys that do not apply are absent."""
        thresholds = {"threshold": self.threshold, "reject_threshold": self.reject_threshold}
        lacking = {"known": self.num_lacking, "reject": self.num_reject_lacking}
        lacking = {name: num for name, num in lacking.items() if num}
        return {name: value for name, value in thresholds.items() if value is not None} | {
            "certified": self.is_certified,
            **({"num_lacking": lacking} if lacking else {}),
        }
