"""What the figures of a run hang on besides its config."""

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from neither import files
from neither.devices import Compute
from neither.errors import DataError, OutputError
from neither.ranks import ALONE, Ranks
from neither.terminal import warn
from neither.training.run import Run

_BITS_HANG_ON = ("torch", "device", "precision", "threads", "processes")


def write_environment(run: Run, compute: Compute, fingerprint: str, ranks: Ranks = ALONE) -> None:
    """Write what the figures of a run hang on besides its config: `environment.json`.

    A run may go on elsewhere, but then its last bits are others than they would have been; a
    warning says so.

    Raises:
        DataError: if the ranks see different images.
        OutputError: if they would compute differently, and so drift apart.
    """
    _require_same(compute, fingerprint, ranks)
    if not ranks.is_first:
        return
    environment = {
        "neither": version("neither"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "pillow": version("pillow"),
        "numpy": version("numpy"),
        "platform": platform.platform(),
        "device": _device_name(compute.device),
        "precision": compute.precision,
        "threads": torch.get_num_threads(),
        "processes": ranks.size,
        "git_commit": _git_commit(),
        "command": sys.argv,
        "data_fingerprint": fingerprint,
    }
    known = {key: value for key, value in environment.items() if value is not None}
    path = run.folder / "environment.json"
    if run.resumed is not None:
        _tell_changes(read_environment(run.folder), known)
    files.write_whole(path, json.dumps(known, indent=2) + "\n")


def _require_same(compute: Compute, fingerprint: str, ranks: Ranks) -> None:
    if not ranks.is_same(fingerprint):
        raise DataError("the processes of this training see different images; give all the same")
    way = f"{compute.device.type} in {compute.precision}, torch {torch.__version__}"
    if not ranks.is_same(way):
        raise OutputError(f"the processes of this training compute differently: one on {way}; name "
                          "device and precision, and install the same torch")  # fmt: skip


def _tell_changes(before: dict[str, Any], now: dict[str, Any]) -> None:
    changes = [
        f"{key} {before[key]} became {now[key]}"
        for key in _BITS_HANG_ON
        if key in before and before[key] != now[key]
    ]
    if changes:
        warn("this run goes on in another environment, so not to the same bits as without a break: "
             + ", ".join(changes))  # fmt: skip


def read_environment(run_folder: Path) -> dict[str, Any]:
    """Return what `environment.json` of a run holds; nothing if it is missing or damaged."""
    try:
        known = json.loads((run_folder / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # the figures do not hang on it
        return {}
    return known if isinstance(known, dict) else {}


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device.type}: {torch.cuda.get_device_name(device)}"
    return f"{device.type}: {platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def _git_commit() -> str | None:
    """Return the commit of this file, unless it lies in somebody else's repository."""
    git = ["git", "-C", str(Path(__file__).parent)]
    answer = ""
    try:
        for command in (["ls-files", "--error-unmatch", __file__], ["rev-parse", "HEAD"]):
            answer = subprocess.run(  # noqa: S603
                [*git, *command], capture_output=True, text=True, timeout=10, check=True
            ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return answer
