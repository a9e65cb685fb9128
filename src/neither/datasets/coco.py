"""Annotations in COCO's format: which boxes a picture has, read with suspicion.

The format is that of the object detection task (Lin et al., "Microsoft COCO: Common Objects in
Context", 2014): lists `images`, `annotations` and `categories`, a box as [x, y, width, height] in
pixels from the left upper corner. Of a category that nobody asks for, boxes are not looked at.

Which pictures of a COCO-style set are dog, human or neither, by the boxes people drew.

The rule. A box counts as a subject if it is no crowd and covers at least 4 % of the picture, about
13 of 64 pixels a side: less than that a network of this size hardly sees. Then, of a picture,

    human     has a person who is a subject, and no dog of any kind
    dog       has a dog that is a subject, and no person of any kind
    neither   has no box of either
    left out  has boxes of both, of whatever size; or none but small ones and crowds, which make a
              picture no class but do keep it from being neither; or its file is missing
"""

import json
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath

from neither.runtime import signals
from neither.runtime.console import info, printable, warn
from neither.runtime.errors import DataError, OutputError, UsageError
from neither.runtime.files import is_complete, output_folder, require_outside

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
class AnnotatedImage:
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


def read_annotations(content: bytes, source: str, wanted: Sequence[str]) -> list[AnnotatedImage]:
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
        signals.poll()
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
) -> dict[Id, AnnotatedImage]:
    pictures: dict[Id, AnnotatedImage] = {}
    places: dict[str, int] = {}
    for entry in _entries(document, source, "images"):
        if (number := entry.id("id")) in pictures:
            raise entry.wrong(f"id: {printable(number)} stands twice")
        name = _safe_name(entry)
        if name in places:
            raise entry.wrong(f"file_name: the same as in images[{places[name]}]")
        places[name] = entry.index
        boxes: dict[str, list[Box]] = {name: [] for name in wanted}
        pictures[number] = AnnotatedImage(
            name, entry.length("width"), entry.length("height"), boxes
        )
    return pictures


def _safe_name(entry: _Entry) -> str:
    """Refuse what could lead out of the folder of the pictures, on any system."""
    name = entry.text("file_name")
    parts = re.split(r"[/\\]", name)
    if not parts[0] or ".." in parts or re.match("[A-Za-z]:", name) or "\0" in name:
        raise entry.refuse("file_name", "a relative path without ..")
    return str(PurePosixPath(name))


def _share(box: tuple[float, float, float, float], picture: AnnotatedImage) -> float:
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


VERSION = 1  # to be raised whenever a change alters which pictures lie where
MIN_SHARE = 0.04  # of the picture's area, for a box to count as a subject
CLASSES = ("dog", "human", "neither")
BOTH = "left out: dog and person"
SMALL = "left out: too small or a crowd"
MISSING = "left out: file is missing"

_RECORD_NAME = "coco.json"


def sort_images(
    annotations: Path,
    images: Path,
    output_dir: Path,
    copy: bool,
    report: Callable[[int, int], None] | None = None,
) -> dict[str, int] | None:
    """Sort the pictures of a COCO-style set into folders by class.

    Args:
        annotations: a JSON file in COCO's format with the categories person and dog.
        images: the folder that the file names in it start in; nothing is written into it.
        output_dir: gets `{dog,human,neither}/` and `coco.json`. A file name with folders in it
            becomes one name, with _ for /.
        copy: copy the pictures instead of linking to them.
        report: called now and then with the number of pictures sorted and of all.

    Returns:
        How many pictures are of each class, and how many were left out for each reason; None if
        the folder lies there already, made of the same.

    Raises:
        UsageError: if a path does not exist or the output lies among the images.
        DataError: if the annotations cannot be used, or no picture is of any class.
        OutputError: if `output_dir` holds anything else, or cannot be written.
        Stopped: if a signal asks for an end; nothing is left then.
    """
    if not annotations.is_file():
        raise UsageError(f"{annotations}: no such file; want annotations in COCO's format")
    if not images.is_dir():
        raise UsageError(f"{images}: no such folder of images")
    require_outside(output_dir, images)
    content = annotations.read_bytes()
    made_of = {
        "version": VERSION,
        "annotations_sha256": sha256(content).hexdigest(),
        "images": str(images.absolute()),
        "min_share": MIN_SHARE,
        "mode": "copies" if copy else "links",
    }
    if is_complete(output_dir, _RECORD_NAME, made_of):
        return None
    info(f"reading {annotations}")
    pictures = read_annotations(content, str(annotations), ("person", "dog"))
    judged = [(picture, _judge_file(picture, images)) for picture in pictures]
    counts = dict.fromkeys((*CLASSES, BOTH, SMALL, MISSING), 0)
    counts |= Counter(verdict for _, verdict in judged)
    _require_pictures(counts, annotations, images)
    chosen = _name_files([(picture, label) for picture, label in judged if label in CLASSES])
    with output_folder(output_dir, _RECORD_NAME, made_of | {"counts": counts}) as partial:
        for label in CLASSES:
            (partial / label).mkdir()
        place = _copy if copy else _link
        for done, (name, picture) in enumerate(chosen.items(), start=1):
            signals.poll()
            place(images.absolute() / picture.file_name, partial / name)
            if report and (done % 50 == 0 or done == len(chosen)):
                report(done, len(chosen))
    return counts


def judge(picture: AnnotatedImage) -> str:
    """Return the class of a picture, or why it is left out, by the rule above."""
    people, dogs = picture.boxes["person"], picture.boxes["dog"]
    if people and dogs:
        return BOTH
    if not people and not dogs:
        return "neither"
    if any(box.share >= MIN_SHARE and not box.is_crowd for box in people or dogs):
        return "human" if people else "dog"
    return SMALL


def _judge_file(picture: AnnotatedImage, images: Path) -> str:
    signals.poll()
    verdict = judge(picture)
    # Unlike Path.is_file this answers for any name, even one that no file system can hold.
    if verdict in CLASSES and not os.path.isfile(images / picture.file_name):  # noqa: PTH113
        return MISSING
    return verdict


def _require_pictures(counts: dict[str, int], annotations: Path, images: Path) -> None:
    absent = [label for label in CLASSES if not counts[label]]
    if len(absent) == len(CLASSES):
        found = ", ".join(f"{key}: {num:,}" for key, num in counts.items() if num)
        raise DataError(
            f"{printable(annotations)}: no picture of any class ({found or 'it lists none'}). Is "
            f"{printable(images)} the folder that its file names start in?"
        )
    for label in absent:
        warn(f"no picture of {label}; training needs some")


def _name_files(labelled: list[tuple[AnnotatedImage, str]]) -> dict[str, AnnotatedImage]:
    """Give each picture a file of its own below the output folder, hidden nowhere.

    Names that differ in case alone are kept apart too, as not every file system does.
    """
    taken: set[str] = set()
    names: dict[str, AnnotatedImage] = {}
    for picture, label in labelled:
        flat = picture.file_name.replace("/", "_").replace("\\", "_")
        plain = PurePosixPath(f"_{flat}" if flat.startswith(".") else flat)
        name, number = f"{label}/{plain}", 1
        while name.casefold() in taken:
            number += 1
            name = f"{label}/{plain.stem}_{number}{plain.suffix}"
        taken.add(name.casefold())
        names[name] = picture
    return names


def _link(source: Path, target: Path) -> None:
    try:
        target.symlink_to(source)
    except OSError as error:
        raise OutputError(
            f"{target.parent.parent.parent}: no link can be made here ({error.strerror}); copy the "
            "pictures with --copy"
        ) from error


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
