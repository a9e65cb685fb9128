"""Class activation maps sum to the logits."""

import pytest
import torch
from torch import nn

from neither.config.schema import Model
from neither.models.cam import class_activation_maps, class_contrast_cam
from neither.models.networks import FlipTTA, build_network
from neither.runtime.errors import UsageError

NETWORKS = {
    "resnet18": (Model(name="resnet18"), 64, (2, 3, 2, 2)),
    "small_cnn": (Model(width=8), 64, (2, 3, 4, 4)),
    "softmax_regression": (Model(name="softmax_regression"), 16, (2, 3, 16, 16)),
}


def make(name: str) -> tuple[nn.Module, torch.Tensor]:
    settings, size, _ = NETWORKS[name]
    network = build_network(settings, 3, size, seed=1)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    network(images)  # gives the batch norms statistics
    nn.init.normal_(network.get_parameter("head.bias"))
    return network.eval(), images


@pytest.mark.parametrize("name", NETWORKS)
@torch.inference_mode()
def test_positions_sum_to_the_logits_less_the_bias(name: str) -> None:
    network, images = make(name)
    bias = network.get_parameter("head.bias")
    for each in (network, FlipTTA(network)):
        maps = class_activation_maps(each, images)
        assert maps.shape == NETWORKS[name][2]
        torch.testing.assert_close(maps.sum(dim=(2, 3)), each(images) - bias)
    contrast = class_contrast_cam(network, images, torch.tensor([2, 0]))
    maps = class_activation_maps(network, images)
    expected = torch.stack([maps[0, 2] - maps[0].mean(0), maps[1, 0] - maps[1].mean(0)])
    torch.testing.assert_close(contrast, expected)


@torch.inference_mode()
def test_the_maps_of_a_flipped_image_are_flipped() -> None:
    network, images = make("small_cnn")
    both = FlipTTA(network)
    flipped = class_activation_maps(both, images.flip(3)).flip(3)
    torch.testing.assert_close(flipped, class_activation_maps(both, images))


@torch.inference_mode()
def test_a_map_changes_where_the_image_changes() -> None:
    network, images = make("softmax_regression")
    changed = images.clone()
    changed[:, :, 3, 5] += 1
    difference = class_activation_maps(network, changed) - class_activation_maps(network, images)
    difference[:, :, 3, 5] = 0
    assert torch.equal(difference, torch.zeros_like(difference))


@pytest.mark.parametrize(("name", "size"), [("mobilenet_v3_small", 64), ("resnet18", 32)])
@torch.inference_mode()
def test_a_network_without_an_averaged_feature_map_is_refused(name: str, size: int) -> None:
    """MobileNetV3 has a layer between pooling and head; ResNet's map of 32 pixels is 1 x 1."""
    network = build_network(Model(name=name), 3, size, seed=1).eval()
    with pytest.raises(UsageError, match=f"--explain: with images of {size} pixels"):
        class_activation_maps(network, torch.randn(1, 3, size, size))
