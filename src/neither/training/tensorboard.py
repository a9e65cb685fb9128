"""What a run logs: `metrics.jsonl`, and TensorBoard curves and HParams."""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neither.config.schema import Config
from neither.reporting.html import read_metrics_rows
from neither.runtime import files
from neither.runtime.console import warn
from neither.training.run_folder import RESUMABLE_CHANGES, flatten_config

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class MetricsLogger:
    """Writes metrics of train and val under the same tags, so that each chart shows both.

    A disk error costs curves, not the run: it is logged once and training continues.
    """

    def __init__(self, run_folder: Path | None, step: int | None) -> None:
        """Open the writers.

        Args:
            run_folder: of the run; None to write nothing, as on all ranks but rank 0.
            step: the last one to keep, None for a new run; TensorBoard drops later points, which
                an attempt wrote after its last checkpoint.
        """
        self._has_failed = False
        self._rows: list[dict[str, Any]] = []
        self._writers: dict[str, SummaryWriter] = {}
        self._rows_file = run_folder and run_folder / "metrics.jsonl"
        if run_folder is None:
            return
        if step is not None:
            self._rows = [row for row in read_metrics_rows(run_folder) if row["step"] <= step]
        try:
            from torch.utils.tensorboard import SummaryWriter as Writer

            for split in ("train", "val"):
                folder = run_folder / "tensorboard" / split
                order_event_files(folder)
                first_dropped = 0 if step is None else step + 1
                self._writers[split] = Writer(str(folder), purge_step=first_dropped)
        except (ImportError, OSError) as error:
            self._give_up(error)

    def write_epoch(
        self, epoch: int, step: int, train: dict[str, float], val: dict[str, float] | None
    ) -> None:
        """Write one point of every curve, and a row of `metrics.jsonl`.

        Epoch 0 is before the first step; there are metrics on val if it was validated.
        """
        metrics = {"train": train} if val is None else {"train": train, "val": val}
        self._rows.append({"epoch": epoch, "step": step, **metrics})
        lines = "".join(json.dumps(row) + "\n" for row in self._rows)
        try:
            if self._rows_file:
                files.write_atomic(self._rows_file, lines)
            for split, writer in self._writers.items():
                for tag, value in metrics.get(split, {}).items():
                    writer.add_scalar(tag, value, step)
                writer.flush()
        except OSError as error:
            self._give_up(error)

    def add(self, split: str, write: Callable[["SummaryWriter"], None]) -> None:
        """Call a function with the writer of a split, unless writing has failed before."""
        try:
            if split in self._writers:
                write(self._writers[split])
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
        if not self._has_failed:
            warn(f"curves can no longer be written: {error}; training continues without them")
        self._has_failed = True
        writers, self._writers = self._writers, {}
        for writer in writers.values():  # ends their threads
            with suppress(OSError):
                writer.close()


# Metrics of `best.pt` at the end of training, by which runs are compared.
_BEST_METRICS = ("macro_recall", "accuracy", "loss", "calibrated_loss", "ece")
# The HParams table opens with five columns: those marked as differing, else the first by name.
_FIRST_HPARAMS = ("data.image_size", "model.width", "seed", "train.epochs", "train.lr")


def write_hparams(writer: "SummaryWriter", config: Config) -> None:
    """Write the keys that affect numbers, so that the run is in the HParams table from the start.

    They are written where the curves are: `SummaryWriter.add_hparams` would make another folder,
    which TensorBoard shows as another run.
    """
    for summary in _hparams_summaries(config)[:2]:
        writer.file_writer.add_summary(summary, 0)  # type: ignore[attr-defined]


def write_best_metrics(
    writer: "SummaryWriter", config: Config, best: Mapping[str, float], epoch: int, step: int
) -> None:
    """Write the val metrics of the best epoch as `best/*`, and mark the run as finished."""
    for name in _BEST_METRICS:
        if name in best:
            writer.add_scalar(f"best/{name}", best[name], step)
    writer.add_scalar("best/best_epoch", epoch, step)
    session_end = _hparams_summaries(config)[2]
    writer.file_writer.add_summary(session_end, step)  # type: ignore[attr-defined]


def _hparams_summaries(config: Config) -> tuple[Any, Any, Any]:
    """Return the summaries of experiment, session start and session end."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
    from torch.utils.tensorboard.summary import hparams

    values = {
        key: value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
        for key, value in flatten_config(config).items()
        if key not in RESUMABLE_CHANGES
    }
    metrics = dict.fromkeys((*(f"best/{name}" for name in _BEST_METRICS), "best/best_epoch"), 0.0)
    experiment, start, end = hparams(values, metrics)  # type: ignore[no-untyped-call]
    plugin = experiment.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(plugin.content)
    for key in content.experiment.hparam_infos:
        key.differs = key.name in _FIRST_HPARAMS
    plugin.content = content.SerializeToString()
    return experiment, start, end


def order_event_files(folder: Path) -> None:
    """Rename the event files of earlier attempts so that they sort before a new one.

    TensorBoard reads them by the time in the name, in whole seconds. An attempt in the same second,
    or one before the clock was set back, would otherwise be read last.
    """
    paths = sorted(folder.glob("events.out.tfevents.*"))
    if paths and int(paths[-1].name.split(".")[3]) >= int(time.time()):
        for number, path in enumerate(paths):
            parts = path.name.split(".")
            path.rename(path.with_name(".".join([*parts[:3], f"{number:010}", *parts[4:]])))
