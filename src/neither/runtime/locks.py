"""Locks that keep a folder to one process, on this machine and on others that see the folder.

The lock is that of the system: `flock` on the file `.lock`, which ends with its process. Some file
systems refuse it, such as NFS without a lock service and Lustre without `-o flock`. There a lock
file names the process that uses the folder. If that was on this machine and has ended, the next
process takes over. The lock file of another machine stays: nobody here can know how its process is.
"""

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from neither.runtime import signals
from neither.runtime.console import info, printable, warn_once
from neither.runtime.errors import NOT_SUPPORTED, OutputError, named

NAME = ".lock"  # other files of this module begin with it
_LOCK_FILE_NAME = ".lock.owner"
_POLL_SECONDS = 0.1


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

    The message is logged once if there is another process to wait for.

    Raises:
        OSError: if the folder cannot be written.
        OutputError: if there is a lock file: its process may have ended on another machine.
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

    Raises:
        OSError: if the file cannot be opened.
        OutputError: if another process has it; with `wait` this waits for it instead.
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
            _create_lock_file(folder / _LOCK_FILE_NAME, stack)
            return ""
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


def _create_lock_file(path: Path, stack: ExitStack) -> None:
    """Create a lock file that is removed when the stack unwinds.

    Raises:
        OutputError: if there is one of a process that has not ended, as far as can be known here.
    """
    from filelock import SoftFileLock, Timeout

    try:
        stack.enter_context(SoftFileLock(path, timeout=0))
    except Timeout as error:
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        owner = f"pid {printable(' on '.join(lines[:2]))}" if lines else "an unknown process"
        remedy = f"If this process has ended, delete {path}"
        raise _in_use(path.parent, owner, remedy) from error


def _in_use(folder: Path, owner: str, remedy: str) -> OutputError:
    return OutputError(f"{folder}: another run is using this folder ({owner}). {remedy}")
