"""Train a network: load, loop, step, log, evaluate, save.

A run from its config to its last epoch: begun, gone on with, or found finished.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import torch

from neither.config.schema import Config
from neither.data.batches import Batches
from neither.data.dataset import Dataset, Split, find_images, load_dataset
from neither.data.preprocessing import Preprocessing
from neither.models.networks import count_parameters
from neither.models.pretrained import match_preprocessing
from neither.models.torchvision_networks import (
    TorchvisionNetwork,
    check_image_size,
    check_network_name,
)
from neither.runtime import files, signals
from neither.runtime.console import ProgressBar, info, progress_bar, warn
from neither.runtime.devices import Compute, choose_compute
from neither.runtime.distributed import SINGLE_PROCESS, World, init_distributed
from neither.runtime.errors import DataError, OutputError, UsageError, is_out_of_memory
from neither.runtime.rng import permutation
from neither.training import summaries
from neither.training.fast_conv import compile_network
from neither.training.label_issues import find_label_issues, write_label_issues
from neither.training.optimizers import current_lr_factor, lr_factor
from neither.training.run_folder import RunFolder, open_run_folder, write_environment
from neither.training.run_report import report_run
from neither.training.state import TrainState, build_state, diverged_error
from neither.training.step import train_step
from neither.training.tensorboard import MetricsLogger
from neither.training.validation import is_validated, logit_metrics, val_logits, val_metrics

_NUM_TOLD = 10
_NUM_BEFORE = 256


def train(config: Config, run: RunFolder, world: World = SINGLE_PROCESS) -> TrainState:
    """Train from the beginning, or from where the run stopped, to the last epoch.

    With the same number of threads and processes on the same machine the final weights are the same
    to the bit, however often training was stopped or killed in between.

    Args:
        config: of the run.
        run: its opened folder, which gets everything that training writes.
        world: the processes that train it together, of which the first alone writes.

    Returns:
        The state after the last step.

    Raises:
        DataError: if the images cannot be used.
        DivergedError: if the loss or its gradient is no longer finite.
        OutputError: if the device is missing or a decoding process was killed.
        Stopped: if a signal asked for an end; the state is saved.
    """
    compute = choose_compute(config.device, config.precision, world)
    preprocessing = match_preprocessing(
        Preprocessing(config.data.image_size, config.data.resize), config.model
    )
    # Before the images: a network that cannot be had ends the run at once.
    state = build_state(config, preprocessing, compute, run.resumed is not None, world)
    data = world.rank0_first(lambda: load_dataset(
        config.data, config.classes, config.seed, preprocessing, run.folder
    ))  # fmt: skip
    write_environment(run, compute, data.fingerprint, world)
    batches = Batches(
        data, config.augmentation, config.train.batch_size, config.seed, compute.device, world
    )
    if isinstance(state.network, TorchvisionNetwork):
        check_image_size(
            state.network, config.model.name, batches.min_shard_size(), config.data.image_size
        )
    info(f"images: {preprocessing}")
    state.meet(data.train.labels)
    if run.resumed is not None:
        state.restore(run.resumed)
        if not run.has_sound_best():
            state.forget_best()
    if config.compile:
        compile_network(state.network, compute.device)
    info(f"{config.model.name}: {count_parameters(state.network):,} parameters, on "
        f"{compute.device} in {compute.precision}, {torch.get_num_threads()} threads"
        + (f", {world.size} processes" if world.size > 1 else ""))  # fmt: skip
    total = config.train.epochs * len(batches)
    with (
        closing(MetricsLogger(
            run.folder if world.is_rank0 else None, state.begins_at() if run.resumed else None
        )) as tracker,
        progress_bar("training", total, "steps", state.step) as bar,
        signals.deferred(world.size > 1),
    ):  # fmt: skip
        if run.resumed is None:
            _begin(state, data, batches, tracker, run)
            _save_epoch(state, run)
        try:
            while state.epoch < config.train.epochs:
                figures = _train_epoch(state, data, batches, compute, run, bar)
                logits = metrics = None
                if is_validated(state.epoch + 1, config.train):
                    logits = val_logits(state, data.pixels, data.val, compute.device)
                    metrics = val_metrics(state, logits, data.val.labels)
                state.end_epoch(metrics)
                if logits is not None and summaries.is_logged(state.epoch, config.train):
                    summaries.log_epoch(tracker, state, data, logits)
                    if world.is_rank0:
                        suspects = find_label_issues(state.doubts, data.train, config.classes)
                        write_label_issues(run.folder / "label_issues.csv", suspects)
                tracker.write_epoch(state.epoch, state.step, figures, metrics)
                _save_epoch(state, run)
                _tell(state, figures)
        except signals.Stopped:
            _save(state, run)
            world.barrier()  # whoever ends before the others are done ends them
            info(
                f"saved in epoch {state.epoch + 1}, after step {state.step}; the same "
                f"command goes "
                "on from here"
            )
            raise
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise _too_large(state) from error
    return state


def _train_epoch(
    state: TrainState,
    data: Dataset,
    batches: Batches,
    compute: Compute,
    run: RunFolder,
    bar: ProgressBar,
) -> dict[str, float]:
    """Take the steps that are left of an epoch; return the values of its curves."""
    settings = state.config.train
    state.begin_epoch()
    every_seconds = 60 * state.config.checkpoint.save_every_minutes
    started = saved = time.monotonic()
    num_images = 0
    for batch in batches.epoch(state.epoch, state.step_in_epoch):
        state.world.poll_signals()
        moment = state.epoch + (state.step_in_epoch + 0.5) / len(batches)
        if not train_step(state, batch, lr_factor(settings, moment), compute):
            raise diverged_error(
                state, [data.train.paths[place] for place in batch.indices.tolist()]
            )
        num_images += len(batch.labels)
        bar.advance()
        if bar.is_note_due():
            if not state.tally.is_finite():
                raise diverged_error(state)
            speed = num_images / (time.monotonic() - started)
            bar.set_note(f"loss {state.tally.mean_loss():.3f}, {speed:,.0f} images/s")
        if time.monotonic() - saved >= every_seconds:
            _save(state, run)
            saved = time.monotonic()
    if not state.tally.is_finite():
        raise diverged_error(state)
    figures = state.tally.figures(state.config.classes)
    figures["learning_rate"] = settings.lr * current_lr_factor(state.optimizer)
    if num_images:  # none if an earlier attempt was stopped between the last step and the end
        figures["images_per_second"] = num_images / (time.monotonic() - started)
    return figures


def _tell(state: TrainState, train: dict[str, float]) -> None:
    """Say how training goes, at ten evenly spaced epochs."""
    epochs, metrics = state.config.train.epochs, state.metrics
    if state.epoch * _NUM_TOLD // epochs == (state.epoch - 1) * _NUM_TOLD // epochs:
        return
    text = f"epoch {state.epoch} of {epochs}: train loss {train['loss']:.3f}"
    if metrics:
        text += (f", val loss {metrics['loss']:.3f}, val macro recall "
                 f"{metrics['macro_recall']:.3f}")  # fmt: skip
    info(text)


def _begin(
    state: TrainState, data: Dataset, batches: Batches, tracker: MetricsLogger, run: RunFolder
) -> None:
    """Put the random weights on the curves, and show what the network is about to see."""
    # A few training images say enough of random weights, taken from all over: the list is by class.
    device = batches.device
    some = torch.from_numpy(permutation(batches.seed, 0, len(data.train.rows)))[:_NUM_BEFORE]
    before = Split([], data.train.rows[some], data.train.labels[some])
    logits = val_logits(state, data.pixels, before, device)
    figures = logit_metrics(logits, before.labels, state.config.classes)
    logits = val_logits(state, data.pixels, data.val, device)
    state.metrics = val_metrics(state, logits, data.val.labels)
    tracker.write_epoch(0, 0, figures, state.metrics)
    summaries.log_run(tracker, state, next(batches.epoch(0)), run.folder / "splits.csv")


def _save_epoch(state: TrainState, run: RunFolder) -> None:
    """Save at the end of an epoch: `best.pt` first, so that `last.pt` never claims a lost one."""
    if state.is_best():
        state.keep_best()
        if state.world.is_rank0:
            state.save(run.best, to_go_on=False)
    _save(state, run)


def _save(state: TrainState, run: RunFolder) -> None:
    """Save to go on from here, unless there is nothing sound to go on from."""
    if not state.tally.is_finite():
        raise diverged_error(state)
    if state.world.is_rank0:
        files.keep_copy(run.previous, run.last)
        state.save(run.last, to_go_on=True)


def _too_large(state: TrainState) -> OutputError:
    size = state.config.train.batch_size
    return OutputError(
        f"out of memory in epoch {state.epoch + 1}, step {state.step + 1}, with batches of {size}; "
        f"the checkpoints are from before. Try train.batch_size={max(1, size // 2)}"
    )


@contextmanager
def run_training(config: Config, folder: Path, fresh: bool) -> Iterator[RunFolder | None]:
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
    check_network_name(config.model.name)
    source = config.data.source
    if not source.exists() and not RunFolder(folder, None).is_begun():
        _require_images(config)
    with init_distributed() as world, ExitStack() as stack:
        if config.train.batch_size < world.size:
            raise UsageError(
                f"train.batch_size: {config.train.batch_size} images, in all, are too few for "
                f"{world.size} processes"
            )
        if source.is_dir():
            files.require_readable(source)
            files.require_outside(folder, source)
        run = world.broadcast(lambda: stack.enter_context(open_run_folder(config, folder, fresh)))
        is_finished = run.resumed is not None and run.resumed.epoch >= config.train.epochs
        if run.resumed is not None and is_finished:
            _require_same_source(run.resumed.config["data"], source, config.name)
            info(f"{folder}: this run is finished; --fresh starts it over")
        else:
            train(config, run, world)
        if world.is_rank0 and not (is_finished and run.report.exists()):
            _report(config, run)
        yield run if world.is_rank0 else None


def _require_images(config: Config) -> None:
    """Say what is missing, and how to name it, before a folder is made for nothing."""
    key, what = ("root", "FOLDER") if config.data.manifest is None else ("manifest", "FILE.csv")
    try:
        find_images(config.data, config.classes)
    except UsageError as error:
        raise UsageError(f"{error}; data.{key}={what} says where your images are") from error


def _report(config: Config, run: RunFolder) -> None:
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
