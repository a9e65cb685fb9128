"""Each logit is the sum of what its places add."""

import pytest
import torch
from torch import nn

from neither.config.schema import Model
from neither.models.cam import class_activation_maps
from neither.models.networks import FlipTTA, build_network
from neither.runtime.errors import UsageError

NETWORKS = {
    "resnet18": (Model(name="resnet18"), 64, (2, 3, 2, 2)),
    "densenet121": (Model(name="densenet121"), 64, (2, 3, 2, 2)),
    "small_cnn": (Model(width=8), 64, (2, 3, 4, 4)),
    "softmax_regression": (Model(name="softmax_regression"), 16, (2, 3, 16, 16)),
}


def make(name: str) -> tuple[nn.Module, torch.Tensor]:
    settings, size, _ = NETWORKS[name]
    network = build_network(settings, 3, size, seed=1)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    network(images)  # gives the norms statistics of their own
    nn.init.normal_(network.get_parameter("head.bias"))
    return network.eval(), images


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
@torch.inference_mode()
def test_the_places_sum_to_the_logits_less_the_bias(name: str, mirrored: bool) -> None:
    network, images = make(name)
    bias = network.get_parameter("head.bias")
    if mirrored:
        network = FlipTTA(network)
    evidence = class_activation_maps(network, images)
    assert evidence.shape == NETWORKS[name][2]
    torch.testing.assert_close(evidence.sum(dim=(2, 3)), network(images) - bias)


@torch.inference_mode()
def test_the_mirror_image_has_the_mirrored_evidence() -> None:
    network, images = make("small_cnn")
    both = FlipTTA(network)
    flipped = class_activation_maps(both, images.flip(3)).flip(3)
    torch.testing.assert_close(flipped, class_activation_maps(both, images))


@torch.inference_mode()
def test_evidence_lies_where_the_image_differs() -> None:
    network, images = make("softmax_regression")
    changed = images.clone()
    changed[:, :, 3, 5] += 1
    difference = class_activation_maps(network, changed) - class_activation_maps(network, images)
    difference[:, :, 3, 5] = 0
    assert torch.equal(difference, torch.zeros_like(difference))


@pytest.mark.parametrize(("name", "size"), [("mobilenet_v3_small", 64), ("resnet18", 32)])
@torch.inference_mode()
def test_a_network_that_ends_otherwise_is_refused(name: str, size: int) -> None:
    """MobileNetV3 has a layer between average and head; of 32 pixels ResNet leaves one place."""
    network = build_network(Model(name=name), 3, size, seed=1).eval()
    with pytest.raises(UsageError, match=f"--explain: with {size} pixels"):
        class_activation_maps(network, torch.randn(1, 3, size, size))


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(TypeError, match="Linear"):
        class_activation_maps(nn.Linear(2, 2), torch.zeros(1, 2))
