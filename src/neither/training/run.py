"""The folder of one run: new, to be resumed, or finished."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from neither import files, strict_yaml
from neither.config import Config, check_config, to_yaml
from neither.devices import Compute
from neither.errors import CheckpointError, OutputError, UsageError
from neither.model.checkpoint import Checkpoint, load_checkpoint
from neither.terminal import logged_to, say

# Keys that change no number, so a run may go on under other ones. Where the images lie is one of
# them: that they are the same is checked by their content.
_HARMLESS = {
    "name",
    "device",
    "data.root",
    "data.manifest",
    "data.max_unreadable",
    "data.store",
    "checkpoint.save_every_minutes",
}


@dataclass(frozen=True)
class Run:
    """One output folder and how far its training has come.

    Attributes:
        folder: of the run.
        resumed: the checkpoint to go on from; None at a fresh start.
    """

    folder: Path
    resumed: Checkpoint | None

    @property
    def best(self) -> Path:
        """The checkpoint to use."""
        return self.folder / "checkpoints" / "best.pt"

    @property
    def last(self) -> Path:
        """The checkpoint to go on from."""
        return self.folder / "checkpoints" / "last.pt"

    def read_best(self) -> Checkpoint:
        """Read the checkpoint to use."""
        return load_checkpoint(self.best)


@contextmanager
def open_run(config: Config, folder: Path, fresh: bool) -> Iterator[Run]:
    """Open the folder of a run for this process alone, and log to it inside the block.

    Args:
        config: of the run.
        folder: need not exist.
        fresh: rename what is there and start over.

    Raises:
        OutputError: if the folder cannot be written, is somebody else's, or is in use.
        UsageError: if the folder holds a run with another config.
        CheckpointError: if the checkpoint to go on from cannot be used.
    """
    files.make_folder(folder)
    kept, last = folder / "config.yaml", folder / "checkpoints" / "last.pt"
    _require_run(folder)
    with files.owned(folder):
        if fresh:
            _put_aside(folder)
        if last.exists():
            _require_same(config, kept)
        else:
            _require_unbegun(folder)
            # What ended before its first checkpoint leaves nothing to go on from, or to keep to.
            # The config comes first: by it a folder is known as a run, however soon that ends.
            files.write_whole(kept, to_yaml(config))
            (folder / "splits.csv").unlink(missing_ok=True)
        for part in (folder, folder / "checkpoints", folder / "tensorboard"):
            files.make_folder(part)
            files.sweep_temporaries(part)
        with logged_to(folder / "log.txt"):
            resumed = _load_last(last) if last.exists() else None
            if resumed is not None and resumed.epoch < config.train.epochs:
                say(f"going on with {folder} after epoch {resumed.epoch}, step {resumed.step}")
            yield Run(folder, resumed)


def write_environment(run: Run, compute: Compute, fingerprint: str) -> None:
    """Write what the figures of a run hang on besides its config: `environment.json`."""
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
        "git_commit": _git_commit(),
        "command": sys.argv,
        "data_fingerprint": fingerprint,
    }
    known = {key: value for key, value in environment.items() if value is not None}
    files.write_whole(run.folder / "environment.json", json.dumps(known, indent=2) + "\n")


def _require_run(folder: Path) -> None:
    """Leave alone, and move nowhere, what is somebody else's, be it a config.yaml of their own."""
    content = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    begun = (folder / ".lock").exists() or (folder / "checkpoints" / "last.pt").exists()
    if content and not (begun and (folder / "config.yaml").exists()):
        raise OutputError(
            f"{folder}: this folder is not a run ({content[0]} is in it); choose another with "
            "--output-dir"
        )


def _require_unbegun(folder: Path) -> None:
    """Never start over in silence what has trained, only because its `last.pt` is gone."""
    best, rows = folder / "checkpoints" / "best.pt", folder / "metrics.jsonl"
    # Of a run that never beat its random weights, only the rows of its epochs tell that it trained.
    trained = rows.exists() and len(rows.read_bytes().splitlines()) > 1
    if best.exists() and (trained or load_checkpoint(best).epoch > 0):
        raise CheckpointError(
            f"{folder}: checkpoints/last.pt is missing, and only it can be gone on from; put it "
            "back, or start over with --fresh, which keeps this run under another name"
        )


def _load_last(last: Path) -> Checkpoint:
    try:
        return load_checkpoint(last)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}. To start over add --fresh, which keeps this run under another name"
        ) from error


def _require_same(config: Config, kept: Path) -> None:
    before = _flatten(check_config(strict_yaml.read_yaml(kept.read_bytes(), str(kept))))
    after = _flatten(config)
    changes = [
        f"{key}: {before.get(key)} became {after.get(key)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and key not in _HARMLESS
    ]
    if changes:
        lines = "\n       ".join(changes)
        raise UsageError(
            f"{kept.parent}: this run was begun with another config\n       {lines}\n"
            f"       For a new run beside it add name={config.name}-2 or another --output-dir; to "
            "start over here add --fresh, which keeps the old folder under another name"
        )


def _flatten(config: Config) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.model_dump().items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": below for key, below in value.items()}
        else:
            flat[name] = value
    return flat


def _put_aside(folder: Path) -> None:
    """Move what a folder holds to `<folder>.1`, or the first number that is free."""
    content = [path for path in folder.iterdir() if path.name != ".lock"]
    if not content:
        return
    number, folder = 1, folder.resolve()
    while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    aside.mkdir()
    for path in sorted(content, key=lambda path: path.name == "config.yaml"):  # last: see open_run
        path.rename(aside / path.name)
    say(f"the old run is kept as {aside}")


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
