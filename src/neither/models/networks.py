"""The networks; each returns logits, one unnormalised score for each class."""

import torch
from torch import Tensor, nn

from neither.config.schema import Model
from neither.models.backbones import BackboneNetwork
from neither.runtime.rng import seeded, weights_seed


class FlipTTA(nn.Module):
    """Test-time augmentation: averages what a network returns for an image and its mirror image.

    It doubles the cost of a forward pass and lowers the loss by about a tenth, see
    `benchmarks/LOG.md`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return logits or features (B, K) of normalised images (B, 3, H, W)."""
        outputs: Tensor = (self.network(images) + self.network(images.flip(3))) / 2
        return outputs


# Channels, as a multiple of the width, and blocks of each stage. Low resolution and many channels
# suit processors: at full resolution the time goes into memory transfers, not into arithmetic.
_STAGES = ((2, 2), (4, 3), (8, 1))


class SmallCNN(nn.Module):
    """A residual network of 3x3 convolutions for small images (He et al., 2016).

    The stem and each stage halve height and width; global average pooling makes one feature vector
    of any input from 32 x 32 pixels on.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_conv_bn(3, width, stride=2), nn.ReLU(inplace=True))
        blocks: list[nn.Module] = []
        channels = width
        for multiple, num_blocks in _STAGES:
            for index in range(num_blocks):
                stride = 1 if index else 2
                blocks.append(ResidualBlock(channels, multiple * width, stride))
                channels = multiple * width
        self.stages = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, num_classes)
        _init_near_zero(self.head, 0.01)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of normalised images (B, 3, H, W)."""
        features: Tensor = self.stages(self.stem(images))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut, added."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        relu = nn.ReLU(inplace=True)
        self.first = nn.Sequential(*_conv_bn(in_channels, out_channels, stride), relu)
        self.second = nn.Sequential(*_conv_bn(out_channels, out_channels, stride=1))
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            # Pooling before the 1x1 convolution uses every pixel (He et al., 2019, "ResNet-D").
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True),
                nn.Conv2d(in_channels, out_channels, 1, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, features: Tensor) -> Tensor:
        """Return features (B, out_channels, H / stride, W / stride)."""
        residual: Tensor = self.second(self.first(features))
        return torch.relu_(residual + self.shortcut(features))


class SoftmaxRegression(nn.Module):
    """One linear layer on the pixels: under softmax, multi-class logistic regression."""

    def __init__(self, image_size: int, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(3 * image_size**2, num_classes)
        _init_near_zero(self.head, 0.01 / image_size)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of normalised images (B, 3, S, S)."""
        logits: Tensor = self.head(images.flatten(1))
        return logits


def build_network(
    settings: Model, num_classes: int, image_size: int, seed: int | None
) -> nn.Module:
    """Build a network with random weights that depend on the seed alone.

    Without a seed the weights are on the device `meta`, without values, to be replaced.

    Raises:
        UsageError: if the architecture is unknown, or cannot take images of this size.
    """
    with torch.device("meta") if seed is None else seeded(weights_seed(seed)):
        if settings.name == "softmax_regression":
            network: nn.Module = SoftmaxRegression(image_size, num_classes)
        elif settings.name == "small_cnn":
            network = SmallCNN(settings.width, num_classes)
        else:
            network = BackboneNetwork(settings, num_classes, image_size)
            _init_near_zero(network.head, 0.01)
    return network.to(memory_format=torch.channels_last)


def count_parameters(network: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(weights.numel() for weights in network.parameters())


def _init_near_zero(head: nn.Linear, std: float) -> None:
    """Make the weights random but so small that the first loss is near ln(C)."""
    if head.weight.is_meta:  # nothing to fill, and `normal_` would import torch._dynamo: 1.5 s
        return
    nn.init.normal_(head.weight, std=std)
    nn.init.zeros_(head.bias)


def _conv_bn(in_channels: int, out_channels: int, stride: int) -> tuple[nn.Module, nn.Module]:
    # PyTorch's default initialisation learns fastest here, before batch norm: both He's and blocks
    # that start as the identity were worse after few epochs.
    conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
    return conv, nn.BatchNorm2d(out_channels)
