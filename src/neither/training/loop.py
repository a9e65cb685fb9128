"""Train a network: load, loop, step, log, evaluate, save."""

import time
from collections.abc import Sequence
from contextlib import closing

import torch
from torch import Tensor

from neither import files, stopping
from neither.config import Config, Train
from neither.data.batches import Batches
from neither.data.dataset import Dataset, Split, load_dataset
from neither.data.preprocessing import Preprocessing
from neither.devices import Compute, choose_compute
from neither.errors import DivergedError, OutputError, is_out_of_memory
from neither.evaluation.calibration import ece
from neither.evaluation.metrics import count_confusions, curve_figures, nll
from neither.inference.classifier import compute_logits
from neither.model.network import count_parameters
from neither.model.softmax import to_probabilities
from neither.randomness import permutation
from neither.terminal import Bar, note, printable, progress, say
from neither.training import gallery
from neither.training.compilation import compile_network
from neither.training.environment import write_environment
from neither.training.optimizer import rate_share
from neither.training.run import Run
from neither.training.state import State, new_state
from neither.training.step import take_step
from neither.training.suspects import find_suspects, write_suspects
from neither.training.tracking import Tracker

_NUM_TOLD = 10
_NUM_BEFORE = 256


def train(config: Config, run: Run) -> State:
    """Train from the beginning, or from where the run stopped, to the last epoch.

    With the same number of threads on the same machine the final weights are the same to the bit,
    however often training was stopped or killed in between.

    Args:
        config: of the run.
        run: its opened folder, which gets everything that training writes.

    Returns:
        The state after the last step.

    Raises:
        DataError: if the images cannot be used.
        DivergedError: if the loss or its gradient is no longer finite.
        OutputError: if the device is missing or a decoding process was killed.
        Stopped: if a signal asked for an end; the state is saved.
    """
    compute = choose_compute(config.device, config.precision)
    preprocessing = Preprocessing(config.data.image_size, config.data.resize)
    data = load_dataset(config.data, config.classes, config.seed, preprocessing, run.folder)
    write_environment(run, compute, data.fingerprint)
    batches = Batches(
        data.pixels, data.train.rows, data.train.labels, len(config.classes),
        config.train.batch_size, config.seed, config.augmentation, preprocessing, compute.device,
    )  # fmt: skip
    say(f"images: {preprocessing}")
    state = new_state(config, preprocessing, compute, data.train.labels)
    state.shares = data.train.shares(len(config.classes))
    if run.resumed is not None:
        state.restore(run.resumed)
        if not run.has_sound_best():
            state.forget_best()
    if config.compile:
        compile_network(state.network, compute.device)
    say(f"{config.model.name}: {count_parameters(state.network):,} parameters, on "
        f"{compute.device} in {compute.precision}, {torch.get_num_threads()} threads")  # fmt: skip
    total = config.train.epochs * len(batches)
    with (
        closing(Tracker(run.folder, state.begins_at() if run.resumed else None)) as tracker,
        progress("training", total, "steps", state.step) as bar,
    ):
        if run.resumed is None:
            _begin(state, data, batches, tracker, run)
            _save_epoch(state, run)
        try:
            while state.epoch < config.train.epochs:
                figures = _train_epoch(state, data, batches, compute, run, bar)
                logits = metrics = None
                if _is_measured(state.epoch + 1, config.train):
                    logits = _score(state, data.pixels, data.val, compute.device)
                    metrics = _measure(state, logits, data.val.labels)
                state.end_epoch(metrics)
                if logits is not None and gallery.is_shown(state.epoch, config.train):
                    gallery.show_epoch(tracker, state, data, logits)
                    suspects = find_suspects(state.doubts, data.train, config.classes)
                    write_suspects(run.folder / "suspects.csv", suspects)
                tracker.write_epoch(state.epoch, state.step, figures, metrics)
                _save_epoch(state, run)
                _tell(state, figures)
        except stopping.Stopped:
            _save(state, run)
            say(f"saved in epoch {state.epoch + 1}, after step {state.step}; the same command goes "
                "on from here")  # fmt: skip
            raise
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise _too_large(state) from error
    return state


def _is_measured(epoch: int, settings: Train) -> bool:
    return epoch % settings.val_every_epochs == 0 or epoch == settings.epochs


def _train_epoch(
    state: State, data: Dataset, batches: Batches, compute: Compute, run: Run, bar: Bar
) -> dict[str, float]:
    """Take the steps that are left of an epoch; return the values of its curves."""
    settings = state.config.train
    every_seconds = 60 * state.config.checkpoint.save_every_minutes
    started = saved = time.monotonic()
    num_images = 0
    for batch in batches.epoch(state.epoch, state.step_in_epoch):
        stopping.poll()
        moment = state.epoch + (state.step_in_epoch + 0.5) / len(batches)
        if not take_step(state, batch, rate_share(settings, moment), compute):
            raise _diverged(state, [data.train.paths[place] for place in batch.indices.tolist()])
        num_images += len(batch.labels)
        bar.advance()
        if bar.is_due():
            if not state.tally.is_finite():
                raise _diverged(state)
            speed = num_images / (time.monotonic() - started)
            bar.note(f"loss {state.tally.mean_loss():.3f}, {speed:,.0f} images/s")
        if time.monotonic() - saved >= every_seconds:
            _save(state, run)
            saved = time.monotonic()
    if not state.tally.is_finite():
        raise _diverged(state)
    figures = state.tally.figures(state.config.classes)
    figures["learning_rate"] = state.optimizer.param_groups[0]["lr"]
    if num_images:  # none if an earlier attempt was stopped between the last step and the end
        figures["images_per_second"] = num_images / (time.monotonic() - started)
    return figures


def _tell(state: State, train: dict[str, float]) -> None:
    """Say how training goes, at ten evenly spaced epochs."""
    epochs, metrics = state.config.train.epochs, state.metrics
    if state.epoch * _NUM_TOLD // epochs == (state.epoch - 1) * _NUM_TOLD // epochs:
        return
    text = f"epoch {state.epoch} of {epochs}: train loss {train['loss']:.3f}"
    if metrics:
        text += (f", val loss {metrics['loss']:.3f}, val macro recall "
                 f"{metrics['macro_recall']:.3f}")  # fmt: skip
    say(text)


def _begin(state: State, data: Dataset, batches: Batches, tracker: Tracker, run: Run) -> None:
    """Put the random weights on the curves, and show what the network is about to see."""
    # A few training images say enough of random weights, taken from all over: the list is by class.
    device = batches.device
    some = torch.from_numpy(permutation(batches.seed, 0, len(batches.rows)))[:_NUM_BEFORE]
    before = Split([], data.train.rows[some], data.train.labels[some])
    logits = _score(state, data.pixels, before, device)
    figures = _figures(logits, before.labels, state.config.classes)
    logits = _score(state, data.pixels, data.val, device)
    state.metrics = _measure(state, logits, data.val.labels)
    tracker.write_epoch(0, 0, figures, state.metrics)
    gallery.show_run(tracker, state, next(batches.epoch(0)), run.folder / "splits.csv")


def _measure(state: State, logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Measure logits of val, and fit what turns them into decisions."""
    state.calibrate(logits, labels)
    return _figures(logits, labels, state.config.classes) | {
        "calibrated_loss": nll(logits, labels, state.temperature),
        "temperature": state.temperature,
        "ece": ece(to_probabilities(logits, state.temperature), labels).value,
    }


def _score(state: State, pixels: Tensor, split: Split, device: torch.device) -> Tensor:
    """Return the logits of the averaged weights, exactly as `evaluate` would."""
    logits = compute_logits(state.answering, pixels, split.rows, state.preprocessing, device)
    if not logits.isfinite().all():
        raise _diverged(state)
    return logits


def _figures(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> dict[str, float]:
    """Return the values of the curves; the loss, as on train, is that of the logits as they are."""
    confusion = count_confusions(labels, logits.argmax(dim=1), len(classes))
    return curve_figures(nll(logits, labels, 1.0), confusion, classes)


def _save_epoch(state: State, run: Run) -> None:
    """Save at the end of an epoch: `best.pt` first, so that `last.pt` never claims a lost one."""
    if state.is_best():
        state.keep_best()
        state.save(run.best, to_go_on=False)
    _save(state, run)


def _save(state: State, run: Run) -> None:
    """Save to go on from here, unless there is nothing sound to go on from."""
    if not state.tally.is_finite():
        raise _diverged(state)
    files.keep_as(run.previous, run.last)
    state.save(run.last, to_go_on=True)


def _diverged(state: State, paths: Sequence[str] = ()) -> DivergedError:
    """Say where the loss was lost: in the step that would come next, or at most a second ago."""
    step = f"by step {state.step}"
    if paths:
        step = f"in step {state.step + 1}, with {printable(paths[0])} in its batch"
        note("the images of this batch: " + ", ".join(map(printable, paths)))
    return DivergedError(
        f"the loss or its gradient is no longer finite in epoch {state.epoch + 1}, {step}; the "
        "checkpoints are from before. Try a lower train.lr"
    )


def _too_large(state: State) -> OutputError:
    size = state.config.train.batch_size
    return OutputError(
        f"out of memory in epoch {state.epoch + 1}, step {state.step + 1}, with batches of {size}; "
        f"the checkpoints are from before. Try train.batch_size={max(1, size // 2)}"
    )
