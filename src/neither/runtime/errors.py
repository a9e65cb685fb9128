"""Errors that a user can cause, each with its exit code.

A message says what is wrong, where (file, line, key) and what to do. Commands print it on standard
error without a traceback. Any other exception is a bug of this package and exits with code 1.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

# How a file system refuses what it cannot do at all, such as to lock or to sync. Others, such as
# EIO, mean that it failed.
NOT_SUPPORTED = (
    errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOLCK,
    errno.EBADF, errno.EPERM,
)  # fmt: skip


class UserError(Exception):
    """An error that the user can fix; further lines of its message are indented."""

    exit_code: ClassVar[int]

    def __init__(self, *lines: object) -> None:
        super().__init__("\n       ".join(map(str, lines)))


class UsageError(UserError):
    """The command line or the config is wrong."""

    exit_code = 2


class DataError(UserError):
    """The images or their folders cannot be used as they are."""

    exit_code = 3


class RequirementError(UserError):
    """A metric misses a `--require`."""

    exit_code = 4


class CheckpointError(UserError):
    """A checkpoint cannot be used."""

    exit_code = 5


class OutputError(UserError):
    """The environment fails: disk, permission, device, memory, another run in the folder."""

    exit_code = 6


class DivergedError(UserError):
    """The loss or its gradient is not finite."""

    exit_code = 7


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out; torch has no exception of its own for the CPU."""
    signs = ("can't allocate memory", "out of memory", "bad_alloc")
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)


@contextmanager
def named(path: Path | str) -> Iterator[None]:
    """Give the path to an `OSError` from the block that has none, such as of a write or a sync."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def prefixed(key: str) -> Iterator[None]:
    """Name the config key in the message of an error that the user can correct."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{key}: {error}") from error
