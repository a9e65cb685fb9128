"""Read and write `splits.csv`: path, label, split, SHA-256 and reason of every image of a run.

If any image has a source, that is one more column, for people: no run reads it back.
"""

import csv
import io
from collections.abc import Collection, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from sys import intern

import numpy as np

from neither.data.image_file import hash_file
from neither.data.manifest import is_manifest, read_manifest
from neither.data.scan import ImageTable, nfc, spelled_on_disk
from neither.data.splits import ADDED, SPLITS, SplitAssignment
from neither.data.store import ImageStore
from neither.runtime import files
from neither.runtime.console import printable
from neither.runtime.errors import DataError

_MAX_COMPARED = 64  # files that are read to recognise a folder
_COLUMNS = ["path", "label", "split", "sha256", "reason"]
_NUM_COLUMNS = len(_COLUMNS)  # without that of the sources


def write_splits(
    path: Path, table: ImageTable, store: ImageStore, assignment: SplitAssignment
) -> None:
    """Write one row for each image, atomically."""
    with files.atomic_writer(path) as file:
        file.write(csv_line(_COLUMNS + ["source"] * any(table.sources)))
        for row in _rows(table, store, assignment):
            source = [each and safe_cell(each) for each in row[_NUM_COLUMNS:]]
            file.write(csv_line([safe_cell(row[0]), *row[1:_NUM_COLUMNS], *source]))


def data_fingerprint(table: ImageTable, store: ImageStore, assignment: SplitAssignment) -> str:
    """Return a SHA-256 over path, label, split, content and source of every image of the run."""
    digest = sha256()
    for row in _rows(table, store, assignment):
        if row[2]:
            digest.update(repr(row).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def match_splits(
    path: Path, table: ImageTable, store: ImageStore, answers: Collection[str] = ()
) -> tuple[SplitAssignment, list[str]]:
    """Assign the present images to the splits that an existing `splits.csv` gives them.

    Images of the table that a review has answered by now, whose SHA-256 is in `answers`, get the
    label that the run has.

    Returns:
        The assignment, and the paths of images that were added since, which are excluded.

    Raises:
        DataError: if the file cannot be read, or an image that the run uses is missing, unreadable,
            changed, or has another label.
    """
    index_of = {nfc(image): index for index, image in enumerate(table.paths)}
    index_of |= {image: index for index, image in enumerate(table.paths)}
    split_indices, hashes = np.zeros(len(table.paths), np.int8), store.hashes
    added = set(range(len(table.paths)))
    reasons: dict[int, str] = {}
    changes = ("missing", "unreadable", "changed", "of another label now")
    wrong: dict[str, list[str]] = {change: [] for change in changes}
    for image, label, split, digest, reason in read_splits(path):
        index = index_of.get(image, index_of.get(nfc(image)))
        if index is not None:
            added.discard(index)
        if not split:
            if index is not None:
                reasons[index] = reason
        elif index is None:
            wrong["missing"].append(printable(image))
        elif index in store.reasons:
            wrong["unreadable"].append(f"{printable(image)} ({store.reasons[index]})")
        elif hashes[index] != digest:
            wrong["changed"].append(printable(image))
        elif digest in answers:  # the run may have its label from an earlier answer
            table.labels[index] = label
            split_indices[index] = SPLITS.index(split)
        elif nfc(label) != nfc(table.labels[index]):
            wrong["of another label now"].append(printable(image))
        else:
            split_indices[index] = SPLITS.index(split)
    for change, images in wrong.items():
        if images:
            raise DataError(
                f"{len(images):,} images of this run are {change}, among them {images[0]}; put "
                "them back, set data.root or data.manifest to where they are, or start over with "
                "--fresh"
            )
    reasons |= dict.fromkeys(added, ADDED)
    return SplitAssignment(split_indices, reasons), [table.paths[index] for index in sorted(added)]


def count_added(path: Path, table: ImageTable) -> int:
    """Return how many images are not in a run's `splits.csv`."""
    known = {nfc(image) for image, _, _, _, _ in read_splits(path)}
    return sum(nfc(image) not in known for image in table.paths)


def holds_split(path: Path, source: Path, split: str) -> bool:
    """Return whether a folder or manifest holds images that a run has in one split.

    A moved folder is recognised so, whatever its name: by the paths and hashes of some images.
    """
    table = _read_split(path, source, split)
    listed = {*read_manifest(source).paths} if is_manifest(source) else None
    found = [(table.root / image, digest)
             for image, digest in zip(table.paths, table.hashes, strict=True)
             if (listed is None or image in listed) and (table.root / image).is_file()]  # fmt: skip
    some = found[:: max(1, len(found) // _MAX_COMPARED)]
    return any(hash_file(file) == digest for file, digest in some)


def read_hashes(path: Path, split: str) -> set[str]:
    """Return the SHA-256 of the images that a run has in one split."""
    return {digest for _, _, each, digest, _ in read_splits(path) if each == split}


def read_trained_on(run: Path) -> set[str]:
    """Return the SHA-256 of the images that a run was trained on, with labels or without."""
    unlabelled = run / "unlabelled.csv"
    hashes = read_hashes(unlabelled, "train") if unlabelled.exists() else set()
    return hashes | read_hashes(run / "splits.csv", "train")


def read_split(path: Path, source: Path, split: str) -> ImageTable:
    """Return the images that a run, trained on this folder or manifest, has in one split.

    The paths are as the disk spells them; the hashes are those of the run.

    Raises:
        DataError: if the file is missing or malformed, or the split is empty.
    """
    table = _read_split(path, source, split)
    if not table.paths:
        raise DataError(f"{path}: no image is in the split {split}")
    return table


def _read_split(path: Path, source: Path, split: str) -> ImageTable:
    table = ImageTable(source if source.is_dir() else source.parent, source)
    listings: dict[Path, dict[str, str]] = {}
    for image, label, each, digest, _ in read_splits(path):
        if each == split:
            table.add([spelled_on_disk(table.root, image, listings)], intern(label), split)
            table.hashes.append(digest)
    return table


def _rows(table: ImageTable, store: ImageStore, assignment: SplitAssignment) -> Iterator[list[str]]:
    sources, hashes = (table.sources if any(table.sources) else []), store.hashes
    for index, (image, label) in enumerate(zip(table.paths, table.labels, strict=True)):
        yield [image, label, SPLITS[assignment.split_indices[index]],
               hashes[index] if hashes[index].strip("0") else "",
               assignment.reasons.get(index, ""), *sources[index : index + 1]]  # fmt: skip


def read_splits(path: Path) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield path, label, split, SHA-256 and reason of each row.

    Raises:
        DataError: if the file is missing or malformed.
    """
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            lines = csv.reader(file)
            columns = next(lines, [])
            if columns not in (_COLUMNS, [*_COLUMNS, "source"]):
                raise ValueError("other columns")
            for image, label, split, digest, reason, *source in lines:
                if len(source) != len(columns) - _NUM_COLUMNS:
                    raise ValueError("a row has other columns")
                if split not in SPLITS:
                    raise ValueError(f"split {split}")
                yield image.removeprefix("./"), label, split, digest, reason
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read back: {error}; start over with --fresh") from error


def csv_line(cells: Sequence[str], delimiter: str = ",") -> bytes:
    """Return one CSV row that ends in a line feed, as UTF-8.

    Bytes of a file name that are not UTF-8 are kept as they are (`surrogateescape`). With a line
    feed as its line terminator, csv before Python 3.13 does not quote a carriage return in a cell,
    and the row cannot be read back.
    """
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator="\r\n").writerow(cells)
    return (text.getvalue().removesuffix("\r\n") + "\n").encode("utf-8", "surrogateescape")


def safe_cell(path: str) -> str:
    """Prefix a path with `./` if a spreadsheet would read it as a formula."""
    return f"./{path}" if path[:1] in tuple("=+-@") or path[:1] < " " else path
