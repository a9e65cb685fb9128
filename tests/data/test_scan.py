import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from images import touch
from neither.data.scan import (
    SUFFIXES,
    Identity,
    ImageRow,
    ImageTable,
    count_loose_images,
    list_folders,
    list_images,
)
from neither.runtime import signals
from neither.runtime.errors import DataError

Draw = Callable[..., Path]


def test_images_are_found_at_any_depth_sorted_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "a/z.png", "a/b/c/d.gif", "a.png", "B.jpg", "10.png", "9.png")
    listing = list_images(tmp_path)
    assert listing.paths == [
        "10.png", "9.png", "B.jpg", "a.png", "a/b/c/d.gif", "a/z.png", "b.jpg",
    ]  # fmt: skip
    assert (listing.num_others, listing.unreadable_folders) == (0, [])


def test_every_image_suffix_counts_in_any_case(tmp_path: Path) -> None:
    names = [f"{number}{suffix}" for number, suffix in enumerate(SUFFIXES)]
    names += [f"up{name.upper()}" for name in names]
    touch(tmp_path, *names)
    assert list_images(tmp_path).paths == sorted(names)


def test_other_files_are_counted_by_their_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.MP4", "c/d.txt", "plain", "e.jpg")
    listing = list_images(tmp_path)
    assert listing.others == {".mp4": 2, ".txt": 1, "": 1}
    assert listing.num_others == 4


def test_hidden_files_and_litter_are_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", ".hidden.jpg", "._a.jpg", ".git/b.jpg", "__MACOSX/c.jpg",
          "__macosx/c.jpg", "Thumbs.db", "x/thumbs.db", "desktop.ini", ".DS_Store")  # fmt: skip
    listing = list_images(tmp_path)
    assert (listing.paths, listing.num_others) == (["a.jpg"], 0)
    # .hidden.jpg, ._a.jpg, .git, both __MACOSX, Thumbs.db, x/thumbs.db, desktop.ini, .DS_Store
    assert listing.num_hidden == 9


def test_paths_begin_with_the_prefix(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b/c.jpg", "elsewhere/d.jpg")
    (tmp_path / "b/link").symlink_to("../elsewhere")
    listing = list_images(tmp_path, prefix="train/dog/")
    assert listing.paths == ["train/dog/a.jpg", "train/dog/b/c.jpg", "train/dog/elsewhere/d.jpg"]
    assert list_images(tmp_path / "b", prefix="x/").paths == ["x/c.jpg", "x/link/d.jpg"]


def test_no_scan_enters_a_folder_that_another_one_has_entered(tmp_path: Path) -> None:
    touch(tmp_path, "dog/a.jpg", "human/b.jpg", "human/deep/c.jpg")
    (tmp_path / "dog/deep").symlink_to("../human/deep")
    entered: set[Identity] = set()
    assert list_images(tmp_path / "human", entered).paths == ["b.jpg", "deep/c.jpg"]
    assert list_images(tmp_path / "dog", entered).paths == ["a.jpg"]
    assert list_images(tmp_path / "dog").paths == ["a.jpg", "deep/c.jpg"]


def test_without_a_suffix_the_content_tells(tmp_path: Path, draw: Draw) -> None:
    draw(tmp_path / "picture")
    draw(tmp_path / "picture.with.dots.png")
    draw(tmp_path / "picture.part")  # a suffix, though not of an image, is taken at its word
    (tmp_path / "text").write_text("a text")
    (tmp_path / "empty").touch()
    for name, start in (("jpeg", b"\xff\xd8\xff\xe0"), ("gif", b"GIF89a"), ("tiff", b"II*\0")):
        (tmp_path / name).write_bytes(start)
    listing = list_images(tmp_path)
    assert listing.paths == ["gif", "jpeg", "picture", "picture.with.dots.png", "tiff"]
    assert listing.num_others == 3


def test_a_folder_named_as_an_image_is_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "x.jpg/inner.jpg")
    listing = list_images(tmp_path)
    assert (listing.paths, listing.num_others) == (["x.jpg/inner.jpg"], 0)


def test_what_only_has_the_name_of_an_image_is_reported_and_never_opened(
    tmp_path: Path, watchdog: None
) -> None:
    for name in ("pipe", "pipe.jpg"):
        os.mkfifo(tmp_path / name)  # opening one would wait for ever
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "zero.png").symlink_to("/dev/zero")  # reading it would never end
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "pipe.gif").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "socket.jpg"))
    listing = list_images(tmp_path)
    assert (listing.paths, listing.num_others, listing.unreadable_folders) == ([], 0, [])
    assert sorted(listing.irregular) == [
        f"{tmp_path}/gone.jpg: a broken link",
        f"{tmp_path}/loop.jpg: {os.strerror(errno.ELOOP)}",
        f"{tmp_path}/pipe.gif: not a regular file",
        f"{tmp_path}/pipe.jpg: not a regular file",
        f"{tmp_path}/socket.jpg: not a regular file",
        f"{tmp_path}/zero.png: not a regular file",
    ]


def test_hard_links_are_two_files(tmp_path: Path) -> None:
    """As two names for the same bytes, they are copies: what that means is up to the splits."""
    touch(tmp_path, "a.jpg")
    (tmp_path / "b.jpg").hardlink_to(tmp_path / "a.jpg")
    assert list_images(tmp_path).paths == ["a.jpg", "b.jpg"]


def test_names_that_hash_the_same_are_kept_apart(tmp_path: Path) -> None:
    names = ["caf\u00e9.jpg", "cafe\u0301.jpg", "CAFE.jpg", "cafe.jpg", "cafe.JPG"]
    touch(tmp_path, *names)
    if len(list(tmp_path.iterdir())) < len(names):
        pytest.skip("this file system takes some of these names for the same")
    assert list_images(tmp_path).paths == sorted(names)


def test_links_to_files_are_followed(tmp_path: Path, draw: Draw) -> None:
    draw(tmp_path / "elsewhere/real.png")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/link.png").symlink_to("../elsewhere/real.png")
    (tmp_path / "root/link").symlink_to("../elsewhere/real.png")
    assert list_images(tmp_path / "root").paths == ["link", "link.png"]


def test_a_link_to_a_folder_is_entered_once_however_many_ways_there_are(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/a.jpg", "root/own.jpg")
    for name in ("first", "second"):
        (tmp_path / "root" / name).symlink_to("../elsewhere")
    assert list_images(tmp_path / "root").paths == ["first/a.jpg", "own.jpg"]


def test_the_real_folder_is_taken_before_a_link_to_it(tmp_path: Path) -> None:
    touch(tmp_path, "z/real/a.jpg")
    (tmp_path / "a").symlink_to("z/real")
    assert list_images(tmp_path).paths == ["z/real/a.jpg"]


def test_loops_of_links_end(tmp_path: Path) -> None:
    touch(tmp_path, "root/a/b/x.jpg", "root/y.jpg", "outside.jpg")
    (tmp_path / "root/a/b/up").symlink_to("..")
    (tmp_path / "root/a/b/root").symlink_to(tmp_path / "root")
    (tmp_path / "root/a/here").symlink_to(".")
    assert list_images(tmp_path / "root").paths == ["a/b/x.jpg", "y.jpg"]
    (tmp_path / "root/parent").symlink_to("..")  # would bring in what is beside the root
    assert list_images(tmp_path / "root").paths == ["a/b/x.jpg", "y.jpg"]


def test_the_root_may_itself_be_a_link(tmp_path: Path) -> None:
    touch(tmp_path, "real/x.jpg")
    (tmp_path / "link").symlink_to("real")
    assert list_images(tmp_path / "link").paths == ["x.jpg"]


def test_a_very_deep_tree_is_walked(tmp_path: Path) -> None:
    # Made and removed step by step: a path of this length is too long for one call.
    depth, here = 300, Path.cwd()
    os.chdir(tmp_path)
    try:
        for _ in range(depth):
            Path("d").mkdir()
            os.chdir("d")
        Path("x.jpg").touch()
    finally:
        os.chdir(here)
    assert list_images(tmp_path).paths == ["d/" * depth + "x.jpg"]


def test_a_root_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("file", "missing"):
        with pytest.raises(DataError, match=f"{name}: this folder cannot be read: "):
            list_images(tmp_path / name)
        with pytest.raises(DataError, match=f"{name}: this folder cannot be read: "):
            list_folders(tmp_path / name)


def test_a_folder_that_is_closed_to_us_is_named_and_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a/x.jpg", "b/y.jpg", "elsewhere/z.jpg")
    (tmp_path / "b/link").symlink_to("../elsewhere")
    closed, scandir = {str(tmp_path / "a"), str(tmp_path / "b/link")}, os.scandir

    def scan(path: Path) -> "os._ScandirIterator[str]":
        if str(path) in closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    refused = "this folder cannot be read: Permission denied"
    listing = list_images(tmp_path / "b")
    assert (listing.paths, listing.unreadable_folders) == (
        ["y.jpg"],
        [f"{tmp_path}/b/link: {refused}"],
    )
    assert list_images(tmp_path).unreadable_folders == [f"{tmp_path}/a: {refused}"]
    with pytest.raises(DataError, match=f"a: {refused}"):
        list_images(tmp_path / "a")


def test_a_signal_ends_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with signals.installed():
        os.kill(os.getpid(), 15)
        with pytest.raises(signals.Stopped):
            list_images(tmp_path)


def test_folders_are_named_without_hidden_ones_and_litter(tmp_path: Path) -> None:
    touch(tmp_path, "b/x", "a/x", ".git/x", "__MACOSX/x", "file.jpg")
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "self").symlink_to("self")
    assert list_folders(tmp_path) == ["a", "b", "link"]


def test_loose_images_are_those_directly_in_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.PNG", ".c.jpg", "d.txt", "e/f.jpg", "g.jpg/h.jpg")
    assert count_loose_images(tmp_path) == 2


NAMES = st.binary(min_size=1, max_size=20).filter(
    lambda name: not {*name} & {0, ord("/")} and not name.startswith(b".")
)


@given(st.sets(NAMES.map(lambda name: os.fsdecode(name) + ".png"), max_size=8))
@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_name_that_a_file_system_takes_is_found(
    tmp_path_factory: pytest.TempPathFactory, names: set[str]
) -> None:
    root = tmp_path_factory.mktemp("names")
    touch(root, *names)
    assert list_images(root).paths == sorted(names)


@pytest.mark.parametrize(
    ("start", "is_image"),
    [(b"RIFF\x01\x02\x03\x04WEBPVP8", True), (b"RIFF\x01\x02\x03\x04WAVEfmt", False),
     (b"BM\x01\x02\x03\x04\0\0\0\0\x36\0", True), (b"BM is a memo", False)],
)  # fmt: skip
def test_content_alone_tells_an_image_from_its_hash_alike(
    tmp_path: Path, start: bytes, is_image: bool
) -> None:
    (tmp_path / "file").write_bytes(start)
    assert list_images(tmp_path).paths == ["file"] * is_image


def test_columns_and_images_say_the_same(tmp_path: Path) -> None:
    table = ImageTable(tmp_path, tmp_path)
    table.add(["a.jpg", "b.jpg"], "dog", "train")
    table.add(["c.jpg"], "human")
    table.add([], "nothing", "val")
    assert table.paths == ["a.jpg", "b.jpg", "c.jpg"]
    assert table.labels == ["dog", "dog", "human"]
    assert table.splits == ["train", "train", ""]
    assert table.images == [
        ImageRow("a.jpg", "dog", "train"),
        ImageRow("b.jpg", "dog", "train"),
        ImageRow("c.jpg", "human"),
    ]


def test_a_search_notes_what_else_lies_there_and_adds_no_image_by_itself(tmp_path: Path) -> None:
    touch(tmp_path, "dog/a.jpg", "dog/a.txt", "dog/.b.jpg", "human/c.jpg")
    os.mkfifo(tmp_path / "dog/pipe.jpg")
    table = ImageTable(tmp_path, tmp_path)
    assert table.scan(tmp_path / "dog", prefix="dog/") == ["dog/a.jpg"]
    assert table.scan(tmp_path / "human") == ["c.jpg"]
    assert table.paths == table.listing.paths == []
    assert (table.listing.num_others, table.listing.num_hidden) == (1, 1)
    odd = f"{tmp_path}/dog/pipe.jpg: not a regular file"
    assert table.listing.irregular == [odd]
    assert table.notes == [
        f"{tmp_path}/dog: 1 other files are not read",
        f"{tmp_path}/dog: 1 entries with an image suffix are not image files, such as {odd}",
    ]


def test_notes_escape_what_would_drive_a_terminal(tmp_path: Path) -> None:
    touch(tmp_path, "\x1b[31m/a.txt")
    (tmp_path / "\x1b[31m/\n.jpg").symlink_to("nowhere")
    table = ImageTable(tmp_path, tmp_path)
    table.scan(tmp_path / "\x1b[31m")
    assert len(table.notes) == 2
    assert all(letter.isprintable() for note in table.notes for letter in note)
