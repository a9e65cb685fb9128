"""Networks give logits, for any size, from weights that hang on the seed alone."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neither.config.schema import Model
from neither.models.networks import build_network, count_parameters

CNN = Model(width=8)
REGRESSION = Model(name="softmax_regression")
BOTH = pytest.mark.parametrize("settings", [CNN, REGRESSION], ids=lambda model: model.name)


def make_images(num: int, size: int, seed: int = 0) -> Tensor:
    """Draw normalised images: zero mean, unit variance, as the first layer gets them."""
    return torch.randn(num, 3, size, size, generator=torch.Generator().manual_seed(seed))


def weights_of(settings: Model, seed: int) -> dict[str, Tensor]:
    return build_network(settings, 3, 32, seed).state_dict()


@BOTH
def test_outputs_are_logits_not_probabilities(settings: Model) -> None:
    logits = [build_network(settings, 3, 32, seed).eval()(make_images(4, 32)) for seed in range(4)]
    assert all(each.shape == (4, 3) for each in logits)
    assert (torch.cat(logits) < 0).any()
    assert not torch.allclose(torch.cat(logits).sum(1), torch.ones(16), atol=0.5)


@pytest.mark.parametrize("size", [32, 33, 50, 64, 100])
def test_small_cnn_takes_any_size_from_32_pixels(size: int) -> None:
    network = build_network(CNN, 3, 32, seed=0).eval()
    logits = network(make_images(2, size))
    assert logits.shape == (2, 3)
    assert logits.isfinite().all()
    assert not torch.equal(logits[0], logits[1])


def test_small_cnn_takes_images_that_are_not_square() -> None:
    assert build_network(CNN, 5, 32, seed=0)(torch.zeros(2, 3, 48, 33)).shape == (2, 5)


@pytest.mark.parametrize("num_classes", [2, 3, 7])
@BOTH
def test_there_is_one_logit_for_each_class(settings: Model, num_classes: int) -> None:
    network = build_network(settings, num_classes, 32, seed=0)
    assert network(make_images(2, 32)).shape == (2, num_classes)


def test_small_cnn_is_small() -> None:
    assert 300_000 <= count_parameters(build_network(Model(), 3, 64, seed=0)) <= 2_000_000


def test_width_sets_the_number_of_parameters() -> None:
    counts = [count_parameters(build_network(Model(width=width), 3, 64, 0)) for width in (8, 16)]
    assert 3.5 < counts[1] / counts[0] < 4.5  # channels in times channels out


def test_softmax_regression_is_one_linear_layer_on_the_pixels() -> None:
    network = build_network(REGRESSION, 3, 16, seed=0)
    (layer,) = [module for module in network.modules() if not list(module.children())]
    assert isinstance(layer, nn.Linear)
    assert layer.bias is not None
    assert (layer.in_features, layer.out_features) == (3 * 16 * 16, 3)
    images = make_images(5, 16)
    torch.testing.assert_close(network(images), F.linear(images.flatten(1), layer.weight))


@BOTH
def test_softmax_regression_alone_is_linear(settings: Model) -> None:
    network = build_network(settings, 3, 32, seed=0).eval()
    one, other = make_images(2, 32, seed=1), make_images(2, 32, seed=2)
    linear = torch.allclose(network(one + other), network(one) + network(other), atol=1e-6)
    assert linear == (settings is REGRESSION)


@BOTH
def test_random_weights_depend_on_the_seed_alone(settings: Model) -> None:
    torch.manual_seed(1)
    first = weights_of(settings, seed=7)
    torch.manual_seed(2)
    torch.rand(10)
    second = weights_of(settings, seed=7)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@BOTH
def test_another_seed_gives_other_weights(settings: Model) -> None:
    first, second = weights_of(settings, seed=0), weights_of(settings, seed=1)
    kernels = [name for name in first if first[name].ndim > 1]
    assert kernels
    assert not any(torch.equal(first[name], second[name]) for name in kernels)


@BOTH
def test_building_leaves_the_global_generator_alone(settings: Model) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    build_network(settings, 3, 32, seed=0)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("seed", [0, 1])
@BOTH
def test_first_loss_is_that_of_a_guess(settings: Model, seed: int, training: bool) -> None:
    network = build_network(settings, 3, 32, seed).train(training)
    loss = F.cross_entropy(network(make_images(32, 32)), torch.arange(32) % 3)
    assert loss.item() == pytest.approx(math.log(3), abs=0.1)


@BOTH
def test_every_parameter_learns(settings: Model) -> None:
    network = build_network(settings, 3, 32, seed=0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):  # zero-initialised norms hide what lies before them from the first step
        optimizer.zero_grad()
        loss = F.cross_entropy(network(make_images(12, 32)), torch.arange(12) % 3)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for name, weights in network.named_parameters():
        assert weights.grad is not None, name
        assert weights.grad.isfinite().all(), name
        assert weights.grad.abs().max() > 0, name


def test_count_parameters_counts_each_number_once() -> None:
    assert count_parameters(nn.Linear(4, 3)) == 15
    assert count_parameters(nn.BatchNorm2d(5)) == 10  # statistics are no parameters
