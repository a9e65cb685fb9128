import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from images import touch
from neither.data.image_file import SUFFIXES
from neither.data.scan import Identity, ImageTable, list_folders, list_images, spelled_on_disk
from neither.runtime import signals
from neither.runtime.errors import DataError

Draw = Callable[..., Path]


def test_images_are_found_at_any_depth_sorted_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "a/z.png", "a/b/c/d.gif", "a.png", "B.jpg", "10.png", "9.png")
    listing = list_images(tmp_path)
    assert listing.paths == [
        "10.png", "9.png", "B.jpg", "a.png", "a/b/c/d.gif", "a/z.png", "b.jpg",
    ]  # fmt: skip
    assert (listing.others.total(), listing.unreadable_folders) == (0, [])


def test_every_image_suffix_counts_in_any_case(tmp_path: Path) -> None:
    names = [f"{number}{suffix}" for number, suffix in enumerate(SUFFIXES)]
    names += [f"up{name.upper()}" for name in names]
    touch(tmp_path, *names)
    assert list_images(tmp_path).paths == sorted(names)


def test_other_files_are_counted_by_their_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.MP4", "c/d.txt", "plain", "e.jpg")
    listing = list_images(tmp_path)
    assert listing.others == {".mp4": 2, ".txt": 1, "": 1}
    assert listing.others.total() == 4


def test_hidden_and_system_files_are_skipped(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", ".hidden.jpg", "._a.jpg", ".git/b.jpg", "__MACOSX/c.jpg",
          "__macosx/c.jpg", "Thumbs.db", "x/thumbs.db", "desktop.ini", ".DS_Store")  # fmt: skip
    listing = list_images(tmp_path)
    assert (listing.paths, listing.others.total()) == (["a.jpg"], 0)
    # .hidden.jpg, ._a.jpg, .git, both __MACOSX, Thumbs.db, x/thumbs.db, desktop.ini, .DS_Store
    assert listing.num_hidden == 9


def test_paths_begin_with_the_prefix(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b/c.jpg", "elsewhere/d.jpg")
    (tmp_path / "b/link").symlink_to("../elsewhere")
    listing = list_images(tmp_path, prefix="train/dog/")
    assert listing.paths == ["train/dog/a.jpg", "train/dog/b/c.jpg", "train/dog/elsewhere/d.jpg"]
    assert list_images(tmp_path / "b", prefix="x/").paths == ["x/c.jpg", "x/link/d.jpg"]


def test_each_folder_is_entered_by_one_scan_only(tmp_path: Path) -> None:
    touch(tmp_path, "dog/a.jpg", "human/b.jpg", "human/deep/c.jpg")
    (tmp_path / "dog/deep").symlink_to("../human/deep")
    visited: set[Identity] = set()
    assert list_images(tmp_path / "human", visited).paths == ["b.jpg", "deep/c.jpg"]
    assert list_images(tmp_path / "dog", visited).paths == ["a.jpg"]
    assert list_images(tmp_path / "dog").paths == ["a.jpg", "deep/c.jpg"]


def test_files_without_a_suffix_are_recognized_by_their_content(tmp_path: Path, draw: Draw) -> None:
    draw(tmp_path / "image")
    draw(tmp_path / "image.with.dots.png")
    draw(tmp_path / "image.part")  # only files without any suffix are opened
    (tmp_path / "link").symlink_to("image")
    for name, start in (
        ("jpeg", b"\xff\xd8\xff\xe0"), ("gif", b"GIF89a"), ("tiff", b"II*\0"),
        ("webp", b"RIFF\x01\x02\x03\x04WEBPVP8"), ("bmp", b"BM\x01\x02\x03\x04\0\0\0\0\x36\0"),
        ("text", b"a text"), ("empty", b""), ("wave", b"RIFF\x01\x02\x03\x04WAVEfmt"),
        ("memo", b"BM is a memo"),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(start)
    listing = list_images(tmp_path)
    images = ["bmp", "gif", "image", "image.with.dots.png", "jpeg", "link", "tiff", "webp"]
    assert listing.paths == images
    assert listing.others.total() == 5


def test_irregular_files_with_an_image_suffix_are_reported_and_never_opened(
    tmp_path: Path, watchdog: None
) -> None:
    for name in ("pipe", "pipe.jpg"):
        os.mkfifo(tmp_path / name)  # opening one would block
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "zero.png").symlink_to("/dev/zero")  # reading it would never end
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "pipe.gif").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "socket.jpg"))
    listing = list_images(tmp_path)
    assert (listing.paths, listing.others.total(), listing.unreadable_folders) == ([], 0, [])
    assert sorted(listing.irregular) == [
        f"{tmp_path}/gone.jpg: a broken link",
        f"{tmp_path}/loop.jpg: {os.strerror(errno.ELOOP)}",
        f"{tmp_path}/pipe.gif: not a regular file",
        f"{tmp_path}/pipe.jpg: not a regular file",
        f"{tmp_path}/socket.jpg: not a regular file",
        f"{tmp_path}/zero.png: not a regular file",
    ]


def test_a_folder_is_preferred_to_a_link_to_it(tmp_path: Path) -> None:
    touch(tmp_path, "z/real/a.jpg")
    (tmp_path / "a").symlink_to("z/real")
    assert list_images(tmp_path).paths == ["z/real/a.jpg"]


def test_loops_of_links_end(tmp_path: Path) -> None:
    touch(tmp_path, "root/a/b/x.jpg", "root/y.jpg", "outside.jpg")
    (tmp_path / "root/a/b/up").symlink_to("..")
    (tmp_path / "root/a/b/root").symlink_to(tmp_path / "root")
    (tmp_path / "root/a/here").symlink_to(".")
    assert list_images(tmp_path / "root").paths == ["a/b/x.jpg", "y.jpg"]
    (tmp_path / "root/parent").symlink_to("..")  # would add what is beside the root
    (tmp_path / "link").symlink_to("root")
    for root in ("root", "link"):
        assert list_images(tmp_path / root).paths == ["a/b/x.jpg", "y.jpg"]


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


def test_a_folder_without_permission_is_reported_and_skipped(
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
    reason = "this folder cannot be read: Permission denied"
    listing = list_images(tmp_path / "b")
    assert (listing.paths, listing.unreadable_folders) == (
        ["y.jpg"],
        [f"{tmp_path}/b/link: {reason}"],
    )
    assert list_images(tmp_path).unreadable_folders == [f"{tmp_path}/a: {reason}"]
    with pytest.raises(DataError, match=f"a: {reason}"):
        list_images(tmp_path / "a")


def test_a_signal_ends_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with signals.installed():
        os.kill(os.getpid(), 15)
        with pytest.raises(signals.Stopped):
            list_images(tmp_path)


def test_hidden_and_system_folders_are_not_listed(tmp_path: Path) -> None:
    touch(tmp_path, "b/x", "a/x", ".git/x", "__MACOSX/x", "file.jpg", "y.jpg/inner.jpg")
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "self").symlink_to("self")
    assert list_folders(tmp_path) == ["a", "b", "link", "y.jpg"]
    assert list_images(tmp_path).paths == ["file.jpg", "y.jpg/inner.jpg"]


NAMES = st.binary(min_size=1, max_size=20).filter(
    lambda name: not {*name} & {0, ord("/")} and not name.startswith(b".")
)


@given(st.sets(NAMES.map(lambda name: os.fsdecode(name) + ".png"), max_size=8))
def test_any_valid_name_is_found(tmp_path_factory: pytest.TempPathFactory, names: set[str]) -> None:
    root = tmp_path_factory.mktemp("names")
    touch(root, *names)
    assert list_images(root).paths == sorted(names)


def test_a_scan_notes_other_files_and_adds_no_images(tmp_path: Path) -> None:
    touch(tmp_path, "dog/a.jpg", "dog/a.txt", "dog/.b.jpg", "human/c.jpg")
    os.mkfifo(tmp_path / "dog/pipe.jpg")
    table = ImageTable(tmp_path, tmp_path)
    assert table.scan(tmp_path / "dog", prefix="dog/") == ["dog/a.jpg"]
    assert table.scan(tmp_path / "human") == ["c.jpg"]
    assert table.paths == table.listing.paths == []
    assert (table.listing.others.total(), table.listing.num_hidden) == (1, 1)
    assert table.listing.irregular == [f"{tmp_path}/dog/pipe.jpg: not a regular file"]
    assert [note.startswith(f"{tmp_path}/dog: 1 ") for note in table.notes] == [True, True]


def test_notes_escape_control_characters(tmp_path: Path) -> None:
    touch(tmp_path, "\x1b[31m/a.txt")
    (tmp_path / "\x1b[31m/\n.jpg").symlink_to("nowhere")
    table = ImageTable(tmp_path, tmp_path)
    table.scan(tmp_path / "\x1b[31m")
    assert len(table.notes) == 2
    assert all(letter.isprintable() for note in table.notes for letter in note)


NFC, NFD = "M\u00e4dchen", "Ma\u0308dchen"


@pytest.mark.parametrize("path", [
    f"{NFC}/a.jpg", f"{NFD}/a.jpg", f"{NFC}\\a.jpg", "x\\b.jpg", "x/../x\\b.jpg", "y\\.jpg",
    os.fsdecode(b"x/\xff.jpg"), f"x\\{NFC}.jpg",
])  # fmt: skip
def test_a_file_is_found_under_another_spelling_of_its_path(tmp_path: Path, path: str) -> None:
    touch(
        tmp_path, f"{NFD}/a.jpg", "x/b.jpg", "y\\.jpg", os.fsdecode(b"x/\xff.jpg"), f"x/{NFD}.jpg"
    )
    for start in ("", f"{tmp_path}/"):
        found = spelled_on_disk(tmp_path, start + path, {})
        assert (tmp_path / found).is_file()
        assert ("\\" in found) == (path == "y\\.jpg")


@pytest.mark.parametrize("path", [f"{NFC}/b.jpg", "C:\\x\\b.jpg", "x/c.jpg", f"b.jpg/{NFC}", NFC])
def test_a_path_without_a_file_stays_as_it_is(tmp_path: Path, path: str) -> None:
    touch(tmp_path, "x/b.jpg", "b.jpg")
    assert spelled_on_disk(tmp_path, path, {}) == path


def test_of_two_files_that_differ_in_form_each_is_itself(tmp_path: Path) -> None:
    touch(tmp_path, NFC, NFD)
    listings: dict[Path, dict[str, str]] = {}
    assert [spelled_on_disk(tmp_path, name, listings) for name in (NFC, NFD)] == [NFC, NFD]
