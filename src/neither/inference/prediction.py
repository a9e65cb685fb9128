"""From probabilities to a decision: a class, or `unsure` where a person should look.

What a classifier says of one picture.

What is said of one file, as a line of CSV, of JSON, or of bars for people.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from neither.data.split_file import csv_line, safe_cell
from neither.runtime.console import printable

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


_BAR_CELLS = 10
_EIGHTHS = " \u258f\u258e\u258d\u258c\u258b\u258a\u2589"  # blocks that fill a cell by eighths
_MOST_BARS = 3
_NAME_CELLS = 10


@dataclass(frozen=True)
class Prediction:
    """What is said of one file.

    Attributes:
        path: of the file, as it is to be shown.
        probabilities: one for each class; empty if the file is unreadable.
        decision: that they led to; None if the file is unreadable.
        true_label: the folder it lies in, empty if that says nothing.
        error: why it is unreadable.
    """

    path: str
    probabilities: Sequence[float] = ()
    decision: Decision | None = None
    true_label: str = ""
    error: str = ""


def encode(line: str) -> bytes:
    """Return a line in UTF-8; of a file name that is none, the bytes come out as they were."""
    return line.encode("utf-8", "surrogateescape")


def csv_header(classes: Sequence[str]) -> str:
    """Return the first line of `predictions.csv`."""
    shown = [f"prob_{name}" for name in classes]
    return csv_line(["path", "status", "predicted", "decision", "reason", "confidence", *shown,
                     "true_label", "error"])  # fmt: skip


def to_csv(prediction: Prediction, classes: Sequence[str]) -> str:
    """Return a line of `predictions.csv`, probabilities with six decimals."""
    path, decision = safe_cell(prediction.path), prediction.decision
    if decision is None:
        blanks = [""] * (4 + len(classes))
        return csv_line([path, "unreadable", *blanks, prediction.true_label, prediction.error])
    shown = [f"{each:.6f}" for each in (decision.confidence, *prediction.probabilities)]
    decided = [decision.predicted, decision.decided, decision.reason]
    return csv_line([path, "ok", *decided, *shown, prediction.true_label, ""])


def to_json(prediction: Prediction, classes: Sequence[str]) -> str:
    """Return a line of JSON; what does not apply is absent.

    Bytes of a file name that are no UTF-8 come as lone surrogates; `os.fsencode` turns them back.
    """
    decision = prediction.decision
    if decision is None:
        row: dict[str, object] = {
            "path": prediction.path, "status": "unreadable", "error": prediction.error,
        }  # fmt: skip
    else:
        row = {
            "path": prediction.path,
            "status": "ok",
            "predicted": decision.predicted,
            "decision": decision.decided,
            "reason": decision.reason,
            "confidence": round(decision.confidence, 6),
            "probabilities": {
                name: round(each, 6)
                for name, each in zip(classes, prediction.probabilities, strict=True)
            },
        }
    return json.dumps(row) + "\n"


def to_bars(prediction: Prediction, classes: Sequence[str], blocks: bool = True) -> str:
    """Return a line for people: the decision, the largest probabilities as bars, the path.

    Args:
        prediction: of one file.
        classes: names in the order of the probabilities.
        blocks: draw with block characters; otherwise with what every terminal has.
    """
    path, decision = printable(prediction.path), prediction.decision
    if decision is None:
        return f"{'unreadable':{_NAME_CELLS}}  {path}: {printable(prediction.error)}\n"
    pairs = list(zip(classes, prediction.probabilities, strict=True))
    if len(pairs) > _MOST_BARS:
        pairs = sorted(pairs, key=lambda pair: -pair[1])[:_MOST_BARS]
    bars = "  ".join(f"{_short(name)} {_bar(share, blocks)} {share:.2f}" for name, share in pairs)
    return f"{_short(decision.decided):{_NAME_CELLS}}  {bars}  {path}\n"


def _short(name: str) -> str:
    return printable(name)[:_NAME_CELLS]


def _bar(share: float, blocks: bool) -> str:
    if not blocks:
        return ("#" * round(_BAR_CELLS * share)).ljust(_BAR_CELLS, ".")
    whole, eighths = divmod(round(8 * _BAR_CELLS * share), 8)
    return ("\u2588" * whole + _EIGHTHS[eighths].strip()).ljust(_BAR_CELLS)
