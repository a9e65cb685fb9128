"""The answer to an image and its mirror image, which mean the same.

The networks. Each returns logits: one unnormalised score for each class.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from neither.config.schema import Model
from neither.models.torchvision_networks import TorchvisionNetwork
from neither.runtime.rng import seeded, weights_seed


class FlipTTA(nn.Module):
    """Averages the logits of each image and of its mirror image, left to right.

    It costs a second pass. On the photos this project is developed on it takes about a tenth off
    the loss; `benchmarks/LOG.md` has the figures.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of normalised images (B, 3, H, W)."""
        logits: Tensor = (self.network(images) + self.network(images.flip(3))) / 2
        return logits


# Channels, as a multiple of the width, and blocks of each stage. Few places and many channels suit
# processors: at full resolution the time would go into moving memory, not into arithmetic.
_STAGES = ((2, 2), (4, 3), (8, 1))


class SmallCNN(nn.Module):
    """A residual network of 3x3 convolutions for small images (He et al., 2016).

    The stem and each stage halve height and width; the average over all places then makes one
    feature vector of any input from 32 x 32 pixels on.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _conv(3, width, stride=2), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        blocks: list[nn.Module] = []
        channels = width
        for multiple, num_blocks in _STAGES:
            for number in range(num_blocks):
                outer = multiple * width
                blocks.append(ResidualBlock(channels, outer, stride=1 if number else 2))
                channels = outer
        self.stages = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, num_classes)
        _start_undecided(self.head, 0.01)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of normalised images (B, 3, H, W)."""
        features: Tensor = self.stages(self.stem(images))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


class ResidualBlock(nn.Module):
    """Two convolutions whose result is added to a shortcut."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            _conv(inner, outer, stride), nn.BatchNorm2d(outer), nn.ReLU(inplace=True)
        )
        self.second = nn.Sequential(_conv(outer, outer), nn.BatchNorm2d(outer))
        self.shortcut = nn.Sequential()
        if stride != 1 or inner != outer:
            # Averaging before the 1x1 convolution loses no pixel (He et al., 2019, "ResNet-D").
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True),
                nn.Conv2d(inner, outer, 1, bias=False),
                nn.BatchNorm2d(outer),
            )

    def forward(self, features: Tensor) -> Tensor:
        """Return features (B, outer, H / stride, W / stride)."""
        changed: Tensor = self.second(self.first(features))
        return torch.relu_(changed + self.shortcut(features))


class SoftmaxRegression(nn.Module):
    """One linear layer on the pixels: under softmax, multi-class logistic regression."""

    def __init__(self, image_size: int, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(3 * image_size**2, num_classes)
        _start_undecided(self.head, 0.01 / image_size)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of normalised images (B, 3, S, S)."""
        logits: Tensor = self.head(images.flatten(1))
        return logits


def build_network(
    settings: Model, num_classes: int, image_size: int, seed: int | None
) -> nn.Module:
    """Build a network with random weights that depend on the seed alone.

    Args:
        settings: which network.
        num_classes: C, the number of logits.
        image_size: pixels a side of its input.
        seed: of the run; None for weights without values, on the device `meta`, which are about
            to be replaced.

    Raises:
        UsageError: if nobody has such a network, or not for images of this size.
    """
    with _drawing(seed):
        if settings.name == "softmax_regression":
            network: nn.Module = SoftmaxRegression(image_size, num_classes)
        elif settings.name == "small_cnn":
            network = SmallCNN(settings.width, num_classes)
        else:
            network = TorchvisionNetwork(settings, num_classes, image_size)
            _start_undecided(network.head, 0.01)
    return network.to(memory_format=torch.channels_last)


@contextmanager
def _drawing(seed: int | None) -> Iterator[None]:
    """Draw weights by the seed alone, or none: then no generator of the process is touched."""
    if seed is None:
        with torch.device("meta"):
            yield
        return
    with seeded(weights_seed(seed)):
        yield


def count_parameters(network: nn.Module) -> int:
    """Count the numbers that training changes."""
    return sum(weights.numel() for weights in network.parameters())


def _start_undecided(head: nn.Linear, scale: float) -> None:
    """Make the first weights random, yet so small that the first loss is near ln(classes)."""
    nn.init.normal_(head.weight, std=scale)
    nn.init.zeros_(head.bias)


def _conv(inner: int, outer: int, stride: int = 1) -> nn.Conv2d:
    # PyTorch's own, small random weights: before a normalisation they learn fastest here. Neither
    # He's larger ones nor blocks that start as their shortcut alone came near in few epochs.
    return nn.Conv2d(inner, outer, 3, stride, padding=1, bias=False)
