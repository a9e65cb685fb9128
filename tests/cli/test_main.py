"""The entry points: they find the command, and Ctrl-C ends them without a traceback."""

import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from neither.cli import main
from neither.cli.main import _COMMANDS
from scripts import ROOT

Patch = pytest.MonkeyPatch
Capture = pytest.CaptureFixture[str]

# As pip writes the command `neither`.
ENTRY_POINT = "import sys; from neither.cli.main import main; sys.argv[1:] = ['train']; main()"
INTERRUPT = """
import os, runpy, signal, sys
class Interrupter:
    def find_spec(self, name, *_):
        if name == os.environ["INTERRUPTED_AT"]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupter())
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_neither_runs_a_command(monkeypatch: Patch, capsys: Capture) -> None:
    for argument, code in (("--help", 0), (None, 0), ("fly", 2)):
        monkeypatch.setattr(sys, "argv", ["neither", *filter(None, [argument])])
        assert main.main() == code
        out, err = capsys.readouterr()
        assert all(name in (err if code else out) for name in _COMMANDS)
    monkeypatch.setattr(sys, "argv", ["neither", "check-data", "no/folder"])
    assert main.main() == 2
    assert "no/folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "module"), [("predict", "argparse"), ("train", "neither.runtime"), (None, "argparse")]
)
def test_an_interrupt_while_importing_exits_130_without_a_traceback(
    name: str | None, module: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    program = ROOT / "scripts" / f"{name}.py"
    if name is None:
        program = tmp_path / "neither"
        program.write_text(ENTRY_POINT)
    monkeypatch.setenv("INTERRUPTED_AT", module)
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPT, program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_an_ignored_interrupt_stays_ignored(monkeypatch: Patch) -> None:
    monkeypatch.setattr(main, "import_module", lambda _: Mock(main=lambda: 3))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert main.run("train") == 3
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
