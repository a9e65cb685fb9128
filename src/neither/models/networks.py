"""The networks; each returns logits, one unnormalised score for each class.

Two are our own. In the others a head follows a known backbone: EfficientNet-Lite0, or one of
torchvision or timm. Importing these takes seconds, so each is imported only when it is used.
"""

import copy
import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from neither.config.schema import (
    EFFICIENTNET_LITE0,
    EFFICIENTNET_LITE0_SMALL,
    EFFICIENTNETS,
    NETWORKS_WITHOUT_WEIGHTS,
    Model,
)
from neither.models import efficientnet_lite
from neither.runtime.errors import OutputError, UsageError, is_out_of_memory
from neither.runtime.rng import seeded, weights_seed

# The published weights of these two are for images that were normalised in another way.
NORMALISED_AGAIN = ("googlenet", "inception_v3")
TIMM = "timm/"  # before the names of timm's networks, which may end in .TAG of their weights


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


class BackboneNetwork(nn.Module):
    """A known network whose last layer is replaced by a linear head.

    Attributes:
        backbone: from images (B, 3, S, S) to features (B, F).
        head: from features to logits.
        replaced: torchvision's name of the layer that the head replaces, such as fc.
    """

    def __init__(self, settings: Model, num_classes: int, image_size: int) -> None:
        """Build the network with random weights.

        Raises:
            UsageError: if there is no such network, or it cannot take images of this size.
            OutputError: if timm is not installed.
        """
        super().__init__()
        self.backbone = _build(settings, image_size)
        num_features: Any
        if settings.name.startswith(TIMM):  # built without its head
            self.replaced, num_features = "", self.backbone.head_hidden_size
        else:
            # The last registered layer in every architecture. That of SqueezeNet is a convolution
            # before the pooling; a linear layer after it is equivalent, without the ReLU that would
            # clip logits at zero.
            self.replaced, last = [
                (name, layer)
                for name, layer in self.backbone.named_modules()
                if isinstance(layer, nn.Linear | nn.Conv2d)
            ][-1]
            self.backbone.set_submodule(self.replaced, nn.Identity())
            num_features = last.weight.shape[1]
        self.head = nn.Linear(num_features, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of normalised images (B, 3, S, S)."""
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def fix_batch_norm(self) -> None:
        """Let batch norm normalise by its pretrained statistics in training too, and keep them.

        The statistics of small batches differ from those that the weights were trained with.
        """
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.eval()


def check_network_name(name: str) -> None:
    """Check that there is a network of this name.

    Raises:
        UsageError: with the most similar name.
        OutputError: if timm is not installed.
    """
    own = (*NETWORKS_WITHOUT_WEIGHTS, *EFFICIENTNETS)
    if name in own:
        return
    if name.startswith(TIMM):
        timm, library, examples = import_timm(), "timm", "examples: timm/resnet18.a1_in1k"
        known = [TIMM + each for each in timm.list_models() + timm.list_models(pretrained=True)]
    else:
        from torchvision import models

        library, examples = "torchvision", "examples: resnet18, convnext_tiny"
        known = [*own, *models.list_models(module=models)]
    if name not in known:
        similar = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {similar[0]}?" if similar else examples
        raise UsageError(f"model.name: {library} has no classification network {name}; {hint}")


def import_timm() -> Any:  # noqa: ANN401 - it is not installed with this package
    """Return the module timm.

    Raises:
        OutputError: if it is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise OutputError(
            f"model.name: timm cannot be imported ({error}); run: pip install 'neither[timm]'"
        ) from error
    return timm


def build_timm(name: str, image_size: int, **options: Any) -> nn.Module:  # noqa: ANN401
    """Build a network of timm for images of a size; `options` are those of `timm.create_model`."""
    timm, name = import_timm(), name.removeprefix(TIMM)
    if timm.get_pretrained_cfg(name).fixed_input_size:  # of the published weights alone
        options["img_size"] = image_size
    network: nn.Module = timm.create_model(name, **options)
    return network


class PublishedWeights(NamedTuple):
    """What is known of a network's ImageNet weights."""

    image_size: int  # side in pixels of the images that they were trained on
    mean: tuple[float, float, float]  # of red, green and blue, subtracted from the input, in [0, 1]
    std: tuple[float, float, float]  # by which the differences are divided
    # to download them from, or the name of their repository on the Hugging Face hub; empty for
    # those of a Python package, and if there are none
    url: str = ""


def published_weights(name: str) -> PublishedWeights:
    """Return what is known of the ImageNet weights of a network that has some."""
    if name in EFFICIENTNETS:
        lite = efficientnet_lite
        return PublishedWeights(lite.IMAGE_SIZE, lite.MEAN, lite.STD)
    if name.startswith(TIMM):
        cfg = import_timm().get_pretrained_cfg(name.removeprefix(TIMM))
        source = cfg.hf_hub_id or cfg.url or ""
        return PublishedWeights(cfg.input_size[-1], tuple(cfg.mean), tuple(cfg.std), source)
    from torchvision import models

    weights = models.get_model_weights(name).DEFAULT
    transforms = weights.transforms()
    mean, std = tuple(transforms.mean), tuple(transforms.std)
    return PublishedWeights(transforms.crop_size[0], mean, std, weights.url)


def check_image_size(network: BackboneNetwork, name: str, num: int, size: int) -> None:
    """Check with a forward pass that a network can train on `num` images of a size.

    Raises:
        UsageError: with the image size of the published weights.
    """
    trial = copy.deepcopy(network).cpu()
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            shape = trial(torch.zeros(num, 3, size, size)).shape
        if len(shape) != 2:  # such as that of an encoder without pooling
            raise ValueError(f"its outputs have the shape {tuple(shape)}")
    except (AssertionError, RuntimeError, ValueError) as error:
        raise _size_error(name, f"batches of {num} images of {size} pixels", error) from error


def _build(settings: Model, image_size: int) -> nn.Module:
    check_network_name(settings.name)
    if settings.name == EFFICIENTNET_LITE0:
        return efficientnet_lite.EfficientNetLite0(pooling=settings.pooling)
    if settings.name == EFFICIENTNET_LITE0_SMALL:
        num_blocks = efficientnet_lite.NUM_SMALL_BLOCKS
        return efficientnet_lite.EfficientNetLite0(num_blocks, settings.pooling)
    options: dict[str, Any] = {}
    if settings.name in NORMALISED_AGAIN:
        # Without auxiliary heads, which would not be trained.
        options = {"aux_logits": False, "init_weights": True,
                   "transform_input": settings.weights != "none"}  # fmt: skip
    elif settings.name.startswith("vit_"):
        options = {"image_size": image_size}
    elif settings.name.startswith("maxvit_"):
        options = {"input_size": (image_size, image_size)}
    try:
        with _real_device(settings.name):
            if settings.name.startswith(TIMM):
                return build_timm(settings.name, image_size, num_classes=0)
            from torchvision import models

            network: nn.Module = models.get_model(settings.name, weights=None, **options)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise _size_error(settings.name, f"images of {image_size} pixels", error) from error
    return network


@contextmanager
def _real_device(name: str) -> Iterator[None]:
    """Leave the device `meta` where it cannot hold all values.

    RegNets compute with tensors when they are built; some of timm's values are in no state dict.
    """
    if name.startswith(("regnet_", TIMM)) and torch.empty(0).device.type == "meta":
        with torch.device("cpu"), seeded(0):
            yield
    else:
        yield


def _size_error(name: str, images: str, error: Exception) -> Exception:
    """Return a `UsageError` that the network cannot take these images; out of memory stays."""
    if is_out_of_memory(error):
        return error
    size = published_weights(name).image_size
    reason = str(error).strip().partition("\n")[0]
    return UsageError(
        f"data.image_size: {name} cannot train on {images} ({reason}); the published "
        f"weights were trained with data.image_size={size}, augmentation.train_scale=1"
    )


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
