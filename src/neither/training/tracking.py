"""What a run tells about itself: TensorBoard curves and `metrics.jsonl`."""

import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from neither import files
from neither.data.batches import Batch
from neither.data.preprocessing import Preprocessing
from neither.terminal import warn

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_SHEET_ROWS, _SHEET_COLUMNS = 4, 8


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
                _put_first(folder)
                purged_from = 0 if step is None else step + 1
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
        try:
            if "train" in self._writers:
                self._writers["train"].add_text(tag, indented, 0)
        except OSError as error:
            self._give_up(error)

    def write_sheet(
        self, tag: str, batch: Batch, classes: tuple[str, ...], preprocessing: Preprocessing
    ) -> None:
        """Show the first images of a batch as the network sees them, with their labels."""
        try:
            if "train" in self._writers:
                figure = _draw_sheet(batch, classes, preprocessing)
                self._writers["train"].add_figure(tag, figure, 0)
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
        self._writers = {}


def _put_first(folder: Path) -> None:
    """Give event files of earlier attempts names that sort before those of this one.

    TensorBoard reads them by the time in the name, in whole seconds; an attempt in the same second,
    or one before the clock was set back, would come last and seem to be the newest.
    """
    before = sorted(folder.glob("events.out.tfevents.*"))
    if before and int(before[-1].name.split(".")[3]) >= int(time.time()):
        for number, path in enumerate(before):
            parts = path.name.split(".")
            path.rename(path.with_name(".".join([*parts[:3], f"{number:010}", *parts[4:]])))


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of earlier epochs; without them the curves go on, only with fewer points."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [{"epoch": int(row["epoch"]), "step": int(row["step"]), **row} for row in rows]
    except (ValueError, TypeError, KeyError, FileNotFoundError) as error:
        warn(f"{path}: the rows of earlier epochs are lost: {error}")
        return []


def _draw_sheet(batch: Batch, classes: tuple[str, ...], preprocessing: Preprocessing) -> Figure:
    """Tile the images into one, as an axes for each would take a second and a half."""
    num = min(len(batch.labels), _SHEET_ROWS * _SHEET_COLUMNS)
    side = batch.images.shape[-1]
    margin = math.ceil(side / 4)  # above each image, for its label
    tiles = np.full((_SHEET_ROWS * (side + margin), _SHEET_COLUMNS * (side + margin), 3), 255,
                    np.uint8)  # fmt: skip
    figure = Figure(figsize=(1.5 * _SHEET_COLUMNS, 1.5 * _SHEET_ROWS))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for place, image in enumerate(_to_pixels(batch.images[:num], preprocessing)):
        row, column = divmod(place, _SHEET_COLUMNS)
        top, left = row * (side + margin) + margin, column * (side + margin) + margin // 2
        tiles[top : top + side, left : left + side] = image
        label = classes[int(batch.labels[place])]
        axes.text(left, top, label, fontsize=10, va="bottom", parse_math=False, clip_on=True)
    axes.imshow(tiles)
    return figure


def _to_pixels(images: Tensor, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Undo the normalisation; (B, 3, S, S) float32 becomes (B, S, S, 3) uint8."""
    images = images.permute(0, 2, 3, 1).cpu()
    shares = images * torch.tensor(preprocessing.std) + torch.tensor(preprocessing.mean)
    pixels: NDArray[np.uint8] = (255 * shares).clamp(0, 255).to(torch.uint8).numpy()
    return pixels
