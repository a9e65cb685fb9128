"""The classification networks of torchvision, under a head of our own.

torchvision takes a second to import, so only those who ask for one of its networks wait for it.
"""

import copy
import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from neither.config.schema import OWN_NETWORKS, Model
from neither.runtime.errors import UsageError, is_out_of_memory
from neither.runtime.rng import seeded


class TorchvisionNetwork(nn.Module):
    """A network of torchvision up to its last layer, and a linear head for the classes at hand.

    Attributes:
        backbone: turns images (B, 3, S, S) into features (B, F).
        head: turns features into logits.
        replaced: the name that torchvision gives to its own last layer, such as fc.
    """

    def __init__(self, settings: Model, num_classes: int, image_size: int) -> None:
        """Build it with random weights.

        Raises:
            UsageError: if torchvision has no such network, or not for images of this size.
        """
        super().__init__()
        self.backbone = _build(settings, image_size)
        # Always the last one that is registered. SqueezeNet's is a convolution before its average;
        # a linear layer after it is the same, without the ReLU that would cut logits off at zero.
        name, last = [
            (name, layer) for name, layer in self.backbone.named_modules()
            if isinstance(layer, nn.Linear | nn.Conv2d)
        ][-1]  # fmt: skip
        self.backbone.set_submodule(name, nn.Identity())
        self.replaced = name
        self.head = nn.Linear(last.weight.shape[1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of normalised images (B, 3, S, S)."""
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def freeze_backbone(self, frozen: bool) -> None:
        """Let the backbone stand still or learn.

        A frozen one keeps the statistics of its norms as well, and drops nothing out: each image
        has the same features in training as in use.
        """
        self.backbone.requires_grad_(not frozen).train(not frozen)


def check_network_name(name: str) -> None:
    """Refuse the name of a network that nobody has.

    Raises:
        UsageError: with the name that may have been meant.
    """
    if name in OWN_NETWORKS:
        return
    from torchvision import models

    known = [*OWN_NETWORKS, *models.list_models(module=models)]
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        some = "there are resnet18, convnext_tiny and others"
        hint = f"did you mean {close[0]}?" if close else some
        raise UsageError(
            f"model.name: torchvision has no {name} among its networks for classification; {hint}"
        )


def check_image_size(network: TorchvisionNetwork, name: str, num: int, size: int) -> None:
    """Refuse images that a network cannot take, before anything is decoded.

    Args:
        network: it stays as it is.
        name: of it.
        num: of images in a batch.
        size: pixels a side.

    Raises:
        UsageError: with the size that torchvision's own weights were trained at.
    """
    trial = copy.deepcopy(network).cpu().train()
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            trial(torch.zeros(num, 3, size, size))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise _refused(name, f"batches of {num} images of {size} pixels", error) from error


def _build(settings: Model, image_size: int) -> nn.Module:
    check_network_name(settings.name)
    from torchvision import models

    own: dict[str, Any] = {}
    if settings.name in ("googlenet", "inception_v3"):
        # Without the heads on the way, which nobody would train. Their weights were made elsewhere,
        # for images normalised in another way.
        own = {"aux_logits": False, "init_weights": True,
               "transform_input": settings.weights != "none"}  # fmt: skip
    elif settings.name.startswith("vit_"):
        own = {"image_size": image_size}
    elif settings.name.startswith("maxvit_"):
        own = {"input_size": (image_size, image_size)}
    try:
        with _drawn_for_real(settings.name):
            network: nn.Module = models.get_model(settings.name, weights=None, **own)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise _refused(settings.name, f"images of {image_size} pixels", error) from error
    return network


@contextmanager
def _drawn_for_real(name: str) -> Iterator[None]:
    """Leave the device `meta`, if it is in force, for who needs tensors to be built."""
    if name.startswith("regnet_") and torch.empty(0).device.type == "meta":
        with torch.device("cpu"), seeded(0):
            yield
    else:
        yield


def _refused(name: str, what: str, error: Exception) -> Exception:
    """Say that a network takes no such images, unless something else is the matter."""
    if is_out_of_memory(error):
        return error
    from torchvision import models

    size = models.get_model_weights(name).DEFAULT.transforms().crop_size[0]
    reason = str(error).strip().partition("\n")[0]
    return UsageError(
        f"data.image_size: {name} cannot take {what} in training ({reason}); torchvision's own "
        f"weights of it were made with data.image_size={size}, augmentation.train_scale=1"
    )
