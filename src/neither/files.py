"""Write files whole or not at all, and keep a folder to one process."""

import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from neither import stopping
from neither.errors import OutputError, UsageError
from neither.terminal import say

_WAIT_SECONDS = 0.1
_TEMPORARY = ".{name}.{pid}.tmp"
_IS_TEMPORARY = re.compile(r"\..+\.[0-9]+\.tmp")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` when the block ends well.

    The bytes go to a temporary name in the same folder, are forced to disk, and only then renamed;
    so a reader, a crash or a full disk finds the old file or the new one, never a part.

    Raises:
        OSError: if the folder cannot be written or the disk is full; `path` is then untouched.
    """
    temporary = path.with_name(_TEMPORARY.format(name=path.name, pid=os.getpid()))
    # os.open instead of tempfile: the mode follows the user's umask, not a private 0600.
    flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | getattr(os, "O_BINARY", 0)  # for Windows
    with os.fdopen(os.open(temporary, flags, 0o666), "wb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    temporary.replace(path)
    _sync_folder(path.parent)


def write_whole(path: Path, content: bytes | memoryview | str) -> None:
    """Write `content` (text as UTF-8) to `path`, whole or not at all."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def keep_as(copy: Path, path: Path) -> None:
    """Let `copy` name what `path` names now, if that exists; neither name is missing in between.

    Raises:
        OSError: if the folder cannot be written.
    """
    if not path.exists():
        return
    temporary = copy.with_name(_TEMPORARY.format(name=copy.name, pid=os.getpid()))
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)  # no second copy: `path` is never written into, only replaced
    except OSError:  # some file systems have one name a file
        path.replace(copy)
    else:
        temporary.replace(copy)


def sweep_temporaries(folder: Path) -> None:
    """Remove what killed writers left in a folder; only its owner may call this."""
    for stale in folder.iterdir():
        if _IS_TEMPORARY.fullmatch(stale.name):
            stale.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents.

    Raises:
        OutputError: if it cannot be made or is something else, saying why.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot make this folder: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder}: this folder cannot be written: permission denied")


def require_readable(folder: Path) -> None:
    """Refuse a folder whose content cannot even be listed.

    Raises:
        OutputError: if permission is denied, or the network that it lies on is gone.
    """
    try:
        with os.scandir(folder):
            pass
    except OSError as error:
        raise OutputError(f"{folder}: this folder cannot be read: {error.strerror}") from error


def require_outside(output_dir: Path, images: Path) -> None:
    """Never write into the user's images.

    Raises:
        UsageError: if `output_dir` lies in the folder `images`.
    """
    if output_dir.resolve().is_relative_to(images.resolve()):
        raise UsageError(f"{output_dir}: lies in the folder of the images; choose another place")


def cache_folder() -> Path:
    """Return where things lie that can be made anew: `$XDG_CACHE_HOME/neither`, `~/.cache/neither`.

    By the XDG Base Directory Specification a relative path in the variable counts as none.

    Raises:
        OutputError: if there is no such variable and the user has no home.
    """
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (named if named.is_absolute() else Path.home() / ".cache") / "neither"
    except RuntimeError as error:
        raise OutputError("no home folder; name one with the variable XDG_CACHE_HOME") from error


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Keep a folder to this process; the lock dies with it, however it ends.

    Raises:
        OutputError: if another process holds the folder, naming it.
    """
    lock = folder / ".lock"
    with lock.open("a+b") as file:
        if not _try_lock(file):
            file.seek(0)
            owner = file.read(200).decode(errors="replace").strip() or "an unknown process"
            raise OutputError(
                f"{folder}: another run is at work in this folder ({owner}). Wait for it, or "
                "choose another folder with --output-dir"
            )
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {socket.gethostname()}\n".encode())
        file.flush()
        yield


@contextmanager
def waited_for(folder: Path, why: str) -> Iterator[Callable[[], bool]]:
    """Keep a folder to this process, after all who hold it now.

    Args:
        folder: an existing one.
        why: what to tell the user if there is somebody to wait for.

    Yields:
        A function that says whether the folder is still the one that was locked: somebody may have
        deleted it, and somebody else made another of the same name.

    Raises:
        OSError: if the folder cannot be written or knows no locks.
        Stopped: if a signal asks for an end.
    """
    lock, told = folder / ".lock", False
    while True:
        with lock.open("a+b") as file:
            while not _try_lock(file):
                if not told:
                    say(why)
                told = True
                stopping.poll()
                time.sleep(_WAIT_SECONDS)
            if _is_at(file, lock):
                yield lambda: _is_at(file, lock)
                return


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Say whether a path still leads to an open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _try_lock(file: BinaryIO) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows has no flock; two runs in one folder go unnoticed there
        return True
    with suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # a folder cannot be opened for fsync elsewhere
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
