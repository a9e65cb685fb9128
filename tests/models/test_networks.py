"""Networks return logits, for any image size, from weights that depend on the seed alone."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from neither.config.schema import Model
from neither.models.networks import FlipTTA, SoftmaxRegression, build_network, count_parameters
from neither.models.softmax import to_probabilities

CNN = Model(width=8)
REGRESSION = Model(name="softmax_regression")
BOTH = pytest.mark.parametrize("settings", [CNN, REGRESSION], ids=lambda model: model.name)


def make_images(num: int, size: int, seed: int = 0) -> Tensor:
    """Draw normalised images: zero mean, unit variance."""
    return torch.randn(num, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("num_classes", [2, 3, 7])
@BOTH
def test_outputs_are_one_logit_a_class(settings: Model, num_classes: int) -> None:
    network = build_network(settings, num_classes, 32, seed=0).eval()
    logits = network(make_images(16, 32))
    assert logits.shape == (16, num_classes)
    assert (logits < 0).any()
    assert not torch.allclose(logits.sum(1), torch.ones(16), atol=0.5)  # not probabilities


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 48), (100, 50)])
def test_small_cnn_takes_any_size_from_32_pixels(height: int, width: int) -> None:
    network = build_network(CNN, 3, 32, seed=0).eval()
    images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    logits = network(images)
    assert logits.shape == (2, 3)
    assert logits.isfinite().all()
    assert not torch.equal(logits[0], logits[1])


def test_width_sets_the_number_of_parameters() -> None:
    counts = [count_parameters(build_network(Model(width=width), 3, 64, 0)) for width in (16, 32)]
    assert 300_000 <= counts[1] <= 2_000_000
    assert count_parameters(nn.BatchNorm2d(5)) == 10  # running statistics are not parameters
    assert 3.5 < counts[1] / counts[0] < 4.5  # input times output channels


def test_softmax_regression_is_one_linear_layer_on_the_pixels() -> None:
    network = build_network(REGRESSION, 3, 16, seed=0)
    (layer,) = [module for module in network.modules() if not list(module.children())]
    assert isinstance(layer, nn.Linear)
    assert (layer.in_features, layer.out_features) == (3 * 16 * 16, 3)
    images = make_images(5, 16)
    expected = F.linear(images.flatten(1), layer.weight, layer.bias)
    torch.testing.assert_close(network(images), expected)


@BOTH
def test_weights_depend_on_the_seed_alone(settings: Model) -> None:
    def weights(seed: int) -> dict[str, Tensor]:
        return build_network(settings, 3, 32, seed).state_dict()

    torch.manual_seed(1)
    first, before = weights(seed=7), torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), before)  # the process's RNG is unchanged
    torch.manual_seed(2)
    second, other = weights(seed=7), weights(seed=8)
    assert all(torch.equal(first[name], second[name]) for name in first)
    kernels = [name for name in first if first[name].ndim > 1]
    assert kernels
    assert not any(torch.equal(first[name], other[name]) for name in kernels)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@BOTH
def test_the_first_loss_is_ln_3(settings: Model, training: bool) -> None:
    network = build_network(settings, 3, 32, seed=0).train(training)
    loss = F.cross_entropy(network(make_images(32, 32)), torch.arange(32) % 3)
    assert loss.item() == pytest.approx(math.log(3), abs=0.1)


@BOTH
def test_every_parameter_has_a_gradient(settings: Model) -> None:
    network = build_network(settings, 3, 32, seed=0)
    F.cross_entropy(network(make_images(12, 32)), torch.arange(12) % 3).backward()  # type: ignore[no-untyped-call]
    for name, weights in network.named_parameters():
        assert weights.grad is not None, name
        assert weights.grad.isfinite().all(), name
        assert weights.grad.abs().max() > 0, name


@pytest.mark.property("P18")
def test_flip_tta_averages_the_logits_of_an_image_and_its_flip() -> None:
    images = make_images(4, 32)
    network = build_network(CNN, 3, 32, seed=0).eval()
    both = FlipTTA(network).eval()
    torch.testing.assert_close(both(images.flip(3)), both(images))
    assert not torch.allclose(network(images.flip(3)), network(images))
    torch.testing.assert_close(both(images), (network(images) + network(images.flip(3))) / 2)


PENALTY = 2.0  # times half the squared weights; scikit-learn's C is its inverse


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    """Return digits 0, 1 and 2 as (N, 3, 8, 8) grey images, and their labels."""
    bunch = load_digits(n_class=3)
    grey = torch.tensor(bunch.images / 16).double()
    return grey[:, None].expand(-1, 3, -1, -1), torch.tensor(bunch.target)


def fit(images: Tensor, labels: Tensor, seed: int) -> tuple[SoftmaxRegression, float]:
    """Minimise the penalised loss by L-BFGS in float64 until it converges."""
    torch.manual_seed(seed)
    network = SoftmaxRegression(8, 3).double()
    torch.nn.init.normal_(network.head.weight, std=0.5)
    optimizer = torch.optim.LBFGS(
        network.parameters(), max_iter=2000, max_eval=5000, tolerance_grad=1e-12,
        tolerance_change=0, history_size=50, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> Tensor:
        optimizer.zero_grad()
        total = F.cross_entropy(network(images), labels, reduction="sum")
        total = total + PENALTY / 2 * network.head.weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return network, float(loss().detach())


@pytest.mark.property("P16")
def test_every_start_converges_to_scikit_learns_solution(digits: tuple[Tensor, Tensor]) -> None:
    fits = [fit(*digits, seed) for seed in range(3)]
    losses = [loss for _, loss in fits]
    assert max(losses) - min(losses) <= 1e-9 * max(losses)
    first, *others = [to_probabilities(network(digits[0]).detach()) for network, _ in fits]
    assert all((other - first).abs().max() <= 1e-6 for other in others)
    flat = digits[0].flatten(1).numpy()
    theirs = LogisticRegression(C=1 / PENALTY, tol=1e-12, max_iter=100_000).fit(flat, digits[1])
    assert np.abs(theirs.predict_proba(flat) - first.numpy()).max() <= 1e-5
