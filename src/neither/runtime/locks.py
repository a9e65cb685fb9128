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
from io import FileIO
from pathlib import Path
from typing import BinaryIO, NamedTuple
from uuid import uuid4

from neither.runtime import signals
from neither.runtime.console import info, warn_once
from neither.runtime.errors import NOT_SUPPORTED, OutputError, named
from neither.runtime.limits import read_system_file

NAME = ".lock"  # other files of this module begin with it
_LOCK_FILE_NAME = ".lock.owner"
_POLL_SECONDS = 0.1


class _Process(NamedTuple):
    """A process, as a lock file names it; what the system does not tell is empty."""

    pid: int
    host: str
    machine: str  # and its namespace of process IDs: each container has its own
    boot: str  # a random number of each start of the system
    started: str  # when, since another process may get the same ID later


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Lock a folder inside the block; raise `OutputError` if another process has, naming it."""
    with ExitStack() as stack:
        if owner := _try_lock(folder, stack):
            remedy = "Wait for it, or choose another folder with --output-dir"
            raise _in_use(folder, owner, remedy)
        yield


@contextmanager
def wait_for_lock(folder: Path, message: str) -> Iterator[None]:
    """Lock a folder inside the block; wait until no other process has locked it.

    Args:
        folder: an existing folder.
        message: logged once if there is another process to wait for.

    Raises:
        OSError: if the folder cannot be written.
        OutputError: if there is the lock file of another machine.
        Stopped: if a signal asks to stop.
    """
    has_waited = False
    while True:
        with ExitStack() as stack:
            if not _try_lock(folder, stack):
                yield
                return
        if not has_waited:
            info(message)
        has_waited = True
        signals.poll()
        time.sleep(_POLL_SECONDS)


@contextmanager
def locked_file(path: Path, wait: bool) -> Iterator[BinaryIO]:
    """Open a file to read it and to append to it, made if it is missing, for one process at a time.

    Args:
        path: of the file.
        wait: wait until no other process has it, instead of raising.

    Raises:
        OSError: if the file cannot be opened.
        OutputError: if another process has it.
    """
    with named(path), path.open("a+b") as file:
        try:
            while not _flock(file):
                if not wait:
                    raise OutputError(f"{path}: another process writes this file; wait for it")
                time.sleep(_POLL_SECONDS / 10)
        except OSError as error:
            if error.errno not in NOT_SUPPORTED:
                raise
            warn_once("locks", f"{path}: this file system has no locks: let one process write it")
        file.seek(0)
        yield file


def _try_lock(folder: Path, stack: ExitStack) -> str:
    """Lock a folder until the stack unwinds; or name the process of this machine that has."""
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
            return file.read(200).decode(errors="replace").strip() or "an unknown process"
        # The file may have been deleted meanwhile, and made again under the same name.
        if not (path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())):
            return _try_lock(folder, stack)
        with suppress(OSError):  # a full disk; the name is for messages only
            file.truncate(0)
            file.write(f"pid {os.getpid()} on {socket.gethostname()}\n".encode())
    return ""


def _flock(file: FileIO | BinaryIO) -> bool:
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


def _try_lock_file(path: Path, stack: ExitStack) -> str:
    """Create a lock file that is removed when the stack unwinds; or name its process.

    Raises:
        OutputError: if that may run elsewhere, so that its end cannot be seen from here.
    """
    here = _this_process()
    ours = json.dumps(here._asdict()).encode()
    while True:
        with suppress(FileExistsError):
            _write_new(path, ours)
            stack.callback(_remove, path, ours)
            return ""
        try:
            theirs = path.read_bytes()
        except FileNotFoundError:
            continue
        owner, text = None, "an unknown process"
        with suppress(ValueError, TypeError):  # it is not written yet, or was not finished
            owner = _Process(**json.loads(theirs))
            text = f"pid {owner.pid} on {owner.host}"
        if owner is None or (owner.host, owner.machine) != (here.host, here.machine):
            raise _in_use(path.parent, text, f"If this process has ended, delete {path}")
        if not _has_ended(owner, here):
            return text
        old = path.with_name(f"{path.name}.{uuid4().hex}")
        with suppress(FileNotFoundError):
            path.rename(old)
            if old.read_bytes() == theirs:
                old.unlink()
            else:  # another process took over before, and this is its file
                old.rename(path)


def _in_use(folder: Path, owner: str, remedy: str) -> OutputError:
    return OutputError(f"{folder}: another run is using this folder ({owner}). {remedy}")


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


def _this_process() -> _Process:
    pid, namespace = os.getpid(), ""
    with suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - no path
    return _Process(
        pid,
        host=socket.gethostname(),
        machine=f"{read_system_file(Path('/etc/machine-id'))} {namespace}",
        boot=read_system_file(Path("/proc/sys/kernel/random/boot_id")),
        started=_start_time(pid) or "",
    )


def _has_ended(owner: _Process, here: _Process) -> bool:
    """Return whether a process of this machine is known to have ended."""
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
