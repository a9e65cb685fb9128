"""The errors that a user can cause, each with the exit code it ends in.

A message says what is wrong, where (file, line, key) and what to do next. Commands print it as one
short block on standard error, without a traceback. Any other exception is a defect of ours, exit 1.
"""

from typing import ClassVar


class UserError(Exception):
    """Something the user can put right."""

    exit_code: ClassVar[int]


class UsageError(UserError):
    """The command line or the config is wrong."""

    exit_code = 2


class DataError(UserError):
    """The images or their folders cannot be used as they are."""

    exit_code = 3


class RequirementError(UserError):
    """A figure is not as it was required to be."""

    exit_code = 4


class CheckpointError(UserError):
    """A checkpoint cannot be used."""

    exit_code = 5


class OutputError(UserError):
    """The environment refuses: disk, permission, device, memory, another run in the folder."""

    exit_code = 6


class DivergedError(UserError):
    """The loss or its gradient is no longer finite."""

    exit_code = 7


def is_out_of_memory(error: BaseException) -> bool:
    """Tell lack of memory from defects of ours; torch has no exception of its own for it."""
    signs = ("can't allocate memory", "out of memory", "bad_alloc")
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)
