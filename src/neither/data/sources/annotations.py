"""Annotations in COCO's format: which boxes a picture has, read with suspicion.

The format is that of the object detection task (Lin et al., "Microsoft COCO: Common Objects in
Context", 2014): lists `images`, `annotations` and `categories`, a box as [x, y, width, height] in
pixels from the left upper corner. Of a category that nobody asks for, boxes are not looked at.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from neither import stopping
from neither.errors import DataError
from neither.terminal import printable

Id = int | str


@dataclass(frozen=True, slots=True)
class Box:
    """One box of a picture.

    Attributes:
        share: of the picture's area, in [0, 1]; what lies beyond its edges is cut off.
        is_crowd: whether it holds a group that nobody counted.
    """

    share: float
    is_crowd: bool


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture.

    Attributes:
        file_name: a relative path with / between parts, which never leads upwards.
        width: in pixels, above 0.
        height: likewise.
        boxes: by category name, of the categories asked for.
    """

    file_name: str
    width: float
    height: float
    boxes: dict[str, list[Box]]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One object of one of the lists, and where it stands."""

    source: str
    key: str
    index: int
    values: dict[str, object]

    def wrong(self, what: str) -> DataError:
        return DataError(f"{printable(self.source)}: {self.key}[{self.index}]: {what}")

    def refuse(self, key: str, want: str) -> DataError:
        if key not in self.values:
            return self.wrong(f"no {key}; want {want}")
        return self.wrong(f"{key}: want {want}, got {printable(repr(self.values[key])[:60])}")

    def id(self, key: str) -> Id:
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise self.refuse(key, "a whole number or text")
        return value

    def text(self, key: str) -> str:
        value = self.values.get(key)
        if not isinstance(value, str) or not value:
            raise self.refuse(key, "text")
        return value

    def length(self, key: str) -> float:
        value = _finite(self.values.get(key))
        if value is None or value <= 0:
            raise self.refuse(key, "a number of pixels above 0")
        return value

    def flag(self, key: str) -> bool:
        value = self.values.get(key, 0)
        if value not in (0, 1):
            raise self.refuse(key, "0 or 1")
        return bool(value)

    def box(self) -> tuple[float, float, float, float]:
        values = self.values.get("bbox")
        numbers = [_finite(value) for value in values] if isinstance(values, list) else []
        finite = [number for number in numbers if number is not None]
        if len(numbers) != 4 or len(finite) != 4:
            raise self.refuse("bbox", "four finite numbers")
        x, y, width, height = finite
        return x, y, width, height


def read_annotations(content: bytes, source: str, wanted: Sequence[str]) -> list[Picture]:
    """Read the pictures of a file of annotations and their boxes of the wanted categories.

    Args:
        content: of the file.
        source: its name, for messages.
        wanted: names of categories.

    Returns:
        Every picture the file lists, sorted by file name.

    Raises:
        DataError: naming the entry, if the file is not of this format, lacks a wanted category,
            contradicts itself, or names a picture that lies elsewhere than below its folder.
        Stopped: if a signal asks for an end.
    """
    document = _parse(content, source)
    names = _read_categories(document, source, wanted)
    pictures = _read_images(document, source, wanted)
    for entry in _entries(document, source, "annotations"):
        image_id, category_id = entry.id("image_id"), entry.id("category_id")
        if image_id not in pictures:
            raise entry.wrong(f"image_id: no image has the id {printable(image_id)}")
        if category_id not in names:
            raise entry.wrong(f"category_id: no category has the id {printable(category_id)}")
        if (name := names[category_id]) in wanted:
            picture = pictures[image_id]
            box = Box(_share(entry.box(), picture), entry.flag("iscrowd"))
            picture.boxes[name].append(box)
    return sorted(pictures.values(), key=lambda picture: picture.file_name)


def _parse(content: bytes, source: str) -> dict[str, object]:
    def without_outline(entry: dict[str, object]) -> dict[str, object]:
        # Of COCO's largest file most is outlines; kept, they would fill gigabytes of memory.
        entry.pop("segmentation", None)
        return entry

    try:
        document = json.loads(content, object_hook=without_outline)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{printable(source)}: is no JSON: {printable(error)}") from error
    if not isinstance(document, dict):
        raise DataError(f"{printable(source)}: want an object with images and annotations")
    return document


def _entries(document: dict[str, object], source: str, key: str) -> Iterator[_Entry]:
    values = document.get(key)
    if not isinstance(values, list):
        keys = ", ".join(map(printable, list(document)[:10]))
        raise DataError(f"{printable(source)}: no list {key}, which COCO's format has; got {keys}")
    for index, value in enumerate(values):
        stopping.poll()
        if not isinstance(value, dict):
            raise DataError(f"{printable(source)}: {key}[{index}]: want an object")
        yield _Entry(source, key, index, value)


def _read_categories(
    document: dict[str, object], source: str, wanted: Sequence[str]
) -> dict[Id, str]:
    names: dict[Id, str] = {}
    for entry in _entries(document, source, "categories"):
        if (number := entry.id("id")) in names:
            raise entry.wrong(f"id: {printable(number)} stands twice")
        names[number] = entry.text("name")
    absent = [name for name in wanted if name not in names.values()]
    if absent:
        present = printable(", ".join(sorted(set(names.values()))[:100])) or "none"
        raise DataError(
            f"{printable(source)}: no category {' and no category '.join(absent)}; "
            f"the categories are: {present}"
        )
    return names


def _read_images(
    document: dict[str, object], source: str, wanted: Sequence[str]
) -> dict[Id, Picture]:
    pictures: dict[Id, Picture] = {}
    places: dict[str, int] = {}
    for entry in _entries(document, source, "images"):
        if (number := entry.id("id")) in pictures:
            raise entry.wrong(f"id: {printable(number)} stands twice")
        name = _safe_name(entry)
        if name in places:
            raise entry.wrong(f"file_name: the same as in images[{places[name]}]")
        places[name] = entry.index
        boxes: dict[str, list[Box]] = {name: [] for name in wanted}
        pictures[number] = Picture(name, entry.length("width"), entry.length("height"), boxes)
    return pictures


def _safe_name(entry: _Entry) -> str:
    """Refuse what could lead out of the folder of the pictures, on any system."""
    name = entry.text("file_name")
    parts = re.split(r"[/\\]", name)
    if not parts[0] or ".." in parts or re.match("[A-Za-z]:", name) or "\0" in name:
        raise entry.refuse("file_name", "a relative path without ..")
    return str(PurePosixPath(name))


def _share(box: tuple[float, float, float, float], picture: Picture) -> float:
    x, y, width, height = box
    across = min(x + width, picture.width) - max(x, 0.0)
    down = min(y + height, picture.height) - max(y, 0.0)
    return max(across, 0.0) / picture.width * max(down, 0.0) / picture.height


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # JSON has whole numbers of any length
        return None
    return number if math.isfinite(number) else None
