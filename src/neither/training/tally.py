"""Sums and counts of an epoch so far, kept on the device until it ends."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from neither.evaluation.metrics import count_confusions, curve_figures


class Tally:
    """What the steps of one epoch add up to; nothing here waits for the device."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        # Apple's GPUs have no float64; there the sum is a little less exact.
        kind = torch.float32 if device.type == "mps" else torch.float64
        self.loss = torch.zeros((), dtype=kind, device=device)
        self.norm = torch.zeros((), dtype=kind, device=device)
        self.confusion = torch.zeros((num_classes, num_classes), dtype=torch.int64, device=device)
        self.num_steps = 0

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor, norm: Tensor) -> None:
        """Count one step.

        Args:
            loss: scalar, the mean over the batch.
            logits: (B, C), before the update.
            labels: (B,) int64.
            norm: scalar, the length of the gradient before clipping.
        """
        self.loss += loss.detach() * len(labels)
        self.norm += norm
        self.confusion += count_confusions(labels, logits.detach().argmax(1), len(self.confusion))
        self.num_steps += 1

    def mean_loss(self) -> float:
        """Return the mean loss of an image so far; this waits for the device."""
        return float(self.loss) / max(1, int(self.confusion.sum()))

    def figures(self, classes: Sequence[str]) -> dict[str, float]:
        """Return the values of the curves; this waits for the device."""
        figures = curve_figures(self.mean_loss(), self.confusion, classes)
        return figures | {"gradient_norm": float(self.norm) / self.num_steps}

    def is_finite(self) -> bool:
        """Say whether every loss and gradient so far was finite; this waits for the device."""
        return math.isfinite(float(self.loss)) and math.isfinite(float(self.norm))

    def state(self) -> dict[str, Any]:
        """Return what `restore` takes back."""
        return {name: _copy(value) for name, value in vars(self).items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        for name, value in state.items():
            own = getattr(self, name)
            setattr(self, name, value.to(own.device) if isinstance(own, Tensor) else value)


def _copy(value: Tensor | int) -> Tensor | int:
    return value.cpu().clone() if isinstance(value, Tensor) else value
