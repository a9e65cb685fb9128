"""A run from its config to its last epoch: begun, gone on with, or found finished."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from neither import files
from neither.config import Config
from neither.data.dataset import find_images
from neither.errors import DataError, UsageError
from neither.model.torchvision_network import require_network
from neither.ranks import joined
from neither.terminal import say, warn
from neither.training.loop import train
from neither.training.report import report_run
from neither.training.run import Run, open_run


@contextmanager
def trained(config: Config, folder: Path, fresh: bool) -> Iterator[Run | None]:
    """Train what is left to train, report, and keep the run open inside the block.

    Several processes that `torchrun` started train one network; only the first reports, and the
    others get None in place of the run.

    Args:
        config: of the run.
        folder: of the run; need not exist.
        fresh: rename what is there and start over.

    Raises:
        UsageError: if the folder holds a run with another config, or lies among the images.
        DataError: if the images cannot be used.
        CheckpointError: if the checkpoint to go on from cannot be used.
        DivergedError: if the loss or its gradient is no longer finite.
        OutputError: if the environment refuses, such as a full disk.
        Stopped: if a signal asked for an end; the state is saved.
    """
    require_network(config.model.name)
    source = config.data.source
    if not source.exists() and not Run(folder, None).is_begun():
        _require_images(config)
    with joined() as ranks, ExitStack() as stack:
        if config.train.batch_size < ranks.size:
            raise UsageError(
                f"train.batch_size: {config.train.batch_size} images, in all, are too few for "
                f"{ranks.size} processes"
            )
        if source.is_dir():
            files.require_readable(source)
            files.require_outside(folder, source)
        run = ranks.share(lambda: stack.enter_context(open_run(config, folder, fresh)))
        is_finished = run.resumed is not None and run.resumed.epoch >= config.train.epochs
        if run.resumed is not None and is_finished:
            _require_same_source(run.resumed.config["data"], source, config.name)
            say(f"{folder}: this run is finished; --fresh starts it over")
        else:
            train(config, run, ranks)
        if ranks.is_first and not (is_finished and run.report.exists()):
            _report(config, run)
        yield run if ranks.is_first else None


def _require_images(config: Config) -> None:
    """Say what is missing, and how to name it, before a folder is made for nothing."""
    key, what = ("root", "FOLDER") if config.data.manifest is None else ("manifest", "FILE.csv")
    try:
        find_images(config.data, config.classes)
    except UsageError as error:
        raise UsageError(f"{error}; data.{key}={what} says where your images are") from error


def _report(config: Config, run: Run) -> None:
    """Write the report; a run whose images are gone by now is no less finished for it."""
    try:
        report_run(config, run)
    except DataError as error:
        warn(f"no report could be written: {error}")


def _require_same_source(trained_on: dict[str, Any], asked_for: Path, name: str) -> None:
    """Say that a finished run knows nothing of other images, instead of showing its figures."""
    known = Path(trained_on["root"] or trained_on["manifest"])
    if known.expanduser().resolve() != asked_for.resolve():
        raise UsageError(
            f"this run is finished, and was trained on {known}, not {asked_for}; for a new "
            f"run add name={name}-2"
        )
