"""What each place of an image adds to each logit."""

import torch
from torch import Tensor, nn

from neither.model.mirror import MirrorAverage
from neither.model.network import SmallCNN, SoftmaxRegression


def evidence_of(network: nn.Module, images: Tensor) -> Tensor:
    """Split logits by places: exactly, as the heads here are linear in what lies at each place.

    Args:
        network: one of this project's, in evaluation mode.
        images: (B, 3, H, W) float32, normalised.

    Returns:
        (B, C, h, w) float32. The sum over all places is the logits less the head's bias.
    """
    if isinstance(network, MirrorAverage):
        mirrored = evidence_of(network.network, images.flip(3)).flip(3)
        return (evidence_of(network.network, images) + mirrored) / 2
    if isinstance(network, SmallCNN):
        features = network.stages(network.stem(images))
        places = features.shape[2] * features.shape[3]
        shares: Tensor = torch.einsum("bkhw,ck->bchw", features, network.head.weight) / places
        return shares
    if isinstance(network, SoftmaxRegression):
        weights = network.head.weight.reshape(-1, *images.shape[1:])
        return torch.einsum("bkhw,ckhw->bchw", images, weights)
    raise TypeError(f"no places are known of {type(network).__name__}")


def lead_of(network: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Return the share of each place in the lead of a class over the mean of all.

    Only differences of logits count for softmax, so this is what decides.

    Args:
        network: one of this project's, in evaluation mode.
        images: (B, 3, H, W) float32, normalised.
        classes: (B,) int64, the class of each image that is asked about.

    Returns:
        (B, h, w) float32.
    """
    evidence = evidence_of(network, images)
    return evidence[torch.arange(len(classes)), classes] - evidence.mean(dim=1)
