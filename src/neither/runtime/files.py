"""Atomic writes, output folders and downloads.

Files and whole folders appear complete or not at all.
"""

import errno
import json
import os
import re
import shutil
import socket
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager, redirect_stderr, suppress
from io import StringIO
from pathlib import Path
from threading import Thread
from typing import Any, BinaryIO, TypeVar

from neither.runtime import signals
from neither.runtime.console import printable, warn_once
from neither.runtime.errors import NOT_SUPPORTED, OutputError, UsageError, named

Result = TypeVar("Result")

_POLL_SECONDS = 0.1
_TIMEOUT_SECONDS = 60.0  # without a byte from a server
_MAX_NAME_BYTES = 200  # of a name that a temporary one is made from; file systems allow 255
_TEMPORARY = re.compile(r"\..+\.[0-9]+\.tmp")


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces `path` when the block ends without an exception.

    The bytes go to a temporary file in the same folder, are synced to disk, and only then renamed.
    A reader, a crash or a full disk finds the old file or the new one, never a part.

    Raises:
        OSError: if the folder cannot be written or the disk is full; `path` is then unchanged. If
            the disk fails after the rename, `path` may be the old or the new one.
    """
    temporary = _temporary(path)
    # os.open instead of tempfile: the mode follows the user's umask instead of being 0600.
    flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | getattr(os, "O_BINARY", 0)  # for Windows
    with named(path):
        handle = os.open(temporary, flags, 0o666)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                sync(file.fileno(), path)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    if os.name == "posix":  # other systems cannot open a folder for fsync
        with named(path.parent), suppress(PermissionError):  # it may be written, but not be read
            handle = os.open(path.parent, os.O_RDONLY)
            try:
                sync(handle, path.parent)
            finally:
                os.close(handle)


def sync(handle: int, path: Path) -> None:
    """Bring a file, or the names in a folder, to disk; warn where the file system cannot do so."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:
            raise
        warn_once(
            "sync",
            f"{path}: this file system cannot sync it to disk ({error.strerror}); after a power "
            "failure the last files written may be missing",
        )


def write_atomic(path: Path, content: bytes | memoryview | str) -> None:
    """Write `content` (text as UTF-8) to `path`, completely or not at all."""
    with atomic_writer(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; an empty one if it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def keep_copy(copy: Path, path: Path) -> None:
    """Make `copy` the present content of `path`, if that exists.

    Where hard links are supported, both names exist at all times.
    """
    if not path.exists():
        return
    temporary = _temporary(copy)
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)  # costs no space: `path` is only ever replaced, never modified
    except OSError:  # some file systems have no hard links
        path.replace(copy)
    else:
        temporary.replace(copy)


def remove_temporaries(folder: Path) -> None:
    """Remove the temporary files of killed writers; only the owner of the folder may call this."""
    for path in folder.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    name = path.name
    if len(os.fsencode(name)) > _MAX_NAME_BYTES:
        name = name[: _MAX_NAME_BYTES // 4]  # a character has up to 4 bytes
    return path.with_name(f".{name}.{os.getpid()}.tmp")


def make_folder(folder: Path) -> None:
    """Create a folder and its parents; raise `OutputError` if it cannot be made or written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}; choose another") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder}: cannot be written: permission denied; choose another")


@contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """Create a folder as `make_folder` does; if the block raises, leave no empty ones behind."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    make_folder(folder)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # something is in it
            for each in made:
                each.rmdir()
        raise


def require_usable(folder: Path, error: OSError) -> None:
    """Tell a failure of one file from a failure of the output folder that it was written into.

    Raises:
        OutputError: if the folder is full, or a file of another name cannot be written either.
    """
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        probe = folder / ".probe"
        try:
            write_atomic(probe, b"probe")
            probe.unlink()
        except OSError as general:
            error = general
        else:
            return
    raise OutputError(
        f"{folder}: cannot be written: {error.strerror or error}. Free some space or choose "
        "another folder, and start the same command again"
    ) from error


def require_readable(folder: Path) -> None:
    """Raise `OutputError` if a folder cannot be listed, as on a lost network drive."""
    try:
        with os.scandir(folder):
            pass
    except OSError as error:
        raise OutputError(
            f"{folder}: this folder cannot be read: {error.strerror}; check the permission and "
            "the disk"
        ) from error


def require_outside(output_dir: Path, images: Path) -> None:
    """Raise `UsageError` if `output_dir` is the folder `images` or inside it."""
    # realpath, as Path.resolve raises RuntimeError at links in a circle
    output, inputs = os.path.realpath(output_dir), os.path.realpath(images)
    if Path(output).is_relative_to(inputs):
        raise UsageError(f"{output_dir}: is inside the image folder; choose another folder")


def cache_folder() -> Path:
    """Return `~/.cache/neither`; `$XDG_CACHE_HOME` replaces `~/.cache` if it is absolute."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (cache if cache.is_absolute() else Path.home() / ".cache") / "neither"
    except RuntimeError as error:
        raise OutputError("no home folder; set the variable XDG_CACHE_HOME") from error


def is_complete(folder: Path, record_name: str, expected: Mapping[str, object]) -> bool:
    """Return whether `output_folder` made this folder before; False if it is missing or empty.

    Then its JSON file `record_name` holds what is expected, and perhaps more keys. Any other
    content is an `OutputError`.
    """
    is_empty = folder.is_dir() and not any(folder.iterdir())
    if not folder.is_symlink() and (is_empty or not folder.exists()):
        return False
    if expected.items() <= read_json(folder / record_name).items():
        return True
    raise OutputError(
        f"{folder}: exists already, with other content than this command makes. Choose another "
        "folder or remove this one"
    )


@contextmanager
def output_folder(folder: Path, record_name: str, record: Mapping[str, object]) -> Iterator[Path]:
    """Yield an empty folder to fill; it becomes `folder` when the block ends without an exception.

    The folder must be missing or empty. The JSON file `record_name` is added to it last.

    Raises:
        OutputError: if something cannot be read or written; nothing is left then.
    """
    target = Path(os.path.abspath(folder))  # noqa: PTH100 - "." has no name for a sibling
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    make_folder(target.parent)
    try:
        partial.mkdir()
        yield partial
        text = json.dumps(record, indent=2) + "\n"
        (partial / record_name).write_text(text, encoding="utf-8")
        if target.is_dir() and not any(target.iterdir()):
            # It may be the current folder of the user's shell, so keep it; the record comes last.
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
            f"{error.filename or folder}: {error.strerror or error}. Nothing was written: fix "
            "this, free some space or choose another folder"
        ) from error


def download(function: Callable[[], Result], what: str, url: str, otherwise: str) -> Result:
    """Return the result of a function that downloads, unless a signal or an error ends the wait.

    The function must detect by itself what an interrupted call left behind, such as by a checksum.
    If it fails, the `OutputError` says what cannot be downloaded, from where, and what a user
    without a network can do `otherwise`.
    """
    from http.client import HTTPException  # most commands and all decoding processes load nothing
    from tarfile import TarError
    from urllib.error import HTTPError

    future: Future[Result] = Future()

    def work() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    # NumPy 2.4.0 to 2.4.4 warn about pickles as old as those of CIFAR.
    stderr = sys.stderr if sys.stderr.isatty() else StringIO()  # no progress bar in log files
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_SECONDS)
    try:
        with warnings.catch_warnings(action="ignore"), redirect_stderr(stderr):
            Thread(target=work, daemon=True).start()
            while not future.done():
                signals.poll()
                wait([future], _POLL_SECONDS)
            return future.result()
    # Of urllib, tarfile and checksum tests; URLError is an OSError.
    except (OSError, RuntimeError, EOFError, HTTPException, TarError, zlib.error) as error:
        reason = printable(getattr(error, "reason", error))
        if isinstance(error, HTTPError):  # holds an open connection
            error.close()
        raise OutputError(
            f"{what} cannot be downloaded from {url} ({reason}). Try again, or {otherwise}"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)
