"""What a run tells about itself: TensorBoard curves and `metrics.jsonl`."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neither import files
from neither.data.batches import Batch
from neither.data.preprocessing import Preprocessing
from neither.terminal import warn
from neither.training.events import drop_from, put_first
from neither.training.sheet import draw_batch

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Tracker:
    """Writes train and val figures under the same tags, so that each chart shows both.

    Trouble with the disk costs curves, never the run: it is said once and training goes on.
    """

    def __init__(self, run_folder: Path | None, step: int | None) -> None:
        """Open the writers.

        Args:
            run_folder: of the run; None to write nothing, as all ranks but the first do.
            step: of the last point to keep, None before the first; later ones, left by an attempt
                that was cut off before it could save, are dropped.
        """
        self._failed = False
        self._rows: list[dict[str, Any]] = []
        self._writers: dict[str, SummaryWriter] = {}
        self._rows_file = run_folder and run_folder / "metrics.jsonl"
        if run_folder is None or self._rows_file is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter as Writer

            if step is not None:
                self._rows = [row for row in _read_rows(self._rows_file) if row["step"] <= step]
            for split in ("train", "val"):
                folder = run_folder / "tensorboard" / split
                purged_from = 0 if step is None else step + 1
                drop_from(folder, purged_from)
                put_first(folder)
                self._writers[split] = Writer(str(folder), purge_step=purged_from)
        except (ImportError, OSError, ValueError) as error:  # the last: another program's files
            self._give_up(error)

    def write_epoch(
        self, epoch: int, step: int, train: dict[str, float], val: dict[str, float] | None
    ) -> None:
        """Write one point of every curve.

        Args:
            epoch: full epochs trained; 0 is before the first step.
            step: optimizer steps taken.
            train: the value of each curve on train.
            val: likewise on val, if it was measured.
        """
        figures = {"train": train} if val is None else {"train": train, "val": val}
        self._rows.append({"epoch": epoch, "step": step, **figures})
        lines = "".join(json.dumps(row) + "\n" for row in self._rows)
        try:
            if self._rows_file:
                files.write_whole(self._rows_file, lines)
            for split, writer in self._writers.items():
                for tag, value in figures.get(split, {}).items():
                    writer.add_scalar(tag, value, step)
                writer.flush()
        except OSError as error:
            self._give_up(error)

    def write_text(self, tag: str, text: str) -> None:
        """Show a text as it is."""
        indented = "".join(f"    {line}\n" for line in text.splitlines())  # Markdown for: verbatim
        self.write_markdown(tag, indented)

    def write_markdown(self, tag: str, text: str) -> None:
        """Show a text with its tables."""
        self.add("train", lambda writer: writer.add_text(tag, text, 0))

    def write_sheet(
        self, tag: str, batch: Batch, classes: tuple[str, ...], preprocessing: Preprocessing
    ) -> None:
        """Show the first images of a batch as the network sees them, with their labels."""
        sheet = draw_batch(batch, classes, preprocessing)
        self.add("train", lambda writer: writer.add_image(tag, sheet, 0, dataformats="HWC"))

    def add(self, split: str, show: Callable[["SummaryWriter"], None]) -> None:
        """Let a function show what it likes beside the curves of a split.

        It is not called once the curves can no longer be written.
        """
        try:
            if split in self._writers:
                show(self._writers[split])
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Flush everything to disk."""
        try:
            for writer in self._writers.values():
                writer.close()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        if not self._failed:
            warn(f"curves can no longer be written: {error}; training goes on without them")
        self._failed = True
        writers, self._writers = self._writers, {}
        for writer in writers.values():  # else their threads and files would live on
            with suppress(OSError):
                writer.close()


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of earlier epochs; without them the curves go on, only with fewer points."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [{"epoch": int(row["epoch"]), "step": int(row["step"]), **row} for row in rows]
    except (ValueError, TypeError, KeyError, FileNotFoundError) as error:
        warn(f"{path}: the rows of earlier epochs are lost: {error}")
        return []
