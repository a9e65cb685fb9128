"""Train a network: load, loop, step, log, evaluate, save.

`run_training` opens or resumes a run and reports on it when it is finished; `train` is the loop.
"""

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neither.config.loader import to_yaml
from neither.config.schema import Config
from neither.data.batches import Batches
from neither.data.dataset import Dataset, Split, find_images, load_dataset
from neither.data.preprocessing import Preprocessing
from neither.data.split_file import count_added, holds_split
from neither.models.checkpoint import save_checkpoint
from neither.models.networks import (
    BackboneNetwork,
    check_image_size,
    check_network_name,
    count_parameters,
)
from neither.models.pretrained import keeps_head, load_initial, match_preprocessing
from neither.runtime import files, signals
from neither.runtime.console import ProgressBar, info, progress_bar, warn
from neither.runtime.devices import DeviceConfig, choose_device_config
from neither.runtime.distributed import SINGLE_PROCESS, World, init_distributed
from neither.runtime.errors import DataError, OutputError, UsageError, UserError, is_out_of_memory
from neither.runtime.rng import permutation
from neither.training import summaries
from neither.training.fast_conv import compile_network
from neither.training.head import fit_initial_head, train_head
from neither.training.label_issues import (
    find_label_issues,
    find_out_of_fold_issues,
    write_label_issues,
)
from neither.training.optimizers import current_lr_factor, scheduled_lr_factor
from neither.training.out_of_fold import read_calibration
from neither.training.run_folder import RunFolder, open_run_folder, write_environment
from neither.training.run_report import report_run
from neither.training.state import TrainState, build_state, diverged_error
from neither.training.step import train_step
from neither.training.summaries import MetricsLogger
from neither.training.teacher import answer_views, check_seen_by_teacher, load_teacher
from neither.training.validation import (
    choose_network,
    compute_val_logits,
    is_validated,
    logit_metrics,
    val_metrics,
)
from neither.training.warm_start import check_seen_images

_NUM_MESSAGES = 10  # about the progress of a run
_NUM_INITIAL_IMAGES = 256  # training images that are enough to evaluate random weights


@contextmanager
def run_training(config: Config, folder: Path, fresh: bool) -> Iterator[RunFolder | None]:
    """Train what is left to train, write the report, and keep the run open inside the block.

    Processes that `torchrun` started train one network together. `fresh` renames what is in the
    folder and starts again.

    Yields:
        The finished run; None on all ranks but rank 0.

    Raises:
        UsageError: if the folder holds a run with another config, or is among the images.
        DataError: if the images cannot be used.
        CheckpointError: if the checkpoint to resume from cannot be used.
        DivergedError: if the loss or its gradient is no longer finite.
        OutputError: if the environment fails, such as a full disk.
        Stopped: if a signal asks to stop; the state is saved.
    """
    check_network_name(config.model.name)
    source = config.data.source
    used = {"model.weights": config.model.weights, "train.teacher": config.train.teacher}
    for key, name in used.items():
        other = Path(name or "none").expanduser()
        if other.exists() and other.resolve().is_relative_to(folder.resolve()):
            raise UsageError(
                f"{key}: {other} is in the folder of this run: give this run a name of its own, "
                f"such as name={config.name}-2"
            )
    if not source.exists() and not RunFolder(folder).has_checkpoint():
        require_images(config)
    with init_distributed() as world, ExitStack() as stack:
        if config.train.batch_size < world.size:
            raise UsageError(
                f"train.batch_size: {config.train.batch_size} images, in all, are too few for "
                f"{world.size} processes"
            )
        check_folders(config, folder)
        run = world.broadcast(lambda: stack.enter_context(open_run_folder(config, folder, fresh)))
        is_finished, val_logits = run.is_finished(config), dict[str, Tensor]()
        if run.resumed is not None and is_finished:
            _require_same_source(run, run.resumed.config["data"], config)
            info(f"{folder}: this run is finished; --fresh starts it again")
            _note_added_images(run, config)
        else:
            if not source.exists():
                require_images(config)
            state = train(config, run, world)
            if state.best_val_logits is not None:
                val_logits = dict(zip(state.val_paths, state.best_val_logits, strict=True))
        if world.is_rank0 and not (is_finished and run.report.exists()):
            try:
                report_run(config, run, val_logits)
            except DataError as error:  # the images are gone, but the run is finished
                warn(f"no report could be written: {error}")
        yield run if world.is_rank0 else None


def train(config: Config, run: RunFolder, world: World = SINGLE_PROCESS) -> TrainState:
    """Train from the first step, or from where the run stopped, to the last epoch.

    With the same number of threads and processes on the same machine the final weights have the
    same bits, however often training was stopped or killed. Errors are those of `run_training`.

    Returns:
        The state after the last step.
    """
    teacher = load_teacher(config, run)
    device_config, state, data = load(config, run, world)
    device = device_config.device
    is_frozen = config.model.is_frozen
    state.cross_validation = read_calibration(config, data)
    write_environment(run, device_config, data.fingerprint, world)
    if run.resumed is not None and world.is_rank0:  # the images may have moved
        files.write_atomic(run.folder / "config.yaml", to_yaml(config))
    answers = None
    if teacher is not None:
        if run.resumed is None and world.is_rank0:
            check_seen_by_teacher(config, data)
            save_checkpoint(run.teacher, replace(teacher, training=None))
        answers = world.rank0_first(partial(answer_views, teacher, config, run, data, device))
    batches = Batches(
        data, config.augmentation, config.train.batch_size, config.seed, device, world, answers,
        config.train.teacher_weight,
    )  # fmt: skip
    if isinstance(state.network, BackboneNetwork) and not is_frozen:
        size = config.data.image_size
        check_image_size(state.network, config.model.name, batches.min_shard_size(), size)
    info(f"images: {state.preprocessing}")
    if state.initial is not None and world.is_rank0:
        left_out = "predictions for left-out images" * (is_frozen and any(data.train.sources))
        check_seen_images(config, state.initial, data, left_out)
        save_checkpoint(run.initial, replace(state.initial, training=None))
    elif run.resumed is None and world.is_rank0:
        run.initial.unlink(missing_ok=True)  # of an attempt with other weights
    state.set_training_labels(data.train.labels)
    state.val_paths = data.val.paths
    if is_frozen:
        train_head(config, run, state, data, device_config)
        return state
    if run.resumed is not None:
        state.restore(run.resumed)
        if not run.is_best_usable():
            state.reset_best()
    elif config.model.is_fine_tuned and (
        state.initial is None or not keeps_head(state.initial, config)
    ):
        fit_initial_head(config, run, state, data, device_config)
    if config.compile:
        compile_network(state.network, device_config.device)
    num_processes = f", {world.size} processes" if world.size > 1 else ""
    info(
        f"{config.model.name}: {count_parameters(state.network):,} parameters, on "
        f"{device_config.device} in {device_config.precision}, {torch.get_num_threads()} threads"
        f"{num_processes}"
    )
    first_step = state.step - state.step_in_epoch if run.resumed else None
    num_images = batches.num_images
    num_done = state.epoch * num_images + state.step_in_epoch * num_images // len(batches)
    known_sizes: set[int] = set()
    with (
        closing(MetricsLogger(run.folder if world.is_rank0 else None, first_step)) as logger,
        progress_bar("training", config.train.epochs * num_images, done=num_done) as bar,
        signals.deferred(world.size > 1),
    ):
        if run.resumed is None:
            _log_initial_state(config, state, batches, logger, run, bar)
            _save_epoch(config, state, run)
        try:
            while state.epoch < config.train.epochs:
                train_metrics = _train_epoch(
                    config, state, batches, device_config, run, bar, known_sizes
                )
                logits = metrics = None
                if is_validated(state.epoch + 1, config.train):
                    logits, metrics = _validate(config, state, batches, bar)
                state.end_epoch(metrics)
                if logits is not None and summaries.is_logged(state.epoch, config.train):
                    summaries.log_epoch(logger, config, state, data, logits)
                    if world.is_rank0:
                        _write_label_issues(config, state, data, run)
                logger.write_epoch(state.epoch, state.step, train_metrics, metrics)
                _save_epoch(config, state, run)
                _log_progress(state, train_metrics)
        except signals.Stopped:
            _save_last(config, state, run)
            world.barrier()  # a rank that exits early would end the others before they saved
            info(
                f"saved in epoch {state.epoch + 1}, after step {state.step}; the same command "
                "resumes from here"
            )
            raise
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise _out_of_memory_error(state) from error
    return state


def load(
    config: Config, run: RunFolder, world: World = SINGLE_PROCESS
) -> tuple[DeviceConfig, TrainState, Dataset]:
    """Load the network, and then the images, so that a missing network ends the run at once."""
    device_config = choose_device_config(config.device, config.precision, world)
    initial = None
    if run.resumed is not None:  # perhaps by an older version, whose pixels it is trained on
        preprocessing = run.resumed.preprocessing
    else:
        initial = load_initial(config.model)
        preprocessing = match_preprocessing(
            Preprocessing(config.data.image_size, config.data.resize), config.model, initial
        )
    is_resumed = run.resumed is not None
    state = build_state(config, preprocessing, device_config, is_resumed, world, initial)
    # A frozen backbone sees each image once, so that its pixels need no memory.
    on_disk = {"store": "disk"} if config.model.is_frozen else {}
    images = config.data.model_copy(update=on_disk)
    data = world.rank0_first(
        lambda: load_dataset(images, config.classes, config.seed, preprocessing, run.folder)
    )
    return device_config, state, data


def _train_epoch(
    config: Config,
    state: TrainState,
    batches: Batches,
    device_config: DeviceConfig,
    run: RunFolder,
    bar: ProgressBar,
    known_sizes: set[int],
) -> dict[str, float]:
    """Take the remaining steps of an epoch; return its metrics on train.

    The first step of each batch size is compiled or chooses kernels; `known_sizes` holds those
    taken.
    """
    save_seconds = 60 * config.checkpoint.save_every_minutes
    start_time = save_time = time.monotonic()
    num_images = 0
    for batch in batches.iterate_epoch(state.epoch, state.step_in_epoch):
        state.world.poll_signals()
        is_slow = len(batch.images) not in known_sizes
        if is_slow and config.compile:
            bar.set_note("compiling")
        # At the middle of the step, so that the rate of the first one is not 0.
        middle_of_step = state.epoch + (state.step_in_epoch + 0.5) / len(batches)
        lr_factor = scheduled_lr_factor(config.train, middle_of_step)
        try:
            is_finite = train_step(state, batch, lr_factor, device_config)
        except RuntimeError:
            signals.poll()  # Ctrl-C ends the compiler of torch.compile too
            raise
        if not is_finite:
            raise diverged_error(state, batches.paths(batch.indices))
        num_images += len(batch.labels)
        if is_slow:
            known_sizes.add(len(batch.images))
            bar.restart_rate()
            bar.set_note("")
        bar.advance(len(batch.labels))
        if bar.is_note_due():  # once a second: reading the sums waits for the device
            if not state.epoch_metrics.is_finite():
                raise diverged_error(state)
            speed = "" if (rate := bar.rate()) is None else f", {rate:,.0f} images/s"
            bar.set_note(f"loss {state.epoch_metrics.mean_loss():.3f}{speed}")
        if time.monotonic() - save_time >= save_seconds:
            _save_last(config, state, run)
            save_time = time.monotonic()
    if not state.epoch_metrics.is_finite():
        raise diverged_error(state)
    metrics = state.epoch_metrics.compute(config.classes)
    metrics["learning_rate"] = config.train.lr * current_lr_factor(state.optimizer)
    if num_images:  # 0 if the run was stopped between the last step of an epoch and its end
        metrics["images_per_second"] = num_images / (time.monotonic() - start_time)
    return metrics


def _validate(
    config: Config, state: TrainState, batches: Batches, bar: ProgressBar
) -> tuple[Tensor, dict[str, float]]:
    """Fit temperature and decision rule to val; return its (N, C) logits and its metrics."""
    labels = batches.data.val.labels
    every = config.train.validate_every_epochs
    num_finished = state.epoch + (state.step_in_epoch > 0)
    num_left = math.ceil(config.train.epochs / every) - num_finished // every
    with bar.taking_break("validating", num_left):
        state.ema.network, logits = choose_network(state, batches.data, batches.device)
        state.val_logits = logits
        state.calibrate(logits, labels, config)
        metrics = val_metrics(state, logits, labels, config.classes)
    return logits, metrics


def _log_initial_state(
    config: Config,
    state: TrainState,
    batches: Batches,
    logger: MetricsLogger,
    run: RunFolder,
    bar: ProgressBar,
) -> None:
    """Log the metrics of the initial weights at step 0, and what is known before training."""
    data, train = batches.data, batches.data.train
    # In random order, because the training images are sorted by class.
    sample = torch.from_numpy(permutation(config.seed, 0, len(train.rows)))[:_NUM_INITIAL_IMAGES]
    split = Split([], train.rows[sample], train.labels[sample])
    logits = compute_val_logits(state, state.ema.network, data.pixels, split, batches.device)
    train_metrics = logit_metrics(logits, split.labels, config.classes)
    _, state.metrics = _validate(config, state, batches, bar)
    logger.write_epoch(0, 0, train_metrics, state.metrics)
    first = next(batches.iterate_epoch(0))
    summaries.log_run(logger, config, state, first, run.folder / "splits.csv")


def _write_label_issues(config: Config, state: TrainState, data: Dataset, run: RunFolder) -> None:
    """Write the label issues; networks that have not seen an image know best, if there are any."""
    if state.cross_validation is not None:
        scores = state.cross_validation.log_probabilities
        issues = find_out_of_fold_issues(scores, data.train, config.classes)
    elif config.model.is_fine_tuned and not run.initial.exists():  # the fit of the head has
        return
    else:
        issues = find_label_issues(state.label_stats, data.train, config.classes)
    write_label_issues(run.folder / "label_issues.csv", issues)


def _log_progress(state: TrainState, train_metrics: dict[str, float]) -> None:
    """Log the metrics of ten evenly spaced epochs."""
    epochs, metrics = state.settings.epochs, state.metrics
    if state.epoch * _NUM_MESSAGES // epochs == (state.epoch - 1) * _NUM_MESSAGES // epochs:
        return
    text = f"epoch {state.epoch} of {epochs}: train loss {train_metrics['loss']:.3f}"
    if metrics:
        text += f", val loss {metrics['loss']:.3f}, val macro recall {metrics['macro_recall']:.3f}"
    info(text)


def _save_epoch(config: Config, state: TrainState, run: RunFolder) -> None:
    """Save at the end of an epoch: `best.pt` first, because `last.pt` records its epoch."""
    if state.is_best():
        state.mark_best()
        if state.world.is_rank0:
            state.save(run.best, config, resumable=False)
    _save_last(config, state, run)


def _save_last(config: Config, state: TrainState, run: RunFolder) -> None:
    """Save `last.pt`, unless the loss is not finite, and keep the one before as `previous.pt`."""
    if not state.epoch_metrics.is_finite():
        raise diverged_error(state)
    if state.world.is_rank0:
        files.keep_copy(run.previous, run.last)
        state.save(run.last, config, resumable=True)


def _out_of_memory_error(state: TrainState) -> OutputError:
    size = state.settings.batch_size
    return OutputError(
        f"out of memory in epoch {state.epoch + 1}, step {state.step + 1}, with batches of {size}; "
        f"the checkpoints are from before. Try train.batch_size={max(1, size // 2)}"
    )


def check_folders(config: Config, folder: Path) -> None:
    """Raise if images cannot be read, or if the folder to write to is among them."""
    if config.data.source.is_dir():
        files.require_readable(config.data.source)
        files.require_outside(folder, config.data.source)
    if config.data.unlabelled is not None:
        files.require_outside(folder, Path(config.data.unlabelled).expanduser())


def require_images(config: Config) -> None:
    """Report missing images, and the key that names them, before a folder is made."""
    key, value = ("root", "FOLDER") if config.data.manifest is None else ("manifest", "FILE.csv")
    try:
        find_images(config.data, config.classes)
    except UsageError as error:
        raise UsageError(f"{error}; set data.{key}={value} to where your images are") from error


def _require_same_source(run: RunFolder, trained_on: dict[str, Any], config: Config) -> None:
    """Raise if a finished run was trained on other images than the command names."""
    known, source = Path(trained_on["root"] or trained_on["manifest"]), config.data.source
    if known.expanduser().resolve() == source.resolve():
        return
    with suppress(UserError):  # splits.csv is lost, or the manifest malformed
        if holds_split(run.folder / "splits.csv", source, "train"):
            return
    raise UsageError(
        f"this run is finished, and was trained on {known}, not on the images of {source}; for a "
        f"new run add name={config.name}-2"
    )


def _note_added_images(run: RunFolder, config: Config) -> None:
    """Say how many images a finished run has not seen, and how to train with them."""
    with suppress(UserError):  # the images may be gone, and the run is finished all the same
        table = find_images(config.data, config.classes)
        if num_added := count_added(run.folder / "splits.csv", table):
            info(
                f"{num_added:,} images were added since this run began, and it was not trained on "
                "them; --fresh trains with them and keeps this run under another name"
            )
