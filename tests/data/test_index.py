import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from neither.data.cache import Index, identify_files
from neither.data.fingerprints import FINGERPRINT

Keys = NDArray[np.uint64]
LARGEST = 2**64 - 1


def keys(*pairs: tuple[int, int]) -> Keys:
    return np.array(pairs, np.uint64).reshape(-1, 2)


# What is known


def test_an_empty_index_knows_nothing() -> None:
    index = Index()
    assert index.find(keys((1, 2), (0, 0))).tolist() == [-1, -1]
    assert index.find(keys()).tolist() == []


def test_what_was_added_is_found_at_its_place_and_nothing_else() -> None:
    index = Index()
    assert index.extend(keys((5, 1), (3, 9))).tolist() == [0, 1]
    assert index.extend(keys((LARGEST, LARGEST), (1, 1))).tolist() == [2, 3]
    asked = keys((1, 1), (5, 2), (LARGEST, LARGEST), (4, 1), (3, 9), (5, 1), (LARGEST, 0), (0, 1))
    assert index.find(asked).tolist() == [3, -1, 2, -1, 1, 0, -1, -1]


def test_an_earlier_state_of_a_file_is_not_taken_for_it() -> None:
    index = Index()
    index.extend(keys(*((7, state) for state in range(1, 20, 2))))
    assert index.find(keys(*((7, state) for state in range(0, 20, 2)))).tolist() == [-1] * 10
    assert index.find(keys(*((number, 5) for number in range(8, 20)))).tolist() == [-1] * 12


@given(st.sets(st.integers(1, 60)), st.lists(st.integers(1, 60)))
@settings(deadline=None)
def test_every_key_is_found_where_it_is(known: set[int], asked: list[int]) -> None:
    index, order = Index(), list(known)
    index.extend(keys(*((number * 7919 % 61, number) for number in order)))
    found = index.find(keys(*((number * 7919 % 61, number) for number in asked)))
    assert found.tolist() == [order.index(n) if n in known else -1 for n in asked]


def test_a_file_without_a_key_is_never_known() -> None:
    index = Index()
    index.extend(keys((0, 0), (0, 1)))
    assert index.find(keys((0, 0), (0, 0))).tolist() == [-1, -1]


def test_added_records_are_empty() -> None:
    index = Index()
    index.extend(keys((1, 1)))
    index.rows[0], index.facts["width"][0] = 7, 9
    index.extend(keys((2, 2), (3, 3)))
    assert index.rows.tolist() == [7, 0, 0]
    assert index.facts["width"].tolist() == [9, 0, 0]
    assert index.facts.dtype == FINGERPRINT


def test_only_earlier_states_of_the_files_asked_for_are_not_current() -> None:
    index = Index()
    index.extend(keys((7, 1), (8, 1), (7, 2), (9, 1), (8, 2)))
    assert index.list_current(keys((7, 2), (8, 3), (6, 1), (0, 0))).tolist() == [2, 3]
    assert index.list_current(keys()).tolist() == [0, 1, 2, 3, 4]
    assert Index().list_current(keys((7, 2))).tolist() == []


def test_a_reason_is_kept_once() -> None:
    index = Index()
    assert [index.number(reason) for reason in ("damaged", "empty file", "damaged")] == [-1, -2, -1]
    assert index.reasons == ["damaged", "empty file"]


# What tells a changed file


def identify(path: Path) -> list[int]:
    identity: list[int] = identify_files(path.parent, [path.name])[0].tolist()
    return identity


def test_a_file_keeps_its_key_and_each_has_its_own(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        path.write_bytes(b"the same")
    before = identify_files(tmp_path, ["a", "b"])
    assert before.shape == (2, 2)
    assert before.dtype == np.uint64
    assert not np.array_equal(before[0], before[1])
    assert paths[0].read_bytes()  # which does not change it
    assert np.array_equal(identify_files(tmp_path, ["b", "a"])[::-1], before)


def test_new_content_of_the_same_size_and_date_is_told_by_the_time_of_change(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    os.utime(path, (1, 1))
    before, status = identify(path), path.stat()
    with path.open("r+b") as file:
        file.write(b"two")
    os.utime(path, (1, 1))
    after = path.stat()
    assert (status.st_size, status.st_mtime_ns, status.st_ino) == (
        after.st_size, after.st_mtime_ns, after.st_ino,
    )  # fmt: skip
    assert identify(path) != before


def test_a_changed_file_is_told_to_be_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    before = identify(path)
    path.write_bytes(b"three")
    after = identify(path)
    assert before[0] == after[0]
    assert before[1] != after[1]
    path.rename(tmp_path / "b")
    assert identify(tmp_path / "b")[0] != before[0]


@pytest.mark.parametrize("name", ["st_size", "st_ino", "st_mtime_ns", "st_ctime_ns"])
def test_each_of_size_inode_and_times_changes_the_key_by_itself(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    status = SimpleNamespace(st_size=1, st_ino=11, st_mtime_ns=111, st_ctime_ns=1111)
    monkeypatch.setattr(os, "stat", lambda _: status)
    before = identify(Path("a"))
    setattr(status, name, getattr(status, name) + 1)
    assert identify(Path("a")) != before
    assert identify(Path("b")) != identify(Path("a"))


def test_numbers_side_by_side_are_not_mixed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    status = SimpleNamespace(st_size=1, st_ino=12, st_mtime_ns=3, st_ctime_ns=4)
    monkeypatch.setattr(os, "stat", lambda _: status)
    before = identify(Path("a"))
    status.st_size, status.st_ino = 11, 2
    assert identify(Path("a")) != before


@pytest.mark.parametrize("name", ["gone", "file/below", "a\0b", "\ud800", "x" * 300])
def test_where_there_is_no_file_the_key_is_zero(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    assert identify_files(tmp_path, [name, "file"]).any(axis=1).tolist() == [False, True]


def test_names_that_are_no_text_have_keys_too(tmp_path: Path) -> None:
    name = os.fsdecode(b"dog \xff.jpg")
    (tmp_path / name).touch()
    assert identify_files(tmp_path, [name]).all()


def test_no_paths_have_no_keys(tmp_path: Path) -> None:
    assert identify_files(tmp_path, []).shape == (0, 2)
