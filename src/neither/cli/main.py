"""What every command has in common: how it begins, and how its end becomes an exit code."""

import errno
import re
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, requires, version

from neither.runtime import console, signals
from neither.runtime.errors import OutputError, UserError, is_out_of_memory

_COMMANDS = {
    "train": "train a network as a config says",
    "evaluate": "score a run on a folder of images",
    "predict": "say of images what they show",
    "export": "write a run as one file for other programs",
    "check_data": "say what may go wrong with a folder of images",
    "prepare_data": "make a folder of images to train on",
}


def run_command(work: Callable[[], int]) -> int:
    """Do the work of a command and return its exit code.

    What a user can mend is one short message on standard error; a defect of ours is a traceback.
    """
    console.setup_console()
    try:
        with signals.installed():
            return work()
    except signals.Stopped as stopped:
        console.info(str(stopped))
        return stopped.exit_code
    except UserError as error:
        console.log_traceback()
        console.report_error(str(error))
        return error.exit_code
    except BrokenPipeError:  # the reader of our output has left, as `| head` does
        discard_stdout()
        return 0
    except OSError as error:
        console.log_traceback()
        place = f"{error.filename}: " if error.filename else ""
        space = "; free some space" if error.errno == errno.ENOSPC else ""
        console.report_error(f"{place}{error.strerror or error}{space}")
        return OutputError.exit_code
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        console.log_traceback()
        console.report_error("out of memory; try a smaller train.batch_size or data.store=disk")
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


def discard_stdout() -> None:
    """Keep Python from complaining at its end that the output cannot be flushed."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> int:
    """Run `neither COMMAND ...`; return the exit code."""
    name = sys.argv[1].replace("-", "_") if len(sys.argv) > 1 else ""
    if name not in _COMMANDS:
        lines = "\n".join(f"  {command:14} {what}" for command, what in _COMMANDS.items())
        asked = name in ("", "__help", "_h")
        print(
            f"usage: neither COMMAND ...\n\n{lines}\n\nneither COMMAND --help tells more",
            file=sys.stdout if asked else sys.stderr,
        )
        return 0 if asked else 2
    from importlib import import_module

    sys.argv = [f"neither {name}", *sys.argv[2:]]
    code: int = import_module(f"neither.cli.{name}").main()
    return code
