"""Copies that overwrite nothing."""

import os
from pathlib import Path

import pytest

from neither.cli.predict import DecisionFolders
from neither.runtime.errors import OutputError


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes()
            for path in root.rglob("*") if path.is_file()}  # fmt: skip


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_copies_keep_their_path_below_the_decision(tmp_path: Path) -> None:
    sorter = DecisionFolders(tmp_path / "sorted" / "here")
    sorter.copy(write(tmp_path / "in" / "a.jpg", b"1"), "a.jpg", "dog")
    sorter.copy(write(tmp_path / "in" / "x" / "y" / "a.jpg", b"2"), "x/y/a.jpg", "unsure")
    assert tree(tmp_path / "sorted" / "here") == {"dog/a.jpg": b"1", "unsure/x/y/a.jpg": b"2"}


def test_nothing_is_overwritten_and_nothing_copied_twice(tmp_path: Path) -> None:
    sorter = DecisionFolders(tmp_path / "sorted")
    for content in (b"1", b"2", b"1", b"3", b"2"):
        sorter.copy(write(tmp_path / "in" / "a.tar.jpg", content), "a.tar.jpg", "dog")
    assert tree(tmp_path / "sorted") == {
        "dog/a.tar.jpg": b"1", "dog/a.tar-2.jpg": b"2", "dog/a.tar-3.jpg": b"3",
    }  # fmt: skip


def test_odd_names_and_files_that_are_gone_stop_nothing(tmp_path: Path) -> None:
    sorter = DecisionFolders(tmp_path / "sorted")
    name = os.fsdecode(b"\xff\n'.jpg")
    sorter.copy(write(tmp_path / "in" / name, b"1"), name, "dog")
    sorter.copy(tmp_path / "in" / "gone.jpg", "gone.jpg", "unreadable")
    assert tree(tmp_path / "sorted") == {f"dog/{name}": b"1"}


def test_a_link_is_copied_as_what_it_leads_to(tmp_path: Path) -> None:
    sorter = DecisionFolders(tmp_path / "sorted")
    link = tmp_path / "link.jpg"
    link.symlink_to(write(tmp_path / "in" / "a.jpg", b"1"))
    sorter.copy(link, "link.jpg", "dog")
    assert not (tmp_path / "sorted" / "dog" / "link.jpg").is_symlink()
    assert tree(tmp_path / "sorted") == {"dog/link.jpg": b"1"}


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        DecisionFolders(write(tmp_path / "file", b"") / "below")
