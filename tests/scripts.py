"""Run the scripts in processes of their own."""

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent


_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 24, 1, 2  # of Linux's prctl.h


def drop_rights() -> None:
    """Make file modes apply to root too, in this process and those it starts.

    Call it between fork and exec; without it tests of permissions pass vacuously as root.
    """
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None)
        for right in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
            libc.prctl(_PR_CAPBSET_DROP, right, 0, 0, 0)


def run_script(
    name: str,
    *arguments: str | Path,
    cwd: Path = ROOT,
    first: Callable[[], None] | None = None,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run `scripts/<name>.py` with a timeout; `first` is called in its process before it."""
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / f"{name}.py", *arguments],
        cwd=cwd,
        env=os.environ | environment,
        preexec_fn=first,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=300,
        check=False,
    )


def start_script(name: str, *arguments: str | Path, **environment: str) -> subprocess.Popen[bytes]:
    """Start `scripts/<name>.py` and return at once."""
    return subprocess.Popen(
        [sys.executable, ROOT / "scripts" / f"{name}.py", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
