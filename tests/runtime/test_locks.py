import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import pytest

from neither.runtime import console, locks, signals
from neither.runtime.errors import OutputError
from neither.runtime.signals import Stopped

Patch = pytest.MonkeyPatch
HOLD = """
import fcntl, os, sys
with open(sys.argv[1] + "/.lock", "a+") as file:  # as locks.exclusive_lock does
    fcntl.flock(file, fcntl.LOCK_EX)
    file.write(f"pid {os.getpid()} on me")
    file.flush()
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Let another process lock a folder until its standard input ends."""
    with subprocess.Popen(
        [sys.executable, "-S", "-c", HOLD, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        yield holder
        holder.kill()


def test_another_process_in_the_folder_is_named(tmp_path: Path) -> None:
    with (
        held(tmp_path) as holder,
        pytest.raises(OutputError, match=rf"\(pid {holder.pid} on \S+\)"),
        locks.exclusive_lock(tmp_path),
    ):
        raise AssertionError("two processes have the lock")
    for _ in range(2):  # the lock of a killed process is gone
        with locks.exclusive_lock(tmp_path):
            assert (tmp_path / ".lock").read_text().startswith(f"pid {os.getpid()} on ")
            with pytest.raises(OutputError, match="pid"), locks.exclusive_lock(tmp_path):
                raise AssertionError("two processes have the lock")


@pytest.fixture
def messages(monkeypatch: Patch) -> list[str]:
    """Return the list of logged messages."""
    logged: list[str] = []
    monkeypatch.setattr(locks, "info", logged.append)
    return logged


def test_a_free_folder_is_locked_without_waiting(tmp_path: Path, messages: list[str]) -> None:
    with pytest.raises(KeyError), locks.wait_for_lock(tmp_path, "waiting"):
        raise KeyError
    with (
        locks.wait_for_lock(tmp_path, "waiting"),
        pytest.raises(OutputError),
        locks.exclusive_lock(tmp_path),
    ):
        raise AssertionError("two processes have the lock")
    assert messages == []


@pytest.mark.usefixtures("watchdog")
@pytest.mark.parametrize("end", ["kill", "leave", "replace"])
def test_a_locked_folder_is_waited_for(
    tmp_path: Path, monkeypatch: Patch, messages: list[str], end: str
) -> None:
    tries = []

    def poll() -> None:
        tries.append(len(messages))
        if len(tries) == 3:
            if end == "replace":
                (tmp_path / ".lock").rename(tmp_path / "old")
                (tmp_path / ".lock").touch()
            if end == "leave":
                assert holder.stdin is not None
                holder.stdin.close()
            else:
                holder.kill()

    monkeypatch.setattr(signals, "poll", poll)
    with held(tmp_path) as holder:
        with locks.wait_for_lock(tmp_path, "waiting for another process"):
            assert len(tries) >= 3
            with (tmp_path / ".lock").open() as file, pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder.wait(60)
    assert messages == ["waiting for another process"]
    assert set(tries) == {1}


@pytest.mark.usefixtures("watchdog")
def test_a_signal_ends_the_wait(tmp_path: Path) -> None:
    with held(tmp_path) as holder, signals.installed():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped), locks.wait_for_lock(tmp_path, "waiting"):
            raise AssertionError("two processes have the lock")
        assert holder.poll() is None


# Lock files, where the file system refuses locks


@pytest.fixture
def refused(monkeypatch: Patch) -> None:
    """Let the system refuse locks, and nothing wait."""
    error = OSError(errno.ENOLCK, "No locks available")
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=error))
    monkeypatch.setattr("neither.runtime.locks.time.sleep", lambda _: None)
    monkeypatch.setattr(console, "_warned_topics", set())


@pytest.mark.usefixtures("refused")
@pytest.mark.parametrize("name", ["ENOLCK", "ENOSYS", "EOPNOTSUPP", "EINVAL", "EPERM", "ENOTTY"])
def test_where_locks_are_refused_a_file_names_the_process(
    tmp_path: Path, monkeypatch: Patch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    error = OSError(getattr(errno, name), name)
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=error))
    for _ in range(2):
        with locks.exclusive_lock(tmp_path):
            assert (tmp_path / ".lock.owner").read_text().startswith(f"{os.getpid()}\n")
            for lock in (locks.exclusive_lock(tmp_path), locks.wait_for_lock(tmp_path, "waiting")):
                with pytest.raises(OutputError, match=f"pid {os.getpid()} on .* delete "):
                    lock.__enter__()
        with pytest.raises(KeyError), locks.wait_for_lock(tmp_path, "waiting"):
            raise KeyError
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert str(tmp_path) in warning.getMessage()


@pytest.mark.parametrize("name", ["EIO", "ESTALE"])
def test_a_lock_that_fails_is_an_error_with_its_path(
    tmp_path: Path, monkeypatch: Patch, name: str
) -> None:
    error = OSError(getattr(errno, name), name)
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=error))
    for lock in (locks.exclusive_lock(tmp_path), locks.wait_for_lock(tmp_path, "waiting")):
        with pytest.raises(OSError, match=name) as caught:
            lock.__enter__()
        assert caught.value.filename == str(tmp_path / ".lock")


KILLED = """
import os, sys
from filelock import SoftFileLock
lock = SoftFileLock(sys.argv[1])
lock.acquire()
os._exit(0)
"""


@pytest.mark.usefixtures("refused")
def test_only_the_lock_file_of_a_process_that_has_ended_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / ".lock.owner"
    subprocess.run([sys.executable, "-c", KILLED, path], check=True)
    pid, _, *started = path.read_text().splitlines()
    with locks.exclusive_lock(tmp_path):
        assert path.read_text().startswith(f"{os.getpid()}\n")
    for content in ("\n".join([pid, "node7", *started, ""]), ""):
        path.write_text(content)
        with pytest.raises(OutputError, match=f"delete {path}") as caught:
            locks.exclusive_lock(tmp_path).__enter__()
        assert (f"pid {pid} on node7" in str(caught.value)) == bool(content)
        assert path.read_text() == content
