"""Networks of torchvision: every family, image sizes, frozen backbones."""

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from neither.config.schema import Model
from neither.models.checkpoint import load_weights
from neither.models.networks import (
    BackboneNetwork,
    build_network,
    check_image_size,
    check_network_name,
)
from neither.runtime.errors import UsageError

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


def make_images(num: int = 4, size: int = 64) -> Tensor:
    return torch.randn(num, 3, size, size, generator=torch.Generator().manual_seed(0))


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
