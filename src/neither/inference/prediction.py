"""The prediction for one image, and its formats: CSV, JSON, bars in a terminal."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from neither.data.split_file import csv_line, safe_cell
from neither.models.checkpoint import DecisionRule
from neither.runtime import files
from neither.runtime.console import printable
from neither.runtime.errors import UsageError, named
from neither.runtime.locks import locked_file

UNSURE = "unsure"
_MIN_DIGITS, _MAX_DIGITS = 4, 17  # 17 digits distinguish any two float64 numbers
_BAR_WIDTH = 10
_EIGHTHS = " \u258f\u258e\u258d\u258c\u258b\u258a\u2589"  # block characters, by eighths of a cell
_MAX_BARS = 3
_NAME_WIDTH = 10
_BLOCK_ROWS = 64
_OTHER = "name another file, or remove this one"


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
    """Accept the most probable class, the first of equal ones, if it reaches its threshold."""
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


class PredictionFile:
    """A CSV file of predictions that grows by blocks of rows; a later process goes on with it.

    Attributes:
        counts: number of rows by path, as it stands in its cell, and decision; "" if unreadable.
    """

    def __init__(self, file: BinaryIO, path: Path, classes: Sequence[str]) -> None:
        """Read the rows of an open, locked file, and remove one that a killed process has cut."""
        self._file, self._path, self._classes = file, path, classes
        self._block: list[bytes] = []
        self.counts: Counter[tuple[str, str]] = Counter()
        content, header = file.read(), csv_header(classes)
        end = len(content)
        while end and (content[end - 1] != ord("\n") or content.count(b'"', 0, end) % 2):
            end = content.rfind(b"\n", 0, end - 1) + 1  # a path in quotes may hold line ends
        if not end and header.startswith(content):
            self._block.append(header)
        elif not content.startswith(header):
            raise UsageError(f"{path}: has other columns than predictions of this model; {_OTHER}")
        file.truncate(end)
        text = content[len(header) : end].decode("utf-8", "surrogateescape")
        self.counts.update((row[0], row[3]) for row in csv.reader(io.StringIO(text, newline="")))

    def add(self, prediction: Prediction) -> None:
        """Add a row; rows are written in blocks."""
        self._block.append(to_csv(prediction, self._classes))
        if len(self._block) >= _BLOCK_ROWS:
            self.write()

    def write(self) -> None:
        """Write the rows added since the last block, and bring them to disk."""
        self._file.write(b"".join(self._block))
        self._file.flush()
        files.sync(self._file.fileno(), self._path)
        self._block.clear()


@contextmanager
def open_predictions(
    path: Path, classes: Sequence[str], made_by: Mapping[str, object]
) -> Iterator[PredictionFile]:
    """Open a new or unfinished file of predictions for this process alone.

    `<path>.json` beside it keeps what it is `made_by`: what the rows depend on besides the images.

    Raises:
        UsageError: if its rows were made by something else.
        OutputError: if another process has it, or the folder cannot be written.
    """
    record = path.with_name(f"{path.name}.json")
    files.make_folder(path.parent)
    with locked_file(path, wait=False) as file, named(path):
        if not path.stat().st_size:
            files.write_atomic(record, json.dumps(made_by) + "\n")
        elif files.read_json(record) != made_by:
            raise UsageError(f"{path}: {record.name} names no or another model; {_OTHER}")
        predictions = PredictionFile(file, path, classes)
        try:
            yield predictions
        finally:
            predictions.write()


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
