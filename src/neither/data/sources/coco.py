"""Which pictures of a COCO-style set are dog, human or neither, by the boxes people drew.

The rule. A box counts as a subject if it is no crowd and covers at least 4 % of the picture, about
13 of 64 pixels a side: less than that a network of this size hardly sees. Then, of a picture,

    human     has a person who is a subject, and no dog of any kind
    dog       has a dog that is a subject, and no person of any kind
    neither   has no box of either
    left out  has boxes of both, of whatever size; or none but small ones and crowds, which make a
              picture no class but do keep it from being neither; or its file is missing
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path, PurePosixPath

from neither import stopping
from neither.data.sources.annotations import Picture, read_annotations
from neither.data.sources.finished import finishing, is_finished
from neither.errors import DataError, OutputError, UsageError
from neither.files import require_outside
from neither.terminal import printable, say, warn

VERSION = 1  # to be raised whenever a change alters which pictures lie where
MIN_SHARE = 0.04  # of the picture's area, for a box to count as a subject
CLASSES = ("dog", "human", "neither")
BOTH = "left out: dog and person"
SMALL = "left out: too small or a crowd"
MISSING = "left out: file is missing"

_RECORD_NAME = "coco.json"


def sort_pictures(
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
    if is_finished(output_dir, _RECORD_NAME, made_of):
        return None
    say(f"reading {annotations}")
    pictures = read_annotations(content, str(annotations), ("person", "dog"))
    judged = [(picture, _judge_file(picture, images)) for picture in pictures]
    counts = dict.fromkeys((*CLASSES, BOTH, SMALL, MISSING), 0)
    counts |= Counter(verdict for _, verdict in judged)
    _require_pictures(counts, annotations, images)
    chosen = _name_files([(picture, label) for picture, label in judged if label in CLASSES])
    with finishing(output_dir, _RECORD_NAME, made_of | {"counts": counts}) as partial:
        for label in CLASSES:
            (partial / label).mkdir()
        place = _copy if copy else _link
        for done, (name, picture) in enumerate(chosen.items(), start=1):
            stopping.poll()
            place(images.absolute() / picture.file_name, partial / name)
            if report and (done % 50 == 0 or done == len(chosen)):
                report(done, len(chosen))
    return counts


def judge(picture: Picture) -> str:
    """Return the class of a picture, or why it is left out, by the rule above."""
    people, dogs = picture.boxes["person"], picture.boxes["dog"]
    if people and dogs:
        return BOTH
    if not people and not dogs:
        return "neither"
    if any(box.share >= MIN_SHARE and not box.is_crowd for box in people or dogs):
        return "human" if people else "dog"
    return SMALL


def _judge_file(picture: Picture, images: Path) -> str:
    stopping.poll()
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


def _name_files(labelled: list[tuple[Picture, str]]) -> dict[str, Picture]:
    """Give each picture a file of its own below the output folder, hidden nowhere.

    Names that differ in case alone are kept apart too, as not every file system does.
    """
    taken: set[str] = set()
    names: dict[str, Picture] = {}
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
