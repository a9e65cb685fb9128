"""The folder of one run: new, to be resumed, or finished.

What the figures of a run hang on besides its config.
"""

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

from neither.config import loader
from neither.config.loader import check_config, to_yaml
from neither.config.schema import Config, translate_v1
from neither.models.checkpoint import Checkpoint, load_checkpoint
from neither.runtime import files
from neither.runtime.console import info, log_to_folder, warn
from neither.runtime.devices import Compute
from neither.runtime.distributed import SINGLE_PROCESS, World
from neither.runtime.errors import CheckpointError, DataError, OutputError, UsageError

# Keys that change no number, so a run may go on under other ones. Where the images lie is one of
# them: that they are the same is checked by their content.
RESUMABLE_CHANGES = {
    "name",
    "device",
    "data.root",
    "data.manifest",
    "data.max_unreadable",
    "data.store",
    "checkpoint.save_every_minutes",
}


@dataclass(frozen=True)
class RunFolder:
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

    @property
    def previous(self) -> Path:
        """The last one before it, in case it should be damaged."""
        return self.folder / "checkpoints" / "previous.pt"

    @property
    def report(self) -> Path:
        """How well the best checkpoint does, for people."""
        return self.folder / "report.html"

    def is_begun(self) -> bool:
        """Say whether there is a checkpoint to go on from."""
        return self.last.exists() or self.previous.exists()

    def has_sound_best(self) -> bool:
        """Say whether `best.pt` can be used, and warn the user if not."""
        try:
            self.read_best()
        except (UsageError, CheckpointError) as error:
            warn(f"{error}; the next epoch that is measured takes its place")
            return False
        return True

    def read_best(self) -> Checkpoint:
        """Read the checkpoint to use."""
        return load_checkpoint(self.best)


@contextmanager
def open_run_folder(config: Config, folder: Path, fresh: bool) -> Iterator[RunFolder]:
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
    kept, run = folder / "config.yaml", RunFolder(folder, None)
    _require_run(run)
    with files.exclusive_lock(folder):
        if fresh:
            _put_aside(folder)
        if run.is_begun():
            _require_same(config, kept)
        else:
            _require_unbegun(run)
            # What ended before its first checkpoint leaves nothing to go on from, or to keep to.
            # The config comes first: by it a folder is known as a run, however soon that ends.
            files.write_atomic(kept, to_yaml(config))
            (folder / "splits.csv").unlink(missing_ok=True)
        for part in (folder, folder / "checkpoints", folder / "tensorboard"):
            files.make_folder(part)
            files.remove_temporaries(part)
        with log_to_folder(folder):
            if run.is_begun():
                run = RunFolder(folder, _load_last(run))
            if run.resumed is not None and run.resumed.epoch < config.train.epochs:
                at = f"after epoch {run.resumed.epoch}, step {run.resumed.step}"
                info(f"going on with {folder} {at}")
            yield run


def _require_run(run: RunFolder) -> None:
    """Leave alone, and move nowhere, what is somebody else's, be it a config.yaml of their own."""
    content = sorted(path.name for path in run.folder.iterdir() if not path.name.startswith("."))
    begun = (run.folder / ".lock").exists() or run.is_begun()
    if content and not (begun and (run.folder / "config.yaml").exists()):
        raise OutputError(
            f"{run.folder}: this folder is not a run ({content[0]} is in it); choose another with "
            "--output-dir"
        )


def _require_unbegun(run: RunFolder) -> None:
    """Never start over in silence what has trained, only because its `last.pt` is gone."""
    rows = run.folder / "metrics.jsonl"
    # Of a run that never beat its random weights, only the rows of its epochs tell that it trained.
    trained = rows.exists() and len(rows.read_bytes().splitlines()) > 1
    if run.best.exists() and (trained or run.read_best().epoch > 0):
        raise CheckpointError(
            f"{run.folder}: checkpoints/last.pt is missing, and only it can be gone on from; put "
            "it back, or start over with --fresh, which keeps this run under another name"
        )


def _load_last(run: RunFolder) -> Checkpoint:
    """Return `last.pt`, or the one before it if that was lost or damaged."""
    try:
        return load_checkpoint(run.last)
    except (UsageError, CheckpointError) as error:
        try:
            previous = load_checkpoint(run.previous)
        except (UsageError, CheckpointError):
            raise CheckpointError(
                f"{error}. No sound previous.pt lies beside it. To start over add --fresh, which "
                "keeps this run under another name"
            ) from error
        if run.last.exists():  # never to be taken for a sound one, and never thrown away
            run.last.replace(run.last.with_name("damaged.pt"))
        warn(f"{error}; going on from {run.previous} instead: what was done since is done again")
        return previous


def _require_same(config: Config, kept: Path) -> None:
    document = loader.read_yaml(kept.read_bytes(), str(kept))
    if document.values != translate_v1(document.values):
        raise UsageError(
            f"{kept.parent}: this run was begun by version 1 of neither, and version 2 cannot "
            "resume it; to start over add --fresh, which keeps the old folder under another name"
        )
    before = flatten_config(check_config(document))
    after = flatten_config(config)
    changes = [
        f"{key}: {before.get(key)} became {after.get(key)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and key not in RESUMABLE_CHANGES
    ]
    if changes:
        lines = "\n       ".join(changes)
        raise UsageError(
            f"{kept.parent}: this run was begun with another config\n       {lines}\n"
            f"       For a new run beside it add name={config.name}-2 or another --output-dir; to "
            "start over here add --fresh, which keeps the old folder under another name"
        )


def flatten_config(config: Config) -> dict[str, Any]:
    """Return the values of a config by their dotted keys."""
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
    info(f"the old run is kept as {aside}")


_BITS_HANG_ON = ("torch", "device", "precision", "threads", "processes")


def write_environment(
    run: RunFolder, compute: Compute, fingerprint: str, world: World = SINGLE_PROCESS
) -> None:
    """Write what the figures of a run hang on besides its config: `environment.json`.

    A run may go on elsewhere, but then its last bits are others than they would have been; a
    warning says so.

    Raises:
        DataError: if the ranks see different images.
        OutputError: if they would compute differently, and so drift apart.
    """
    _require_same_on_all_ranks(compute, fingerprint, world)
    if not world.is_rank0:
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
        "processes": world.size,
        "git_commit": _git_commit(),
        "command": sys.argv,
        "data_fingerprint": fingerprint,
    }
    known = {key: value for key, value in environment.items() if value is not None}
    path = run.folder / "environment.json"
    if run.resumed is not None:
        _tell_changes(read_environment(run.folder), known)
    files.write_atomic(path, json.dumps(known, indent=2) + "\n")


def _require_same_on_all_ranks(compute: Compute, fingerprint: str, world: World) -> None:
    if not world.all_equal(fingerprint):
        raise DataError("the processes of this training see different images; give all the same")
    way = f"{compute.device.type} in {compute.precision}, torch {torch.__version__}"
    if not world.all_equal(way):
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
