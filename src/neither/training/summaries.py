"""Sheets of many small images, tiled into one array: an axes for each would take seconds.

What TensorBoard shows besides curves: of the run, of val at ten epochs, of the weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from neither.config.loader import to_yaml
from neither.config.schema import Train
from neither.data.batches import Batch
from neither.data.dataset import Dataset
from neither.data.preprocessing import Preprocessing, normalize
from neither.evaluation.calibration import reliability_bins
from neither.evaluation.metrics import confusion_matrix
from neither.evaluation.selective import most_confident_mistakes, risk_coverage
from neither.inference.explain import draw_heat_map
from neither.models.cam import class_contrast_cam
from neither.models.softmax import to_probabilities
from neither.reporting.model_card import describe_splits
from neither.reporting.plots import plot_confusion, plot_reliability, plot_risk_coverage, to_pixels
from neither.runtime.console import printable
from neither.runtime.errors import UserError
from neither.training import tensorboard
from neither.training.state import TrainState
from neither.training.tensorboard import MetricsLogger

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


_MOST_NAMED = 20

_SIDE = 120  # pixels of an image on a sheet
_LINE = 18  # pixels of a line of text
_GAP = 8
_BATCH_ROWS, _BATCH_COLUMNS = 4, 8
_MISTAKE_COLUMNS = 3
_MOST_BARS = 3
_MOST_LETTERS = 32
# Paper is light in TensorBoard's dark theme too, so that ink and photos look the same in both.
_PAPER, _INK, _QUIET = (250, 250, 250), (30, 30, 30), (150, 150, 150)
_TRUE, _PREDICTED = (40, 110, 200), (220, 110, 20)  # blue and orange, which all eyes tell apart


@dataclass(frozen=True)
class Mistake:
    """One image that the network got wrong.

    Attributes:
        path: below the root.
        pixels: (S, S, 3) uint8 RGB.
        lead: (h, w), what each place adds to the lead of the predicted class; None if the network
            does not tell.
        label: number of its class.
        probabilities: of the C classes.
    """

    path: str
    pixels: NDArray[np.uint8]
    lead: Tensor | None
    label: int
    probabilities: Sequence[float]


def draw_batch(
    batch: Batch, classes: Sequence[str], preprocessing: Preprocessing
) -> NDArray[np.uint8]:
    """Draw the first images of a batch as the network sees them, each under its label.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    sheet, draw = _new_sheet(_BATCH_ROWS, _BATCH_COLUMNS, _SIDE, _SIDE + _LINE)
    images = _to_pixels(batch.images[: _BATCH_ROWS * _BATCH_COLUMNS], preprocessing)
    for place, image in enumerate(images):
        left, top = _corner(place, _BATCH_COLUMNS, _SIDE, _SIDE + _LINE)
        _write(draw, left, top, classes[int(batch.labels[place])], _SIDE)
        sheet.paste(_fit(image), (left, top + _LINE))
    return np.asarray(sheet)


def draw_mistakes(mistakes: Sequence[Mistake], classes: Sequence[str]) -> NDArray[np.uint8]:
    """Draw images beside what spoke for the wrong class, over bars of their probabilities.

    Red places spoke for the predicted class, blue ones against it. Bars are of the most probable
    classes and the true one: orange is the predicted class, blue the true one.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    num_bars = min(len(classes), _MOST_BARS)
    width, height = 2 * _SIDE, 2 * _LINE + _SIDE + num_bars * _LINE
    rows = max(1, -(-len(mistakes) // _MISTAKE_COLUMNS))
    sheet, draw = _new_sheet(rows, _MISTAKE_COLUMNS, width, height)
    if not mistakes:
        _write(draw, _GAP, _GAP, "no mistakes", width)
    for place, mistake in enumerate(mistakes):
        left, top = _corner(place, _MISTAKE_COLUMNS, width, height)
        _write(draw, left, top, printable(mistake.path)[-_MOST_LETTERS:], width, _QUIET)
        order = sorted(range(len(classes)), key=lambda number: -mistake.probabilities[number])
        said = f"{classes[mistake.label]}, called {classes[order[0]]}"
        _write(draw, left, top + _LINE, said, width)
        picture = _fit(mistake.pixels)
        if mistake.lead is not None:
            picture = Image.fromarray(draw_heat_map(mistake.pixels, mistake.lead, _SIDE))
        sheet.paste(picture, (left, top + 2 * _LINE))
        shown = order[:num_bars]
        if mistake.label not in shown:
            shown[-1] = mistake.label
        for line, number in enumerate(shown):
            colour = {mistake.label: _TRUE, order[0]: _PREDICTED}.get(number, _QUIET)
            at = top + 2 * _LINE + _SIDE + line * _LINE
            _draw_bar(draw, left, at, classes[number], mistake.probabilities[number], colour)
    return np.asarray(sheet)


def _draw_bar(
    draw: ImageDraw.ImageDraw,
    left: int,
    top: int,
    name: str,
    share: float,
    colour: tuple[int, int, int],
) -> None:
    """Draw name, bar and figure in one line, two images wide."""
    start, longest = left + 70, 2 * _SIDE - 70 - 46
    _write(draw, left, top, name, 66)
    draw.rectangle((start, top + 4, start + round(share * longest), top + _LINE - 3), colour)
    _write(draw, start + longest + 6, top, f"{100 * share:.0f} %", 46)


def _new_sheet(
    rows: int, columns: int, width: int, height: int
) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    size = (columns * (width + _GAP) + _GAP, rows * (height + _GAP) + _GAP)
    sheet = Image.new("RGB", size, _PAPER)
    return sheet, ImageDraw.Draw(sheet)


def _corner(place: int, columns: int, width: int, height: int) -> tuple[int, int]:
    row, column = divmod(place, columns)
    return _GAP + column * (width + _GAP), _GAP + row * (height + _GAP)


def _write(
    draw: ImageDraw.ImageDraw,
    left: int,
    top: int,
    text: str,
    width: int,
    colour: tuple[int, int, int] = _INK,
) -> None:
    """Write one line, cut off where the next image begins."""
    font = ImageFont.load_default(14)
    while text and draw.textlength(text, font) > width:
        text = text[:-1]
    draw.text((left, top), text, colour, font)


def _fit(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)


def _to_pixels(images: Tensor, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Undo the normalisation; (B, 3, S, S) float32 becomes (B, S, S, 3) uint8."""
    images = images.permute(0, 2, 3, 1).cpu()
    shares = images * torch.tensor(preprocessing.std) + torch.tensor(preprocessing.mean)
    pixels: NDArray[np.uint8] = (255 * shares).clamp(0, 255).to(torch.uint8).numpy()
    return pixels


_NUM_SHOWN = 10
_MOST_MISTAKES = 12
_LAYOUT = {
    "overview": {
        "loss": ["Multiline", ["^loss$", "^calibrated_loss$"]],
        "recall per class": ["Multiline", ["^recall/"]],
        "calibration error (ece)": ["Multiline", ["^ece$"]],
        "temperature": ["Multiline", ["^temperature$"]],
    }
}


def is_logged(epoch: int, settings: Train) -> bool:
    """Say whether an epoch that was measured is one of ten evenly spaced, or the first after it."""
    before = (epoch - 1) // settings.validate_every_epochs * settings.validate_every_epochs
    return epoch * _NUM_SHOWN // settings.epochs > before * _NUM_SHOWN // settings.epochs


def log_run(tracker: MetricsLogger, state: TrainState, first: Batch, splits_file: Path) -> None:
    """Show what is known before the first step.

    Args:
        tracker: of the run.
        state: before the first step.
        first: the first batch.
        splits_file: `splits.csv` of the run.
    """
    config, size = state.config, state.preprocessing.image_size
    tracker.write_text("summary/config", to_yaml(config))
    tracker.write_markdown("summary/images", describe_splits(splits_file, config.classes))
    tracker.write_markdown("summary/network", describe_network(state.average.network, size))
    images = draw_batch(first, config.classes, state.preprocessing)
    tracker.write_image("training_images", images)
    tracker.add("val", lambda writer: writer.add_custom_scalars(_LAYOUT))
    tracker.add("val", lambda writer: tensorboard.write_hparams(writer, config))


def log_epoch(tracker: MetricsLogger, state: TrainState, data: Dataset, logits: Tensor) -> None:
    """Show what came of an epoch, and of the run after its last.

    Args:
        tracker: of the run.
        state: after the epoch.
        data: whose val was scored.
        logits: (N, C) of val.
    """
    config, step = state.config, state.step
    tracker.add("val", lambda writer: _show_val(writer, state, data, logits))
    tracker.add("train", lambda writer: _show_weights(writer, state))
    best, epoch = (
        (state.metrics, state.epoch) if state.is_best() else (state.best, state.best_epoch)
    )
    if state.epoch == config.train.epochs and best is not None:
        tracker.add(
            "val", lambda writer: tensorboard.write_final_metrics(writer, config, best, epoch, step)
        )


def _show_val(writer: "SummaryWriter", state: TrainState, data: Dataset, logits: Tensor) -> None:
    """Show what the averaged weights make of val, with the temperature that was fitted."""
    config, labels, step = state.config, data.val.labels, state.step
    probabilities = to_probabilities(logits, state.temperature)
    confusion = confusion_matrix(labels, probabilities.argmax(dim=1), len(config.classes))
    bins, points = reliability_bins(probabilities, labels), risk_coverage(probabilities, labels)
    epoch, target = f"epoch {state.epoch}", config.decision.target_precision
    pictures = {
        "confusion": to_pixels(
            plot_confusion(confusion.tolist(), config.classes, f"confusion on val, {epoch}")
        ),
        "reliability": to_pixels(plot_reliability(bins, f"reliability on val, {epoch}")),
        "risk_coverage": to_pixels(
            plot_risk_coverage(points, target, f"risk and coverage on val, {epoch}")
        ),
        "worst_mistakes": draw_mistakes(_worst(state, data, probabilities), config.classes),
    }  # fmt: skip
    for tag, picture in pictures.items():
        writer.add_image(f"val/{tag}", picture, step, dataformats="HWC")
    for number, name in enumerate(config.classes):
        writer.add_pr_curve(
            f"precision_recall/{name}", labels == number, probabilities[:, number], step
        )


def _show_weights(writer: "SummaryWriter", state: TrainState) -> None:
    """Show how the weights of each layer are spread, and the gradients of the last step.

    There are no gradients if an earlier attempt was stopped between that step and the epoch's end.
    """
    for name, weights in state.network.named_parameters():
        if weights.ndim > 1:  # scales and offsets of normalisation would only fill the page
            writer.add_histogram(f"weights/{name}", weights, state.step)
            if weights.grad is not None:
                writer.add_histogram(f"gradients/{name}", weights.grad, state.step)


@torch.no_grad()
def _worst(state: TrainState, data: Dataset, probabilities: Tensor) -> list[Mistake]:
    """Return the mistakes that the network is surest of, the worst first."""
    places = most_confident_mistakes(probabilities, data.val.labels, _MOST_MISTAKES)
    if not places:
        return []
    predicted = probabilities.argmax(dim=1)
    pixels = data.pixels[data.val.rows[places]]
    device = next(state.network.parameters()).device
    images = normalize(pixels.to(device), state.preprocessing)
    leads: Sequence[Tensor | None]
    try:
        leads = list(
            class_contrast_cam(state.eval_model, images, predicted[places].to(device)).float().cpu()
        )
    except (TypeError, UserError):  # of some networks no places are known: without heat maps then
        leads = [None] * len(places)
    return [
        Mistake(data.val.paths[place], pixels[number].numpy(), leads[number],
                int(data.val.labels[place]), probabilities[place].tolist())
        for number, place in enumerate(places)
    ]  # fmt: skip


@torch.no_grad()
def describe_network(network: nn.Module, image_size: int) -> str:
    """List the layers in the order in which one image passes them.

    Args:
        network: in evaluation mode.
        image_size: pixels a side of the image.
    """
    rows: list[list[str]] = []

    def note(name: str, layer: nn.Module, result: object) -> None:
        num = sum(weights.numel() for weights in layer.parameters())
        shape = " x ".join(map(str, result.shape[1:])) if isinstance(result, Tensor) else "several"
        rows.append([_code(name), type(layer).__name__, shape, f"{num:,}"])

    handles = [
        layer.register_forward_hook(lambda layer, _, result, name=name: note(name, layer, result))
        for name, layer in network.named_modules()
        if name and not list(layer.children()) and not isinstance(layer, nn.Sequential)
    ]
    device = next(network.parameters()).device
    try:
        network(torch.zeros(1, 3, image_size, image_size, device=device))
    finally:
        for handle in handles:
            handle.remove()
    total = sum(weights.numel() for weights in network.parameters())
    text = _table(["layer", "kind", "output", "parameters"], rows)
    return f"{text}\n{total:,} parameters; shapes are of one image of {image_size} pixels a side\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _code(name: str) -> str:
    return f"`{name}`"
