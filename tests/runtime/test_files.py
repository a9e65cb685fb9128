import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from neither.runtime import files, signals
from neither.runtime.errors import OutputError, UsageError
from neither.runtime.signals import Stopped

HOLD = """
import sys
from pathlib import Path
from neither.files import owned
with owned(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("content", [b"\x00\xff", memoryview(b"view"), "täxt\n", b""])
def test_what_is_written_is_there_and_nothing_else(
    tmp_path: Path, content: bytes | memoryview | str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"something older and longer")
    files.write_atomic(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else bytes(content))
    assert names(tmp_path) == ["file"]


def test_the_old_file_stands_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with files.atomic_writer(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_no_litter(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail() -> None:
        with files.atomic_writer(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_failed_sync_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_bytes_are_on_disk_before_the_file_takes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[bool, bool]] = []
    path = tmp_path / "file"

    def fsync(handle: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(handle).st_mode), path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    files.write_atomic(path, b"new")
    assert synced == [(False, False), (True, True)]  # the file before, its folder after


def test_the_mode_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write_atomic(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_what_killed_writers_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from neither.runtime.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as file: os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "last.pt")], check=False)
    assert done.returncode == 9
    assert len(names(tmp_path)) == 1  # else this test would sweep nothing
    for name in ("last.pt", "notes.tmp", ".hidden"):
        (tmp_path / name).touch()
    files.remove_temporaries(tmp_path)
    assert names(tmp_path) == [".hidden", "last.pt", "notes.tmp"]


def test_a_folder_is_made_with_its_parents_and_may_be_there_already(tmp_path: Path) -> None:
    for _ in range(2):
        files.make_folder(tmp_path / "a/b/c")
    assert (tmp_path / "a/b/c").is_dir()


def test_a_folder_that_cannot_be_made_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(OutputError, match=f"{folder}: cannot make this folder: "):
            files.make_folder(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot be written"):
        files.make_folder(tmp_path)


def test_output_among_the_images_is_refused_by_any_way_to_it(tmp_path: Path) -> None:
    images = tmp_path / "images"
    (images / "dog").mkdir(parents=True)
    (tmp_path / "link").symlink_to(images)
    for inside in (images, images / "dog/new", tmp_path / "link/run", tmp_path / "x/../images/y"):
        with pytest.raises(UsageError, match="choose another place"):
            files.require_outside(inside, images)
    for outside in (tmp_path, tmp_path / "images2", tmp_path / "images/../run"):
        files.require_outside(outside, images)


def test_another_process_in_the_folder_is_named(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(OutputError, match=rf"another run .* \(pid {holder.pid} on \S+\)"),
            files.exclusive_lock(tmp_path),
        ):
            raise AssertionError("both are in")
        holder.kill()  # the lock dies with its owner, however it ends
    with files.exclusive_lock(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith(f"pid {os.getpid()} on ")


def test_a_folder_is_free_again_after_the_block(tmp_path: Path) -> None:
    for _ in range(2):
        with (
            files.exclusive_lock(tmp_path),
            pytest.raises(OutputError, match=f"pid {os.getpid()} "),
            files.exclusive_lock(tmp_path),
        ):
            raise AssertionError("both are in")


def test_sweeping_leaves_what_others_have_named_alike(tmp_path: Path) -> None:
    others = [tmp_path / name for name in (".notes.md.tmp", "x.7.tmp", ".7.tmp", ".x.7.tmp.old")]
    stale = tmp_path / ".last.pt.4711.tmp"
    for path in [*others, stale]:
        path.touch()
    files.remove_temporaries(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(others)


# To wait for a folder


@contextmanager
def held(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Have another process hold a folder until its standard input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        yield holder
        holder.kill()


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the user was told."""
    messages: list[str] = []
    monkeypatch.setattr(files, "say", messages.append)
    return messages


def test_a_free_folder_is_not_waited_for_and_is_free_again_after_the_block(
    tmp_path: Path, said: list[str]
) -> None:
    for _ in range(2):
        with files.wait_for_lock(tmp_path, "waiting"):
            pass
    with pytest.raises(KeyError), files.wait_for_lock(tmp_path, "waiting"):
        raise KeyError
    with files.wait_for_lock(tmp_path, "waiting"):
        pass
    assert said == []


def test_nobody_else_gets_the_folder_inside_the_block(tmp_path: Path) -> None:
    with (
        files.wait_for_lock(tmp_path, "waiting"),
        pytest.raises(OutputError, match="another run"),
        files.exclusive_lock(tmp_path),
    ):
        raise AssertionError("both are in")


@pytest.mark.usefixtures("watchdog")
@pytest.mark.parametrize("end", ["kill", "leave"])
def test_a_held_folder_is_waited_for_and_the_user_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str], end: str
) -> None:
    tries = []

    def poll() -> None:
        tries.append(len(said))
        if len(tries) == 3:  # the holder was found at work three times
            if end == "kill":
                holder.kill()
            else:
                assert holder.stdin is not None
                holder.stdin.close()

    monkeypatch.setattr(signals, "poll", poll)
    with held(tmp_path) as holder:
        with files.wait_for_lock(tmp_path, "another one is here; waiting"):
            assert len(tries) >= 3
        holder.wait(60)
    assert said == ["another one is here; waiting"]
    assert set(tries) == {1}


@pytest.mark.usefixtures("watchdog")
def test_a_signal_ends_the_waiting(tmp_path: Path) -> None:
    with (
        held(tmp_path) as holder,
        signals.installed(),
    ):
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped), files.wait_for_lock(tmp_path, "waiting"):
            raise AssertionError("both are in")
        assert holder.poll() is None


def test_a_folder_that_is_not_there_cannot_be_waited_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.wait_for_lock(tmp_path / "gone", "waiting"):
        raise AssertionError("it is in")


def test_where_there_are_no_locks_that_is_said_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(OSError, match="No locks"), files.wait_for_lock(tmp_path, "waiting"):
        raise AssertionError("it is in")


def test_without_the_module_for_locks_all_may_enter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    with held(tmp_path):
        monkeypatch.setitem(sys.modules, "fcntl", None)
        with files.wait_for_lock(tmp_path, "waiting"):
            pass
    assert said == []
