"""What every command has in common: how it begins, and how its end becomes an exit code."""

import errno
import re
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, requires, version

from neither import stopping, terminal
from neither.errors import OutputError, UserError, is_out_of_memory


def pass_through(work: Callable[[], int]) -> int:
    """Do the work of a command and return its exit code.

    What a user can mend is one short message on standard error; a defect of ours is a traceback.
    """
    terminal.open_terminal()
    try:
        with stopping.watched():
            return work()
    except stopping.Stopped as stopped:
        terminal.say(str(stopped))
        return stopped.exit_code
    except UserError as error:
        terminal.note_traceback()
        terminal.fail(str(error))
        return error.exit_code
    except BrokenPipeError:  # the reader of our output has left, as `| head` does
        forget_output()
        return 0
    except OSError as error:
        terminal.note_traceback()
        place = f"{error.filename}: " if error.filename else ""
        space = "; free some space" if error.errno == errno.ENOSPC else ""
        terminal.fail(f"{place}{error.strerror or error}{space}")
        return OutputError.exit_code
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        terminal.note_traceback()
        terminal.fail("out of memory; try a smaller train.batch_size or data.store=disk")
        return OutputError.exit_code


def check_installation() -> None:
    """Refuse a torch and torchvision that do not go together, before either is imported.

    Raises:
        OutputError: with the remedy. Without this the user would see a traceback that ends in
            "operator torchvision::nms does not exist".
    """
    remedy = "run: pip install --upgrade torch torchvision"
    try:
        have = version("torch").partition("+")[0]
        needs = [need for need in requires("torchvision") or [] if re.match(r"torch\b", need)]
    except PackageNotFoundError as error:
        raise OutputError(f"{error.name} is not installed; {remedy}") from error
    from packaging.requirements import Requirement

    for need in map(Requirement, needs):
        if not need.specifier.contains(have, prereleases=True):
            raise OutputError(
                f"torchvision {version('torchvision')} needs torch {need.specifier}, but torch "
                f"{have} is installed; {remedy}"
            )


def forget_output() -> None:
    """Keep Python from complaining at its end that the output cannot be flushed."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
