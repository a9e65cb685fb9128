"""What a run tells about itself: TensorBoard curves and `metrics.jsonl`.

TensorBoard's event files that earlier attempts of a run left behind.

What a run was told and what came of it, as a row of TensorBoard's HParams table.
"""

import json
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neither.config.schema import Config
from neither.runtime import files
from neither.runtime.console import warn
from neither.training.run_folder import RESUMABLE_CHANGES, flatten_config

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class MetricsLogger:
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
                drop_events_from(folder, purged_from)
                order_event_files(folder)
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
                files.write_atomic(self._rows_file, lines)
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

    def write_image(self, tag: str, pixels: NDArray[np.uint8]) -> None:
        """Show (H, W, 3) uint8 pixels beside the curves of train, at step 0."""
        self.add("train", lambda writer: writer.add_image(tag, pixels, 0, dataformats="HWC"))

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


_NAMES = "events.out.tfevents.*"
_AROUND = 12, 4  # bytes before an event, its length first, and behind it; the others are checksums


def drop_events_from(folder: Path, step: int) -> None:
    """Take out what an attempt showed at a step or later, and then was cut off before it saved.

    `purge_step` makes TensorBoard skip it, but not every program that reads such files.

    Args:
        folder: of the files.
        step: the first to take out; 0 leaves nothing.

    Raises:
        OSError: if the folder cannot be written.
        ValueError: if a file is not one of TensorBoard's.
    """
    for path in sorted(folder.glob(_NAMES)):
        content = path.read_bytes()
        kept = b"".join(record for at, record in _records(content, path) if at < step)
        if not kept:
            path.unlink()
        elif kept != content:
            files.write_atomic(path, kept)


def order_event_files(folder: Path) -> None:
    """Give event files of earlier attempts names that sort before those of this one.

    TensorBoard reads them by the time in the name, in whole seconds; an attempt in the same second,
    or one before the clock was set back, would come last and seem to be the newest.
    """
    before = sorted(folder.glob(_NAMES))
    if before and int(before[-1].name.split(".")[3]) >= int(time.time()):
        for number, path in enumerate(before):
            parts = path.name.split(".")
            path.rename(path.with_name(".".join([*parts[:3], f"{number:010}", *parts[4:]])))


def _records(content: bytes, path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the step and the bytes of each event; one that was cut off ends the file."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorboard.compat.proto.event_pb2 import Event

    start, (before, behind) = 0, _AROUND
    while len(content) - start >= before:
        end = start + before + struct.unpack_from("<Q", content, start)[0] + behind
        if end > len(content):
            return
        try:
            event = Event.FromString(content[start + before : end - behind])
        except DecodeError as error:
            raise ValueError(f"{path}: not a file of TensorBoard's") from error
        yield event.step, content[start:end]
        start = end


# Of `best.pt`, when training has ended: what several runs are to be compared by.
_FIGURES = ("macro_recall", "accuracy", "loss", "calibrated_loss", "ece")
# The table opens with five keys: those that are said to differ, else the first by the alphabet.
_FIRST = ("data.image_size", "model.width", "seed", "train.epochs", "train.lr")


def write_hparams(writer: "SummaryWriter", config: Config) -> None:
    """Write the keys that change figures, so that the run has its row from its first step on.

    They go where the curves are. `SummaryWriter.add_hparams` would make another folder, which
    TensorBoard takes for another run.
    """
    told, _ = _summaries(config)
    for summary in told:
        writer.file_writer.add_summary(summary, 0)  # type: ignore[attr-defined]


def write_final_metrics(
    writer: "SummaryWriter", config: Config, best: Mapping[str, float], epoch: int, step: int
) -> None:
    """Write the figures of the best epoch, and that the run has ended.

    Args:
        writer: that `write_told` got.
        config: likewise.
        best: the values of the curves on val.
        epoch: that they are of.
        step: optimizer steps taken in all.
    """
    for name in _FIGURES:
        if name in best:
            writer.add_scalar(f"best/{name}", best[name], step)
    writer.add_scalar("best/best_epoch", epoch, step)
    _, ended = _summaries(config)
    writer.file_writer.add_summary(ended, step)  # type: ignore[attr-defined]


def _summaries(config: Config) -> tuple[tuple[Any, Any], Any]:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
    from torch.utils.tensorboard.summary import hparams

    told = {
        key: value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
        for key, value in flatten_config(config).items()
        if key not in RESUMABLE_CHANGES
    }
    metrics = dict.fromkeys((*(f"best/{name}" for name in _FIGURES), "best/best_epoch"), 0.0)
    experiment, start, end = hparams(told, metrics)  # type: ignore[no-untyped-call]
    plugin = experiment.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(plugin.content)
    for key in content.experiment.hparam_infos:
        key.differs = key.name in _FIRST
    plugin.content = content.SerializeToString()
    return (experiment, start), end
