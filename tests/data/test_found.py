import os
from pathlib import Path

import pytest

from images import touch
from neither.data.scan import ImageRow, ImageTable
from neither.runtime.errors import DataError


def test_columns_and_images_say_the_same(tmp_path: Path) -> None:
    found = ImageTable(tmp_path, tmp_path)
    found.add(["a.jpg", "b.jpg"], "dog", "train")
    found.add(["c.jpg"], "human")
    found.add([], "nothing", "val")
    assert found.paths == ["a.jpg", "b.jpg", "c.jpg"]
    assert found.labels == ["dog", "dog", "human"]
    assert found.splits == ["train", "train", ""]
    assert found.images == [
        ImageRow("a.jpg", "dog", "train"),
        ImageRow("b.jpg", "dog", "train"),
        ImageRow("c.jpg", "human"),
    ]


def test_a_search_notes_what_else_lies_there_and_adds_no_image_by_itself(tmp_path: Path) -> None:
    touch(tmp_path, "dog/a.jpg", "dog/a.txt", "dog/.b.jpg", "human/c.jpg")
    os.mkfifo(tmp_path / "dog/pipe.jpg")
    found = ImageTable(tmp_path, tmp_path)
    assert found.scan(tmp_path / "dog", prefix="dog/") == ["dog/a.jpg"]
    assert found.scan(tmp_path / "human") == ["c.jpg"]
    assert found.paths == found.listing.paths == []
    assert (found.listing.num_others, found.listing.num_hidden) == (1, 1)
    odd = f"{tmp_path}/dog/pipe.jpg: not a regular file"
    assert found.listing.irregular == [odd]
    assert found.notes == [
        f"{tmp_path}/dog: 1 other files are not read",
        f"{tmp_path}/dog: 1 entries with an image suffix are not image files, such as {odd}",
    ]


def test_notes_escape_what_would_drive_a_terminal(tmp_path: Path) -> None:
    touch(tmp_path, "\x1b[31m/a.txt")
    (tmp_path / "\x1b[31m/\n.jpg").symlink_to("nowhere")
    found = ImageTable(tmp_path, tmp_path)
    found.scan(tmp_path / "\x1b[31m")
    assert len(found.notes) == 2
    assert all(letter.isprintable() for note in found.notes for letter in note)


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing: this folder cannot be read"):
        ImageTable(tmp_path, tmp_path).scan(tmp_path / "missing")
