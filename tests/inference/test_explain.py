"""Class activation maps sum to the logits; heat maps show what is for a class, and against it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from neither.config.schema import Model
from neither.data.preprocessing import Preprocessing
from neither.inference.classifier import Classifier
from neither.inference.explain import (
    Explainer,
    _split_maximum,
    class_activation_maps,
    class_contrast_cam,
    compute_heat_map,
    draw_heat_map,
)
from neither.inference.prediction import Prediction
from neither.models.networks import FlipTTA, build_network
from neither.runtime.errors import DataError, UsageError

NETWORKS = {
    "resnet18": (Model(name="resnet18"), 64, (2, 3, 2, 2)),
    "max pooling": (Model(name="efficientnet_lite0", pooling="max"), 64, (2, 3, 2, 2)),
    "small_cnn": (Model(width=8), 64, (2, 3, 4, 4)),
    "softmax_regression": (Model(name="softmax_regression"), 16, (2, 3, 16, 16)),
}


def make(name: str) -> tuple[nn.Module, torch.Tensor]:
    settings, size, _ = NETWORKS[name]
    network = build_network(settings, 3, size, seed=1)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # its statistics become those of these images
    network(images)
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


def test_equal_maxima_add_equal_parts() -> None:
    saturated = torch.tensor([[[[6.0, 1.0], [6.0, 0.0]]]])  # as by ReLU6
    assert torch.equal(_split_maximum(saturated), torch.tensor([[[[3.0, 0.0], [3.0, 0.0]]]]))


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


SIZE = 16


def make_classifier() -> Classifier:
    """A linear classifier for which red is for dogs and blue against them."""
    network = build_network(Model(name="softmax_regression"), 3, SIZE, seed=0)
    with torch.no_grad():
        weights = network.get_parameter("head.weight").zero_().view(3, 3, SIZE, SIZE)
        weights[0, 0], weights[0, 2] = 1, -1
    return Classifier(
        network.eval(), ("dog", "human", "neither"), "neither", Preprocessing(SIZE), 1.0,
        Path("x"), {}, torch.device("cpu"),
    )  # fmt: skip


def halves() -> np.ndarray:
    """An image whose left half is red, and its right half blue."""
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    pixels[:, : SIZE // 2, 0] = pixels[:, SIZE // 2 :, 2] = 255
    return pixels


def test_a_heat_map_is_the_difference_to_the_mean_logit() -> None:
    classifier, pixels = make_classifier(), halves()
    cam = compute_heat_map(classifier, pixels, 0)
    assert (cam[:, :8] > 0).all()
    assert (cam[:, 8:] < 0).all()
    logits = classifier.logits(torch.from_numpy(pixels[None]))[0]
    assert torch.isclose(cam.sum(), logits[0] - logits.mean(), rtol=1e-4)


def test_red_is_drawn_for_a_class_and_blue_against_it() -> None:
    pixels = halves()
    drawn = draw_heat_map(pixels, compute_heat_map(make_classifier(), pixels, 0)).astype(int)
    assert drawn.shape == (256, 512, 3)
    image, heat = drawn[:, :256], drawn[:, 256:]
    assert image[:, 50].mean(axis=0).argmax() == 0
    assert (heat[:, 50, 0] - heat[:, 50, 2]).min() > 50
    assert (heat[:, 200, 2] - heat[:, 200, 0]).min() > 50


def test_a_map_of_zeros_is_drawn_grey() -> None:
    drawn = draw_heat_map(halves(), torch.zeros(4, 4))
    assert (np.ptp(drawn[:, 256:].astype(int), axis=2) == 0).all()


def test_a_file_is_written_for_each_image_at_its_relative_path(tmp_path: Path) -> None:
    Image.fromarray(halves()).save(tmp_path / "a.png")
    explainer = Explainer(make_classifier(), tmp_path / "maps")
    prediction = Prediction("a.png", {"dog": 0.8}, "dog", "dog", "", 0.8)
    explainer.draw(tmp_path / "a.png", "x/a.png", prediction)
    with pytest.raises(DataError):
        explainer.draw(tmp_path / "deleted.png", "deleted.png", prediction)
    (path,) = (path for path in (tmp_path / "maps").rglob("*") if path.is_file())
    assert path == tmp_path / "maps" / "x" / "a.png.png"
    with Image.open(path) as image:
        assert image.size == (512, 280)
