"""Commands in this process: starting another one costs seconds."""

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest

from neither import terminal


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Call = Callable[..., Done]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """Return a function that runs `scripts/<name>.py` with these arguments."""
    log = terminal._log
    before, level = list(log.handlers), log.level

    def run(name: str, *arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        capsys.readouterr()
        code = import_module(f"neither.commands.{name}").main()
        return Done(code, *capsys.readouterr())

    yield run
    log.handlers[:] = before
    log.setLevel(level)
