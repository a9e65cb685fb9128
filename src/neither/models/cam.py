"""What each place of an image adds to each logit."""

import torch
from torch import Tensor, nn

from neither.models.networks import FlipTTA, SmallCNN, SoftmaxRegression
from neither.models.torchvision_networks import TorchvisionNetwork
from neither.runtime.errors import UsageError


def class_activation_maps(network: nn.Module, images: Tensor) -> Tensor:
    """Split logits by places: exactly, as the heads here are linear in what lies at each place.

    A network of torchvision can tell it if its head gets the average of a map of features, as that
    of ResNets does: which map that is, is found by trying, and so known to be exact.

    Args:
        network: one of this project's, in evaluation mode.
        images: (B, 3, H, W) float32, normalised.

    Returns:
        (B, C, h, w) float32. The sum over all places is the logits less the head's bias.

    Raises:
        UsageError: if a network of torchvision ends in another way.
    """
    if isinstance(network, FlipTTA):
        mirrored = class_activation_maps(network.network, images.flip(3)).flip(3)
        return (class_activation_maps(network.network, images) + mirrored) / 2
    if isinstance(network, SmallCNN):
        return _share_out(network.stages(network.stem(images)), network.head)
    if isinstance(network, TorchvisionNetwork):
        return _share_out(_averaged_map(network, images), network.head)
    if isinstance(network, SoftmaxRegression):
        weights = network.head.weight.reshape(-1, *images.shape[1:])
        return torch.einsum("bkhw,ckhw->bchw", images, weights)
    raise TypeError(f"no places are known of {type(network).__name__}")


def class_contrast_cam(network: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Return the share of each place in the lead of a class over the mean of all.

    Only differences of logits count for softmax, so this is what decides.

    Args:
        network: one of this project's, in evaluation mode.
        images: (B, 3, H, W) float32, normalised.
        classes: (B,) int64, the class of each image that is asked about.

    Returns:
        (B, h, w) float32.
    """
    evidence = class_activation_maps(network, images)
    return evidence[torch.arange(len(classes)), classes] - evidence.mean(dim=1)


def _share_out(features: Tensor, head: nn.Linear) -> Tensor:
    places = features.shape[2] * features.shape[3]
    shares: Tensor = torch.einsum("bkhw,ck->bchw", features, head.weight) / places
    return shares


def _averaged_map(network: TorchvisionNetwork, images: Tensor) -> Tensor:
    """Find the map (B, K, h, w) of features whose average is what the head gets."""
    maps: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2:].numel() > 1:
            maps.append(output)

    handles = [each.register_forward_hook(keep) for each in network.backbone.modules()]
    try:
        features = network.backbone(images)
    finally:
        for handle in handles:
            handle.remove()
    near = 1e-5 * float(features.abs().max())
    for each in maps:
        average = each.mean(dim=(2, 3))
        if average.shape == features.shape and average.allclose(features, rtol=1e-4, atol=near):
            return each
    raise UsageError(
        f"--explain: with {images.shape[2]} pixels the head of this network does not get the "
        "average of a map, so what each place of an image adds to a class is not known"
    )
