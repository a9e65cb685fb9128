"""Sort the images of a COCO-style dataset into dog, human and neither, by their boxes.

The format is that of the object detection task (Lin et al., "Microsoft COCO: Common Objects in
Context", 2014): lists `images`, `annotations` and `categories`; a box is [x, y, width, height] in
pixels from the upper left corner. A box is a subject if it is no crowd and covers at least 4 % of
the image, about 13 of 64 pixels a side: a small network hardly sees smaller ones. Then an image is

    human     if it has a person as subject, and no box of a dog
    dog       if it has a dog as subject, and no box of a person
    neither   if it has no box of either
    left out  if it has boxes of both, only boxes that are no subject, or its file is missing
"""

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    FiniteFloat,
    TypeAdapter,
    ValidationError,
)

from neither.runtime import signals
from neither.runtime.console import info, printable, progress_bar, warn
from neither.runtime.errors import DataError, OutputError, UsageError
from neither.runtime.files import is_complete, output_folder, require_outside

VERSION = 1  # raise it whenever a change alters the output
MIN_AREA = 0.04  # fraction of the image that a subject covers
CLASSES = ("dog", "human", "neither")
BOTH = "left out: dog and person"
SMALL = "left out: too small or a crowd"
MISSING = "left out: file is missing"

_RECORD_NAME = "coco.json"
_CATEGORIES = ("person", "dog")


def _check_file_name(name: str) -> str:
    """Raise `ValueError` if a file name leads out of the image folder on any system."""
    parts = re.split(r"[/\\]", name)
    if not parts[0] or ".." in parts or re.match("[A-Za-z]:", name) or "\0" in name:
        raise ValueError("must be a relative path without ..")
    return str(PurePosixPath(name))


_Id = int | str
_Length = Annotated[FiniteFloat, Field(gt=0)]


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True)  # other keys, such as outlines, are dropped unread


class _Image(_Entry):
    id: _Id
    file_name: Annotated[str, AfterValidator(_check_file_name)]
    width: _Length
    height: _Length


class _Category(_Entry):
    id: _Id
    name: Annotated[str, Field(min_length=1)]


class _Annotation(_Entry):
    image_id: _Id
    category_id: _Id
    bbox: Any = None  # validated for persons and dogs alone
    iscrowd: Literal[0, 1] = 0


class _Document(_Entry):
    categories: Annotated[list[_Category], FailFast()]
    images: Annotated[list[_Image], FailFast()]
    annotations: Annotated[list[_Annotation], FailFast()]


_BBOX = TypeAdapter(Annotated[list[FiniteFloat], Field(min_length=4, max_length=4)])


class AnnotatedImage(NamedTuple):
    """The boxes of an image, each as the fraction of the image that it covers; 0 for a crowd."""

    file_name: str  # a relative path without ..
    boxes: dict[str, list[float]]  # of each category


def sort_images(
    annotations: Path, images: Path, output_dir: Path, copy: bool
) -> dict[str, int] | None:
    """Sort the images of a COCO-style dataset into folders by class, as links or copies.

    `output_dir` gets `{dog,human,neither}/` and `coco.json`. A file name with folders in it, which
    is relative to `images`, becomes one name, with _ for /.

    Returns:
        The number of images of each class, and left out for each reason; None if the folder is
        complete already and made of the same input.
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
        "min_share": MIN_AREA,
        "mode": "copies" if copy else "links",
    }
    if is_complete(output_dir, _RECORD_NAME, made_of):
        return None
    info(f"reading {annotations}")
    labelled = []
    for image in read_annotations(content, str(annotations)):
        signals.poll()
        label = choose_label(image)
        # Unlike Path.is_file this answers for any name, even one that no file system can hold.
        if label in CLASSES and not os.path.isfile(images / image.file_name):  # noqa: PTH113
            label = MISSING
        labelled.append((image.file_name, label))
    counts = dict.fromkeys((*CLASSES, BOTH, SMALL, MISSING), 0)
    counts |= Counter(label for _, label in labelled)
    absent = [label for label in CLASSES if not counts[label]]
    if len(absent) == len(CLASSES):
        found = ", ".join(f"{key}: {num:,}" for key, num in counts.items() if num)
        raise DataError(
            f"{printable(annotations)}: no image of any class ({found or 'it lists none'}). Are "
            f"its file names relative to {printable(images)}?"
        )
    for label in absent:
        warn(f"no image of {label}; training needs some")
    chosen = _name_outputs([(name, label) for name, label in labelled if label in CLASSES])
    with (
        output_folder(output_dir, _RECORD_NAME, made_of | {"counts": counts}) as partial,
        progress_bar("sorting", len(chosen)) as bar,
    ):
        for label in CLASSES:
            (partial / label).mkdir()
        put = shutil.copyfile if copy else _link
        for output, file_name in chosen.items():
            signals.poll()
            put(images.absolute() / file_name, partial / output)
            bar.advance()
    return counts


def read_annotations(content: bytes, source: str) -> list[AnnotatedImage]:
    """Read every image that an annotation file lists, sorted by file name, and its boxes.

    Raises:
        DataError: naming `source` and the entry, if the file is not of this format, lacks a
            category, contradicts itself, or names an image outside its folder.
    """
    try:
        images = _read(_Document.model_validate_json(content.removeprefix(b"\xef\xbb\xbf")))
    except ValueError as error:
        problem = _first_error(error) if isinstance(error, ValidationError) else str(error)
        raise DataError(f"{printable(source)}: {printable(problem)}") from error
    return sorted(images, key=lambda image: image.file_name)


def _read(document: _Document) -> Iterable[AnnotatedImage]:
    """Raise `ValueError` if entries contradict each other."""
    signals.poll()
    _require_unique("categories", "id", [each.id for each in document.categories])
    names = {category.id: category.name for category in document.categories}
    if absent := [name for name in _CATEGORIES if name not in names.values()]:
        present = ", ".join(sorted(set(names.values()))[:100]) or "none"
        raise ValueError(f"categories: no {' and no '.join(absent)}; there are: {present}")
    _require_unique("images", "id", [each.id for each in document.images])
    _require_unique("images", "file_name", [each.file_name for each in document.images])
    sizes = {image.id: (image.width, image.height) for image in document.images}
    annotated = {
        image.id: AnnotatedImage(image.file_name, {name: [] for name in _CATEGORIES})
        for image in document.images
    }
    for index, annotation in enumerate(document.annotations):
        signals.poll()
        where = f"annotations[{index}]"
        if annotation.image_id not in annotated:
            raise ValueError(f"{where}.image_id: no image has the id {annotation.image_id}")
        if annotation.category_id not in names:
            raise ValueError(f"{where}.category_id: there is no category {annotation.category_id}")
        if (name := names[annotation.category_id]) in _CATEGORIES:
            try:
                bbox = _BBOX.validate_python(annotation.bbox, strict=True)
            except ValidationError as error:
                raise ValueError(_first_error(error, f"{where}.bbox")) from error
            area = 0.0 if annotation.iscrowd else _area(bbox, *sizes[annotation.image_id])
            annotated[annotation.image_id].boxes[name].append(area)
    return annotated.values()


def _require_unique(key: str, field: str, values: Sequence[_Id]) -> None:
    first: dict[_Id, int] = {}
    for index, value in enumerate(values):
        if (other := first.setdefault(value, index)) != index:
            raise ValueError(f"{key}[{index}].{field}: the same as in {key}[{other}]: {value}")


def _area(bbox: Sequence[float], image_width: float, image_height: float) -> float:
    """Return the fraction of the image that a box covers; parts outside do not count."""
    x, y, width, height = bbox
    inside_x = min(x + width, image_width) - max(x, 0.0)
    inside_y = min(y + height, image_height) - max(y, 0.0)
    return max(inside_x, 0.0) / image_width * max(inside_y, 0.0) / image_height


def _first_error(error: ValidationError, path: str = "") -> str:
    """Return the path of the first wrong value, such as `images[1].width`, and what is wrong."""
    first = error.errors(include_url=False, include_context=False)[0]
    for key in first["loc"]:
        if key not in ("int", "str"):  # a branch of a union, not a key
            path += f"[{key}]" if isinstance(key, int) else f".{key}"
    is_absent = first["type"] in ("missing", "json_invalid")
    got = "" if is_absent else f", got {repr(first['input'])[:60]}"
    return f"{path.removeprefix('.')}: {first['msg']}{got}".removeprefix(": ")


def choose_label(image: AnnotatedImage) -> str:
    """Return the class of an image, or why it is left out, by the rule above."""
    people, dogs = image.boxes["person"], image.boxes["dog"]
    if people and dogs:
        return BOTH
    if not people and not dogs:
        return "neither"
    if max(people or dogs) < MIN_AREA:
        return SMALL
    return "human" if people else "dog"


def _name_outputs(labelled: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Map a name of its own below the output folder to each file name; none of them is hidden.

    Names that differ in case alone are kept apart too: some file systems ignore case.
    """
    taken: set[str] = set()
    outputs: dict[str, str] = {}
    for file_name, label in labelled:
        flat = re.sub(r"[/\\]", "_", file_name)
        plain = PurePosixPath(f"_{flat}" if flat.startswith(".") else flat)
        output, number = f"{label}/{plain}", 1
        while output.casefold() in taken:
            number += 1
            output = f"{label}/{plain.stem}_{number}{plain.suffix}"
        taken.add(output.casefold())
        outputs[output] = file_name
    return outputs


def _link(source: Path, target: Path) -> None:
    try:
        target.symlink_to(source)
    except OSError as error:
        reason = f"no link can be made here ({error.strerror}); copy the images with --copy"
        raise OutputError(f"{target.parents[2]}: {reason}") from error
