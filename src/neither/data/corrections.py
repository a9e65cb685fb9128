"""`corrections.csv`: the answers of a review, one row each, in a file that only grows.

A row says of an image, known by the SHA-256 of its content: the class it belongs to, that it is
dropped, or that its answer is undone. The last row of an image counts. A process that is killed
while it writes leaves a part of its row, which is ignored, and overwritten by the next row.

All answers about train count. In val and test, answers about the images that a model doubts would
flatter this model. There an answer counts if it comes from the random sample, or if every image of
the split has one.
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from types import MappingProxyType

from neither.data.layout import labels_by_name, near_miss
from neither.data.manifest import decode_text, find_delimiter, read_text, split_rows
from neither.data.scan import ImageTable, nfc
from neither.data.split_file import csv_line, safe_cell
from neither.runtime import files
from neither.runtime.console import info, printable, warn
from neither.runtime.errors import DataError, named
from neither.runtime.locks import locked_file

DROPPED, UNDONE = "<dropped>", "<undone>"  # instead of a label; no class name has a <
RANDOM_SAMPLE = "random sample"


@dataclass(frozen=True)
class Answer:
    """A row of `corrections.csv`."""

    sha256: str  # of the image file, in hex
    path: str  # of the image when it was reviewed, for people
    old_label: str  # its label then; empty for a new image
    new_label: str  # the class that it belongs to, perhaps the same; `DROPPED` or `UNDONE`
    queue: str  # that showed it, such as `RANDOM_SAMPLE`
    when: str = ""  # in UTC, for people: the order of the rows counts

    @property
    def is_change(self) -> bool:
        """Return whether the old label is wrong."""
        return self.new_label != self.old_label


_COLUMNS = tuple(field.name for field in fields(Answer))
_NO_ANSWERS: Mapping[str, Answer] = MappingProxyType({})
_HEADER = ",".join(_COLUMNS)


def read_answers(
    path: str | Path | None, classes: Sequence[str], aliases: Mapping[str, str]
) -> Mapping[str, Answer]:
    """Return the answer of each image by its SHA-256; none without a file.

    Raises:
        UsageError: if there is no such file.
        DataError: if it is malformed, or a label is not a class.
    """
    if path is None:
        return _NO_ANSWERS
    path = Path(path).expanduser()
    text = read_text(path, _HEADER)
    whole = _whole_rows(path, text)
    if len(whole) < len(text):
        warn(f"{path}: its last row is cut off, and ignored")
    return AnswerFile(path, classes, aliases).parse(whole)


class AnswerFile:
    """The file for a process that reads it again and again: a row is parsed once.

    Any number of processes may append to it.
    """

    def __init__(
        self, path: Path, classes: Sequence[str], aliases: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.path = path
        self._labels = labels_by_name(classes, aliases)
        self._header = self._text = ""  # what was parsed, of which the header is the start
        self._answers: dict[str, Answer] = {}

    def read(self) -> Mapping[str, Answer]:
        """Return the answer of each image by its SHA-256; none if there is no file.

        Raises:
            DataError: if it is malformed, or a label is not a class.
        """
        if not self.path.exists():
            return _NO_ANSWERS
        return self.parse(_whole_rows(self.path, read_text(self.path, _HEADER)))

    def append(self, answers: Iterable[Answer]) -> None:
        """Append rows and bring them to disk, in the form that a spreadsheet may have given it.

        An answer that the file has already is not repeated.

        Raises:
            DataError: if the file has another content, or is UTF-16.
            OSError: if it cannot be written.
        """
        path = self.path
        with locked_file(path, wait=True) as file, named(path):
            content = file.read()
            if b"\0" in content:
                raise DataError(f"{path}: this is UTF-16; save it as CSV in UTF-8 to add to it")
            text = decode_text(content)
            whole = _whole_rows(path, text)
            known = self.parse(whole)
            cut = text[len(whole) :].encode("utf-8", "surrogateescape")
            file.truncate(len(content) - len(cut))
            delimiter = find_delimiter(whole or _HEADER, _COLUMNS)
            _, columns = next(split_rows(path, whole or _HEADER, _COLUMNS))
            lines = [csv_line(_COLUMNS)] if not whole else [b"\n"] * (not whole.endswith("\n"))
            when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            for answer in answers:
                before = known.get(answer.sha256)
                now = {**vars(answer), "path": safe_cell(printable(answer.path)), "when": when}
                same = ("new_label", "queue")
                if before is None and answer.new_label == UNDONE:
                    continue
                if before is None or any(vars(before)[name] != now[name] for name in same):
                    lines.append(csv_line([now.get(name, "") for name in columns], delimiter))
            file.write(b"".join(lines))
            file.flush()
            files.sync(file.fileno(), path)

    def parse(self, text: str) -> Mapping[str, Answer]:
        """Return the answers in the text of the file, of which only what is new is parsed."""
        if self._text and text.startswith(self._text):
            rest = self._header + text[len(self._text) :]
            with suppress(DataError):  # its line would be wrong
                self._answers, _ = _parse(self.path, rest, self._labels, self._answers)
                self._text = text
                return self._answers
        self._answers, num_lines = _parse(self.path, text, self._labels, _NO_ANSWERS)
        self._header = "".join(islice(io.StringIO(text, newline=""), num_lines))
        self._text = text
        return self._answers


def _whole_rows(path: Path, text: str) -> str:
    """Return the text without a last row, or header, that a killed process has cut off."""
    whole, newline, last = text.rpartition("\n")
    if not last:
        return text
    if not newline:  # anything but the start of our header is another file, which is not touched
        return "" if _HEADER.startswith(last) else text
    _, columns = next(split_rows(path, whole, _COLUMNS), (0, []))
    cells = next(csv.reader([last], delimiter=find_delimiter(text, _COLUMNS)), [])
    is_whole = len(cells) == len(columns) and bool(cells[-1])  # a spreadsheet may end it so
    return text if is_whole else whole + newline


def _parse(
    path: Path, text: str, labels: Mapping[str, str], before: Mapping[str, Answer]
) -> tuple[dict[str, Answer], int]:
    """Return the answers before, with those of a text; and how many lines its header has."""
    answers, columns, num_lines = dict(before), list[str](), 0
    for line, cells in split_rows(path, text, _COLUMNS):
        if not columns:
            columns, num_lines = cells, line
            if any(columns.count(name) != 1 for name in _COLUMNS):
                got = printable(",".join(columns))
                raise DataError(f"{path}: want a first line with the columns {_HEADER}; got {got}")
            continue
        if len(cells) != len(columns):
            raise DataError(f"{path}:{line}: {len(cells)} cells, want {len(columns)}")
        row = {name: cell for name, cell in zip(columns, cells, strict=True) if name in _COLUMNS}
        row["sha256"] = row["sha256"].strip().lower()
        if not re.fullmatch("[0-9a-f]{64}", row["sha256"]):
            got = printable(row["sha256"]) or "nothing"
            raise DataError(f"{path}:{line}: sha256 {got}, want 64 hexadecimal digits")
        row["old_label"] = labels.get(nfc(row["old_label"]), row["old_label"])
        label = row["new_label"].strip()
        if label == UNDONE:
            answers.pop(row["sha256"], None)
            continue
        row["new_label"] = label = labels.get(nfc(label), label)
        if label != DROPPED and label not in labels.values():
            close = near_miss(label, labels)
            raise DataError(
                f"{path}:{line}: new_label {printable(label) or '(empty)'}: no class has this name"
                f"{f'; did you mean {close}?' if close else ''}"
            )
        answers[row["sha256"]] = Answer(**row)
    return answers, num_lines


def apply_answers(
    table: ImageTable,
    hashes: Sequence[str],
    splits: Sequence[str],
    answers: Mapping[str, Answer],
    is_expected: bool = True,
) -> list[int]:
    """Replace the labels of a table, log how many, and return the indices of dropped images.

    Hashes (SHA-256 in hex) and splits are those of the images; all answers about train, and about
    images in no split, count.

    Raises:
        DataError: if no answer is about these images, though it `is_expected`.
    """
    if not answers:
        return []
    num_unknown = len(answers.keys() - {*hashes})
    if is_expected and num_unknown == len(answers):
        raise DataError(
            f"none of {num_unknown:,} corrections is about the images of {table.source}; name the "
            "file that belongs to them"
        )
    dropped, num_changed, num_ignored = [], 0, 0
    is_reviewed = {
        split: all(digest in answers for digest, each in zip(hashes, splits, strict=True)
                   if each == split) for split in ("val", "test")
    }  # fmt: skip
    for index, (digest, split) in enumerate(zip(hashes, splits, strict=True)):
        answer = answers.get(digest)
        if answer is None or answer.new_label == table.labels[index]:
            continue
        if not is_reviewed.get(split, True) and answer.queue != RANDOM_SAMPLE:
            num_ignored += 1
        elif answer.new_label == DROPPED:
            dropped.append(index)
        else:
            table.labels[index] = answer.new_label
            num_changed += 1
    if is_expected or num_unknown < len(answers):
        info(
            f"corrections: {num_changed:,} labels are replaced, {len(dropped):,} images dropped"
            + (f"; {num_unknown:,} answers are about other images" if num_unknown else "")
        )
    if num_ignored:
        info(
            f"{num_ignored:,} corrections of val or test do not count: they are not of the random "
            "sample, and not the whole split was reviewed"
        )
    return dropped
