"""Class activation maps: what each position of an image adds to each logit."""

import torch
from torch import Tensor, nn

from neither.models.backbones import BackboneNetwork
from neither.models.networks import FlipTTA, SmallCNN, SoftmaxRegression
from neither.runtime.errors import UsageError


def class_activation_maps(network: nn.Module, images: Tensor) -> Tensor:
    """Compute the class activation maps of images (CAM; Zhou et al., 2016).

    The head is linear in the pooled features, so the contribution of each position to a logit is
    exact. A network of torchvision or timm has maps if its head gets the average of a feature map,
    as in ResNets.

    Args:
        network: one of this project's, in evaluation mode.
        images: (B, 3, H, W) float32, normalised.

    Returns:
        (B, C, h, w) float32. The sum over positions is the logits less the bias of the head.

    Raises:
        UsageError: if the head of such a network does not get the average of a feature map.
    """
    if isinstance(network, FlipTTA):
        flipped = class_activation_maps(network.network, images.flip(3)).flip(3)
        return (class_activation_maps(network.network, images) + flipped) / 2
    if isinstance(network, SoftmaxRegression):
        weights = network.head.weight.reshape(-1, *images.shape[1:])
        return torch.einsum("bkhw,ckhw->bchw", images, weights)
    if isinstance(network, SmallCNN):
        features = network.stages(network.stem(images))
    elif isinstance(network, BackboneNetwork):
        features = _pooled_feature_map(network.backbone, images)
    else:
        raise TypeError(f"{type(network).__name__} has no class activation maps")
    num_positions = features.shape[2] * features.shape[3]
    maps: Tensor = torch.einsum("bkhw,ck->bchw", features, network.head.weight) / num_positions
    return maps


def class_contrast_cam(network: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Compute the class-contrast CAM: the map of a class less the mean of all maps.

    Softmax depends on differences of logits only, so this is what decides. There is one of the (B,)
    classes for each image; the result is (B, h, w) float32. Else as `class_activation_maps`.
    """
    maps = class_activation_maps(network, images)
    return maps[torch.arange(len(classes)), classes] - maps.mean(dim=1)


def _pooled_feature_map(backbone: nn.Module, images: Tensor) -> Tensor:
    """Find the (B, K, h, w) feature map that is averaged for the head, by comparing all of them."""
    if isinstance(backbone, FlipTTA):
        flipped = _pooled_feature_map(backbone.network, images.flip(3)).flip(3)
        return (_pooled_feature_map(backbone.network, images) + flipped) / 2
    candidates: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2:].numel() > 1:
            candidates.append(output)

    handles = [module.register_forward_hook(keep) for module in backbone.modules()]
    try:
        features = backbone(images)
    finally:
        for handle in handles:
            handle.remove()
    atol = 1e-5 * float(features.abs().max())
    # Some networks of timm have the channels last: (B, h, w, K).
    for candidate in candidates + [each.movedim(3, 1) for each in candidates]:
        average = candidate.mean(dim=(2, 3))
        if average.shape == features.shape and average.allclose(features, rtol=1e-4, atol=atol):
            return candidate
    raise UsageError(
        f"--explain: with images of {images.shape[2]} pixels the head of this network does not get "
        "the average of a feature map, so it has no class activation maps"
    )
