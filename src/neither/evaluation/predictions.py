"""`predictions.csv`: one row for each file found, none dropped, none shifted."""

import io
from collections.abc import Sequence
from types import TracebackType
from typing import BinaryIO, Self

from neither.data.split_file import csv_line, safe_cell
from neither.inference.decision import Decision


class PredictionWriter:
    """Writes rows as they come, so that their number does not matter to memory."""

    def __init__(self, file: BinaryIO, classes: Sequence[str]) -> None:
        # A file name may hold bytes that are no UTF-8; they come out as they were.
        self._text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
        self._classes = classes
        self._write_line(
            ["path", "status", "predicted", "decision", "reason", "confidence"]
            + [f"prob_{name}" for name in classes]
            + ["true_label", "error"]
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._text.flush()
        self._text.detach()

    def write(
        self, path: str, probabilities: Sequence[float], decision: Decision, true_label: str
    ) -> None:
        """Write the row of an image.

        Args:
            path: relative to the scored folder.
            probabilities: one for each class.
            decision: that they led to.
            true_label: the folder it lies in, empty if unknown.
        """
        shown = [f"{each:.6f}" for each in (decision.confidence, *probabilities)]
        decided = [decision.predicted, decision.decided, decision.reason]
        self._write_line([safe_cell(path), "ok", *decided, *shown, true_label, ""])

    def write_unreadable(self, path: str, true_label: str, error: str) -> None:
        """Write the row of a file that gave no image, with the reason."""
        blanks = [""] * (4 + len(self._classes))
        self._write_line([safe_cell(path), "unreadable", *blanks, true_label, error])

    def _write_line(self, cells: Sequence[str]) -> None:
        self._text.write(csv_line(cells))
