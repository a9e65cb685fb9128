"""Train a network: load, loop, step, log, evaluate, save."""

import time
from contextlib import closing

import torch

from neither import files, stopping
from neither.config import Config
from neither.data.batches import Batches
from neither.data.dataset import Dataset, Split, load_dataset
from neither.data.preprocessing import Preprocessing
from neither.devices import Compute, choose_compute
from neither.errors import OutputError, is_out_of_memory
from neither.model.network import count_parameters
from neither.model.pretrained import suited
from neither.model.torchvision_network import TorchvisionNetwork, require_size
from neither.randomness import permutation
from neither.ranks import ALONE, Ranks
from neither.terminal import Bar, progress, say
from neither.training import gallery
from neither.training.compilation import compile_network
from neither.training.divergence import diverged
from neither.training.environment import write_environment
from neither.training.optimizer import current_share, rate_share
from neither.training.run import Run
from neither.training.state import State, new_state
from neither.training.step import take_step
from neither.training.suspects import find_suspects, write_suspects
from neither.training.tracking import Tracker
from neither.training.validation import figures_of, is_measured, measure, score

_NUM_TOLD = 10
_NUM_BEFORE = 256


def train(config: Config, run: Run, ranks: Ranks = ALONE) -> State:
    """Train from the beginning, or from where the run stopped, to the last epoch.

    With the same number of threads and processes on the same machine the final weights are the same
    to the bit, however often training was stopped or killed in between.

    Args:
        config: of the run.
        run: its opened folder, which gets everything that training writes.
        ranks: the processes that train it together, of which the first alone writes.

    Returns:
        The state after the last step.

    Raises:
        DataError: if the images cannot be used.
        DivergedError: if the loss or its gradient is no longer finite.
        OutputError: if the device is missing or a decoding process was killed.
        Stopped: if a signal asked for an end; the state is saved.
    """
    compute = choose_compute(config.device, config.precision, ranks)
    preprocessing = suited(Preprocessing(config.data.image_size, config.data.resize), config.model)
    # Before the images: a network that cannot be had ends the run at once.
    state = new_state(config, preprocessing, compute, run.resumed is not None, ranks)
    data = ranks.in_turn(lambda: load_dataset(
        config.data, config.classes, config.seed, preprocessing, run.folder
    ))  # fmt: skip
    write_environment(run, compute, data.fingerprint, ranks)
    batches = Batches(
        data.pixels, data.train.rows, data.train.labels, len(config.classes),
        config.train.batch_size, config.seed, config.augmentation, preprocessing, compute.device,
        ranks,
    )  # fmt: skip
    if isinstance(state.network, TorchvisionNetwork):
        require_size(state.network, config.model.name, batches.fewest(), config.data.image_size)
    say(f"images: {preprocessing}")
    state.meet(data.train.labels)
    if run.resumed is not None:
        state.restore(run.resumed)
        if not run.has_sound_best():
            state.forget_best()
    if config.compile:
        compile_network(state.network, compute.device)
    say(f"{config.model.name}: {count_parameters(state.network):,} parameters, on "
        f"{compute.device} in {compute.precision}, {torch.get_num_threads()} threads"
        + (f", {ranks.size} processes" if ranks.size > 1 else ""))  # fmt: skip
    total = config.train.epochs * len(batches)
    with (
        closing(Tracker(
            run.folder if ranks.is_first else None, state.begins_at() if run.resumed else None
        )) as tracker,
        progress("training", total, "steps", state.step) as bar,
        stopping.held(ranks.size > 1),
    ):  # fmt: skip
        if run.resumed is None:
            _begin(state, data, batches, tracker, run)
            _save_epoch(state, run)
        try:
            while state.epoch < config.train.epochs:
                figures = _train_epoch(state, data, batches, compute, run, bar)
                logits = metrics = None
                if is_measured(state.epoch + 1, config.train):
                    logits = score(state, data.pixels, data.val, compute.device)
                    metrics = measure(state, logits, data.val.labels)
                state.end_epoch(metrics)
                if logits is not None and gallery.is_shown(state.epoch, config.train):
                    gallery.show_epoch(tracker, state, data, logits)
                    if ranks.is_first:
                        suspects = find_suspects(state.doubts, data.train, config.classes)
                        write_suspects(run.folder / "suspects.csv", suspects)
                tracker.write_epoch(state.epoch, state.step, figures, metrics)
                _save_epoch(state, run)
                _tell(state, figures)
        except stopping.Stopped:
            _save(state, run)
            ranks.wait()  # whoever ends before the others are done ends them
            say(f"saved in epoch {state.epoch + 1}, after step {state.step}; the same command goes "
                "on from here")  # fmt: skip
            raise
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise _too_large(state) from error
    return state


def _train_epoch(
    state: State, data: Dataset, batches: Batches, compute: Compute, run: Run, bar: Bar
) -> dict[str, float]:
    """Take the steps that are left of an epoch; return the values of its curves."""
    settings = state.config.train
    state.begin_epoch()
    every_seconds = 60 * state.config.checkpoint.save_every_minutes
    started = saved = time.monotonic()
    num_images = 0
    for batch in batches.epoch(state.epoch, state.step_in_epoch):
        state.ranks.poll()
        moment = state.epoch + (state.step_in_epoch + 0.5) / len(batches)
        if not take_step(state, batch, rate_share(settings, moment), compute):
            raise diverged(state, [data.train.paths[place] for place in batch.indices.tolist()])
        num_images += len(batch.labels)
        bar.advance()
        if bar.is_due():
            if not state.tally.is_finite():
                raise diverged(state)
            speed = num_images / (time.monotonic() - started)
            bar.note(f"loss {state.tally.mean_loss():.3f}, {speed:,.0f} images/s")
        if time.monotonic() - saved >= every_seconds:
            _save(state, run)
            saved = time.monotonic()
    if not state.tally.is_finite():
        raise diverged(state)
    figures = state.tally.figures(state.config.classes)
    figures["learning_rate"] = settings.lr * current_share(state.optimizer)
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
    logits = score(state, data.pixels, before, device)
    figures = figures_of(logits, before.labels, state.config.classes)
    logits = score(state, data.pixels, data.val, device)
    state.metrics = measure(state, logits, data.val.labels)
    tracker.write_epoch(0, 0, figures, state.metrics)
    gallery.show_run(tracker, state, next(batches.epoch(0)), run.folder / "splits.csv")


def _save_epoch(state: State, run: Run) -> None:
    """Save at the end of an epoch: `best.pt` first, so that `last.pt` never claims a lost one."""
    if state.is_best():
        state.keep_best()
        if state.ranks.is_first:
            state.save(run.best, to_go_on=False)
    _save(state, run)


def _save(state: State, run: Run) -> None:
    """Save to go on from here, unless there is nothing sound to go on from."""
    if not state.tally.is_finite():
        raise diverged(state)
    if state.ranks.is_first:
        files.keep_as(run.previous, run.last)
        state.save(run.last, to_go_on=True)


def _too_large(state: State) -> OutputError:
    size = state.config.train.batch_size
    return OutputError(
        f"out of memory in epoch {state.epoch + 1}, step {state.step + 1}, with batches of {size}; "
        f"the checkpoints are from before. Try train.batch_size={max(1, size // 2)}"
    )
