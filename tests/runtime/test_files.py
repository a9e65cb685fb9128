import errno
import json
import os
import stat
from pathlib import Path
from unittest.mock import Mock

import pytest

from neither.runtime import console, files
from neither.runtime.errors import OutputError, UsageError
from neither.runtime.files import is_complete, output_folder
from scripts import permissions_apply

Patch = pytest.MonkeyPatch
RECORD_NAME, RECORD = "record.json", {"version": 1, "kinds": ["a", "b"]}


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# Atomic writes


def test_an_atomic_write_replaces_the_file_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"something older and longer")
    for content in (b"\x00\xff", memoryview(b"view"), "täxt\n", b""):
        files.write_atomic(path, content)
        expected = content.encode() if isinstance(content, str) else bytes(content)
        assert path.read_bytes() == expected
    with files.atomic_writer(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b""
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, None])
def test_a_failure_leaves_the_old_file(
    tmp_path: Path, monkeypatch: Patch, error: type[BaseException] | None
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(errno.ENOSPC, "No space left")))

    def fail() -> None:
        with files.atomic_writer(path) as file:
            file.write(b"half")
            if error is not None:
                raise error

    with pytest.raises(error or OSError):
        fail()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_bytes_are_synced_before_the_rename(tmp_path: Path, monkeypatch: Patch) -> None:
    synced: list[tuple[bool, bool]] = []
    path = tmp_path / "file"

    def fsync(handle: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(handle).st_mode), path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    files.write_atomic(path, b"new")
    assert synced == [(False, False), (True, True)]


def fail_to_sync(monkeypatch: Patch, name: str, is_folder: bool) -> None:
    """Let the file system fail so to sync folders, or files."""
    fsync = os.fsync

    def fail(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode) == is_folder:
            raise OSError(getattr(errno, name), name)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", fail)
    monkeypatch.setattr(console, "_warned_topics", set())


@pytest.mark.parametrize("is_folder", [True, False])
@pytest.mark.parametrize("name", ["EINVAL", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EBADF", "ENOTTY"])
def test_where_nothing_can_be_synced_files_are_written_with_one_warning(
    tmp_path: Path, monkeypatch: Patch, caplog: pytest.LogCaptureFixture, name: str, is_folder: bool
) -> None:
    fail_to_sync(monkeypatch, name, is_folder)
    for number in range(3):
        files.write_atomic(tmp_path / f"{number}", "new")
        assert (tmp_path / f"{number}").read_text() == "new"
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert str(tmp_path) in warning.getMessage()


@pytest.mark.parametrize("is_folder", [True, False])
@pytest.mark.parametrize("name", ["EIO", "ENOSPC", "EDQUOT"])
def test_a_sync_that_fails_names_what_was_not_synced(
    tmp_path: Path, monkeypatch: Patch, name: str, is_folder: bool
) -> None:
    fail_to_sync(monkeypatch, name, is_folder)
    with pytest.raises(OSError, match=name) as caught:
        files.write_atomic(tmp_path / "file", "new")
    assert caught.value.filename == str(tmp_path if is_folder else tmp_path / "file")
    assert names(tmp_path) == (["file"] if is_folder else [])


def test_a_folder_that_cannot_be_read_can_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o300)
    with permissions_apply():
        files.write_atomic(tmp_path / "file", "new")
    tmp_path.chmod(0o700)
    assert (tmp_path / "file").read_text() == "new"


@pytest.mark.fault("K20")
def test_the_mode_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write_atomic(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_only_temporaries_of_killed_writers_are_removed(tmp_path: Path) -> None:
    others = [".7.tmp", ".hidden", ".notes.md.tmp", ".x.7.tmp.old", "best.pt", "x.7.tmp"]
    for name in others:
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError), files.atomic_writer(tmp_path / "last.pt"):
        files.remove_temporaries(tmp_path)  # including that of this writer
    assert names(tmp_path) == others


@pytest.mark.parametrize("has_links", [True, False])
def test_a_kept_copy_outlives_a_write(tmp_path: Path, monkeypatch: Patch, has_links: bool) -> None:
    last, previous = tmp_path / "last.pt", tmp_path / "previous.pt"
    if not has_links:
        error = OSError(errno.EPERM, "Operation not permitted")
        monkeypatch.setattr(os, "link", Mock(side_effect=error))
    files.keep_copy(previous, last)
    assert names(tmp_path) == []
    for number in range(3):
        files.keep_copy(previous, last)
        files.write_atomic(last, f"{number}")
    assert (previous.read_text(), last.read_text()) == ("1", "2")
    assert names(tmp_path) == ["last.pt", "previous.pt"]


# Folders


def test_make_folder_creates_parents_and_names_what_is_in_the_way(tmp_path: Path) -> None:
    for _ in range(2):
        files.make_folder(tmp_path / "a/b/c")
    assert (tmp_path / "a/b/c").is_dir()
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(OutputError, match=f"{folder}: "):
            files.make_folder(folder)
    with pytest.raises(OutputError, match=f"{tmp_path}/file: "):
        files.require_readable(tmp_path / "file")


def test_a_new_folder_in_which_nothing_was_made_is_removed_again(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()

    def work(folder: Path, name: str | None) -> None:
        with files.new_folder(folder):
            if name is not None:
                (folder / name).touch()
            raise KeyError

    for folder, name in (("mine/a/b", None), ("mine", None), ("mine/c/d", "file")):
        with pytest.raises(KeyError):
            work(tmp_path / folder, name)
    assert names(tmp_path) == ["mine", "mine/c", "mine/c/d", "mine/c/d/file"]
    with files.new_folder(tmp_path / "kept"):
        pass
    assert (tmp_path / "kept").is_dir()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot be written"):
        files.make_folder(tmp_path)


def test_the_cache_is_in_the_users_cache_folder(monkeypatch: Patch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert files.cache_folder() == Path("/home/me/.cache/neither")
    for value, cache in (("/var/x", "/var/x"), ("", "/home/me/.cache"), ("x", "/home/me/.cache")):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert files.cache_folder() == Path(cache) / "neither"


def test_output_inside_the_image_folder_is_refused_by_any_path_to_it(tmp_path: Path) -> None:
    images = tmp_path / "images"
    (images / "dog").mkdir(parents=True)
    (tmp_path / "link").symlink_to(images)
    for inside in (images, images / "dog/new", tmp_path / "link/run", tmp_path / "x/../images/y"):
        with pytest.raises(UsageError):
            files.require_outside(inside, images)
    for outside in (tmp_path, tmp_path / "images2", tmp_path / "images/../run"):
        files.require_outside(outside, images)


# Output folders


def make(folder: Path, error: BaseException | None = None) -> None:
    with output_folder(folder, RECORD_NAME, RECORD) as partial:
        (partial / "image").write_text("pixels")
        if error is not None:
            raise error


def test_an_output_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "folder"
    with output_folder(folder, RECORD_NAME, RECORD) as partial:
        assert not folder.exists()
        assert partial.parent == folder.parent
        assert partial.name.startswith(".")
        (partial / "image").write_text("pixels")
    assert names(tmp_path / "deep") == ["folder", "folder/image", "folder/record.json"]
    assert json.loads((folder / RECORD_NAME).read_text()) == RECORD


def test_a_failed_output_folder_leaves_nothing(tmp_path: Path) -> None:
    for error in (KeyboardInterrupt(), ValueError("bug"), OutputError("disk")):
        with pytest.raises(type(error)) as caught:
            make(tmp_path / "folder", error)
        assert caught.value is error
        assert names(tmp_path) == []
    full = OSError(errno.ENOSPC, "No space left on device", "somewhere/image")
    with pytest.raises(OutputError, match=r"^somewhere/image: No space left on device"):
        make(tmp_path / "folder", full)
    assert names(tmp_path) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        make(tmp_path / "file" / "folder")


def test_the_current_folder_can_be_filled(tmp_path: Path, monkeypatch: Patch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    make(Path())
    assert names(tmp_path) == ["here", "here/image", "here/record.json"]
    assert names(Path()) == ["image", "record.json"]  # the same folder, not a new one of its name
    assert is_complete(Path(), RECORD_NAME, RECORD)


def test_a_folder_that_appears_meanwhile_is_left_alone(tmp_path: Path) -> None:
    def make_slowly() -> None:
        with output_folder(tmp_path / "folder", RECORD_NAME, RECORD):
            files.write_atomic(tmp_path / "folder" / "mine.txt", "precious")

    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError):
        make_slowly()
    assert names(tmp_path) == ["folder", "folder/mine.txt"]


def test_a_complete_folder_is_recognised_by_its_record(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for _ in range(2):  # missing, then empty
        assert not is_complete(folder, RECORD_NAME, RECORD)
        folder.mkdir(exist_ok=True)
    make(folder)
    assert is_complete(folder, RECORD_NAME, RECORD)
    assert is_complete(folder, RECORD_NAME, {"version": 1})
    (tmp_path / "link").symlink_to("folder")
    assert is_complete(tmp_path / "link", RECORD_NAME, RECORD)
    for other in ({"version": 2}, {"mode": "links"}):
        with pytest.raises(OutputError, match=f"{folder}: exists"):
            is_complete(folder, RECORD_NAME, other)


def test_other_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for record in (None, "[]", "not json", '{"version": 1}'):
        if record is not None:
            (tmp_path / RECORD_NAME).write_text(record)
        with pytest.raises(OutputError, match="exists"):
            is_complete(tmp_path, RECORD_NAME, RECORD)
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    for name in ("file", "link"):
        with pytest.raises(OutputError, match="exists"):
            is_complete(tmp_path / name, RECORD_NAME, RECORD)
    assert (tmp_path / "file").read_text() == "precious"
