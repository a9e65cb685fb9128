"""The folder of a run: new, resumed or finished; and `environment.json`."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from neither.config import loader
from neither.config.loader import check_config, to_yaml
from neither.config.schema import Config
from neither.models.checkpoint import Checkpoint, load_checkpoint
from neither.runtime import files, locks
from neither.runtime.console import info, log_to_folder, warn
from neither.runtime.devices import DeviceConfig
from neither.runtime.distributed import SINGLE_PROCESS, World
from neither.runtime.errors import CheckpointError, DataError, OutputError, UsageError, named

# Keys that change no number, so that a run may be resumed with other values. data.root and
# data.manifest are among them because the images are compared by their content.
RESUMABLE_CHANGES = {
    "name",
    "device",
    "data.root",
    "data.manifest",
    "data.max_unreadable",
    "data.store",
    "checkpoint.save_every_minutes",
}
CORRECTIONS = "corrections.csv"  # of a review: the user's work, which no new run moves
_KEYS_OF_EXACT_RESUME = ("torch", "device", "precision", "threads", "processes")


class RunFolder:
    """The folder of one run, and the checkpoint to resume it from; None for a new run."""

    def __init__(self, folder: Path, resumed: Checkpoint | None = None) -> None:
        self.folder, self.resumed = folder, resumed
        checkpoints = folder / "checkpoints"
        self.best = checkpoints / "best.pt"  # to use
        self.last = checkpoints / "last.pt"  # to resume from
        self.previous = checkpoints / "previous.pt"  # the one before, in case `last` is damaged
        self.initial = checkpoints / "initial.pt"  # of another run that this one started from
        self.teacher = checkpoints / "teacher.pt"  # a copy of that of `train.teacher`
        self.report = folder / "report.html"  # on the best checkpoint

    def has_checkpoint(self) -> bool:
        """Return whether there is a checkpoint to resume from."""
        return self.last.exists() or self.previous.exists()

    def is_finished(self, config: Config) -> bool:
        """Return whether nothing is left to train; the fit of a head is saved when it is done."""
        if self.resumed is None:
            return False
        return config.model.is_frozen or self.resumed.epoch >= config.train.epochs

    def load_best(self) -> Checkpoint:
        """Load the checkpoint to use."""
        return load_checkpoint(self.best)

    def is_best_usable(self) -> bool:
        """Return whether `best.pt` can be loaded; warn if not."""
        try:
            self.load_best()
        except (UsageError, CheckpointError) as error:
            warn(f"{error}; the next validated epoch replaces it")
            return False
        return True


@contextmanager
def open_run_folder(config: Config, folder: Path, fresh: bool) -> Iterator[RunFolder]:
    """Open the folder of a run for this process alone, and log to it inside the block.

    If the block raises before anything is saved, no empty folders are left. `fresh` renames what is
    there.

    Raises:
        OutputError: if the folder cannot be written, is not a run, or is in use.
        UsageError: if the folder holds a run with another config, or of another version.
        CheckpointError: if the checkpoint to resume from cannot be used.
    """
    config_file, run = folder / "config.yaml", RunFolder(folder)
    with ExitStack() as stack:
        stack.enter_context(files.new_folder(folder))
        _require_run(run)
        stack.enter_context(locks.exclusive_lock(folder))
        if fresh:
            _move_aside(folder)
        # From the same config the fit of a head gives the same bits again.
        if run.has_checkpoint() or (config.model.is_frozen and run.best.exists()):
            require_same_config(config, config_file)
        else:
            _require_untrained(run)
        if not run.has_checkpoint():
            # An attempt that ended before its first checkpoint leaves nothing to resume. The config
            # is written first: from then on the folder is known as a run.
            files.write_atomic(config_file, to_yaml(config))
            for name in ("splits.csv", "unlabelled.csv"):
                (folder / name).unlink(missing_ok=True)
        for part in (folder, folder / "checkpoints", folder / "tensorboard"):
            stack.enter_context(files.new_folder(part))
            files.remove_temporaries(part)
        stack.enter_context(log_to_folder(folder))
        if run.has_checkpoint():
            run = RunFolder(folder, _load_last(run))
        if run.resumed is not None and not run.is_finished(config):
            info(f"resuming {folder} after epoch {run.resumed.epoch}, step {run.resumed.step}")
        yield run


def _require_run(run: RunFolder) -> None:
    """Raise if the folder is not a run, even if it holds a config.yaml: never move its files."""
    content = sorted(path.name for path in run.folder.iterdir()
                     if not path.name.startswith(".") and path.name != CORRECTIONS)  # fmt: skip
    was_opened = (run.folder / locks.NAME).exists() or run.has_checkpoint()
    if content and not (was_opened and (run.folder / "config.yaml").exists()):
        raise OutputError(
            f"{run.folder}: this folder is not a run ({content[0]} is in it); choose another with "
            "--output-dir"
        )


def _require_untrained(run: RunFolder) -> None:
    """Raise if a run without `last.pt` has been trained: never start it again unasked."""
    # If no epoch beat the random weights, only the rows of metrics.jsonl show that it was trained.
    rows = run.folder / "metrics.jsonl"
    with named(rows):
        has_rows = rows.exists() and len(rows.read_bytes().splitlines()) > 1
    if run.best.exists() and (has_rows or run.load_best().epoch > 0):
        raise CheckpointError(
            f"{run.folder}: checkpoints/last.pt is missing, and a run is resumed from it; put it "
            "back, or start again with --fresh, which keeps this run under another name"
        )


def _load_last(run: RunFolder) -> Checkpoint:
    """Load `last.pt`, or `previous.pt` if that is missing or damaged."""
    try:
        return load_checkpoint(run.last)
    except (UsageError, CheckpointError) as error:
        try:
            previous = load_checkpoint(run.previous)
        except (UsageError, CheckpointError):
            raise CheckpointError(
                f"{error}. There is no usable previous.pt beside it. To start again add --fresh, "
                "which keeps this run under another name"
            ) from error
        if run.last.exists():  # kept, but under a name that is never resumed from
            run.last.replace(run.last.with_name("damaged.pt"))
        warn(f"{error}; resuming from {run.previous}, so the steps since then are repeated")
        return previous


def require_same_config(config: Config, config_file: Path) -> None:
    """Raise if a key that affects numbers differs, or another version wrote the file."""
    with named(config_file):
        document = loader.read_yaml(config_file.read_bytes(), str(config_file))
    try:
        before, after = flatten_config(check_config(document)), flatten_config(config)
    except UsageError as error:
        raise UsageError(
            error,
            "This run cannot be resumed: it is damaged, or of another version. To start again add "
            "--fresh, which keeps the old folder under another name",
        ) from error
    changes = [
        f"{key}: {before.get(key)} became {after.get(key)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and key not in RESUMABLE_CHANGES
    ]
    if changes:
        raise UsageError(
            f"{config_file.parent}: this run was started with another config",
            *changes,
            f"For a new run beside it add name={config.name}-2 or another --output-dir; to start "
            "again here add --fresh, which keeps the old folder under another name",
        )


def flatten_config(config: Config) -> dict[str, Any]:
    """Return the values of a config by dotted key, such as `train.epochs`."""
    flat: dict[str, Any] = {}
    for name, value in config.model_dump().items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    return flat


def _move_aside(folder: Path) -> None:
    """Move the content of a folder to `<folder>.1`, or to the first number that is free."""
    content = [path for path in folder.iterdir()
               if not path.name.startswith(locks.NAME) and path.name != CORRECTIONS]  # fmt: skip
    if not content:
        return
    number, folder = 1, folder.resolve()
    while (target := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    target.mkdir()
    # config.yaml last: if this is killed, the folder is still known as a run.
    for path in sorted(content, key=lambda path: path.name == "config.yaml"):
        path.rename(target / path.name)
    info(f"the old run is kept as {target}")


def last_moved(folder: Path) -> Path:
    """Return where `--fresh` moved the last run of a folder, if ever."""
    number, folder = 1, folder.resolve()
    while folder.with_name(f"{folder.name}.{number + 1}").exists():
        number += 1
    return folder.with_name(f"{folder.name}.{number}")


def write_environment(
    run: RunFolder,
    device_config: DeviceConfig,
    data_fingerprint: str,
    world: World = SINGLE_PROCESS,
) -> None:
    """Write `environment.json`: what the numbers of a run depend on besides its config.

    A run may be resumed elsewhere, but then its bits differ from those of an uninterrupted run: a
    warning names what changed.

    Raises:
        DataError: if the ranks see different images.
        OutputError: if the ranks would compute differently, and so drift apart.
    """
    if not world.all_equal(data_fingerprint):
        raise DataError("the processes of this training see different images; give all the same")
    backend = f"{device_config.device.type} in {device_config.precision}, torch {torch.__version__}"
    if not world.all_equal(backend):
        raise OutputError(
            f"the processes of this training compute differently: one on {backend}; set device and "
            "precision, and install the same torch"
        )
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
        "device": _device_name(device_config.device),
        "precision": device_config.precision,
        "threads": torch.get_num_threads(),
        "processes": world.size,
        "git_commit": _git_commit(),
        "command": sys.argv,
        "data_fingerprint": data_fingerprint,
    }
    before = files.read_json(run.folder / "environment.json") if run.resumed else {}
    changes = [
        f"{key} {before[key]} became {environment[key]}"
        for key in _KEYS_OF_EXACT_RESUME
        if key in before and before[key] != environment[key]
    ]
    if changes:
        warn(
            "the environment changed, so the result will differ in its last bits from that of an "
            f"uninterrupted run: {', '.join(changes)}"
        )
    known = {key: value for key, value in environment.items() if value is not None}
    files.write_atomic(run.folder / "environment.json", json.dumps(known, indent=2) + "\n")


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device.type}: {torch.cuda.get_device_name(device)}"
    return f"{device.type}: {platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def _git_commit() -> str | None:
    """Return the commit of this file; None if it is not tracked by a git repository."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        for command in (["ls-files", "--error-unmatch", __file__], ["rev-parse", "HEAD"]):
            finished = subprocess.run(  # noqa: S603
                [*git, *command], capture_output=True, text=True, timeout=10, check=True
            )
    except (OSError, subprocess.SubprocessError):
        return None
    return finished.stdout.strip()
