"""Run commands in this process; a new process takes seconds to import torch."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest


class Done(NamedTuple):
    """The exit code and output of a command."""

    code: int
    out: str
    err: str


Call = Callable[..., Done]


@contextmanager
def calling(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str] | None
) -> Iterator[Call]:
    """Yield a function that runs `scripts/<name>.py` with these arguments.

    Args:
        monkeypatch: of the test.
        capsys: of the test; None to capture no output.
    """
    before = list(logging.getLogger("neither").handlers)

    def run(name: str, *arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        if capsys is not None:
            capsys.readouterr()
        try:
            code = import_module(f"neither.cli.{name}").main()
        except SystemExit as left:  # argparse's own
            code = left.code
        return Done(code, *(capsys.readouterr() if capsys is not None else ("", "")))

    yield run
    logging.getLogger("neither").handlers[:] = before
