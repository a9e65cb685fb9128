"""Write files whole or not at all, and keep a folder to one process.

Downloads by other libraries, given manners: a signal ends them, and so does silence.
"""

import json
import os
import re
import shutil
import socket
import sys
import tarfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from http.client import HTTPException
from io import StringIO
from pathlib import Path
from threading import Thread
from typing import BinaryIO, TypeVar
from urllib.error import HTTPError

from neither.runtime import signals
from neither.runtime.console import info, printable
from neither.runtime.errors import OutputError, UsageError

_WAIT_SECONDS = 0.1
_TEMPORARY = ".{name}.{pid}.tmp"
_IS_TEMPORARY = re.compile(r"\..+\.[0-9]+\.tmp")


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
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


def write_atomic(path: Path, content: bytes | memoryview | str) -> None:
    """Write `content` (text as UTF-8) to `path`, whole or not at all."""
    with atomic_writer(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def keep_copy(copy: Path, path: Path) -> None:
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


def remove_temporaries(folder: Path) -> None:
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
def exclusive_lock(folder: Path) -> Iterator[None]:
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
def wait_for_lock(folder: Path, why: str) -> Iterator[Callable[[], bool]]:
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
                    info(why)
                told = True
                signals.poll()
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


Result = TypeVar("Result")

_SILENCE_SECONDS = 60.0  # after which a server counts as gone
_SIGNAL_POLL_SECONDS = 0.1

# What urllib, tarfile and checks of sums raise; URLError is an OSError.
_FAILURES = (OSError, RuntimeError, EOFError, HTTPException, tarfile.TarError, zlib.error)


def download(function: Callable[[], Result], what: str, url: str, otherwise: str) -> Result:
    """Call a function that downloads, and return what it returns.

    Args:
        function: may leave something half made if it is cut off, and must find that out itself.
        what: is wanted.
        url: where from.
        otherwise: what a user without a network can do.

    Raises:
        OutputError: if it fails, on one line: what, the reason, and what to do.
        Stopped: if a signal asks for an end.
    """
    try:
        with _silence_download():
            return _run_in_thread(function)
    except _FAILURES as error:
        reason = printable(getattr(error, "reason", error))
        if isinstance(error, HTTPError):  # is also an answer, whose connection stays open
            error.close()
        raise OutputError(
            f"{what} cannot be had from {url} ({reason}). Try again, or {otherwise}"
        ) from error


def _run_in_thread(function: Callable[[], Result]) -> Result:
    """Wait for a function that never polls, such as a download, but no longer than a signal asks.

    A daemon thread, which does not keep the program from ending. What it leaves half written fails
    the check of its sum the next time and is made anew.
    """
    future: Future[Result] = Future()

    def work() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=work, daemon=True).start()
    while not future.done():
        signals.poll()
        wait([future], _SIGNAL_POLL_SECONDS)
    return future.result()


@contextmanager
def _silence_download() -> Iterator[None]:
    """No bar but on a terminal, no warnings, no waiting for ever."""
    before = socket.getdefaulttimeout()
    with ExitStack() as stack:
        stack.callback(socket.setdefaulttimeout, before)
        socket.setdefaulttimeout(_SILENCE_SECONDS)
        # NumPy 2.4.0 to 2.4.4 warn of pickles as old as CIFAR's; nobody can change them any more.
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        if not sys.stderr.isatty():
            stack.enter_context(redirect_stderr(StringIO()))
        yield


def is_complete(folder: Path, record_name: str, made_of: Mapping[str, object]) -> bool:
    """Tell whether a folder lies there already, made of the same.

    Args:
        folder: the folder.
        record_name: of the file in it that tells what it was made of.
        made_of: what has to stand in that file; more may stand there.

    Raises:
        OutputError: if the folder holds anything else.
    """
    is_empty = folder.is_dir() and not any(folder.iterdir())
    if not folder.is_symlink() and (is_empty or not folder.exists()):
        return False
    try:
        record = json.loads((folder / record_name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        record = None
    if isinstance(record, dict) and made_of.items() <= record.items():
        return True
    raise OutputError(
        f"{folder}: exists already and holds something else than this command makes. Name another "
        "folder or remove this one"
    )


@contextmanager
def output_folder(folder: Path, record_name: str, record: Mapping[str, object]) -> Iterator[Path]:
    """Yield an empty folder to fill, which becomes `folder` when the block ends well.

    Raises:
        OutputError: if something cannot be read or written; nothing is left then.
    """
    target = Path(os.path.abspath(folder))  # noqa: PTH100 - "." has no name to put another beside
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    make_folder(target.parent)
    try:
        partial.mkdir()
        yield partial
        text = json.dumps(record, indent=2) + "\n"
        (partial / record_name).write_text(text, encoding="utf-8")
        if target.is_dir() and not any(target.iterdir()):
            # The user's shell may stand in it, and would be left in a folder that is gone.
            for path in sorted(partial.iterdir(), key=lambda path: path.name == record_name):
                path.rename(target / path.name)
            partial.rmdir()
        else:
            partial.rename(target)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        raise OutputError(
            f"{error.filename or folder}: {error.strerror or error}. Nothing was made: mend this, "
            "make room or name another folder"
        ) from error
