"""The pictures of a report: small, few enough to carry along, the telling ones first."""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from neither.data.content import UnreadableError, read_file
from neither.data.decode import open_upright
from neither.data.processes import map_in_processes

MOST_PICTURES = 1000  # of a whole report, about 3 KB each
MOST_IN_CELL = 100
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
        shares: each class with its probability.
    """

    shown: str
    uri: str
    true: str
    predicted: str
    confidence: float
    shares: Sequence[tuple[str, float]]


@dataclass
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
    pictures: list[Picture] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        """Say whether these are no mistakes."""
        return self.true == self.predicted

    @property
    def num_left_out(self) -> int:
        """Count the images that are neither shown nor listed."""
        return self.num_images - len(self.pictures) - len(self.names)


def fill_cells(scored: Scored, classes: Sequence[str]) -> list[list[Cell]]:
    """Return the confusion matrix with pictures in its cells.

    Raises:
        OutputError: if a decoding process was killed.
        Stopped: if a signal asks for an end.
    """
    confidences, predicted = scored.probabilities.max(dim=1)
    order = confidences.argsort(descending=True, stable=True)
    cells, wanted = [], {}
    left = MOST_PICTURES
    places = {}
    for row, true in enumerate(classes):
        cells.append([])
        for column, name in enumerate(classes):
            mine = order[(scored.labels[order] == row) & (predicted[order] == column)]
            places[row, column] = (mine if row != column else mine.flip(0)).tolist()
            cells[row].append(Cell(true, name, len(mine)))
    for row, column in sorted(places, key=lambda place: place[0] == place[1]):  # mistakes first
        wanted[row, column] = places[row, column][: min(MOST_IN_CELL, left)]
        left -= len(wanted[row, column])
    flat = [place for chosen in wanted.values() for place in chosen]
    uris = dict(zip(flat, _draw([scored.paths[place] for place in flat]), strict=True))
    for (row, column), chosen in wanted.items():
        cell = cells[row][column]
        for place in chosen:
            shares = list(zip(classes, scored.probabilities[place].tolist(), strict=True))
            cell.pictures.append(Picture(scored.shown[place], uris[place], cell.true,
                                         cell.predicted, float(confidences[place]), shares))  # fmt: skip
        others = places[row, column][len(chosen) : len(chosen) + _MOST_NAMES]
        cell.names = [scored.shown[place] for place in others]
    return cells


def _draw(paths: Sequence[Path]) -> Iterator[str]:
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
    order = confidences.argsort(descending=True, stable=True)
    hits = (predicted == scored.labels)[order].double()
    numbers = torch.arange(1, len(hits) + 1)
    right = hits.cumsum(0) / numbers
    chosen = torch.linspace(0, len(hits) - 1, min(most, len(hits))).round().long().unique()
    return [(float(numbers[place]) / len(hits), float(right[place])) for place in chosen.tolist()]
