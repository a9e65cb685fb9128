"""Entry point `neither COMMAND`, and what all commands share: setup, errors and exit codes."""

import errno
import os
import re
import sys
from collections.abc import Callable
from importlib import import_module

from neither.runtime import console, signals
from neither.runtime.errors import OutputError, UserError, is_out_of_memory

_COMMANDS = {
    "train": "train a network as a config says",
    "evaluate": "score a run on a folder of images",
    "predict": "predict the class of images",
    "export": "write a run as one file for other programs",
    "check_data": "check a folder of images before training",
    "prepare_data": "make a folder of images to train on",
}


def main() -> int:
    """Run `neither COMMAND ...` and return the exit code."""
    name = sys.argv[1].replace("-", "_") if len(sys.argv) > 1 else ""
    if name not in _COMMANDS:
        lines = "\n".join(f"  {command:14} {what}" for command, what in _COMMANDS.items())
        is_help = name in ("", "__help", "_h")
        print(
            f"usage: neither COMMAND ...\n\n{lines}\n\nneither COMMAND --help shows its options",
            file=sys.stdout if is_help else sys.stderr,
        )
        return 0 if is_help else 2
    sys.argv = [f"neither {name}", *sys.argv[2:]]
    code: int = import_module(f"neither.cli.{name}").main()
    return code


def run_command(work: Callable[[], int]) -> int:
    """Run the work of a command and return its exit code.

    An error that the user can fix becomes one message on standard error; a bug raises.
    """
    console.setup_console()
    try:
        with signals.installed():
            return work()
    except signals.Stopped as stopped:
        console.info(str(stopped))
        return stopped.exit_code
    except BrokenPipeError:  # the reader of standard output has exited, as `| head` does
        discard_stdout()
        return 0
    except UserError as error:
        return _fail(str(error), error.exit_code)
    except OSError as error:
        path = f"{error.filename}: " if error.filename else ""
        remedy = "; free some space" if error.errno == errno.ENOSPC else ""
        return _fail(f"{path}{error.strerror or error}{remedy}", OutputError.exit_code)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        message = "out of memory; try a smaller train.batch_size or data.store=disk"
        return _fail(message, OutputError.exit_code)


def _fail(message: str, exit_code: int) -> int:
    console.log_traceback()
    console.report_error(message)
    return exit_code


def check_installation() -> None:
    """Raise `OutputError` if torch and torchvision do not fit together, before importing either.

    The import would fail with an obscure message: "operator torchvision::nms does not exist".
    """
    from importlib.metadata import PackageNotFoundError, requires, version

    remedy = "run: pip install --upgrade torch torchvision"
    try:
        installed = version("torch").partition("+")[0]
        needs = [need for need in requires("torchvision") or [] if re.match(r"torch\b", need)]
    except PackageNotFoundError as error:
        raise OutputError(f"{error.name} is not installed; {remedy}") from error
    from packaging.requirements import Requirement

    for need in map(Requirement, needs):
        if not need.specifier.contains(installed, prereleases=True):
            raise OutputError(
                f"torchvision {version('torchvision')} needs torch {need.specifier}, but torch "
                f"{installed} is installed; {remedy}"
            )


def discard_stdout() -> None:
    """Redirect standard output to nowhere, or Python would report at exit that flushing failed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
