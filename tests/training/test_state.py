"""The whole state of training is saved and restored to the bit; EMA; sums of an epoch."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from neither.config.schema import Config
from neither.data.preprocessing import Preprocessing
from neither.evaluation.metrics import confusion_matrix, curve_metrics, nll
from neither.evaluation.selective import fit_pooled_rule, num_to_certify
from neither.models.checkpoint import Checkpoint, DecisionRule, load_checkpoint
from neither.models.softmax import to_probabilities
from neither.runtime.devices import DeviceConfig
from neither.runtime.errors import CheckpointError
from neither.training.state import EMA, EpochMetrics, TrainState, build_state
from neither.training.validation import val_metrics

CPU = torch.device("cpu")
CLASSES = ("dog", "human", "neither")
LABELS = torch.arange(6) % 3
NO_PARTS = torch.zeros(0)  # of the loss, as there is no teacher
MakeConfig = Callable[..., Config]


def make_state(config: Config, labels: Tensor = LABELS) -> TrainState:
    preprocessing = Preprocessing(config.data.image_size)
    state = build_state(config, preprocessing, DeviceConfig(CPU, "float32"))
    state.set_training_labels(labels)
    return state


def step_once(state: TrainState) -> None:
    """Take one step on images that depend on the number of the step alone."""
    generator = torch.Generator().manual_seed(state.step)
    images = torch.randn(6, 3, 32, 32, generator=generator)
    logits = state.network(images)
    loss = F.cross_entropy(logits, LABELS)
    state.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    state.optimizer.step()
    state.end_step()
    state.epoch_metrics.update(loss, logits, LABELS, torch.tensor(1.0), NO_PARTS)
    targets = F.one_hot(LABELS, 3).float()
    state.label_stats.update(logits, LABELS, targets, torch.arange(6))


def make_metrics(macro_recall: float, loss: float) -> dict[str, float]:
    return {"calibrated_loss": loss, "accuracy": 0.5, "macro_recall": macro_recall}


def assert_equal(one: TrainState, other: TrainState) -> None:
    mine, theirs = one.optimizer.state_dict(), other.optimizer.state_dict()
    assert mine["param_groups"] == theirs["param_groups"]
    assert mine["state"]
    pairs = [(one.network.state_dict(), other.network.state_dict()),
             (one.ema.network.state_dict(), other.ema.network.state_dict()),
             (one.epoch_metrics.state_dict(), other.epoch_metrics.state_dict()),
             (one.label_stats.state_dict(), other.label_stats.state_dict()),
             *((values, theirs["state"][number]) for number, values in mine["state"].items()),
    ]  # fmt: skip
    for left, right in pairs:
        assert left.keys() == right.keys()
        for name, value in left.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(right[name])), name
    for name in ("epoch", "step_in_epoch", "step", "metrics", "best_metrics", "best_epoch",
                 "temperature", "decision_rule", "calibrated_on"):  # fmt: skip
        assert getattr(one, name) == getattr(other, name), name


def save_and_load(state: TrainState, config: Config, folder: Path) -> Checkpoint:
    state.save(folder / "last.pt", config, resumable=True)
    return load_checkpoint(folder / "last.pt")


@pytest.mark.parametrize("optimizer", ["muon", "sgd", "adamw"])
def test_a_restored_state_continues_to_the_bit(
    optimizer: str, make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(train={"optimizer": optimizer, "lr": 0.01})
    state = make_state(config)
    step_once(state)
    state.end_epoch(make_metrics(0.5, 1.0))
    state.mark_best()
    step_once(state)
    step_once(state)
    for group in state.optimizer.param_groups:
        group["lr"] = 0.005
    resumed = make_state(config)
    resumed.restore(save_and_load(state, config, tmp_path))
    assert (resumed.epoch, resumed.step_in_epoch, resumed.step) == (1, 2, 3)
    assert resumed.best_metrics == make_metrics(0.5, 1.0)
    assert_equal(resumed, state)
    for each in (state, resumed):
        step_once(each)
        each.end_epoch(make_metrics(0.6, 0.9))
        step_once(each)
    assert_equal(resumed, state)


def test_a_state_saved_before_the_first_step_is_restored(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    state, resumed = make_state(make_config()), make_state(make_config(seed=1))
    resumed.restore(save_and_load(state, make_config(), tmp_path))
    assert resumed.metrics is None
    assert resumed.best_metrics is None
    for each in (state, resumed):
        step_once(each)
    assert_equal(resumed, state)


def test_a_checkpoint_for_inference_has_the_averaged_weights_alone(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(reject_class="neither")
    state = make_state(config)
    step_once(state)
    state.end_epoch(make_metrics(0.5, 1.0))
    state.save(tmp_path / "best.pt", config, resumable=False)
    checkpoint = load_checkpoint(tmp_path / "best.pt")
    assert checkpoint.training is None
    averaged, trained = state.ema.network.state_dict(), state.network.state_dict()
    for name, weights in checkpoint.weights.items():
        assert torch.equal(weights, averaged[name])
    assert not torch.equal(checkpoint.weights["head.weight"], trained["head.weight"])
    assert checkpoint.classes == config.classes
    assert checkpoint.reject_class == "neither"
    assert checkpoint.config == config.model_dump(mode="json")
    assert (checkpoint.epoch, checkpoint.step) == (1, 1)
    assert checkpoint.metrics == make_metrics(0.5, 1.0)
    assert (checkpoint.temperature, checkpoint.decision_rule) == (1.0, DecisionRule())
    with pytest.raises(CheckpointError, match="for inference only"):
        make_state(config).restore(checkpoint)


def test_a_checkpoint_of_another_network_or_of_other_images_is_refused(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config()
    checkpoint = save_and_load(make_state(config), config, tmp_path)
    with pytest.raises(CheckpointError, match="another network"):
        make_state(make_config(model={"width": 16})).restore(checkpoint)
    with pytest.raises(CheckpointError, match="6 images, not 5"):
        make_state(config, LABELS[:5]).restore(checkpoint)


def test_an_epoch_resets_the_sums_and_keeps_the_step(make_config: MakeConfig) -> None:
    state = make_state(make_config())
    step_once(state)
    step_once(state)
    assert (state.epoch, state.step_in_epoch, state.step) == (0, 2, 2)
    state.end_epoch(make_metrics(0.4, 1.0))
    assert (state.epoch, state.step_in_epoch, state.step) == (1, 0, 2)
    assert (state.epoch_metrics.num_steps, int(state.epoch_metrics.confusion.sum())) == (0, 0)


@pytest.mark.parametrize(
    ("macro_recall", "loss", "better"),
    [
        (0.4, 0.9, True),
        (0.9, 1.1, False),
        (0.6, 1.0, True),  # a tie is decided by macro recall
        (0.5, 1.0, False),  # equal in both: the earlier stays
        (0.9, math.nan, False),
        (0.9, math.inf, False),
    ],
)
def test_best_is_by_loss_then_by_macro_recall(
    macro_recall: float, loss: float, better: bool, make_config: MakeConfig
) -> None:
    state = replace(make_state(make_config()), epoch=4)
    state.end_epoch(make_metrics(0.5, 1.0))
    assert state.is_best()
    state.mark_best()
    assert (state.best_metrics, state.best_epoch) == (make_metrics(0.5, 1.0), 5)
    assert not state.is_best()
    state.end_epoch(make_metrics(macro_recall, loss))
    assert state.is_best() == better
    assert state.best_epoch == 5


@pytest.mark.fault("R18")
def test_a_loss_that_is_not_finite_is_never_best(make_config: MakeConfig) -> None:
    state = make_state(make_config())
    assert not state.is_best()  # not validated yet
    state.end_epoch(make_metrics(1.0, math.nan))
    assert not state.is_best()


def test_temperature_and_decision_rule_are_fitted_and_restored(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(reject_class="neither")
    state = make_state(config)
    assert (state.temperature, state.decision_rule) == (1.0, DecisionRule())
    labels = torch.arange(60) % 3
    logits = 8.0 * F.one_hot(labels, 3)
    logits[:9] = 0.9 * logits[:9].roll(1, dims=1)  # nearly as confident, and wrong in 9 of 60
    state.calibrate(logits, labels, config)
    assert state.temperature > 1
    # The 51 correct ones have the higher of two confidences.
    confidence = float(to_probabilities(logits[-1:], state.temperature).max())
    rule = state.decision_rule
    assert [rule.threshold, rule.reject_threshold] == pytest.approx([confidence] * 2, abs=1e-11)
    assert (rule.target_precision, rule.is_certified) == (0.98, False)
    # 40 and 20 predictions, of which 6 and 3 are wrong.
    assert rule.num_lacking == num_to_certify(6, 0.98) - 40
    assert rule.num_reject_lacking == num_to_certify(3, 0.98) - 20
    state.calibrate(logits, labels, config, "left-out sources")
    pooled = fit_pooled_rule(to_probabilities(logits, state.temperature), labels, 2, 0.98)
    assert (state.decision_rule, state.calibrated_on) == (pooled, "left-out sources")
    other = make_state(config)
    other.restore(save_and_load(state, config, tmp_path))
    assert (other.temperature, other.decision_rule, other.calibrated_on) == (
        state.temperature, pooled, "left-out sources"
    )  # fmt: skip
    state.calibrate(-logits, labels, config)
    rule = state.decision_rule
    assert (rule.threshold, rule.reject_threshold) == (1.0, 1.0)  # always wrong


def make_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


@torch.no_grad()
def fill(network: nn.Module, value: float) -> None:
    for tensor in network.state_dict().values():
        tensor.fill_(value)


def tensor_values(network: nn.Module, is_included: Callable[[Tensor], bool]) -> set[float]:
    tensors = [each for each in network.state_dict().values() if is_included(each)]
    assert tensors
    return {round(value, 6) for tensor in tensors for value in tensor.flatten().tolist()}


@pytest.mark.parametrize(("step", "expected"), [(1, 0.1), (9, 0.5), (91, 0.9), (10_000, 0.9)])
def test_the_decay_rises_to_its_final_value(step: int, expected: float) -> None:
    network = make_network()
    ema = EMA(network, 0.9)
    fill(ema.network, 1.0)
    fill(network, 0.0)
    ema.update(step)
    assert tensor_values(ema.network, Tensor.is_floating_point) == {expected}


def test_statistics_follow_and_counters_are_copied() -> None:
    network = make_network()
    ema = EMA(network, 0.9)
    network.train()(5 + torch.randn(8, 3, 2, 2))
    ema.update(9)  # half of each
    theirs, mine = network.state_dict(), ema.network.state_dict()
    torch.testing.assert_close(mine["1.running_mean"], theirs["1.running_mean"] / 2)
    torch.testing.assert_close(mine["1.running_var"], (1 + theirs["1.running_var"]) / 2)
    assert mine["1.num_batches_tracked"] == theirs["1.num_batches_tracked"] == 1


def test_the_ema_is_in_evaluation_mode() -> None:
    network = make_network().train()
    ema = EMA(network, 0.9)
    ema.update(1)
    assert not any(module.training for module in ema.network.modules())
    assert not any(weights.requires_grad for weights in ema.network.parameters())
    assert all(module.training for module in network.modules())
    assert all(weights.requires_grad for weights in network.parameters())


def make_images(num: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (num,), generator=generator)
    return 3 * torch.randn(num, 3, generator=generator), labels


def add_step(sums: EpochMetrics, logits: Tensor, labels: Tensor, grad_norm: float = 1.0) -> None:
    sums.update(F.cross_entropy(logits, labels), logits, labels, torch.tensor(grad_norm), NO_PARTS)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 100))
def test_uneven_batches_have_the_metrics_of_all_images(sizes: list[int], seed: int) -> None:
    logits, labels = make_images(sum(sizes), seed)
    sums = EpochMetrics(3, CPU)
    for number, batch in enumerate(
        zip(torch.split(logits, sizes), torch.split(labels, sizes), strict=True)
    ):
        add_step(sums, *batch, grad_norm=float(number))
    confusion = confusion_matrix(labels, logits.argmax(1), 3)
    expected = curve_metrics(nll(logits, labels, 1.0), confusion, CLASSES)
    metrics = sums.compute(CLASSES)
    assert metrics.pop("gradient_norm") == pytest.approx((len(sizes) - 1) / 2)
    assert metrics.keys() == expected.keys()
    assert metrics == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_nothing_added_yet_has_no_loss() -> None:
    assert EpochMetrics(3, CPU).mean_loss() == 0
    assert EpochMetrics(3, CPU).is_finite()


def test_sums_hold_no_graph() -> None:
    logits, labels = make_images(4)
    sums = EpochMetrics(3, CPU)
    add_step(sums, logits.requires_grad_(), labels)
    assert not sums.loss_sum.requires_grad
    assert sums.loss_sum.grad_fn is None


def test_a_saved_state_is_a_copy() -> None:
    logits, labels = make_images(4)
    sums = EpochMetrics(3, CPU)
    add_step(sums, logits, labels)
    saved = sums.state_dict()
    before = saved["loss_sum"].clone()
    add_step(sums, logits, labels)
    assert torch.equal(saved["loss_sum"], before)
    assert saved["confusion"].sum() == 4
    assert saved["num_steps"] == 1


def test_only_losses_count_images_without_a_label() -> None:
    logits, labels = make_images(4)
    sums = EpochMetrics(3, CPU)
    parts = torch.tensor([0.5, 2.0])
    sums.update(torch.tensor(1.5), logits, labels, torch.tensor(1.0), parts)
    sums.update(torch.tensor(3.0), logits, torch.full_like(labels, -1), torch.tensor(1.0), parts)
    metrics = sums.compute(CLASSES)
    assert sums.confusion.sum() == 4
    assert (metrics["loss"], metrics["teacher_loss"], metrics["label_loss"]) == (2.25, 2.0, 1.0)


def test_sums_of_an_older_version_are_read() -> None:
    logits, labels = make_images(4)
    sums, resumed = EpochMetrics(3, CPU), EpochMetrics(3, CPU)
    add_step(sums, logits, labels)
    saved = sums.state_dict()
    del saved["part_sums"], saved["num_images"]
    resumed.load_state_dict(saved)
    assert resumed.compute(CLASSES) == sums.compute(CLASSES)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_a_value_that_is_not_finite_is_noticed_for_good(name: str, bad: float) -> None:
    logits, labels = make_images(4)
    sums = EpochMetrics(3, CPU)
    add_step(sums, logits, labels)
    assert sums.is_finite()
    values = {"loss": 1.0, "grad_norm": 1.0} | {name: bad}
    loss, grad_norm = torch.tensor(values["loss"]), torch.tensor(values["grad_norm"])
    sums.update(loss, logits, labels, grad_norm, NO_PARTS)
    assert not sums.is_finite()
    add_step(sums, logits, labels)
    assert not sums.is_finite()


def test_epochs_are_compared_at_the_temperature_of_val(make_config: MakeConfig) -> None:
    logits = 5 * torch.randn(90, 3, generator=torch.Generator().manual_seed(0))
    labels, config = torch.arange(90) % 3, make_config()
    state = make_state(config)
    state.calibrate(logits, labels, config)
    one = val_metrics(state, logits, labels, config.classes)
    state.temperature, state.calibrated_on = 2 * state.temperature, "left-out sources"
    other = val_metrics(state, logits, labels, config.classes)
    assert one["calibrated_loss"] == other["calibrated_loss"] < one["loss"]
    assert one["ece"] != other["ece"]
