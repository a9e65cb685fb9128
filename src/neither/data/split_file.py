"""`splits.csv`: every image found, its label, and which split it is in for good."""

import csv
import io
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from sys import intern

import numpy as np

from neither.data.scan import ImageTable
from neither.data.splits import ADDED, SPLITS, SplitAssignment
from neither.data.store import ImageStore
from neither.runtime import files
from neither.runtime.console import printable
from neither.runtime.errors import DataError

_COLUMNS = ["path", "label", "split", "sha256", "reason"]


def write_splits(
    path: Path, found: ImageTable, store: ImageStore, assignment: SplitAssignment
) -> None:
    """Write one row for each image, whole or not at all."""
    with files.atomic_writer(path) as file:
        file.write(csv_line(_COLUMNS).encode())
        for row in _rows(found, store, assignment):
            # A file name may hold bytes that are no UTF-8; they come back as they were.
            file.write(csv_line([safe_cell(row[0]), *row[1:]]).encode("utf-8", "surrogateescape"))


def data_fingerprint(found: ImageTable, store: ImageStore, assignment: SplitAssignment) -> str:
    """Return a hash of every path, label, split and content that the run uses."""
    digest = sha256()
    for row in _rows(found, store, assignment):
        if row[2]:
            digest.update(repr(row).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def match_splits(
    path: Path, found: ImageTable, store: ImageStore
) -> tuple[SplitAssignment, list[str]]:
    """Hold the images of a folder against the `splits.csv` of an earlier run on it.

    Args:
        path: of the file.
        found: what is there now.
        store: what the files hold now.

    Returns:
        The splits as they were, and the paths of images added since, which stay left out.

    Raises:
        DataError: if the file cannot be read back, or an image that the run uses has changed, is
            missing, bears another label, or cannot be read any more.
    """
    places = {image: place for place, image in enumerate(found.paths)}
    splits = np.zeros(len(places), np.int8)
    added = set(range(len(places)))
    reasons: dict[int, str] = {}
    wrong: dict[str, list[str]] = {
        what: [] for what in ("missing", "unreadable", "changed", "of another label now")
    }
    for image, label, split, digest, reason in read_splits(path):
        place = places.get(image)
        if place is not None:
            added.discard(place)
        if not split:
            if place is not None:
                reasons[place] = reason
        elif place is None:
            wrong["missing"].append(printable(image))
        elif place in store.reasons:
            wrong["unreadable"].append(f"{printable(image)} ({store.reasons[place]})")
        elif store.fingerprints["sha256"][place].tobytes().hex() != digest:
            wrong["changed"].append(printable(image))
        elif label != found.labels[place]:
            wrong["of another label now"].append(printable(image))
        else:
            splits[place] = SPLITS.index(split)
    for what, images in wrong.items():
        if images:
            raise DataError(
                f"{len(images):,} images of this run are {what}, among them {images[0]}; put them "
                "back, or start over with --fresh"
            )
    reasons |= dict.fromkeys(added, ADDED)
    return SplitAssignment(splits, reasons), [found.paths[place] for place in sorted(added)]


def read_hashes(path: Path, split: str) -> set[str]:
    """Return the SHA-256 of the images that a run has in one split.

    Raises:
        DataError: if the file is missing or not of this form.
    """
    return {digest for _, _, each, digest, _ in read_splits(path) if each == split}


def read_split(path: Path, source: Path, split: str) -> ImageTable:
    """Find the images that a run has in one split.

    Args:
        path: of its `splits.csv`.
        source: the folder or manifest that it was trained on.
        split: train, val or test.

    Raises:
        DataError: if the file is missing or not of this form, or the split is empty.
    """
    found = ImageTable(source if source.is_dir() else source.parent, source)
    for image, label, each, _, _ in read_splits(path):
        if each == split:
            found.add([image], intern(label))
    if not found.paths:
        raise DataError(f"{path}: no image is in the split {split}")
    return found


def _rows(found: ImageTable, store: ImageStore, assignment: SplitAssignment) -> Iterator[list[str]]:
    for place, (image, label) in enumerate(zip(found.paths, found.labels, strict=True)):
        digest = store.fingerprints["sha256"][place]
        yield [image, label, SPLITS[assignment.split_indices[place]],
               digest.tobytes().hex() if digest.any() else "",
               assignment.reasons.get(place, "")]  # fmt: skip


def read_splits(path: Path) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield path, label, split, SHA-256 and reason of each row.

    Raises:
        DataError: if the file is missing or not of this form.
    """
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            lines = csv.reader(file)
            if next(lines, None) != _COLUMNS:
                raise ValueError("other columns")
            for image, label, split, digest, reason in lines:
                if split not in SPLITS:
                    raise ValueError(f"split {split}")
                yield image.removeprefix("./"), label, split, digest, reason
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read back: {error}; start over with --fresh") from error


def csv_line(cells: Sequence[str]) -> str:
    """Write one row that ends in a line feed.

    Told to end rows so itself, csv before Python 3.13 leaves a carriage return within a cell
    without quotes, and no reader finds the row's end again.
    """
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().removesuffix("\r\n") + "\n"


def safe_cell(path: str) -> str:
    """Keep a spreadsheet from reading a path as a formula: `./` names the same file."""
    return f"./{path}" if path[:1] in tuple("=+-@") or path[:1] < " " else path
