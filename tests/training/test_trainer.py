"""Training from begin to end, stopped anywhere, and gone on with."""

import json
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

from neither.config.schema import Config
from neither.inference.classifier import compute_logits
from neither.models.checkpoint import load_checkpoint, read_archive, write_archive
from neither.runtime import signals
from neither.runtime.console import log_to_folder
from neither.runtime.errors import CheckpointError, DivergedError, OutputError
from neither.training import trainer, validation
from neither.training.lr_schedule import lr_factor
from neither.training.run_folder import open_run_folder
from neither.training.state import TrainState
from neither.training.step import train_step

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


def train(config: Config, folder: Path) -> TrainState:
    with open_run_folder(config, folder, fresh=False) as run:
        return trainer.train(config, run)


def stop_before_step(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send a real signal when the step of this number is about to be taken."""
    taken = 0

    def counted(*arguments: Any) -> bool:  # noqa: ANN401
        nonlocal taken
        if taken == number:
            signal.raise_signal(signal.SIGTERM)
        taken += 1
        return train_step(*arguments)

    monkeypatch.setattr(trainer, "train_step", counted)


def stop_in_validation(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send a real signal when logits are computed for the time of this number."""
    calls = 0

    def counted(*arguments: Any) -> Tensor:  # noqa: ANN401
        nonlocal calls
        calls += 1
        if calls == number:
            signal.raise_signal(signal.SIGTERM)
        return compute_logits(*arguments)

    monkeypatch.setattr(validation, "compute_logits", counted)


def train_until_stopped(
    config: Config, folder: Path, stop: Callable[[pytest.MonkeyPatch], None]
) -> int:
    with pytest.MonkeyPatch.context() as patch, signals.installed():
        stop(patch)
        with pytest.raises(signals.Stopped) as stopped:
            train(config, folder)
    return stopped.value.exit_code


def assert_same(one: Any, other: Any, place: str = "") -> None:  # noqa: ANN401
    """Compare nested values, tensors to the bit."""
    assert type(one) is type(other), place
    if isinstance(one, Tensor):
        assert torch.equal(one, other), place
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            assert_same(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), place
        for number, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_same(left, right, f"{place}.{number}")
    else:
        assert one == other, place


def read_rows(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row["train"].pop("images_per_second", None)  # the one figure that is not repeatable
    return rows


STOPS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "before the first step": lambda patch: stop_before_step(0, patch),
    "in mid-epoch": lambda patch: stop_before_step(STEPS_PER_EPOCH + 1, patch),
    "at the end of an epoch": lambda patch: stop_before_step(2 * STEPS_PER_EPOCH, patch),
    "in the last step": lambda patch: stop_before_step(EPOCHS * STEPS_PER_EPOCH - 1, patch),
    "in validation": lambda patch: stop_in_validation(4, patch),
}


@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS.keys())
def test_a_stopped_run_ends_in_the_same_bits(
    stop: Callable[[pytest.MonkeyPatch], None],
    make_images: Callable[..., Path],
    tmp_path: Path,
) -> None:
    config = make_config(make_images(train=7))
    train(config, tmp_path / "whole")
    assert train_until_stopped(config, tmp_path / "stopped", stop) == 143
    train(config, tmp_path / "stopped")
    for name in ("last.pt", "best.pt"):
        whole, resumed = (
            vars(load_checkpoint(tmp_path / run / "checkpoints" / name))
            for run in ("whole", "stopped")
        )
        assert whole.pop("model") == resumed.pop("model")
        assert whole.pop("preprocessing") == resumed.pop("preprocessing")
        assert_same(whole, resumed)
    assert read_rows(tmp_path / "whole") == read_rows(tmp_path / "stopped")


def test_a_run_resumed_without_its_momenta_ends_elsewhere(
    make_images: Callable[..., Path], tmp_path: Path
) -> None:
    """The negative twin: the comparison above would notice a part of the state that is lost."""
    config = make_config(make_images(train=7))
    whole = train(config, tmp_path / "whole")
    stop = STOPS["in mid-epoch"]
    train_until_stopped(config, tmp_path / "stopped", stop)
    path = tmp_path / "stopped" / "checkpoints" / "last.pt"
    content, _ = read_archive(path)
    for momenta in content["training"]["optimizer"]["state"].values():
        momenta["momentum_buffer"].zero_()
    write_archive(path, content)
    resumed = train(config, tmp_path / "stopped")
    assert not torch.equal(
        whole.network.state_dict()["head.weight"], resumed.network.state_dict()["head.weight"]
    )


def test_saving_in_mid_epoch_changes_nothing(
    make_images: Callable[..., Path], tmp_path: Path
) -> None:
    root = make_images(train=7)
    often = make_config(root, checkpoint={"save_every_minutes": 1e-9})
    seldom = train(make_config(root), tmp_path / "seldom")
    assert_same(
        seldom.ema.network.state_dict(),
        train(often, tmp_path / "often").ema.network.state_dict(),
    )


def test_the_seed_changes_the_weights(make_images: Callable[..., Path], tmp_path: Path) -> None:
    root = make_images()
    one = train(make_config(root), tmp_path / "one")
    other = train(make_config(root, seed=1), tmp_path / "other")
    assert not torch.equal(one.network.state_dict()["head.weight"],
                           other.network.state_dict()["head.weight"])  # fmt: skip


def test_each_batch_gets_one_optimizer_step(
    make_images: Callable[..., Path], tmp_path: Path
) -> None:
    steps = 0

    def count(*_: object) -> None:
        nonlocal steps
        steps += 1

    hook = register_optimizer_step_post_hook(count)
    try:
        state = train(make_config(make_images(train=7)), tmp_path / "run")
    finally:
        hook.remove()
    assert steps == state.step == EPOCHS * STEPS_PER_EPOCH


@pytest.mark.property("P17")
def test_training_overfits_eight_images(make_images: Callable[..., Path], tmp_path: Path) -> None:
    still = {"crop_scale": (1.0, 1.0), "horizontal_flip": False, "rotation_degrees": 0.0,
             "color_jitter": 0.0, "grayscale": 0.0, "random_erasing": 0.0}  # fmt: skip
    root = make_images(train=3)
    (root / "train" / "neither" / "002.png").unlink()
    config = make_config(
        root,
        augmentation=still,
        train={"epochs": 80, "batch_size": 8, "ema_decay": 0.5, "weight_decay": 0.0, "lr": 0.05,
               "validate_every_epochs": 80},
    )  # fmt: skip
    train(config, tmp_path / "run")
    first, *_, last = (row["train"] for row in read_rows(tmp_path / "run"))
    assert first["loss"] == pytest.approx(math.log(3), abs=0.1)
    assert last["accuracy"] == 1.0
    assert last["loss"] < 1e-3


@pytest.mark.property("P17")
def test_curves_begin_with_the_loss_of_random_weights(
    make_images: Callable[..., Path], tmp_path: Path
) -> None:
    train(make_config(make_images()), tmp_path / "run")
    first = read_rows(tmp_path / "run")[0]
    assert (first["epoch"], first["step"]) == (0, 0)
    for split in ("train", "val"):
        assert first[split]["loss"] == pytest.approx(math.log(3), abs=0.1)


def test_zero_epochs_leave_a_checkpoint_that_can_be_used(
    make_images: Callable[..., Path], tmp_path: Path
) -> None:
    train(make_config(make_images(), train={"epochs": 0}), tmp_path / "run")
    checkpoint = load_checkpoint(tmp_path / "run")
    assert (checkpoint.epoch, checkpoint.step) == (0, 0)
    assert not checkpoint.build().training


def test_a_diverged_run_stops_and_keeps_its_last_good_checkpoint(
    make_images: Callable[..., Path], tmp_path: Path
) -> None:
    root = make_images()
    config = make_config(
        root, train={"lr": 100.0, "max_grad_norm": 1e30, "epochs": 50, "warmup_epochs": 0}
    )
    with pytest.raises(DivergedError, match=r"step \d+.*train\.lr"):
        train(config, tmp_path / "run")
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")
    assert checkpoint.training is not None
    for name, weights in checkpoint.training["network"].items():
        assert torch.isfinite(weights).all(), name


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "NaN": lambda loss: loss * math.nan,
    "infinite": lambda loss: loss * math.inf,
    "finite, with a gradient that is not": lambda loss: loss + (loss - loss.detach()).sqrt(),
    "far too large": lambda loss: loss * 1e38,
}


@pytest.mark.fault("R17")
@pytest.mark.parametrize("spoil", LOSSES.values(), ids=LOSSES.keys())
def test_a_step_with_a_loss_or_gradient_that_is_not_finite_is_not_taken(
    spoil: Callable[[Tensor], Tensor],
    make_images: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = make_config(make_images(train=7))
    taken, cross_entropy = 0, F.cross_entropy
    weights: list[dict[str, Tensor]] = []

    def spoiled(*arguments: Any, **options: Any) -> Tensor:  # noqa: ANN401
        nonlocal taken
        taken += 1
        loss = cross_entropy(*arguments, **options)
        return spoil(loss) if taken == STEPS_PER_EPOCH + 2 else loss

    def watched(state: TrainState, *arguments: Any) -> bool:  # noqa: ANN401
        before = [weights.detach().clone() for weights in state.network.parameters()]
        was_taken = train_step(state, *arguments)
        weights[:] = [{"before": one, "after": other} for one, other in
                      zip(before, state.network.parameters(), strict=True)]  # fmt: skip
        return was_taken

    monkeypatch.setattr(F, "cross_entropy", spoiled)
    monkeypatch.setattr(trainer, "train_step", watched)
    with (
        log_to_folder(tmp_path),
        pytest.raises(
            DivergedError, match=r"in epoch 2, in step 5, with train/.*png in its batch"
        ) as diverged,
    ):
        train(config, tmp_path / "run")
    assert diverged.value.exit_code == 7
    assert weights
    assert all(torch.equal(each["before"], each["after"]) for each in weights)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.partition("the images of this batch: ")[2].partition("\n")[0].count("train/") == 6
    last = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")
    assert (last.epoch, last.step) == (1, STEPS_PER_EPOCH)
    monkeypatch.undo()
    assert train(config, tmp_path / "run").epoch == EPOCHS


@pytest.mark.fault("R14")
@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
     torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("std::bad_alloc")],
    ids=repr,
)  # fmt: skip
def test_too_little_memory_is_told_with_a_smaller_batch(
    error: Exception,
    make_images: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = make_config(make_images())

    def too_much(*_: object) -> bool:
        raise error

    monkeypatch.setattr(trainer, "train_step", too_much)
    with pytest.raises(OutputError, match=r"out of memory in epoch 1, step 1, with batches of 8.*"
                       r"train\.batch_size=4"):  # fmt: skip
        train(config, tmp_path / "run")
    assert load_checkpoint(tmp_path / "run").step == 0


def test_other_errors_are_no_lack_of_memory(
    make_images: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> bool:
        raise RuntimeError("a defect")

    monkeypatch.setattr(trainer, "train_step", broken)
    with pytest.raises(RuntimeError, match="a defect"):
        train(make_config(make_images()), tmp_path / "run")


@pytest.mark.fault("K01", "K15", "R02")
@pytest.mark.parametrize("is_there", [True, False], ids=["damaged", "missing"])
def test_a_run_whose_last_checkpoint_was_lost_ends_in_the_same_bits(
    is_there: bool, make_images: Callable[..., Path], tmp_path: Path
) -> None:
    config = make_config(make_images(train=7))
    whole = train(config, tmp_path / "whole")
    train_until_stopped(config, tmp_path / "run", STOPS["in the last step"])
    last = tmp_path / "run" / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:-1])
    if not is_there:
        last.unlink()
    resumed = train(config, tmp_path / "run")
    assert_same(whole.network.state_dict(), resumed.network.state_dict())
    assert read_rows(tmp_path / "whole") == read_rows(tmp_path / "run")


def test_a_run_whose_best_checkpoint_was_lost_makes_another(
    make_images: Callable[..., Path], tmp_path: Path
) -> None:
    config = make_config(make_images(train=7))
    train_until_stopped(config, tmp_path / "run", STOPS["in mid-epoch"])
    best = tmp_path / "run" / "checkpoints" / "best.pt"
    best.write_bytes(b"lost")
    train(config, tmp_path / "run")
    assert load_checkpoint(best).epoch > 1


def test_two_classes_leave_the_ignored_folder_out(
    make_images: Callable[..., Path], tmp_path: Path
) -> None:
    root = make_images()
    config = make_config(
        root,
        classes=("human", "dog"),
        data={"root": str(root), "image_size": 32, "ignored_folders": ("neither",)},
    )
    train(config, tmp_path / "run")
    checkpoint = load_checkpoint(tmp_path / "run")
    assert checkpoint.classes == ("human", "dog")
    assert "neither" not in (tmp_path / "run" / "splits.csv").read_text()


def test_nothing_is_written_into_the_folder_of_the_images(
    make_images: Callable[..., Path], tmp_path: Path
) -> None:
    root = make_images()
    before = {path: path.stat().st_mtime_ns for path in [root, *root.rglob("*")]}
    train(make_config(root), tmp_path / "run")
    assert before == {path: path.stat().st_mtime_ns for path in [root, *root.rglob("*")]}


def test_a_run_that_lost_its_last_checkpoint_is_not_started_over_in_silence(
    make_images: Callable[..., Path], tmp_path: Path
) -> None:
    config = make_config(make_images())
    train(config, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "last.pt").unlink()
    (tmp_path / "run" / "checkpoints" / "previous.pt").unlink()
    with pytest.raises(CheckpointError, match=r"last\.pt is missing.*--fresh"):
        train(config, tmp_path / "run")


def test_class_names_may_look_like_formulas(
    make_images: Callable[..., Path], tmp_path: Path
) -> None:
    classes = ("$_$", "$a_b_c$")
    root = make_images(classes=classes)
    train(make_config(root, classes=classes, train={"epochs": 0}), tmp_path / "run")
    assert load_checkpoint(tmp_path / "run").classes == classes


def test_val_is_measured_as_often_as_asked_and_at_the_end(
    make_images: Callable[..., Path], tmp_path: Path
) -> None:
    config = make_config(make_images(train=7), train={"epochs": 5, "validate_every_epochs": 3})
    state = train(config, tmp_path / "run")
    rows = read_rows(tmp_path / "run")
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert [row["epoch"] for row in rows if "val" in row] == [0, 3, 5]
    assert all("train" in row for row in rows)
    best = load_checkpoint(tmp_path / "run" / "checkpoints" / "best.pt")
    assert best.epoch in (0, 3, 5)
    measured = {row["epoch"]: row["val"] for row in rows if "val" in row}
    assert best.metrics == measured[best.epoch]
    assert state.metrics == measured[5]


@pytest.mark.parametrize("step", [4, 8])
def test_a_run_that_is_seldom_measured_resumes_to_the_bit(
    make_images: Callable[..., Path], tmp_path: Path, step: int
) -> None:
    config = make_config(
        make_images(train=7), train={"validate_every_epochs": 2}, augmentation={"cutmix": 0.5}
    )
    whole = train(config, tmp_path / "whole")
    train_until_stopped(config, tmp_path / "part", lambda patch: stop_before_step(step, patch))
    resumed = train(config, tmp_path / "part")
    assert_same(resumed.ema.network.state_dict(), whole.ema.network.state_dict())
    assert read_rows(tmp_path / "part") == read_rows(tmp_path / "whole")


def test_a_pretrained_run_goes_on_to_the_bit_without_the_file_it_began_with(
    make_images: Callable[..., Path], tmp_path: Path
) -> None:
    """With dropout, statistics of norms, and a backbone that is frozen in the first epoch."""
    torch.manual_seed(7)
    begun = mobilenet_v3_small().state_dict()
    torch.save(begun, tmp_path / "own.pth")
    model = {"name": "mobilenet_v3_small", "weights": str(tmp_path / "own.pth")}
    config = make_config(make_images(), model=model)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(config, whole)
    for number in (1, STEPS_PER_EPOCH + 1):  # while it is frozen, and after
        train_until_stopped(config, stopped, partial(stop_before_step, number))
        if number == 1:
            (tmp_path / "own.pth").unlink()
            frozen = load_checkpoint(stopped / "checkpoints" / "last.pt").weights
            for name, tensor in begun.items():
                assert name.startswith("classifier.3") or torch.equal(
                    frozen[f"backbone.{name}"], tensor
                ), name
    train(config, stopped)
    one, other = (read_archive(run / "checkpoints" / "last.pt")[0] for run in (whole, stopped))
    assert_same(one, other)
    kernel = "backbone.features.0.0.weight"
    assert not torch.equal(one["weights"][kernel], begun["features.0.0.weight"])
    assert load_checkpoint(whole).build()(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    assert read_rows(whole)[1]["train"]["learning_rate"] == pytest.approx(
        0.02 * lr_factor(config.train, 2.5 / STEPS_PER_EPOCH)
    )
