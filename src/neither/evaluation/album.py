"""The pictures of a report: small, few enough to carry along, the telling ones first."""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from neither.data.content import UnreadableError, read_file
from neither.data.decode import open_upright
from neither.data.processes import map_in_processes
from neither.evaluation.selective import errors_among_first

MOST_PICTURES = 800  # of a whole report, 3 to 5 KB each; some mistakes are shown twice
MOST_IN_CELL = 100
MOST_MISTAKES = 100
_MOST_CLASSES = 40  # above which a table of all pairs could not be read
_MOST_BARS = 5
_MOST_NAMES = 500  # of a cell, of pictures that are only listed
_SIDE = 84  # pixels
_QUALITY = 70


@dataclass(frozen=True)
class Scored:
    """Labelled images and what was said of them, in columns.

    Attributes:
        paths: of the files.
        shown: the same as the reader knows them.
        labels: (N,) int64.
        probabilities: (N, C) float64.
    """

    paths: Sequence[Path]
    shown: Sequence[str]
    labels: Tensor
    probabilities: Tensor


@dataclass(frozen=True)
class Picture:
    """One picture of a report.

    Attributes:
        shown: its path.
        uri: the picture itself; empty if it cannot be read any more.
        true: its class.
        predicted: the most probable class.
        confidence: its probability.
        shares: the most probable classes and the true one, with their probabilities.
    """

    shown: str
    uri: str
    true: str
    predicted: str
    confidence: float
    shares: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Cell:
    """The images of one true and one predicted class.

    Attributes:
        true: the class of the row.
        predicted: the class of the column.
        num_images: how many there are.
        pictures: some of them: mistakes by falling confidence, others by rising.
        names: of some more.
    """

    true: str
    predicted: str
    num_images: int
    pictures: Sequence[Picture]
    names: Sequence[str]

    @property
    def is_right(self) -> bool:
        """Say whether these are no mistakes."""
        return self.true == self.predicted

    @property
    def num_left_out(self) -> int:
        """Count the images that are neither shown nor listed."""
        return self.num_images - len(self.pictures) - len(self.names)


@dataclass(frozen=True)
class Album:
    """The pictures of a report.

    Attributes:
        cells: the confusion matrix with pictures in it; empty for more than 40 classes.
        mistakes: the surest of all.
    """

    cells: Sequence[Sequence[Cell]]
    mistakes: Sequence[Picture]


def fill_album(scored: Scored, classes: Sequence[str]) -> Album:
    """Choose and draw the pictures of a report.

    Raises:
        OutputError: if a decoding process was killed.
        Stopped: if a signal asks for an end.
    """
    places = _places(scored, len(classes))
    surest = surest_mistakes(scored, MOST_MISTAKES)
    num_filled = sum(map(bool, places.values()))
    in_each = min(MOST_IN_CELL, MOST_PICTURES // max(1, num_filled))
    if len(classes) > _MOST_CLASSES:
        places = {}
    chosen = {place for here in places.values() for place in here[:in_each]} | set(surest)
    order = sorted(chosen)
    drawn = draw_thumbnails([scored.paths[place] for place in order])
    pictures = {place: _picture(scored, classes, place, uri)
                for place, uri in zip(order, drawn, strict=True)}  # fmt: skip

    def cell(row: int, column: int) -> Cell:
        here = places[row, column]
        names = [scored.shown[place] for place in here[in_each : in_each + _MOST_NAMES]]
        shown = [pictures[place] for place in here[:in_each]]
        return Cell(classes[row], classes[column], len(here), shown, names)

    numbers = range(len(classes)) if places else range(0)
    cells = [[cell(row, column) for column in numbers] for row in numbers]
    return Album(cells, [pictures[place] for place in surest])


def surest_mistakes(scored: Scored, most: int) -> list[int]:
    """Return the places of the mistakes that the model is surest of, the surest first."""
    confidences, predicted = scored.probabilities.max(dim=1)
    wrong = (predicted != scored.labels).nonzero()[:, 0]
    order = confidences[wrong].argsort(descending=True, stable=True)
    places: list[int] = wrong[order][:most].tolist()
    return places


def _places(scored: Scored, num_classes: int) -> dict[tuple[int, int], list[int]]:
    """Return which images lie in each cell: the surest mistakes first, the least sure hits."""
    confidences, predicted = scored.probabilities.max(dim=1)
    order = confidences.argsort(descending=True, stable=True)
    numbers = range(num_classes)
    places: dict[tuple[int, int], list[int]] = {(row, column): [] for row in numbers
                                                for column in numbers}  # fmt: skip
    for place in order.tolist():
        places[int(scored.labels[place]), int(predicted[place])].append(place)
    for row in numbers:
        places[row, row].reverse()
    return places


def _picture(scored: Scored, classes: Sequence[str], place: int, uri: str) -> Picture:
    label, shares = int(scored.labels[place]), scored.probabilities[place].tolist()
    predicted = max(range(len(classes)), key=shares.__getitem__)
    likely = sorted(range(len(classes)), key=lambda number: -shares[number])[:_MOST_BARS]
    bars = [(classes[number], shares[number]) for number in sorted({*likely, label})]
    return Picture(scored.shown[place], uri, classes[label], classes[predicted],
                   shares[predicted], bars)  # fmt: skip


def draw_thumbnails(paths: Sequence[Path]) -> Iterator[str]:
    """Yield a small JPEG of each file as a data URI; an empty one if it cannot be read.

    Raises:
        OutputError: if a decoding process was killed.
        Stopped: if a signal asks for an end.
    """
    return map_in_processes(_thumbnail, paths)


def _thumbnail(path: Path) -> str:
    """Return a small JPEG of a file as a data URI, or nothing."""
    try:
        image = open_upright(read_file(path), _SIDE).image
    except UnreadableError:
        return ""
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def risk_coverage(scored: Scored, most: int = 200) -> list[tuple[float, float]]:
    """Return (share accepted, share of these that is right), from the surest image on.

    Args:
        scored: at least one image.
        most: of the points; a curve of more would only be a longer file.
    """
    confidences, predicted = scored.probabilities.max(dim=1)
    hits = predicted == scored.labels
    right = 1 - errors_among_first(confidences, hits) / torch.arange(1, len(hits) + 1)
    chosen = {round(place) for place in torch.linspace(0, len(hits) - 1, most).tolist()}
    return [((place + 1) / len(hits), float(right[place])) for place in sorted(chosen)]
