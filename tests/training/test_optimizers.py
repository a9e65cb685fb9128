"""Which parameters decay, how fast each learns and when; orthogonal steps, Nesterov momentum."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from neither.config.schema import Model, Train
from neither.models.networks import build_network
from neither.training.optimizers import (
    Muon,
    build_optimizer,
    current_lr_factor,
    orthogonalize,
    scheduled_lr_factor,
    set_lr_factor,
)

OPTIMIZERS = pytest.mark.parametrize("name", ["muon", "sgd", "adamw"])


def make_settings(**values: object) -> Train:
    return Train.model_validate({"epochs": 10} | values)


def step_once(network: nn.Module, settings: Train, gradient: float) -> None:
    optimizer = build_optimizer(network, settings)
    for weights in network.parameters():
        weights.grad = torch.full_like(weights, gradient)
    optimizer.step()


@OPTIMIZERS
def test_biases_and_norms_do_not_decay(name: str) -> None:
    network = build_network(Model(width=8), 3, 32, seed=0)
    with torch.no_grad():
        for weights in network.parameters():
            weights.fill_(1.0)
    settings = make_settings(optimizer=name, lr=0.1, momentum=0.0, weight_decay=0.5)
    step_once(network, settings, gradient=0.0)
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
    step_once(network, settings, gradient=1.0)
    # The first step is lr * (gradient + momentum * gradient); plain momentum takes lr * gradient.
    assert network.weight.item() == pytest.approx(-0.15)


def test_muon_moves_kernels_by_orthogonal_steps_and_the_rest_by_sgd() -> None:
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


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_a_vector_with_extra_dimensions_is_no_kernel(name: str) -> None:
    """Such as the layer scales of ConvNeXt (C, 1, 1) and the class token of a ViT (1, 1, E)."""
    network = nn.Module()
    for key, shape in {"scale": (8, 1, 1), "token": (1, 1, 8), "kernel": (8, 3, 1, 1)}.items():
        network.register_parameter(key, nn.Parameter(torch.ones(shape)))
    groups = build_optimizer(network, make_settings(optimizer=name)).param_groups
    assert [[weights.ndim for weights in group["params"]] for group in groups] == [[4], [3, 3]]


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 8, 72), (2, 90, 7), (1, 1, 5)])
@pytest.mark.parametrize(("dtype", "low", "high"), [(torch.float32, 0.65, 1.25),
                                                    (torch.bfloat16, 0.6, 1.3)])  # fmt: skip
def test_singular_values_come_near_one_and_singular_vectors_stay(
    shape: tuple[int, ...], dtype: torch.dtype, low: float, high: float
) -> None:
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    # From the largest to the smallest that five iterations lift, as in gradients.
    values = torch.logspace(0, -1.5, min(shape[1:]))
    result = orthogonalize((left * values @ right).to(dtype))
    assert result.dtype == dtype
    inner = left.mT @ result.float() @ right.mT
    diagonal = inner.diagonal(dim1=1, dim2=2)
    assert low < diagonal.min() <= diagonal.max() < high
    assert (inner - diagonal.diag_embed()).abs().max() < 0.05


def test_the_scale_of_a_gradient_does_not_matter() -> None:
    torch.manual_seed(0)
    matrices = torch.randn(2, 5, 9)
    torch.testing.assert_close(orthogonalize(1e4 * matrices), orthogonalize(matrices))
    assert not orthogonalize(torch.zeros(1, 3, 4)).any()


def steps_of(shapes: list[tuple[int, ...]], gradients: list[torch.Tensor]) -> list[torch.Tensor]:
    weights = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for each, gradient in zip(weights, gradients, strict=True):
        each.grad = gradient.clone()
    Muon([{"params": weights}], lr=1.0, momentum=0.0).step()
    return [-each.detach() for each in weights]


def test_kernels_of_one_shape_are_updated_as_if_alone() -> None:
    torch.manual_seed(0)
    shapes = [(4, 3, 3, 3), (4, 27), (8, 2, 1, 1), (4, 3, 3, 3)]
    gradients = [torch.randn(shape) for shape in shapes]
    together = steps_of(shapes, gradients)
    for shape, gradient, step in zip(shapes, gradients, together, strict=True):
        torch.testing.assert_close(steps_of([shape], [gradient])[0], step)
        expected = orthogonalize(gradient.flatten(1)[None])[0].view(shape)
        scale = max(1, shape[0] / gradient[0].numel()) ** 0.5
        torch.testing.assert_close(step, scale * expected)


def test_muon_has_nesterov_momentum_and_decoupled_decay() -> None:
    weights = nn.Parameter(torch.ones(2))
    group = {"params": [weights], "orthogonal": False, "weight_decay": 0.1}
    optimizer = Muon([group], lr=0.5, momentum=0.8)
    expected, momentum = torch.ones(2), torch.zeros(2)
    for gradient in (torch.tensor([1.0, -2.0]), torch.tensor([0.0, 3.0])):
        weights.grad = gradient.clone()
        optimizer.step()
        momentum = 0.8 * momentum + gradient
        expected = (1 - 0.5 * 0.1) * expected - 0.5 * (gradient + 0.8 * momentum)
        torch.testing.assert_close(weights.detach(), expected)
        assert torch.equal(weights.grad, gradient)


def test_a_parameter_without_gradient_is_unchanged() -> None:
    weights, other = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    weights.grad = torch.ones(2, 2)
    Muon([{"params": [weights, other]}], lr=0.5, momentum=0.9).step()
    assert torch.equal(other.detach(), torch.ones(2, 2))
    assert not torch.equal(weights.detach(), torch.ones(2, 2))


@OPTIMIZERS
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
