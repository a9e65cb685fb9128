"""Errors become one message and an exit code; help and config errors do not wait for torch."""

import errno
import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from signal import SIGTERM
from unittest.mock import Mock

import pytest

from images import draw_shape
from neither.cli import command
from neither.cli.command import check_installation, run_command
from neither.cli.main import _COMMANDS
from neither.runtime import errors
from neither.runtime.errors import OutputError
from neither.runtime.signals import Stopped
from scripts import ROOT

Patch = pytest.MonkeyPatch
Capture = pytest.CaptureFixture[str]
QUICK = ROOT / "configs" / "photos_quick.yaml"


def test_what_needs_no_network_imports_nothing_heavy(tmp_path: Path) -> None:
    """Decoding, help, wrong arguments and configs, check_data and prepare_data."""
    config = tmp_path / "config.yaml"
    config.write_text(QUICK.read_text().replace("epochs:", "epoch:"))
    code = """
import json, sys
from importlib import import_module
import neither
heavy = ["torch", "matplotlib", "jinja2", "PIL", "numpy", "pydantic", "rich", "yaml", "http"]
def loaded():
    return [name for name in heavy if name in sys.modules]
stages = [["import", 0, loaded()]]
for name, *arguments in json.loads(sys.argv.pop()):
    sys.argv = [name, *arguments]
    try:
        code = import_module(f"neither.cli.{name}").main()
    except SystemExit as left:
        code = left.code
    stages.append([name, code, loaded()])
    if arguments == ["--help"] and name == "prepare_data":
        import neither.data.store, neither.demo.folder  # what decoding processes import
        stages.append(["decode", 0, loaded()])
import neither.datasets.coco
stages.append(["coco", 0, loaded()])
print(json.dumps(stages))
"""
    draw_shape("dog", 0).save(tmp_path / "0.png")
    calls = [[name, "--help"] for name in _COMMANDS] + [
        ["predict", "run", "no such file"],
        ["evaluate", "run", "images", "--require", "nonsense"],
        ["train", str(config)],
        ["check_data", str(tmp_path)],
    ]
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(calls)], capture_output=True, text=True, check=True
    )
    decoding = ["PIL", "numpy"]
    assert json.loads(done.stdout.splitlines()[-1]) == [
        ["import", 0, []],
        *([name, 0, []] for name in _COMMANDS),
        ["decode", 0, decoding],
        ["predict", 2, [*decoding, "rich"]],
        ["evaluate", 2, [*decoding, "rich"]],
        ["train", 2, [*decoding, "pydantic", "rich", "yaml"]],
        ["check_data", 3, [*decoding, "pydantic", "rich", "yaml"]],
        ["coco", 0, [*decoding, "pydantic", "rich", "yaml"]],
    ]
    assert done.stdout.count("usage: ") == len(_COMMANDS)
    assert "docs/config.md" in done.stdout
    assert "did you mean train.epochs?" in done.stderr


@pytest.mark.parametrize(("error", "code", "message"), [
    (errors.UsageError("a"), 2, "a"), (errors.DataError("b"), 3, "b"),
    (errors.RequirementError("c"), 4, "c"), (errors.CheckpointError("d"), 5, "d"),
    (OutputError("e"), 6, "e"), (errors.DivergedError("f"), 7, "f"),
    (OSError(errno.ENOSPC, "No space left", "a/file"), 6, "a/file: No space left; free"),
    (OSError(errno.EIO, "I/O error", b"a\n\xff"), 6, r"a\n\udcff: I/O error; check the disk"),
    (OSError(errno.EINVAL, "Invalid", Path("a")), 6, "a: Invalid; correct this"),
    (OSError(errno.EIO, "I/O error"), 6, "a file"), (OSError("odd"), 6, "a file"),
    (MemoryError(), 6, "out of memory"),
    (RuntimeError("CUDA out of memory. Tried"), 6, "out of memory"),
])  # fmt: skip
def test_an_error_is_one_message(
    error: Exception, code: int, message: str, capsys: Capture
) -> None:
    assert run_command(Mock(side_effect=error)) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has this device")
def test_a_full_disk_behind_standard_output_is_named() -> None:
    code = (
        "from neither.cli.command import run_command; from neither.runtime import console\n"
        "raise SystemExit(run_command(lambda: console.print_line('x') or 0))"
    )
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 6
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: standard output: ")


def test_a_signal_has_its_exit_code_and_a_bug_raises(monkeypatch: Patch) -> None:
    assert run_command(lambda: 3) == 3
    assert run_command(Mock(side_effect=Stopped(SIGTERM))) == 143
    closed = []
    monkeypatch.setattr(command, "discard_stdout", lambda: closed.append(1))
    assert run_command(Mock(side_effect=BrokenPipeError)) == 0
    assert closed
    with pytest.raises(RuntimeError, match="a bug"):
        run_command(Mock(side_effect=RuntimeError("a bug")))


@pytest.mark.parametrize(("torch", "need", "fits"), [
    ("2.13.0", "torch (>=2.14.0)", False), ("2.16.0", "torch==2.15.0", False),
    ("2.13.0+cpu", "torch>=2.14", False), ("2.15.0+cu132", "torch (>=2.14.0)", True),
    ("2.15.0+cu132", "torch==2.15.0", True),
])  # fmt: skip
def test_a_torchvision_for_another_torch(
    torch: str, need: str, fits: bool, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(
        "importlib.metadata.version", {"torch": torch, "torchvision": "0.29.2"}.__getitem__
    )
    monkeypatch.setattr(
        "importlib.metadata.requires", lambda _: ["numpy", need, 'torchdata>1; extra == "x"']
    )
    if fits:
        check_installation()
        return
    with pytest.raises(OutputError, match="pip install --upgrade torch torchvision") as error:
        check_installation()
    assert torch.partition("+")[0] in str(error.value)


def test_a_missing_package_is_an_error_with_the_remedy(monkeypatch: Patch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    with pytest.raises(OutputError, match="torch is not installed"):
        check_installation()
