"""Entry points: `neither COMMAND`, and the scripts. They import little, see `run`."""

import os
import signal
import sys
from importlib import import_module
from types import FrameType

_COMMANDS = {
    "train": "train a network as a config says",
    "cross_validate": "leave each source of images out of training once",
    "evaluate": "score a run on a folder of images",
    "predict": "predict the class of images",
    "serve": "answer in a browser, and programs by a JSON API",
    "export": "write a run as one file for other programs",
    "review": "review labels in a browser",
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
    return run(name)


def run(name: str) -> int:
    """Run a command and return its exit code.

    Until the command handles signals, and after it, Ctrl-C ends the process at once. Python's
    KeyboardInterrupt would print a traceback, and imports can swallow it.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit)
    code: int = import_module(f"neither.cli.{name}").main()
    return code


def _exit(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)
