"""All of a moment of training is saved and comes back to the bit."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from neither.config.schema import Config
from neither.data.batches import Batch
from neither.data.preprocessing import Preprocessing
from neither.models.checkpoint import load_checkpoint
from neither.models.softmax import to_probabilities
from neither.runtime.devices import Compute
from neither.runtime.errors import CheckpointError
from neither.training.state import TrainState, build_state

CPU = Compute(torch.device("cpu"), "float32")
MakeConfig = Callable[..., Config]
LABELS = torch.arange(6) % 3


def make_state(config: Config) -> TrainState:
    state = build_state(config, Preprocessing(config.data.image_size), CPU)
    state.meet(LABELS)
    return state


def take_step(state: TrainState) -> None:
    """Take one step on images that depend on the number of the step alone."""
    generator = torch.Generator().manual_seed(state.step)
    images = torch.randn(6, 3, 32, 32, generator=generator)
    labels = torch.arange(6) % 3
    logits = state.network(images)
    loss = F.cross_entropy(logits, labels)
    state.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    state.optimizer.step()
    state.end_step()
    state.tally.add(loss, logits, labels, torch.tensor(1.0))
    targets = F.one_hot(labels, 3).float()
    state.doubts.add(logits, Batch(images, labels, targets, torch.arange(6)))


def figures(macro_recall: float, loss: float) -> dict[str, float]:
    return {"calibrated_loss": loss, "accuracy": 0.5, "macro_recall": macro_recall}


def assert_equal(one: TrainState, other: TrainState) -> None:
    for mine, theirs in ((one.network, other.network),
                         (one.average.network, other.average.network)):  # fmt: skip
        for name, tensor in mine.state_dict().items():
            assert torch.equal(tensor, theirs.state_dict()[name]), name
    mine_state, their_state = one.optimizer.state_dict(), other.optimizer.state_dict()
    assert mine_state["param_groups"] == their_state["param_groups"]
    assert mine_state["state"].keys() == their_state["state"].keys()
    assert mine_state["state"]
    for number, values in mine_state["state"].items():
        for name, value in values.items():
            same = torch.equal(
                torch.as_tensor(value), torch.as_tensor(their_state["state"][number][name])
            )
            assert same, (number, name)
    for name, value in one.tally.state().items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(other.tally.state()[name])), name
    for name, value in one.doubts.state().items():
        assert torch.equal(value, other.doubts.state()[name]), name
    for name in ("epoch", "step_in_epoch", "step", "metrics", "best", "best_epoch", "temperature"):
        assert getattr(one, name) == getattr(other, name), name


@pytest.mark.parametrize("optimizer", ["muon", "sgd", "adamw"])
def test_a_restored_state_goes_on_to_the_bit(
    optimizer: str, make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(train={"optimizer": optimizer, "lr": 0.01})
    state = make_state(config)
    take_step(state)
    state.end_epoch(figures(0.5, 1.0))
    state.keep_best()
    take_step(state)
    take_step(state)
    for group in state.optimizer.param_groups:
        group["lr"] = 0.005
    state.save(tmp_path / "last.pt", to_go_on=True)
    resumed = make_state(config)
    resumed.restore(load_checkpoint(tmp_path / "last.pt"))
    assert (resumed.epoch, resumed.step_in_epoch, resumed.step) == (1, 2, 3)
    assert resumed.best == figures(0.5, 1.0)
    assert_equal(resumed, state)
    for each in (state, resumed):
        take_step(each)
        each.end_epoch(figures(0.6, 0.9))
        take_step(each)
    assert_equal(resumed, state)


def test_a_state_saved_before_the_first_step_comes_back(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    state = make_state(make_config())
    state.save(tmp_path / "last.pt", to_go_on=True)
    resumed = make_state(make_config(seed=1))
    resumed.restore(load_checkpoint(tmp_path / "last.pt"))
    assert resumed.metrics is None
    assert resumed.best is None
    for each in (state, resumed):
        take_step(each)
    assert_equal(resumed, state)


def test_a_checkpoint_for_use_holds_the_averaged_weights_alone(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(reject_class="neither")
    state = make_state(config)
    take_step(state)
    state.end_epoch(figures(0.5, 1.0))
    state.save(tmp_path / "best.pt", to_go_on=False)
    checkpoint = load_checkpoint(tmp_path / "best.pt")
    assert checkpoint.training is None
    averaged, trained = state.average.network.state_dict(), state.network.state_dict()
    for name, weights in checkpoint.weights.items():
        assert torch.equal(weights, averaged[name])
    assert not torch.equal(checkpoint.weights["head.weight"], trained["head.weight"])
    assert checkpoint.classes == config.classes
    assert checkpoint.reject_class == "neither"
    assert checkpoint.config == config.model_dump(mode="json")
    assert (checkpoint.epoch, checkpoint.step) == (1, 1)
    assert checkpoint.metrics == figures(0.5, 1.0)
    assert (checkpoint.temperature, checkpoint.threshold) == (1.0, None)
    with pytest.raises(CheckpointError, match="for use only"):
        make_state(config).restore(checkpoint)


def test_a_checkpoint_of_another_network_is_refused(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    make_state(make_config()).save(tmp_path / "last.pt", to_go_on=True)
    with pytest.raises(CheckpointError, match="another network"):
        make_state(make_config(model={"width": 16})).restore(load_checkpoint(tmp_path / "last.pt"))


def test_a_checkpoint_of_other_images_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    make_state(make_config()).save(tmp_path / "last.pt", to_go_on=True)
    other = build_state(make_config(), Preprocessing(32), CPU)
    other.meet(LABELS[:5])
    with pytest.raises(CheckpointError, match="6 images, not 5"):
        other.restore(load_checkpoint(tmp_path / "last.pt"))


def test_new_states_depend_on_the_seed_alone(make_config: MakeConfig) -> None:
    one, same, other = (make_state(make_config(seed=seed)) for seed in (4, 4, 5))
    for name, weights in one.network.state_dict().items():
        assert torch.equal(weights, same.network.state_dict()[name])
        assert torch.equal(weights, one.average.network.state_dict()[name])
    head = "head.weight"
    assert not torch.equal(one.network.state_dict()[head], other.network.state_dict()[head])


def test_an_epoch_begins_new_sums_and_keeps_the_step(make_config: MakeConfig) -> None:
    state = make_state(make_config())
    take_step(state)
    take_step(state)
    assert (state.epoch, state.step_in_epoch, state.step) == (0, 2, 2)
    state.end_epoch(figures(0.4, 1.0))
    assert (state.epoch, state.step_in_epoch, state.step) == (1, 0, 2)
    assert (state.tally.num_steps, int(state.tally.confusion.sum())) == (0, 0)


@pytest.mark.parametrize(
    ("macro_recall", "loss", "better"),
    [
        (0.4, 0.9, True),
        (0.9, 1.1, False),
        (0.6, 1.0, True),  # a tie is decided by macro recall
        (0.4, 1.0, False),
        (0.5, 1.0, False),  # equal in both: the earlier stays
        (0.9, math.nan, False),
        (0.9, math.inf, False),
    ],
)
def test_best_is_by_loss_then_by_macro_recall(
    macro_recall: float, loss: float, better: bool, make_config: MakeConfig
) -> None:
    state = make_state(make_config())
    state.end_epoch(figures(0.5, 1.0))
    assert state.is_best()
    state.keep_best()
    assert not state.is_best()
    state.end_epoch(figures(macro_recall, loss))
    assert state.is_best() == better
    assert (state.best, state.best_epoch) == (figures(0.5, 1.0), 1)


@pytest.mark.fault("R18")
def test_a_loss_that_is_not_finite_is_never_best(make_config: MakeConfig) -> None:
    state = make_state(make_config())
    assert not state.is_best()  # nothing is measured yet
    state.end_epoch(figures(1.0, math.nan))
    assert not state.is_best()


def test_keep_best_notes_metrics_and_epoch(make_config: MakeConfig) -> None:
    state = replace(make_state(make_config()), epoch=4)
    state.end_epoch(figures(0.7, 0.2))
    state.keep_best()
    assert (state.best, state.best_epoch) == (figures(0.7, 0.2), 5)


def test_calibrating_fits_temperature_and_threshold_and_both_survive(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    state = make_state(make_config())
    labels = torch.arange(60) % 3
    logits = 8.0 * F.one_hot(labels, 3)
    logits[:9] = 0.9 * logits[:9].roll(1, dims=1)  # nearly as sure, and wrong in 9 of 60
    state.calibrate(logits, labels)
    assert state.temperature > 1
    sure = float(to_probabilities(logits[-1:], state.temperature).max())
    assert state.threshold == pytest.approx(
        sure, abs=1e-11
    )  # the 51 right ones, at the higher of two confidences
    state.save(tmp_path / "last.pt", to_go_on=True)
    other = make_state(make_config())
    other.restore(load_checkpoint(tmp_path / "last.pt"))
    assert (other.temperature, other.threshold) == (state.temperature, state.threshold)
    state.calibrate(-logits, labels)
    assert state.threshold is None  # always wrong: no promise can be kept


def test_before_val_is_measured_nothing_is_promised(make_config: MakeConfig) -> None:
    state = make_state(make_config())
    assert (state.temperature, state.threshold) == (1.0, None)
