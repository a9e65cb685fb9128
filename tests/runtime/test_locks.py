import errno
import fcntl
import json
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


def test_a_missing_folder_fails(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        locks.wait_for_lock(tmp_path / "gone", "waiting").__enter__()


def test_without_fcntl(tmp_path: Path, monkeypatch: Patch, messages: list[str]) -> None:
    with locks.exclusive_lock(tmp_path):
        monkeypatch.setitem(sys.modules, "fcntl", None)
        with locks.wait_for_lock(tmp_path, "waiting"):
            pass
    assert messages == []


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
            content = json.loads((tmp_path / ".lock.owner").read_text())
            assert content["pid"] == os.getpid()
            with pytest.raises(OutputError, match=f"pid {os.getpid()} on "):
                locks.exclusive_lock(tmp_path).__enter__()
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


def start_and_kill() -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(["sleep", "60"])
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    return process  # a zombie until `wait`


@pytest.mark.usefixtures("refused")
@pytest.mark.parametrize("has_proc", [True, False])
def test_only_the_lock_file_of_a_process_that_has_ended_is_taken_over(
    tmp_path: Path, monkeypatch: Patch, has_proc: bool
) -> None:
    if not has_proc:  # as on macOS
        monkeypatch.setattr(locks, "read_system_file", lambda _: "")
    ended, zombie = start_and_kill(), start_and_kill()
    ended.wait()
    here = locks._this_process()
    parent = here._replace(pid=os.getppid(), started=locks._start_time(os.getppid()) or "")
    free, taken, foreign = "free", "taken", "foreign"
    owners = {
        "ended": (here._replace(pid=ended.pid, started="1"), free),
        "a run here": (here, taken),
        "another run": (parent, taken),
        "another run, its start unknown": (parent._replace(started=""), taken),
        "another host": (here._replace(host="node7", pid=ended.pid), foreign),
        "another machine or container": (here._replace(machine="7", pid=ended.pid), foreign),
        "before a restart of the machine": (here._replace(boot="7"), free),
    }
    if has_proc:
        owners |= {
            "killed, not yet noticed by its parent": (here._replace(pid=zombie.pid), free),
            "its ID was given to another": (here._replace(started="7"), free),
        }
    contents = {
        name: (json.dumps(owner._asdict()), state) for name, (owner, state) in owners.items()
    }
    contents |= {"empty": ("", foreign), "cut": ('{"pid": 7', foreign), "other": ("7", foreign)}
    path = tmp_path / ".lock.owner"
    for name, (content, state) in contents.items():
        path.write_text(content)
        if state == free:
            with locks.exclusive_lock(tmp_path):
                assert json.loads(path.read_text())["pid"] == os.getpid(), name
            assert not path.exists()
            continue
        with pytest.raises(OutputError) as caught:
            locks.exclusive_lock(tmp_path).__enter__()
        if name in owners:
            owner = owners[name][0]
            assert f"pid {owner.pid} on {owner.host}" in str(caught.value), name
        assert (str(path) in str(caught.value)) == (state == foreign), name
        assert path.read_text() == content
        if state == foreign:
            with pytest.raises(OutputError):
                locks.wait_for_lock(tmp_path, "waiting").__enter__()
    zombie.wait()


@pytest.mark.usefixtures("refused")
def test_of_two_processes_that_take_over_at_once_one_wins(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    path, here = tmp_path / ".lock.owner", locks._this_process()
    path.write_text(json.dumps(here._replace(boot="before")._asdict()))
    winner = json.dumps(here._replace(pid=os.getppid(), started="")._asdict())
    rename, is_first = Path.rename, [True]

    def rename_after_another(self: Path, target: Path) -> Path:
        if is_first:
            is_first.clear()
            path.write_text(winner)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", rename_after_another)
    with pytest.raises(OutputError, match=f"pid {os.getppid()} on "):
        locks.exclusive_lock(tmp_path).__enter__()
    assert path.read_text() == winner
    assert sorted(each.name for each in tmp_path.iterdir()) == [".lock", ".lock.owner"]
