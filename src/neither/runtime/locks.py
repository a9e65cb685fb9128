"""Locks that keep a folder to one process, on this machine and on others that see the folder.

The lock is that of the system: `flock` on the file `.lock`, which ends with its process. Some file
systems refuse it, such as NFS without a lock service and Lustre without `-o flock`. There a lock
file names the process that uses the folder. If that was on this machine and has ended, the next
process takes over. The lock file of another machine stays: nobody here can know how its process is.
"""

import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from neither.runtime import signals
from neither.runtime.console import info, warn_once
from neither.runtime.errors import NOT_SUPPORTED, OutputError, named
from neither.runtime.limits import read_system_file

NAME = ".lock"  # other files of this module begin with it
_LOCK_FILE_NAME = ".lock.owner"
_POLL_SECONDS = 0.1
_MAX_POLLS_OF_FOREIGN = 300  # half a minute; counted, so that a suspended machine loses no time
_MAX_POLLS_OF_UNFINISHED = 20  # no process takes two seconds to write a line


class _Owner(NamedTuple):
    """Who has locked a folder, for messages, and whether its end cannot be seen from here."""

    text: str
    is_foreign: bool


class _Process(NamedTuple):
    """A process, as a lock file names it; what the system does not tell is empty."""

    pid: int
    host: str
    machine: str
    boot: str  # a random number of each start of the system
    namespace: str  # of process IDs: each container has its own
    started: str  # when, since another process may get the same ID later


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Lock a folder inside the block; raise `OutputError` if another process has, naming it."""
    with ExitStack() as stack:
        if (owner := _try_lock(folder, stack)) is not None:
            raise OutputError(
                f"{folder}: another run is using this folder ({owner.text}). Wait for it, or "
                "choose another folder with --output-dir"
            )
        yield


@contextmanager
def wait_for_lock(folder: Path, message: str) -> Iterator[None]:
    """Lock a folder inside the block; wait until no other process has locked it.

    Args:
        folder: an existing folder.
        message: logged once if there is another process to wait for.

    Raises:
        OSError: if the folder cannot be written.
        OutputError: if the lock file of another machine has been there for half a minute.
        Stopped: if a signal asks to stop.
    """
    num_polls = num_foreign = 0
    while True:
        with ExitStack() as stack:
            owner = _try_lock(folder, stack)
            if owner is None:
                yield
                return
        if num_polls == 0:
            info(message)
        num_polls += 1
        num_foreign += owner.is_foreign
        if num_foreign == _MAX_POLLS_OF_FOREIGN:
            raise OutputError(f"{folder}: another run is using this folder ({owner.text})")
        signals.poll()
        time.sleep(_POLL_SECONDS)


def _try_lock(folder: Path, stack: ExitStack) -> _Owner | None:
    """Lock a folder until the stack unwinds; return the owner if another process has locked it."""
    path = folder / NAME
    with named(path):
        file = stack.enter_context(path.open("a+b", buffering=0))
        try:
            is_locked = _flock(file)
        except OSError as error:
            if error.errno not in NOT_SUPPORTED:
                raise
            warn_once(
                "locks",
                f"{folder}: this file system has no locks ({error.strerror}); the file "
                f"{_LOCK_FILE_NAME} names the process that uses the folder instead",
            )
            return _try_lock_file(folder / _LOCK_FILE_NAME, stack)
        if not is_locked:
            file.seek(0)
            text = file.read(200).decode(errors="replace").strip()
            return _Owner(text or "an unknown process", is_foreign=False)
        # The file may have been deleted meanwhile, and made again under the same name.
        if not (path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())):
            return _try_lock(folder, stack)
        with suppress(OSError):  # a full disk; the name is for messages only
            file.truncate(0)
            file.write(f"pid {os.getpid()} on {socket.gethostname()}\n".encode())
    return None


def _flock(file: FileIO) -> bool:
    """Lock a file until it is closed; return False if another process has locked it."""
    try:
        import fcntl
    except ImportError:  # on Windows, where two runs in one folder are not detected
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):  # the latter on CIFS
            raise
        return False
    return True


def _try_lock_file(path: Path, stack: ExitStack) -> _Owner | None:
    """Create a lock file that is removed when the stack unwinds; or return its owner."""
    here = _this_process()
    ours = json.dumps(here._asdict()).encode() + b"\n"
    owner = _create(path, ours, here)
    if owner is None:
        stack.callback(_remove, path, ours)
        return None
    text = f"pid {owner.pid} on {owner.host}"
    if is_foreign := _is_foreign(owner, here):
        text += f", says {path}; delete that file if this process has ended"
    return _Owner(text, is_foreign)


def _create(path: Path, ours: bytes, here: _Process) -> _Process | None:
    """Create a lock file, or replace that of a process that has ended; or return its owner.

    Of the processes that find the same old file, the one that creates its successor, named after
    its content, may replace it. A successor is a lock file too: if its process is killed, it is
    taken over in the same way.
    """
    while True:
        try:
            _write_new(path, ours)
            return None
        except FileExistsError:
            theirs = _read(path)
        if theirs is None:
            continue
        owner = _parse(theirs)
        if owner is not None and not _has_ended(owner, here):
            return owner
        successor = path.with_name(f"{path.name}.{sha256(theirs).hexdigest()[:8]}")
        if (rival := _create(successor, ours, here)) is not None:
            return rival
        # Replacing ends the successor too. So if the old file is still there, it stays until now.
        if _read(path) == theirs:
            successor.replace(path)
            return None
        successor.unlink()


def _write_new(path: Path, content: bytes) -> None:
    with path.open("xb", buffering=0) as file:
        try:
            file.write(content)
        except OSError:
            path.unlink(missing_ok=True)
            raise


def _remove(path: Path, ours: bytes) -> None:
    with suppress(OSError):  # on a lost network drive; the process is about to end
        if path.read_bytes() == ours:
            path.unlink()


def _read(path: Path) -> bytes | None:
    """Return the content of a lock file, after waiting for its writer; None if it is gone."""
    content = None
    for _ in range(_MAX_POLLS_OF_UNFINISHED):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        if _parse(content) is not None:
            break
        time.sleep(_POLL_SECONDS)
    return content


def _parse(content: bytes) -> _Process | None:
    with suppress(ValueError, TypeError):
        process = _Process(**json.loads(content))
        if type(process.pid) is int and process.pid > 0:
            return process
    return None


def _this_process() -> _Process:
    pid, namespace = os.getpid(), ""
    with suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - no path
    return _Process(
        pid,
        socket.gethostname(),
        read_system_file(Path("/etc/machine-id")),
        read_system_file(Path("/proc/sys/kernel/random/boot_id")),
        namespace,
        _start_time(pid) or "",
    )


def _is_foreign(owner: _Process, here: _Process) -> bool:
    """Return whether a process is on another machine, or in another container of this one."""
    if (owner.host, owner.machine) != (here.host, here.machine):
        return True
    return owner.boot == here.boot and owner.namespace != here.namespace


def _has_ended(owner: _Process, here: _Process) -> bool:
    """Return whether a process is known to have ended."""
    if _is_foreign(owner, here):
        return False
    started = _start_time(owner.pid)
    is_other_process = bool(started and owner.started) and started != owner.started
    return owner.boot != here.boot or started is None or is_other_process


def _start_time(pid: int) -> str | None:
    """Return when a process of this machine started; "" if that is unknown, None if it has ended.

    A killed process whose parent has not noticed it yet has ended.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:  # it belongs to another user
        pass
    # The command, in parentheses, may hold anything; then come the state and, 19 fields on, the
    # start time.
    fields = read_system_file(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    if not fields:
        return ""
    return None if fields[0] in "ZX" else fields[19]
