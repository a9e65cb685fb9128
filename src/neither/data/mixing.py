"""Put a part of one training image into another, and into its target the share that it takes.

CutMix (Yun et al., "CutMix: regularization strategy to train strong classifiers with localizable
features", 2019). Images are partners two by two in the epoch's order, so which image gets what
depends on (seed, epoch, place) alone, however batches are cut.
"""

import torch
from torch import Tensor

from neither.data.augmentation import rectangles

NUM_NUMBERS = 4  # uniform numbers that one image needs


def mix(
    images: Tensor, targets: Tensor, numbers: Tensor, probability: float
) -> tuple[Tensor, Tensor]:
    """Paste a square part of each image's partner over some images.

    Args:
        images: (B, 3, T, T); the first and second are partners, the third and fourth, and so on;
            a last one without a partner stays as it is.
        targets: (B, C) probabilities.
        numbers: (B, NUM_NUMBERS) uniform in [0, 1), on the same device.
        probability: of an image to be changed.

    Returns:
        New images and targets of the same shapes.
    """
    num, size = len(images), images.shape[-1]
    partners = (torch.arange(num, device=images.device) ^ 1).clamp(max=num - 1)
    half = numbers[:, 1].sqrt() / 2  # of the side, so that shares of the area are uniform
    taken = rectangles(size, numbers[:, 0] < probability, numbers[:, 2:], half, half)
    shares = taken.float().mean(dim=(1, 2))[:, None]  # what lies beyond the edges does not count
    return (
        torch.where(taken[:, None], images[partners], images),
        torch.lerp(targets, targets[partners], shares),
    )
