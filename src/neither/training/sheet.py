"""Sheets of many small images, tiled into one array: an axes for each would take seconds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from neither.data.batches import Batch
from neither.data.preprocessing import Preprocessing
from neither.inference.explanation import draw_evidence
from neither.terminal import printable

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
            picture = Image.fromarray(draw_evidence(mistake.pixels, mistake.lead, _SIDE))
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
