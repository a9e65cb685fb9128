"""Read a manifest: a CSV file `path,label[,split][,source]` that names images, relative to it.

The separators that spreadsheets write, semicolon and tab, are read too, and backslashes in paths.
So is Excel's first line `sep=;`.
"""

import codecs
import csv
import io
import posixpath
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from sys import intern

from neither.config.schema import SPLIT_FOLDERS
from neither.data.layout import (
    NO_ALIASES,
    describe_mismatches,
    labels_by_name,
    note_near_misses,
    split_folders,
)
from neither.data.scan import ImageTable, nfc, spelled_on_disk
from neither.runtime.console import printable
from neither.runtime.errors import DataError, UsageError

_SPLITS = {name: split for split, names in SPLIT_FOLDERS.items() for name in names} | {"": ""}
_COLUMNS = ("path", "label", "split", "source")
_MAX_NAMED = 10
_SEPARATOR = re.compile(r'"?sep=(.)"?[\r\n]', re.IGNORECASE)


def is_manifest(path: Path) -> bool:
    """Return whether a path names a manifest instead of a folder or an image."""
    return path.suffix.lower() == ".csv" and not path.is_dir()


def find_training_rows(
    path: Path,
    classes: Sequence[str],
    ignored: Sequence[str] = (),
    aliases: Mapping[str, str] = NO_ALIASES,
) -> ImageTable:
    """Read the images to train on, but for those of ignored labels; as `find_training_images`.

    Raises:
        UsageError: if there is no such file.
        DataError: if the file is malformed, a label is not a class, or a class has no image.
    """
    table = ImageTable(path.parent, path)
    skipped = {nfc(label) for label in ignored}
    unknown: dict[str, int] = {}
    without_split = 0  # the first line without a split
    for line, image, label, split, source in _read(path, labels_by_name(classes, aliases)):
        if nfc(label) in skipped:
            continue
        if label not in classes:
            unknown.setdefault(label, line)
            continue
        table.add([image], label, split, source)
        without_split = without_split or (0 if split else line)
    lines = {f"line {line}: label {printable(label) or '(empty)'}": label
             for label, line in list(unknown.items())[:_MAX_NAMED]}  # fmt: skip
    absent = [name for name in classes if name not in set(table.labels)]
    problems = describe_mismatches("image", absent, lines)
    if unknown:
        problems.append("correct them, or see data.aliases and data.ignored_folders")
    if without_split and any(table.splits):
        problems.append(f"line {without_split}: no split, though other lines have one")
    elif "train" not in table.splits and "" not in table.splits:
        problems.append("no image is in the split train")
    if problems:
        wanted = f"{path}: want images of {', '.join(classes)}, all or none with a split"
        raise DataError(wanted, *problems)
    return table


def find_evaluation_rows(
    path: Path,
    split: str | None,
    aliases: Mapping[str, str] = NO_ALIASES,
    classes: Sequence[str] = (),
) -> ImageTable:
    """Read the images to evaluate, as `find_evaluation_images` does.

    Raises:
        UsageError: if there is no such file or split.
        DataError: if the file is malformed or names no image.
    """
    rows = list(_read(path, labels_by_name(classes, aliases)))
    counts = Counter(row_split for _, _, _, row_split, _ in rows)
    known = sorted({*counts} - {""})
    wanted = split or ("test" if known else "")
    table = ImageTable(path.parent, path)
    for _, image, label, row_split, source in rows:
        if row_split == wanted or not wanted:
            table.add([image], label, source=source)
    if not table.paths and rows:
        hint = f"name another: --split {', '.join(known)}" if known else "it has no splits"
        raise UsageError(f"{path}: no image is in the split {wanted}; {hint}")
    beside = [f"{counts[other]:,} of {other or 'no split'}" for other in sorted(counts)
              if wanted not in ("", other)]  # fmt: skip
    if beside:
        table.notes.append(f"{path}: only the images of {wanted} are read, not {', '.join(beside)}")
    absent = [name for name in classes if name not in table.labels]
    others = sorted({*table.labels} - {*classes})
    names = {f"{path}: label {printable(label)}": label for label in others}
    note_near_misses(table, names, absent)
    return table


def read_manifest(path: Path) -> ImageTable:
    """Read all images with their labels, in NFC, splits and sources."""
    table = ImageTable(path.parent, path)
    for _, image, label, split, source in _read(path, {}):
        table.add([image], intern(nfc(label)), split, source)
    return table


def given_splits(
    source: Path, classes: Sequence[str], aliases: Mapping[str, str] = NO_ALIASES
) -> set[str]:
    """Return the splits that a folder or manifest defines; a run makes the missing ones."""
    if is_manifest(source):
        return {*read_manifest(source).splits} - {""}
    return {*split_folders(source, labels_by_name(classes, aliases))}


def _read(path: Path, labels: Mapping[str, str]) -> Iterator[tuple[int, str, str, str, str]]:
    """Yield line number, path, label, split and source of each image; skip repeated rows.

    `labels` are the class of each name, as `labels_by_name` returns them.
    """
    rows = split_rows(path, read_text(path, "path,label"), ("path", "label"))
    columns = next(rows, (0, []))[1]
    plain = [name.strip().casefold() for name in columns]  # so that " Split" is an error
    if any(plain.count(name) != columns.count(name) for name in _COLUMNS) or not (
        columns.count("path") == columns.count("label") == 1
        and max(columns.count("split"), columns.count("source")) <= 1
    ):
        raise DataError(
            f"{path}: want a first line with the columns path,label and, if they are known, "
            f"split,source; got {printable(','.join(columns)) or 'nothing'}"
        )
    seen: dict[str, tuple[str, str, str]] = {}
    listings: dict[Path, dict[str, str]] = {}
    for line, cells in rows:
        if len(cells) != len(columns):
            raise DataError(f"{path}:{line}: {len(cells)} cells, want {len(columns)}")
        row = dict(zip(columns, cells, strict=True))
        if not row["path"] or "\0" in row["path"]:
            raise DataError(f"{path}:{line}: the path is empty or not a path")
        image = posixpath.normpath(spelled_on_disk(path.parent, row["path"], listings))
        label = intern(labels.get(nfc(row["label"]), row["label"]))
        split = _SPLITS.get(row.get("split", ""))
        if split is None:
            got = printable(row["split"])
            raise DataError(f"{path}:{line}: split {got}, want train, val or test")
        source = intern(nfc(row.get("source", "")))
        if image not in seen:
            seen[image] = label, split, source
            yield line, image, label, split, source
        elif seen[image] != (label, split, source):
            raise DataError(
                f"{path}:{line}: {printable(image)} is listed before with another label, split or "
                "source"
            )
    if not seen:
        raise DataError(f"{path}: no images are listed here")


def read_text(path: Path, columns: str) -> str:
    """Return the text of a CSV file in any encoding of a spreadsheet; `columns` are for errors."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file; want a CSV file with the columns {columns}")
    try:
        return decode_text(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def decode_text(content: bytes) -> str:
    """Decode UTF-8 with or without a byte order mark, or UTF-16 with one."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # Excel's "Unicode text"
        return content.decode("utf-16", "replace")
    # surrogateescape: bytes that are not UTF-8 name a file too
    return content.decode("utf-8-sig", "surrogateescape")


def split_rows(path: Path, text: str, columns: Collection[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of each row, the one with the names of the columns first.

    Raises:
        DataError: if a row is malformed.
    """
    delimiter = find_delimiter(text, columns)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in lines:
            # Spreadsheets write rows of separators.
            if any(cells) and not (lines.line_num == 1 and _SEPARATOR.match(text)):
                yield lines.line_num, cells
    except csv.Error as error:
        raise DataError(f"{path}:{lines.line_num}: not a CSV file: {error}") from error


def find_delimiter(text: str, columns: Collection[str]) -> str:
    """Return what separates the columns of the first line; Excel writes ; in much of Europe."""
    if given := _SEPARATOR.match(text):
        return given[1]
    first = text.lstrip().partition("\n")[0].strip()
    for delimiter in ",;\t":
        if {*columns} <= {*next(csv.reader([first], delimiter=delimiter), [])}:
            return delimiter
    return ","
