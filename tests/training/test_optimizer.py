"""Which weights decay, and how the learning rate rises and falls."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from neither.config.schema import Model, Train
from neither.models.networks import build_network
from neither.training.optimizers import (
    Muon,
    build_optimizer,
    current_lr_factor,
    lr_factor,
    set_lr_factor,
)

OPTIMIZERS = pytest.mark.parametrize("name", ["muon", "sgd", "adamw"])
KINDS = {"muon": Muon, "sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}


def make_settings(**values: object) -> Train:
    return Train.model_validate({"epochs": 10} | values)


def take_step(network: nn.Module, settings: Train, gradient: float) -> None:
    optimizer = build_optimizer(network, settings)
    for weights in network.parameters():
        weights.grad = torch.full_like(weights, gradient)
    optimizer.step()


@OPTIMIZERS
def test_the_config_chooses_the_optimizer(name: str) -> None:
    optimizer = build_optimizer(nn.Linear(2, 2), make_settings(optimizer=name))
    assert type(optimizer) is KINDS[name]


@OPTIMIZERS
def test_biases_and_norms_do_not_decay(name: str) -> None:
    network = build_network(Model(width=8), 3, 32, seed=0)
    with torch.no_grad():
        for weights in network.parameters():
            weights.fill_(1.0)
    settings = make_settings(optimizer=name, lr=0.1, momentum=0.0, weight_decay=0.5)
    take_step(network, settings, gradient=0.0)
    kinds = set()
    for module in network.modules():
        for key, weights in module.named_parameters(recurse=False):
            decaying = nn.Conv2d if name == "muon" else nn.Conv2d | nn.Linear
            kernel = key == "weight" and isinstance(module, decaying)
            expected = 0.95 if kernel else 1.0
            torch.testing.assert_close(weights, torch.full_like(weights, expected))
            kinds.add((type(module).__name__, key))
    assert {("BatchNorm2d", "bias"), ("Linear", "bias"), ("Conv2d", "weight")} <= kinds


@OPTIMIZERS
def test_every_parameter_is_trained_once(name: str) -> None:
    network = build_network(Model(width=8), 3, 32, seed=0)
    optimizer = build_optimizer(network, make_settings(optimizer=name))
    trained = [id(weights) for group in optimizer.param_groups for weights in group["params"]]
    assert sorted(trained) == sorted(id(weights) for weights in network.parameters())


def test_momentum_is_nesterovs() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    settings = make_settings(optimizer="sgd", lr=0.1, momentum=0.5, weight_decay=0.0)
    take_step(network, settings, gradient=1.0)
    # The first step is lr * (gradient + momentum * gradient); plain momentum takes lr * gradient.
    assert network.weight.item() == pytest.approx(-0.15)


def test_sgd_without_momentum_is_plain() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    settings = make_settings(optimizer="sgd", lr=0.1, momentum=0.0, weight_decay=0.0)
    take_step(network, settings, gradient=1.0)
    assert network.weight.item() == pytest.approx(-0.1)


def test_muon_moves_kernels_by_orthogonal_steps_and_the_rest_plainly() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 2))
    settings = make_settings(lr=0.01, momentum=0.5, weight_decay=0.5)
    before = [weights.detach().clone() for weights in network.parameters()]
    optimizer = build_optimizer(network, settings)
    for weights in network.parameters():
        weights.grad = torch.randn_like(weights)
    gradients = [weights.grad.clone() for weights in network.parameters()]  # type: ignore[union-attr]
    optimizer.step()
    kernel, *others = network.parameters()
    step = ((1 - 0.01 * 0.5) * before[0] - kernel) / 0.01
    singular = torch.linalg.svdvals(step.flatten(1).detach())
    assert 0.6 < singular.min() <= singular.max() < 1.3
    for weights, was, gradient in zip(others[1:], before[2:], gradients[2:], strict=True):
        torch.testing.assert_close(weights, was - 0.025 * (1 + 0.9) * gradient)


@OPTIMIZERS
def test_all_rates_rise_and_fall_together(name: str) -> None:
    network = build_network(Model(width=8), 3, 32, seed=0)
    optimizer = build_optimizer(network, make_settings(optimizer=name, lr=0.3))
    highest = [group["lr"] for group in optimizer.param_groups]
    assert highest[0] == 0.3
    for share in (0.5, 0.25, 1.0):
        set_lr_factor(optimizer, share)
        assert [group["lr"] for group in optimizer.param_groups] == [share * lr for lr in highest]


@pytest.mark.parametrize(("name", "head_lr"), [("muon", 0.75), ("sgd", 0.3), ("adamw", 0.3)])
def test_a_backbone_learns_at_a_share_of_the_rate(name: str, head_lr: float) -> None:
    network = build_network(Model(name="shufflenet_v2_x0_5"), 3, 64, seed=0)
    settings = make_settings(optimizer=name, lr=0.3, weight_decay=0.1)
    optimizer = build_optimizer(network, settings, backbone_lr_factor=0.1)
    set_lr_factor(optimizer, 0.5)
    assert current_lr_factor(optimizer) == 0.5
    rates = {id(weights): (group["lr"], group["weight_decay"])
             for group in optimizer.param_groups for weights in group["params"]}  # fmt: skip
    assert len(rates) == len(list(network.parameters()))
    kernels = "backbone.conv1.0.weight"
    assert rates[id(network.get_parameter(kernels))] == (pytest.approx(0.015), 0.1)
    norms = rates[id(network.get_parameter("backbone.conv1.1.weight"))]
    assert norms == (pytest.approx(0.05 * head_lr), 0.0)
    decay = 0.0 if name == "muon" else 0.1
    assert rates[id(network.get_parameter("head.weight"))] == (pytest.approx(head_lr / 2), decay)


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_one_row_written_with_more_dimensions_is_no_kernel(name: str) -> None:
    """Such as the scales of ConvNeXt's layers (C, 1, 1) and the class token of a ViT (1, 1, E)."""
    network = nn.Module()
    for key, shape in {"scale": (8, 1, 1), "token": (1, 1, 8), "kernel": (8, 3, 1, 1)}.items():
        network.register_parameter(key, nn.Parameter(torch.ones(shape)))
    groups = build_optimizer(network, make_settings(optimizer=name)).param_groups
    assert [[weights.ndim for weights in group["params"]] for group in groups] == [[4], [3, 3]]


schedules = st.integers(1, 30).flatmap(
    lambda epochs: st.builds(
        lambda warmup: make_settings(epochs=epochs, warmup_epochs=warmup),
        st.integers(0, epochs - 1),
    )
)


@given(schedules)
@settings(max_examples=50, deadline=None)
def test_the_rate_rises_peaks_and_falls_to_zero(schedule: Train) -> None:
    warmup, epochs = schedule.warmup_epochs, schedule.epochs
    rising = [lr_factor(schedule, warmup * place / 20) for place in range(21)]
    falling = [lr_factor(schedule, warmup + (epochs - warmup) * place / 20)
               for place in range(21)]  # fmt: skip
    assert rising[-1] == falling[0] == 1
    assert falling[-1] == pytest.approx(0, abs=1e-12)
    assert all(later < earlier for earlier, later in itertools.pairwise(falling))
    if warmup:
        assert rising[0] == 0
        assert all(later > earlier for earlier, later in itertools.pairwise(rising))
    assert max(rising + falling) <= 1


def test_the_rise_is_straight_and_the_fall_a_half_cosine() -> None:
    schedule = make_settings(epochs=12, warmup_epochs=4)
    assert lr_factor(schedule, 1) == pytest.approx(0.25)
    assert lr_factor(schedule, 3) == pytest.approx(0.75)
    assert lr_factor(schedule, 8) == pytest.approx(0.5)  # half way down
    assert lr_factor(schedule, 4 + 8 / 3) == pytest.approx(0.75)  # cos 60 degrees is a half


def test_without_warmup_the_first_step_has_the_highest_rate() -> None:
    schedule = make_settings(warmup_epochs=0)
    assert lr_factor(schedule, 0) == 1


def test_the_last_step_still_learns_a_little() -> None:
    schedule = make_settings(epochs=10)
    assert 0 < lr_factor(schedule, 10 - 0.5 / 100) < 1e-5
