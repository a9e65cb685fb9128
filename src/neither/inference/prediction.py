"""The prediction for one image, and its formats: CSV, JSON, bars in a terminal."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from neither.data.split_file import csv_line, safe_cell
from neither.models.decision_rule import DecisionRule
from neither.runtime.console import printable

UNSURE = "unsure"
_MIN_DIGITS, _MAX_DIGITS = 4, 17  # 17 digits distinguish any two float64 numbers
_BAR_WIDTH = 10
_EIGHTHS = " \u258f\u258e\u258d\u258c\u258b\u258a\u2589"  # block characters, by eighths of a cell
_MAX_BARS = 3
_NAME_WIDTH = 10


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image; the attributes have the names used in `predictions.csv`.

    Attributes:
        path: path of the file as the user gave it; empty if the image came from memory.
        probabilities: calibrated probability of each class by name, in the order of the classes:
            each in [0, 1], together 1. Empty if the file is unreadable.
        predicted: the most probable class.
        decision: the same, or `unsure` if its probability is below the threshold of this class.
        reason: the comparison that led to the decision.
        confidence: the largest probability.
        true_label: the label that the folder or CSV file gives; empty if there is none.
        error: why the file is unreadable; empty if it is readable.
        certified: whether the thresholds keep the target precision with 90 % confidence.
    """

    path: str = ""
    probabilities: Mapping[str, float] = field(default_factory=dict)
    predicted: str = ""
    decision: str = ""
    reason: str = ""
    confidence: float = 0.0
    true_label: str = ""
    error: str = ""
    certified: bool = False


def decide(
    probabilities: Mapping[str, float], rule: DecisionRule, reject_class: str | None, path: str = ""
) -> Prediction:
    """Accept the most probable class if its probability reaches the threshold of this class.

    Args:
        probabilities: probability of each class by name; of equal ones the first is predicted.
        rule: the threshold of the reject class, and that of all others.
        reject_class: its name, if there is one.
        path: of the image.
    """
    predicted = max(probabilities, key=probabilities.__getitem__)
    confidence = probabilities[predicted]
    threshold = rule.reject_threshold if predicted == reject_class else rule.threshold
    decision, reason = predicted, "no threshold"
    if threshold is not None:
        decision, sign, digits = predicted, ">=", _MIN_DIGITS
        if confidence < threshold:
            decision, sign = UNSURE, "<"
            # As many decimals as show the difference, so that no reason reads 0.9877 < 0.9877.
            while digits < _MAX_DIGITS and f"{confidence:.{digits}f}" == f"{threshold:.{digits}f}":
                digits += 1
        reason = f"{confidence:.{digits}f} {sign} {threshold:.{digits}f}"
    return Prediction(
        path, probabilities, predicted, decision, reason, confidence, certified=rule.is_certified
    )


def csv_header(classes: Sequence[str]) -> bytes:
    """Return the first line of `predictions.csv`."""
    probabilities = [f"prob_{name}" for name in classes]
    return csv_line(["path", "status", "predicted", "decision", "reason", "certified", "confidence",
                     *probabilities, "true_label", "error"])  # fmt: skip


def to_csv(prediction: Prediction, classes: Sequence[str]) -> bytes:
    """Return a line of `predictions.csv`; probabilities have six decimals."""
    path, label = safe_cell(prediction.path), prediction.true_label
    if not prediction.probabilities:
        blanks = [""] * (5 + len(classes))
        return csv_line([path, "unreadable", *blanks, label, prediction.error])
    certified = json.dumps(prediction.certified)
    decision = [prediction.predicted, prediction.decision, prediction.reason, certified]
    numbers = [prediction.confidence, *(prediction.probabilities[name] for name in classes)]
    return csv_line([path, "ok", *decision, *(f"{each:.6f}" for each in numbers), label, ""])


def to_json(prediction: Prediction) -> str:
    """Return a line of JSON; keys that do not apply are absent.

    Bytes of a file name that are not UTF-8 become lone surrogates; `os.fsencode` restores them.
    """
    row: dict[str, object] = {"path": prediction.path}
    if prediction.probabilities:
        row |= {
            "status": "ok",
            "predicted": prediction.predicted,
            "decision": prediction.decision,
            "reason": prediction.reason,
            "certified": prediction.certified,
            "confidence": round(prediction.confidence, 6),
            "probabilities": {name: round(p, 6) for name, p in prediction.probabilities.items()},
        }
    else:
        row |= {"status": "unreadable", "error": prediction.error}
    return json.dumps(row) + "\n"


def to_bars(prediction: Prediction, blocks: bool = True) -> str:
    """Return a line for a terminal: the decision, the largest probabilities as bars, the path."""
    path, pairs = printable(prediction.path), list(prediction.probabilities.items())
    if not pairs:
        return f"{'unreadable':{_NAME_WIDTH}}  {path}: {printable(prediction.error)}\n"
    if len(pairs) > _MAX_BARS:
        pairs = sorted(pairs, key=lambda pair: -pair[1])[:_MAX_BARS]
    bars = "  ".join(f"{_shorten(name)} {_bar(p, blocks)} {p:.2f}" for name, p in pairs)
    return f"{_shorten(prediction.decision):{_NAME_WIDTH}}  {bars}  {path}\n"


def _shorten(name: str) -> str:
    return printable(name)[:_NAME_WIDTH]


def _bar(probability: float, blocks: bool) -> str:
    if not blocks:
        return ("#" * round(_BAR_WIDTH * probability)).ljust(_BAR_WIDTH, ".")
    whole, eighths = divmod(round(8 * _BAR_WIDTH * probability), 8)
    return ("\u2588" * whole + _EIGHTHS[eighths].strip()).ljust(_BAR_WIDTH)
