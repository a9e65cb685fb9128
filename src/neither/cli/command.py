"""What all commands share: setup, errors and exit codes."""

import argparse
import errno
import os
import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from neither.runtime import console, signals
from neither.runtime.errors import OutputError, UserError, is_out_of_memory

_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space in your quota",
    errno.EACCES: "ask for the permission, or choose another folder",
    errno.EPERM: "ask for the permission, or choose another folder",
    errno.EROFS: "choose another folder",
    errno.EIO: "check the disk and its connection, or choose another folder",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def add_config_arguments(parser: argparse.ArgumentParser, folder: str) -> None:
    """Add the arguments of a command that trains; its folder is `runs/<name>` or so."""
    parser.add_argument("config", type=Path, help="a YAML file, such as configs/photos_quick.yaml")
    parser.add_argument("overrides", nargs="*", default=[], metavar="section.key=value",
                        help="replaces a value of the config, such as train.epochs=20 or "
                        "'classes=[cat, neither]'")  # fmt: skip
    parser.add_argument("--output-dir", type=Path, help=f"where the results go (default: {folder})")
    parser.add_argument("--fresh", action="store_true",
                        help="start over; the old folder is kept as <folder>.1")  # fmt: skip


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
        if error.filename == console.STANDARD_OUTPUT:  # Python would try again at exit
            discard_stdout()
        return _fail(_describe(error), OutputError.exit_code)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        message = "out of memory; try a smaller train.batch_size or data.store=disk"
        return _fail(message, OutputError.exit_code)


def _describe(error: OSError) -> str:
    """Return what failed, where and what to do."""
    path = "a file that the system did not name" if error.filename is None else error.filename
    remedy = _REMEDIES.get(error.errno or 0, "correct this and start the same command again")
    return f"{console.printable(os.fsdecode(path))}: {error.strerror or error}; {remedy}"


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


def require_packages(extra: str, *modules: str) -> None:
    """Raise `OutputError` if one of these modules, of an extra of this package, is missing."""
    for name in modules:
        if find_spec(name) is None:
            raise OutputError(f"{name} is not installed; run: pip install 'neither[{extra}]'")


def discard_stdout() -> None:
    """Redirect standard output to nowhere, or Python would report at exit that flushing failed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
