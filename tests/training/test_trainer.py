"""Training from the first to the last epoch, stopped anywhere, and resumed."""

import math
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook
from torchvision.models import mobilenet_v3_small

from clock import Clock, fake_clock
from images import make_splits
from moments import before, terminate
from neither.config.schema import Config
from neither.data.batches import Batch
from neither.data.preprocessing import Preprocessing
from neither.inference.classifier import compute_outputs
from neither.models.checkpoint import Checkpoint, load_checkpoint, read_archive
from neither.runtime import signals
from neither.runtime.errors import CheckpointError, DivergedError, OutputError
from neither.training import trainer, validation
from neither.training.optimizers import scheduled_lr_factor
from neither.training.run_folder import open_run_folder
from neither.training.state import TrainState
from neither.training.step import train_step
from outputs import assert_same, read_rows

pytestmark = pytest.mark.usefixtures("no_plots")

EPOCHS = 3
STEPS_PER_EPOCH = 3


def make_config(root: Path, **changes: Any) -> Config:  # noqa: ANN401
    train = {"epochs": EPOCHS, "batch_size": 8} | changes.pop("train", {})
    values = {
        "name": "test",
        "classes": ("dog", "human", "neither"),
        "device": "cpu",
        "data": {"root": str(root), "image_size": 32},
        "model": {"width": 8},
        "train": train,
    }
    return Config.model_validate(values | changes)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 21 training images, for batches of 7; tests do not change it."""
    return make_splits(tmp_path_factory.mktemp("trainer") / "images", train=7)


@pytest.fixture(scope="module")
def whole(images: Path, no_plots: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run that was not interrupted; tests do not change it."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(make_config(images), folder)
    return folder


def last_checkpoint(folder: Path) -> Checkpoint:
    return load_checkpoint(folder / "checkpoints" / "last.pt")


def train(config: Config, folder: Path) -> TrainState:
    with open_run_folder(config, folder, fresh=False) as run:
        return trainer.train(config, run)


def stop_before_step(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send a real signal when the step of this number, from 0 on, is about to be taken."""
    before(trainer, "train_step", number + 1, terminate)(monkeypatch)


def stop_in_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send a real signal in the first step; as Ctrl-C does, it ends the C++ compiler too."""

    def compile_step(*_: object) -> bool:
        signal.raise_signal(signal.SIGTERM)
        raise RuntimeError("C++ compile error")

    monkeypatch.setattr(trainer, "train_step", compile_step)


def train_until_stopped(
    config: Config, folder: Path, stop: Callable[[pytest.MonkeyPatch], None]
) -> int:
    with pytest.MonkeyPatch.context() as patch, signals.installed():
        stop(patch)
        with pytest.raises(signals.Stopped) as stopped:
            train(config, folder)
    return stopped.value.exit_code


def assert_same_run(one: Path, other: Path) -> None:
    """Compare both checkpoints to the bit, and the rows of `metrics.jsonl`."""
    for name in ("last.pt", "best.pt"):
        left, right = (read_archive(run / "checkpoints" / name)[0] for run in (one, other))
        assert_same(left, right, name)
    assert read_rows(one) == read_rows(other)


STOPS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "in mid-epoch": before(trainer, "train_step", STEPS_PER_EPOCH + 2, terminate),
    "at the end of an epoch": before(trainer, "train_step", 2 * STEPS_PER_EPOCH + 1, terminate),
    "in the last step": before(trainer, "train_step", EPOCHS * STEPS_PER_EPOCH, terminate),
    "in the compiler": stop_in_compiler,
    "in validation": before(validation, "compute_outputs", 4, terminate),
}


@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS.keys())
def test_a_stopped_run_ends_in_the_same_bits(
    stop: Callable[[pytest.MonkeyPatch], None], images: Path, whole: Path, tmp_path: Path
) -> None:
    config = make_config(images)
    assert train_until_stopped(config, tmp_path / "run", stop) == 143
    train(config, tmp_path / "run")
    assert_same_run(tmp_path / "run", whole)


def test_saving_in_mid_epoch_changes_nothing_and_each_batch_is_one_step(
    images: Path, whole: Path, tmp_path: Path
) -> None:
    num_steps = 0

    def count(*_: object) -> None:
        nonlocal num_steps
        num_steps += 1

    hook = register_optimizer_step_post_hook(count)
    try:
        state = train(make_config(images, checkpoint={"save_every_minutes": 1e-9}), tmp_path)
    finally:
        hook.remove()
    assert num_steps == state.step == EPOCHS * STEPS_PER_EPOCH
    assert_same(last_checkpoint(whole).weights, dict(state.ema.network.state_dict()))


@pytest.mark.property("P17")
def test_training_overfits_eight_images(make_images: Callable[..., Path], tmp_path: Path) -> None:
    unchanged = {"crop_scale": (1.0, 1.0), "horizontal_flip": False, "rotation_degrees": 0.0,
                 "color_jitter": 0.0, "grayscale": 0.0, "random_erasing": 0.0}  # fmt: skip
    root = make_images(train=3)
    (root / "train" / "neither" / "002.png").unlink()
    config = make_config(
        root,
        augmentation=unchanged,
        train={"epochs": 40, "batch_size": 8, "ema_decay": 0.5, "weight_decay": 0.0, "lr": 0.05,
               "validate_every_epochs": 40},
    )  # fmt: skip
    train(config, tmp_path / "run")
    *_, last = (row["train"] for row in read_rows(tmp_path / "run"))
    assert last["accuracy"] == 1.0
    assert last["loss"] < 1e-3


@pytest.mark.property("P17")
def test_curves_begin_with_the_loss_of_random_weights(whole: Path) -> None:
    first = read_rows(whole)[0]
    assert (first["epoch"], first["step"]) == (0, 0)
    for split in ("train", "val"):
        assert first[split]["loss"] == pytest.approx(math.log(3), abs=0.1)


def test_zero_epochs_leave_a_usable_checkpoint_and_the_images_as_they_were(
    images: Path, tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in [images, *images.rglob("*")]}
    train(make_config(images, train={"epochs": 0}), tmp_path / "run")
    checkpoint = load_checkpoint(tmp_path / "run")
    assert (checkpoint.epoch, checkpoint.step) == (0, 0)
    assert not checkpoint.build().training
    assert before == {path: path.stat().st_mtime_ns for path in [images, *images.rglob("*")]}


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "NaN": lambda loss: loss * math.nan,
    "finite, with a gradient that is not": lambda loss: loss + (loss - loss.detach()).sqrt(),
}


@pytest.mark.fault("R17")
@pytest.mark.parametrize("change", LOSSES.values(), ids=LOSSES.keys())
def test_a_step_with_a_loss_or_gradient_that_is_not_finite_is_not_taken(
    change: Callable[[Tensor], Tensor], images: Path, whole: Path, tmp_path: Path
) -> None:
    config, cross_entropy = make_config(images), F.cross_entropy
    num_losses = 0
    parameters: list[tuple[Tensor, Tensor]] = []

    def changed_loss(*arguments: Any, **options: Any) -> Tensor:  # noqa: ANN401
        nonlocal num_losses
        num_losses += 1
        loss = cross_entropy(*arguments, **options)
        return change(loss) if num_losses == STEPS_PER_EPOCH + 2 else loss

    def watched_step(state: TrainState, *arguments: Any) -> bool:  # noqa: ANN401
        before = [weights.detach().clone() for weights in state.network.parameters()]
        was_taken = train_step(state, *arguments)
        parameters[:] = zip(before, state.network.parameters(), strict=True)
        return was_taken

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "cross_entropy", changed_loss)
        patch.setattr(trainer, "train_step", watched_step)
        expected = r"in epoch 2, in step 5, with train/.*png in its batch"
        with pytest.raises(DivergedError, match=expected) as diverged:
            train(config, tmp_path / "run")
    assert diverged.value.exit_code == 7
    assert parameters
    assert all(torch.equal(before, after) for before, after in parameters)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.partition("the images of this batch: ")[2].partition("\n")[0].count("train/") == 6
    last = last_checkpoint(tmp_path / "run")
    assert (last.epoch, last.step) == (1, STEPS_PER_EPOCH)
    train(config, tmp_path / "run")
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.fault("R14")
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("a defect"),
    ],
    ids=repr,
)
def test_too_little_memory_is_reported_with_a_smaller_batch(
    error: Exception, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bool:
        raise error

    monkeypatch.setattr(trainer, "train_step", fail)
    with pytest.raises((OutputError, RuntimeError)) as raised:
        train(make_config(images), tmp_path / "run")
    if "defect" in str(error):
        assert raised.value is error
    else:
        message = str(raised.value)
        assert "epoch 1, step 1, with batches of 8" in message
        assert "train.batch_size=4" in message
    assert load_checkpoint(tmp_path / "run").step == 0


@pytest.mark.fault("K01", "K15", "R02")
@pytest.mark.parametrize("is_there", [True, False], ids=["damaged", "missing"])
def test_a_run_whose_last_checkpoint_was_lost_ends_in_the_same_bits(
    is_there: bool, images: Path, whole: Path, tmp_path: Path
) -> None:
    config = make_config(images)
    train_until_stopped(config, tmp_path / "run", STOPS["in the last step"])
    last = tmp_path / "run" / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:-1])
    if not is_there:
        last.unlink()
    train(config, tmp_path / "run")
    assert_same_run(tmp_path / "run", whole)


def test_a_run_whose_best_checkpoint_was_lost_makes_another(images: Path, tmp_path: Path) -> None:
    config = make_config(images)
    train_until_stopped(config, tmp_path / "run", STOPS["in mid-epoch"])
    best = tmp_path / "run" / "checkpoints" / "best.pt"
    best.write_bytes(b"lost")
    train(config, tmp_path / "run")
    assert load_checkpoint(best).epoch > 1


def test_a_run_that_lost_both_checkpoints_is_not_started_again_unasked(
    images: Path, tmp_path: Path
) -> None:
    config = make_config(images, train={"epochs": 1})
    train(config, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "last.pt").unlink()
    (tmp_path / "run" / "checkpoints" / "previous.pt").unlink()
    with pytest.raises(CheckpointError, match=r"last\.pt is missing.*--fresh"):
        train(config, tmp_path / "run")


def test_a_run_that_is_seldom_validated_resumes_to_the_bit(images: Path, tmp_path: Path) -> None:
    config = make_config(
        images, train={"epochs": 3, "validate_every_epochs": 2}, augmentation={"cutmix": 0.5}
    )
    state = train(config, tmp_path / "whole")
    rows = read_rows(tmp_path / "whole")
    val = {row["epoch"]: row["val"] for row in rows if "val" in row}
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]
    assert list(val) == [0, 2, 3]  # always after the last epoch
    best = load_checkpoint(tmp_path / "whole")
    assert best.metrics == val[best.epoch]
    assert state.metrics == val[3]
    train_until_stopped(config, tmp_path / "part", partial(stop_before_step, 4))
    train(config, tmp_path / "part")
    assert_same_run(tmp_path / "part", tmp_path / "whole")


def test_a_run_resumes_with_the_pixels_that_it_started_with(images: Path, tmp_path: Path) -> None:
    config = make_config(images, train={"epochs": 1})

    def stop_in_an_older_version(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(trainer, "Preprocessing", partial(Preprocessing, decoder=2))
        stop_before_step(1, patch)

    train_until_stopped(config, tmp_path / "run", stop_in_an_older_version)
    state = train(config, tmp_path / "run")
    assert state.preprocessing == Preprocessing(32, config.data.resize, decoder=2)
    assert load_checkpoint(tmp_path / "run").preprocessing == state.preprocessing


def test_a_pretrained_run_resumes_to_the_bit_without_its_weights_file(
    images: Path, tmp_path: Path
) -> None:
    """With dropout and batch norm."""
    torch.manual_seed(7)
    pretrained = mobilenet_v3_small().state_dict()
    torch.save(pretrained, tmp_path / "own.pth")
    model = {"name": "mobilenet_v3_small", "weights": str(tmp_path / "own.pth")}
    config = make_config(images, model=model, train={"epochs": 2})
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(config, whole)
    for number in (1, 2):  # steps of each attempt
        train_until_stopped(config, stopped, partial(stop_before_step, number))
        (tmp_path / "own.pth").unlink(missing_ok=True)
    train(config, stopped)
    assert_same_run(whole, stopped)
    kernel = "backbone.features.0.0.weight"
    assert not torch.equal(
        last_checkpoint(whole).weights[kernel], pretrained["features.0.0.weight"]
    )
    assert load_checkpoint(whole).build()(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    assert read_rows(whole)[1]["train"]["learning_rate"] == pytest.approx(
        0.02 * scheduled_lr_factor(config.train, 2.5 / STEPS_PER_EPOCH)
    )


def advance_clock(clock: Clock, patch: pytest.MonkeyPatch) -> list[float]:
    """Let a step take 3 s, the first of each size a minute, validation 7; return the step times."""
    taken: list[float] = []
    sizes: set[int] = set()

    def timed_step(state: TrainState, batch: Batch, *arguments: Any) -> bool:  # noqa: ANN401
        clock.now += 3 if len(batch.labels) in sizes else 60
        sizes.add(len(batch.labels))
        taken.append(clock.now)
        return train_step(state, batch, *arguments)

    def timed_logits(*arguments: Any) -> Tensor:  # noqa: ANN401
        clock.now += 7
        return compute_outputs(*arguments)

    patch.setattr(trainer, "train_step", timed_step)
    patch.setattr(validation, "compute_outputs", timed_logits)
    return taken


def test_the_time_left_of_a_run_and_of_a_resumed_one(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = fake_clock(monkeypatch)
    config = make_config(images, train={"epochs": 8, "batch_size": 8})
    with monkeypatch.context() as patch:
        taken = advance_clock(clock, patch)
        train(config, tmp_path / "whole")
    clock.check(taken[2], clock.now)
    assert 7 * 21 < clock.estimates()[-1][1] <= 8 * 21

    train_until_stopped(config, tmp_path / "run", partial(stop_before_step, 13))
    clock.now, clock.lines = 0.0, []
    taken = advance_clock(clock, monkeypatch)
    train(config, tmp_path / "run")
    first, last = clock.estimates()[0], clock.estimates()[-1]
    assert 14 * 7 < first[1] < 16 * 7
    assert 7 * 21 < last[1] <= 8 * 21
    clock.check(taken[2], clock.now)
