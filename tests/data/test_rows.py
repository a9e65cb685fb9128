import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from neither.data.cache import Rows, allot
from neither.runtime.errors import OutputError

ROW = 12


def pixels_of(*numbers: int) -> list[NDArray[np.uint8]]:
    return [np.full((2, 2, 3), number, np.uint8) for number in numbers]


def rows_of(path: Path) -> list[list[int]]:
    """The values that occur in each row of a file."""
    return [sorted(set(row)) for row in np.fromfile(path, np.uint8).reshape(-1, ROW).tolist()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pixels.u8"


def test_rows_hold_what_was_written_and_zeros_where_nothing_was(path: Path) -> None:
    first, second = allot(path, ROW, 0, 3), allot(path, ROW, 0, 2)
    assert (first.first, second.first) == (0, 3)
    second.write(pixels_of(4, 5))
    first.write(pixels_of(1, 2))
    assert rows_of(path) == [[1], [2], [0], [4], [5]]
    allot(path, ROW, 0, 1).write([])
    assert rows_of(path)[5:] == [[0]]


def test_rows_lie_behind_all_that_were_ever_allotted(path: Path) -> None:
    allot(path, ROW, 0, 3)  # by a run that was killed before it could save how many
    assert allot(path, ROW, 1, 2).first == 3
    assert allot(path, ROW, 9, 1).first == 9
    with path.open("ab") as file:
        file.write(b"half a ")
    assert allot(path, ROW, 0, 1).first == 11
    assert path.stat().st_size == 12 * ROW


def test_many_may_write_at_once_wherever_they_are(path: Path) -> None:
    many = [pickle.loads(pickle.dumps(allot(path, ROW, 0, 4))) for _ in range(50)]  # noqa: S301
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda rows: rows.write(pixels_of(*range(rows.first, rows.first + 4))), many))
    assert rows_of(path) == [[number] for number in range(200)]


@pytest.mark.parametrize("made_anew", [False, True])
def test_a_file_that_was_deleted_is_never_mixed_with_another(path: Path, made_anew: bool) -> None:
    rows = allot(path, ROW, 0, 2)
    path.rename(path.with_name("gone"))  # keeps its inode from being used again
    if made_anew:
        allot(path, ROW, 0, 2)
    with pytest.raises(OutputError, match="the cache was deleted while images were decoded"):
        rows.write(pixels_of(1, 2))
    assert not made_anew or rows_of(path) == [[0], [0]]


def test_a_file_that_cannot_be_written_says_where_else_to_go(path: Path) -> None:
    path.mkdir()
    here = path.stat()
    rows = Rows(path, (here.st_dev, here.st_ino), 0, ROW)
    for attempt in (lambda: rows.write(pixels_of(1)), lambda: allot(path, ROW, 0, 1)):
        with pytest.raises(OutputError, match=r"cannot be kept here: .*XDG_CACHE_HOME"):
            attempt()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a disk that is full")  # noqa: PTH110
def test_a_full_disk_is_an_error_with_a_remedy() -> None:
    path = Path("/dev/full")
    status = path.stat()
    rows = Rows(path, (status.st_dev, status.st_ino), 0, ROW)
    with pytest.raises(OutputError, match=r"No space left on device; free some space"):
        rows.write(pixels_of(1))
