"""Rows of a file of pixels, each allotted to one writer, so that many can write at once."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from neither.errors import OutputError


class Rows(NamedTuple):
    """Some rows of a file that only this writer may fill; it may lie in another process.

    Attributes:
        path: of the file.
        identity: its device and inode, as another run may find the file deleted and make it anew.
        first: the number of the first row.
        row_bytes: bytes that each row takes.
    """

    path: Path
    identity: tuple[int, int]
    first: int
    row_bytes: int

    def write(self, pixels: Sequence[NDArray[np.uint8]]) -> None:
        """Fill the rows from the first on; what is not filled stays zero.

        Raises:
            OutputError: if the disk is full, or the file was deleted.
        """
        try:
            with self.path.open("r+b") as file:
                if _identify(file.fileno()) != self.identity:
                    raise FileNotFoundError
                file.seek(self.first * self.row_bytes)
                file.write(b"".join(each.tobytes() for each in pixels))
        except FileNotFoundError:
            raise deleted(self.path.parent) from None
        except OSError as error:
            raise unwritable(self.path.parent, error) from error


def allot(path: Path, row_bytes: int, least: int, num: int) -> Rows:
    """Lengthen a file, or make it, by rows of zeros.

    They lie behind all that were ever allotted: the processes of a run that was killed may go on
    for a moment and write to theirs.

    Args:
        path: of the file.
        row_bytes: bytes that each row takes.
        least: of the number of the first row.
        num: how many rows.

    Raises:
        OutputError: if the file cannot be written.
    """
    try:
        with path.open("ab") as file:
            first = max(least, -(-file.tell() // row_bytes))
            file.truncate((first + num) * row_bytes)
            return Rows(path, _identify(file.fileno()), first, row_bytes)
    except OSError as error:
        raise unwritable(path.parent, error) from error


def deleted(folder: Path) -> OutputError:
    """Say that the cache is gone."""
    return OutputError(
        f"{folder}: the cache was deleted while images were decoded into it; start the same "
        "command again"
    )


def unwritable(folder: Path, error: OSError) -> OutputError:
    """Say why the cache cannot be written, and what to do."""
    return OutputError(
        f"{folder}: decoded images cannot be kept here: {error.strerror}; free some space, or name "
        "a folder on another disk with the variable XDG_CACHE_HOME"
    )


def _identify(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino
