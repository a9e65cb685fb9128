"""Which weights decay, and how the learning rate rises and falls."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from neither.config import Model, Train
from neither.model.network import build_network
from neither.training.optimizer import build_optimizer, learning_rate

OPTIMIZERS = pytest.mark.parametrize("name", ["sgd", "adamw"])
KINDS = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}


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
            kernel = key == "weight" and isinstance(module, nn.Conv2d | nn.Linear)
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
    settings = make_settings(lr=0.1, momentum=0.5, weight_decay=0.0)
    take_step(network, settings, gradient=1.0)
    # The first step is lr * (gradient + momentum * gradient); plain momentum takes lr * gradient.
    assert network.weight.item() == pytest.approx(-0.15)


def test_sgd_without_momentum_is_plain() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    take_step(network, make_settings(lr=0.1, momentum=0.0, weight_decay=0.0), gradient=1.0)
    assert network.weight.item() == pytest.approx(-0.1)


schedules = st.integers(1, 30).flatmap(
    lambda epochs: st.builds(
        lambda warmup, lr: make_settings(epochs=epochs, warmup_epochs=warmup, lr=lr),
        st.integers(0, epochs - 1),
        st.floats(1e-5, 10),
    )
)


@given(schedules)
@settings(max_examples=50, deadline=None)
def test_the_rate_rises_peaks_and_falls_to_zero(schedule: Train) -> None:
    warmup, epochs = schedule.warmup_epochs, schedule.epochs
    rising = [learning_rate(schedule, warmup * place / 20) for place in range(21)]
    falling = [learning_rate(schedule, warmup + (epochs - warmup) * place / 20)
               for place in range(21)]  # fmt: skip
    assert rising[-1] == falling[0] == pytest.approx(schedule.lr)
    assert falling[-1] == pytest.approx(0, abs=1e-12 * schedule.lr)
    assert all(later < earlier for earlier, later in itertools.pairwise(falling))
    if warmup:
        assert rising[0] == 0
        assert all(later > earlier for earlier, later in itertools.pairwise(rising))
    assert max(rising + falling) <= schedule.lr * (1 + 1e-12)


def test_the_rise_is_straight_and_the_fall_a_half_cosine() -> None:
    schedule = make_settings(epochs=12, warmup_epochs=4, lr=0.8)
    assert learning_rate(schedule, 1) == pytest.approx(0.2)
    assert learning_rate(schedule, 3) == pytest.approx(0.6)
    assert learning_rate(schedule, 8) == pytest.approx(0.4)  # half way down
    assert learning_rate(schedule, 4 + 8 / 3) == pytest.approx(0.6)  # cos 60 degrees is a half


def test_without_warmup_the_first_step_has_the_highest_rate() -> None:
    schedule = make_settings(warmup_epochs=0, lr=0.3)
    assert learning_rate(schedule, 0) == 0.3


def test_the_last_step_still_learns_a_little() -> None:
    schedule = make_settings(epochs=10, lr=0.1)
    assert 0 < learning_rate(schedule, 10 - 0.5 / 100) < 1e-6
