"""A checkpoint as a classifier, and the one way in which logits are computed for use."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from neither import stopping
from neither.data.augmentation import normalize
from neither.data.preprocessing import Preprocessing
from neither.model.checkpoint import load_checkpoint
from neither.model.softmax import to_probabilities

# One shape for every forward pass: kernels choose their order of summation by shape, so an image
# gets the same bits alone, in company, and at the end of a folder.
BATCH_SIZE = 64


@dataclass(frozen=True)
class Classifier:
    """A network and what its outputs mean.

    Attributes:
        network: on `device`, in evaluation mode.
        classes: names in the order of the logits.
        reject_class: the class that means none of the others, if there is one.
        preprocessing: from a file to pixels and from pixels to the network's input.
        temperature: what logits are divided by before softmax.
        source: the folder or manifest that it was trained on.
        aliases: other names of the classes' folders.
        device: of the network.
    """

    network: nn.Module
    classes: tuple[str, ...]
    reject_class: str | None
    preprocessing: Preprocessing
    temperature: float
    source: Path
    aliases: Mapping[str, str]
    device: torch.device

    def logits(self, pixels: Tensor) -> Tensor:
        """Score decoded images.

        Args:
            pixels: (N, S, S, 3) uint8 RGB on the CPU, as `decode` returns them.

        Returns:
            (N, C) float32 logits on the CPU.
        """
        rows = torch.arange(len(pixels))
        return compute_logits(self.network, pixels, rows, self.preprocessing, self.device)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return (N, C) float64 probabilities for (N, C) logits, at this classifier's temperature.

        Raises:
            ValueError: if a logit is not finite.
        """
        return to_probabilities(logits, self.temperature)


def load_classifier(path: Path, device: torch.device) -> Classifier:
    """Load a run's `best.pt`, or one checkpoint file.

    Raises:
        UsageError: if there is none.
        CheckpointError: if it cannot be used.
    """
    checkpoint = load_checkpoint(path)
    data = checkpoint.config["data"]
    return Classifier(
        checkpoint.build().to(device),
        checkpoint.classes,
        checkpoint.reject_class,
        checkpoint.preprocessing,
        checkpoint.temperature,
        Path(data["root"] or data["manifest"]).expanduser(),
        data["aliases"],
        device,
    )


@torch.inference_mode()
def compute_logits(
    network: nn.Module,
    pixels: Tensor,
    rows: Tensor,
    preprocessing: Preprocessing,
    device: torch.device,
) -> Tensor:
    """Run a network in evaluation mode, in float32, over any number of images.

    Args:
        network: in evaluation mode, on `device`.
        pixels: (M, S, S, 3) uint8 RGB on the CPU.
        rows: (N,) int64, which of them; only a batch at a time is copied.
        preprocessing: mean and standard deviation.
        device: where to compute.

    Returns:
        (N, C) float32 logits on the CPU.

    Raises:
        Stopped: if a signal asks for an end.
    """
    parts = []
    padded = pixels.new_zeros((BATCH_SIZE, *pixels.shape[1:]))
    for start in range(0, len(rows), BATCH_SIZE):
        stopping.poll()
        batch = rows[start : start + BATCH_SIZE]
        padded[: len(batch)] = pixels[batch]
        logits = network(normalize(padded.to(device), preprocessing))
        parts.append(logits[: len(batch)].float().cpu())
    return torch.cat(parts)
