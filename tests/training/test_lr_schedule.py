"""The learning rate rises linearly and falls along a half cosine, in all parameter groups."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from neither.config.schema import Train
from neither.training.lr_schedule import current_lr_factor, scheduled_lr_factor, set_lr_factor
from neither.training.optimizers import build_optimizer


def make_settings(**values: object) -> Train:
    return Train.model_validate({"epochs": 10} | values)


@pytest.mark.parametrize("name", ["muon", "sgd", "adamw"])
def test_a_factor_scales_the_rate_of_each_group(name: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 2))
    optimizer = build_optimizer(network, make_settings(optimizer=name, lr=0.3))
    peaks = [group["lr"] for group in optimizer.param_groups]
    assert peaks[0] == 0.3
    assert current_lr_factor(optimizer) == 1
    for factor in (0.5, 0.25, 1.0):
        set_lr_factor(optimizer, factor)
        assert [group["lr"] for group in optimizer.param_groups] == [factor * lr for lr in peaks]
        assert current_lr_factor(optimizer) == factor


schedules = st.integers(1, 30).flatmap(
    lambda epochs: st.builds(
        lambda warmup: make_settings(epochs=epochs, warmup_epochs=warmup),
        st.integers(0, epochs - 1),
    )
)


@given(schedules)
def test_the_rate_rises_peaks_and_falls_to_zero(schedule: Train) -> None:
    warmup, epochs = schedule.warmup_epochs, schedule.epochs
    rising = [scheduled_lr_factor(schedule, warmup * index / 20) for index in range(21)]
    falling = [scheduled_lr_factor(schedule, warmup + (epochs - warmup) * index / 20)
               for index in range(21)]  # fmt: skip
    assert rising[-1] == falling[0] == 1
    assert falling[-1] == pytest.approx(0, abs=1e-12)
    assert all(later < earlier for earlier, later in itertools.pairwise(falling))
    if warmup:
        assert rising[0] == 0
        assert all(later > earlier for earlier, later in itertools.pairwise(rising))
    assert max(rising + falling) <= 1


def test_the_rise_is_straight_and_the_fall_a_half_cosine() -> None:
    schedule = make_settings(epochs=12, warmup_epochs=4)
    assert scheduled_lr_factor(schedule, 1) == pytest.approx(0.25)
    assert scheduled_lr_factor(schedule, 3) == pytest.approx(0.75)
    assert scheduled_lr_factor(schedule, 8) == pytest.approx(0.5)  # half way down
    assert scheduled_lr_factor(schedule, 4 + 8 / 3) == pytest.approx(
        0.75
    )  # cos 60 degrees is a half


def test_the_last_step_still_learns_a_little() -> None:
    schedule = make_settings(epochs=10)
    assert 0 < scheduled_lr_factor(schedule, 10 - 0.5 / 100) < 1e-5
