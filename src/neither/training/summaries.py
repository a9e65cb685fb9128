"""What a run logs: `metrics.jsonl`, and for TensorBoard curves, HParams, text, plots and images."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from neither.config.loader import to_yaml
from neither.config.schema import Config, Train
from neither.data.batches import Batch
from neither.data.dataset import Dataset
from neither.data.preprocessing import Preprocessing, normalize
from neither.evaluation.calibration import reliability_bins
from neither.evaluation.metrics import confusion_matrix
from neither.evaluation.selective import most_confident_mistakes, risk_coverage
from neither.inference.explain import class_contrast_cam, draw_heat_map
from neither.models.softmax import to_probabilities
from neither.reporting.html import read_metrics_rows
from neither.reporting.text import describe_splits
from neither.runtime import files
from neither.runtime.console import printable, warn
from neither.runtime.errors import UserError
from neither.training.run_folder import RESUMABLE_CHANGES, flatten_config
from neither.training.state import TrainState

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_NUM_LOGGED_EPOCHS = 10
_MAX_MISTAKES = 12
_LAYOUT = {
    "overview": {
        "loss": ["Multiline", ["^loss$", "^calibrated_loss$"]],
        "recall per class": ["Multiline", ["^recall/"]],
        "calibration error (ece)": ["Multiline", ["^ece$"]],
        "temperature": ["Multiline", ["^temperature$"]],
    }
}


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


def is_logged(epoch: int, settings: Train) -> bool:
    """Return whether a validated epoch is one of ten evenly spaced, or the first after one."""
    before = (epoch - 1) // settings.validate_every_epochs * settings.validate_every_epochs
    total = settings.epochs
    return epoch * _NUM_LOGGED_EPOCHS // total > before * _NUM_LOGGED_EPOCHS // total


def log_run(
    logger: MetricsLogger, config: Config, state: TrainState, first: Batch, splits_file: Path
) -> None:
    """Log what is known before the first step: config, images, network, the first batch."""

    def log_train(writer: "SummaryWriter") -> None:
        network = describe_network(state.ema.network, state.preprocessing.image_size)
        images = draw_batch(first, config.classes, state.preprocessing)
        writer.add_text("summary/config", indent(to_yaml(config), "    "), 0)  # as a code block
        writer.add_text("summary/images", describe_splits(splits_file, config.classes), 0)
        writer.add_text("summary/network", network, 0)
        writer.add_image("training_images", images, 0, dataformats="HWC")

    logger.add("train", log_train)
    logger.add("val", lambda writer: writer.add_custom_scalars(_LAYOUT))
    logger.add("val", lambda writer: write_hparams(writer, config))


def log_epoch(
    logger: MetricsLogger, config: Config, state: TrainState, data: Dataset, logits: Tensor
) -> None:
    """Log plots of val from its (N, C) logits, histograms, and at the end the best metrics."""
    logger.add("val", lambda writer: _log_val(writer, config, state, data, logits))
    logger.add("train", lambda writer: _log_weights(writer, state))
    is_best = state.is_best()
    best = state.metrics if is_best else state.best_metrics
    epoch = state.epoch if is_best else state.best_epoch
    if state.epoch == config.train.epochs and best is not None:
        logger.add(
            "val", lambda writer: write_best_metrics(writer, config, best, epoch, state.step)
        )


def _log_val(
    writer: "SummaryWriter", config: Config, state: TrainState, data: Dataset, logits: Tensor
) -> None:
    from neither.reporting import plots  # Matplotlib takes half a second

    labels, step = data.val.labels, state.step
    probabilities = to_probabilities(logits, state.temperature)
    confusion = confusion_matrix(labels, probabilities.argmax(dim=1), len(config.classes))
    points = risk_coverage(probabilities, labels)
    bins = reliability_bins(probabilities, labels)
    target, when = config.decision.target_precision, f"on val, epoch {state.epoch}"
    figures = {
        "confusion": plots.plot_confusion(confusion.tolist(), config.classes, f"confusion {when}"),
        "reliability": plots.plot_reliability(bins, f"reliability {when}"),
        "risk_coverage": plots.plot_risk_coverage(points, target, f"risk and coverage {when}"),
    }
    for tag, figure in figures.items():
        writer.add_image(f"val/{tag}", plots.to_pixels(figure), step, dataformats="HWC")
    mistakes = draw_worst_mistakes(state, data, probabilities)
    writer.add_image("val/worst_mistakes", mistakes, step, dataformats="HWC")
    for number, name in enumerate(config.classes):
        is_class, scores = labels == number, probabilities[:, number]
        writer.add_pr_curve(f"precision_recall/{name}", is_class, scores, step)


def _log_weights(writer: "SummaryWriter", state: TrainState) -> None:
    """Log histograms of weights, and of the last step's gradients.

    There are no gradients if the run was stopped between that step and the end of the epoch.
    """
    for name, weights in state.network.named_parameters():
        if weights.ndim > 1:  # not the scales and offsets of normalization: they are too many
            writer.add_histogram(f"weights/{name}", weights, state.step)
            if weights.grad is not None:
                writer.add_histogram(f"gradients/{name}", weights.grad, state.step)


_IMAGE = 120  # pixels a side
_LINE = 18  # pixels of a line of text
_GAP = 8
_BATCH_ROWS, _BATCH_COLUMNS = 4, 8
_MISTAKE_COLUMNS = 3
_MAX_BARS = 3
_MAX_PATH_LETTERS = 32
# Light in TensorBoard's dark theme too, so that text and photos look the same in both.
_BACKGROUND, _TEXT, _GRAY = (250, 250, 250), (30, 30, 30), (150, 150, 150)
_TRUE, _PREDICTED = (40, 110, 200), (220, 110, 20)  # blue and orange, safe for color blindness


class _Grid:
    """An image with cells of one size. Matplotlib would need seconds for as many axes."""

    def __init__(self, num_rows: int, num_columns: int, width: int, height: int) -> None:
        self._num_columns, self._width, self._height = num_columns, width, height
        size = (num_columns * (width + _GAP) + _GAP, num_rows * (height + _GAP) + _GAP)
        self.image = Image.new("RGB", size, _BACKGROUND)
        self._draw = ImageDraw.Draw(self.image)

    def corner(self, index: int) -> tuple[int, int]:
        """Return left and top of a cell."""
        row, column = divmod(index, self._num_columns)
        return _GAP + column * (self._width + _GAP), _GAP + row * (self._height + _GAP)

    def write(
        self, left: int, top: int, text: str, width: int, color: tuple[int, int, int] = _TEXT
    ) -> None:
        """Write one line, truncated to a width."""
        font = ImageFont.load_default(14)
        while text and self._draw.textlength(text, font) > width:
            text = text[:-1]
        self._draw.text((left, top), text, color, font)

    def draw_bar(
        self, left: int, top: int, name: str, probability: float, color: tuple[int, int, int]
    ) -> None:
        """Draw name, bar and percentage in one line, two images wide."""
        start, length = left + 70, 2 * _IMAGE - 70 - 46
        self.write(left, top, name, 66)
        end = start + round(probability * length)
        self._draw.rectangle((start, top + 4, end, top + _LINE - 3), color)
        self.write(start + length + 6, top, f"{100 * probability:.0f} %", 46)


def draw_batch(
    batch: Batch, classes: Sequence[str], preprocessing: Preprocessing
) -> NDArray[np.uint8]:
    """Draw the first images of a batch, as the network sees them, as (H, W, 3) uint8 RGB."""
    grid = _Grid(_BATCH_ROWS, _BATCH_COLUMNS, _IMAGE, _IMAGE + _LINE)
    images = _denormalize(batch.images[: _BATCH_ROWS * _BATCH_COLUMNS], preprocessing)
    for index, pixels in enumerate(images):
        left, top = grid.corner(index)
        label = int(batch.labels[index])
        grid.write(left, top, classes[label] if label >= 0 else "no label", _IMAGE)
        grid.image.paste(_resize(pixels), (left, top + _LINE))
    return np.asarray(grid.image)


@torch.no_grad()
def draw_worst_mistakes(
    state: TrainState, data: Dataset, probabilities: Tensor
) -> NDArray[np.uint8]:
    """Draw the most confident mistakes on val as heat maps, over bars of their probabilities.

    Red areas contributed to the predicted class, blue ones against it. There are bars for the most
    probable classes and the true one: orange is the predicted class, blue the true one. The result
    is (H, W, 3) uint8 RGB.
    """
    classes, labels = data.classes, data.val.labels
    indices = most_confident_mistakes(probabilities, labels, _MAX_MISTAKES)
    num_bars = min(len(classes), _MAX_BARS)
    width, height = 2 * _IMAGE, 2 * _LINE + _IMAGE + num_bars * _LINE
    grid = _Grid(max(1, -(-len(indices) // _MISTAKE_COLUMNS)), _MISTAKE_COLUMNS, width, height)
    if not indices:
        grid.write(_GAP, _GAP, "no mistakes", width)
        return np.asarray(grid.image)
    pixels = data.pixels[data.val.rows[indices]]
    device = next(state.network.parameters()).device
    predicted = probabilities.argmax(dim=1)[indices].to(device)
    cams: Sequence[Tensor] | None
    try:
        images = normalize(pixels.to(device), state.preprocessing)
        network = state.eval_model(state.ema.network)
        cams = list(class_contrast_cam(network, images, predicted).float().cpu())
    except (TypeError, UserError):  # a network without a CAM
        cams = None
    for cell, index in enumerate(indices):
        left, top = grid.corner(cell)
        label, values = int(labels[index]), probabilities[index].tolist()
        order = sorted(range(len(classes)), key=lambda number: -values[number])
        path = printable(data.val.paths[index])[-_MAX_PATH_LETTERS:]
        grid.write(left, top, path, width, _GRAY)
        grid.write(left, top + _LINE, f"{classes[label]}, predicted {classes[order[0]]}", width)
        image = _resize(pixels[cell].numpy())
        if cams is not None:
            image = Image.fromarray(draw_heat_map(pixels[cell].numpy(), cams[cell], _IMAGE))
        grid.image.paste(image, (left, top + 2 * _LINE))
        shown = order[:num_bars]
        if label not in shown:
            shown[-1] = label
        for line, number in enumerate(shown):
            color = {label: _TRUE, order[0]: _PREDICTED}.get(number, _GRAY)
            y = top + 2 * _LINE + _IMAGE + line * _LINE
            grid.draw_bar(left, y, classes[number], values[number], color)
    return np.asarray(grid.image)


def _resize(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels).resize((_IMAGE, _IMAGE), Image.Resampling.BICUBIC)


def _denormalize(images: Tensor, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Turn (B, 3, S, S) float32 into (B, S, S, 3) uint8."""
    images = images.permute(0, 2, 3, 1).cpu()
    values = images * torch.tensor(preprocessing.std) + torch.tensor(preprocessing.mean)
    pixels: NDArray[np.uint8] = (255 * values).clamp(0, 255).to(torch.uint8).numpy()
    return pixels


@torch.no_grad()
def describe_network(network: nn.Module, image_size: int) -> str:
    """Return a Markdown table of the layers of a network, in the order of a forward pass."""
    names = {
        layer: name
        for name, layer in network.named_modules()
        if name and not list(layer.children()) and not isinstance(layer, nn.Sequential)
    }
    rows = ["| layer | kind | output | parameters |\n", "| --- | ---: | ---: | ---: |\n"]

    def add_row(layer: nn.Module, _: object, output: object) -> None:
        if layer in names:
            num = sum(weights.numel() for weights in layer.parameters())
            shape = list(output.shape[1:]) if isinstance(output, Tensor) else ["several"]
            kind, size = type(layer).__name__, " x ".join(map(str, shape))
            rows.append(f"| `{names[layer]}` | {kind} | {size} | {num:,} |\n")

    device = next(network.parameters()).device
    with register_module_forward_hook(add_row):
        network(torch.zeros(1, 3, image_size, image_size, device=device))
    total = sum(weights.numel() for weights in network.parameters())
    return (
        f"{''.join(rows)}\n{total:,} parameters; shapes are of one image of {image_size} x "
        f"{image_size} pixels\n"
    )
