"""Networks return logits, for any image size, from weights that depend on the seed alone."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torchvision import models

from neither.config.schema import Model
from neither.models.checkpoint import load_weights
from neither.models.networks import (
    BackboneNetwork,
    FlipTTA,
    SoftmaxRegression,
    build_network,
    check_image_size,
    check_network_name,
    count_parameters,
)
from neither.models.softmax import to_probabilities
from neither.runtime.errors import UsageError

CNN = Model(width=8)
REGRESSION = Model(name="softmax_regression")
BOTH = pytest.mark.parametrize("settings", [CNN, REGRESSION], ids=lambda model: model.name)


def make_images(num: int = 4, size: int = 64, seed: int = 0) -> Tensor:
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


# Backbones of torchvision

# One of each family with a head of its own kind, and torchvision's name of its last layer.
FAMILIES = {
    "resnet18": "fc", "mobilenet_v3_small": "classifier.3", "efficientnet_b0": "classifier.1",
    "densenet121": "classifier", "squeezenet1_1": "classifier.1", "shufflenet_v2_x0_5": "fc",
    "mnasnet0_5": "classifier.1", "googlenet": "fc", "convnext_tiny": "classifier.2",
    "swin_t": "head", "vit_b_32": "heads.head", "regnet_y_400mf": "fc",
}  # fmt: skip


def build(name: str, size: int = 64, seed: int | None = 0) -> BackboneNetwork:
    network = build_network(Model(name=name), 3, size, seed)
    assert isinstance(network, BackboneNetwork)
    return network


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gets_a_head_for_the_classes_and_uses_every_weight(name: str) -> None:
    """On the device `meta`, which computes shapes alone; RegNets need a real one."""
    seed = 0 if name.startswith("regnet_") else None
    network = build(name, seed=seed)
    assert network.replaced == FAMILIES[name]
    assert isinstance(network.head, nn.Linear)
    logits = network(make_images(2).to(network.head.weight.device))
    assert logits.shape == (2, 3)
    logits.square().sum().backward()
    unused = [name for name, weights in network.named_parameters() if weights.grad is None]
    assert not unused  # auxiliary heads would be


@pytest.mark.parametrize("name", ["resnet18", "regnet_y_400mf", "squeezenet1_1"])
def test_a_network_is_built_again_from_its_weights_alone(name: str) -> None:
    """Without a seed the RNG is not used."""
    trained = build(name).eval()
    before = torch.get_rng_state()
    again = build_network(Model(name=name), 3, 64, None).to_empty(device="cpu")
    assert torch.equal(torch.get_rng_state(), before)
    load_weights(again, trained.state_dict())
    images = make_images()
    with torch.no_grad():
        assert torch.equal(again.eval()(images), trained(images))


def test_all_classifiers_of_torchvision_are_known_and_no_other_networks() -> None:
    for name in ("small_cnn", *models.list_models(module=models)):
        check_network_name(name)
    for name in ("fasterrcnn_resnet50_fpn", "fcn_resnet50", "quantized_resnet18", "r3d_18", "raft"):
        with pytest.raises(UsageError, match=name):
            check_network_name(name)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("resnet81", "resnet18"), ("smal_cnn", "small_cnn"), ("efficientnet", "efficientnet_b")],
)
def test_an_unknown_name_gets_a_suggestion(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=rf"model\.name: .* did you mean {hint}"):
        build(name)


@pytest.mark.parametrize(
    ("name", "num", "size"), [("vit_b_32", 2, 50), ("squeezenet1_1", 2, 16), ("resnet18", 1, 32)]
)
def test_images_that_a_network_cannot_take_are_refused(name: str, num: int, size: int) -> None:
    with pytest.raises(UsageError, match=rf"data\.image_size: {name} .*image_size=224"):
        check_image_size(build(name, size), name, num, size)


def test_checking_a_size_changes_nothing() -> None:
    network = build("mobilenet_v3_small", 32)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    check_image_size(network, "mobilenet_v3_small", 2, 32)
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(before[name], each) for name, each in network.state_dict().items())


def test_fixed_batch_norm_keeps_its_statistics_and_trains_its_weights() -> None:
    network = build("mobilenet_v3_small", 32).train()
    network.fix_batch_norm()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network(make_images(size=32)).sum().backward()
    assert all(torch.equal(before[name], each) for name, each in network.state_dict().items())
    assert network.get_parameter("backbone.features.0.1.weight").grad is not None
    assert any(type(each) is nn.Dropout and each.training for each in network.modules())
