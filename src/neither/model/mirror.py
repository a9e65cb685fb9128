"""The answer to an image and its mirror image, which mean the same."""

from torch import Tensor, nn


class MirrorAverage(nn.Module):
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
