"""`splits.csv`: every image found, its label, and which split it is in for good.

Where folders do not say, the split is a hash of (seed, content): a copy under another name falls on
the same side, shares hold in expectation within each class, and adding files moves none.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from neither import files
from neither.data.layout import ImageFile
from neither.errors import DataError
from neither.randomness import fraction
from neither.terminal import printable

_COLUMNS = ["path", "label", "split", "sha256", "reason"]


@dataclass(frozen=True, slots=True)
class Row:
    """One image found; an empty split means it was left out, for the reason given."""

    path: str
    label: str
    split: str
    sha256: str
    reason: str = ""


def assign(
    images: Sequence[ImageFile],
    hashes: Sequence[str],
    reasons: Sequence[str],
    seed: int,
    val_fraction: float,
    test_fraction: float,
) -> list[Row]:
    """Give each image its split.

    Args:
        images: in the splits of their folders, or in none.
        hashes: of the content of each file.
        reasons: why a file cannot be read; empty where it can.
        seed: of the run.
        val_fraction: the share that becomes val, where no folder says what val is.
        test_fraction: likewise, only where there are no split folders at all.
    """
    has_folders = any(image.split for image in images)
    has_val = any(image.split == "val" for image in images)
    if has_folders:
        test_fraction = 0.0
    rows = []
    for image, digest, reason in zip(images, hashes, reasons, strict=True):
        split = "" if reason else image.split
        if not reason and not has_val and image.split in ("", "train"):
            place = fraction(seed, digest)
            split = "test" if place < test_fraction else "train"
            if test_fraction <= place < test_fraction + val_fraction:
                split = "val"
        rows.append(Row(image.path, image.label, split, digest, reason))
    return rows


def check_counts(rows: Iterable[Row], classes: Sequence[str]) -> None:
    """Refuse to train where a class has nothing to learn from or to be judged by.

    Raises:
        DataError: naming the class, the split and what helps.
    """
    counts = Counter((row.split, row.label) for row in rows)
    for split in ("train", "val"):
        for name in classes:
            if not counts[split, name]:
                raise DataError(
                    f"class {name} has no readable image in {split}; add images of it"
                    + (" or raise data.val_fraction" if split == "val" else "")
                )


def match_again(
    rows: Sequence[Row],
    images: Sequence[ImageFile],
    hashes: Sequence[str],
    reasons: Sequence[str],
) -> tuple[list[Row], list[str]]:
    """Hold the images of a folder against the rows of an earlier run on it.

    Args:
        rows: of the run's `splits.csv`.
        images: found now.
        hashes: of their content now.
        reasons: why one cannot be read now; empty where it can.

    Returns:
        The rows, and the paths of images added since, which stay left out.

    Raises:
        DataError: if an image that the run uses has changed, is missing or can't be read any more.
    """
    now = {
        image.path: (digest, reason)
        for image, digest, reason in zip(images, hashes, reasons, strict=True)
    }
    used = [row.path for row in rows if row.split]
    before = {row.path: row.sha256 for row in rows}
    missing = [path for path in used if path not in now]
    lost = [path for path in used if path in now and now[path][1]]
    changed = [path for path in used if path in now and now[path][0] != before[path]]
    for paths, what in ((missing, "missing"), (lost, "unreadable"), (changed, "changed")):
        if paths:
            reason = now.get(paths[0], ("", ""))[1]
            raise DataError(
                f"{len(paths):,} images of this run are {what}, among them {printable(paths[0])}"
                f"{reason and f' ({reason})'}; put them back, or start over with --fresh"
            )
    known = {row.path for row in rows}
    return list(rows), [image.path for image in images if image.path not in known]


def write_splits(path: Path, rows: Iterable[Row]) -> None:
    """Write the rows, whole or not at all."""
    lines = [csv_line(_COLUMNS)]
    for row in rows:
        cells = [safe_cell(row.path), row.label, row.split, row.sha256, row.reason]
        lines.append(csv_line(cells))
    # A file name may hold bytes that are no UTF-8; they come back as they were.
    files.write_whole(path, "".join(lines).encode("utf-8", "surrogateescape"))


def read_splits(path: Path) -> list[Row]:
    """Read what `write_splits` wrote.

    Raises:
        DataError: if the file is missing or not of this form.
    """
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
        header, *lines = csv.reader(io.StringIO(text, newline=""))
        if header != _COLUMNS:
            raise ValueError("other columns")
        rows = [Row(*line) for line in lines]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read back: {error}; start over with --fresh") from error
    return [replace(row, path=row.path.removeprefix("./")) for row in rows]


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
