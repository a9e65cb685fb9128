"""A moving average of the weights: steadier than the weights themselves, at no cost in use."""

import copy

import torch
from torch import nn


class AveragedNetwork:
    """A copy of a network whose weights and statistics follow the original's, smoothed.

    Polyak averaging with exponential decay (Tarvainen and Valpola, "Mean teachers", 2017). The
    decay rises to its final value over the first steps, so that the random start is soon forgotten.

    Attributes:
        network: the averaged copy, always in evaluation mode.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._decay = decay
        self._averaged, self._counted = _split(self.network)
        self._followed, self._counts = _split(network)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the network as it is after `step` steps."""
        decay = min(self._decay, step / (step + 9))
        torch._foreach_lerp_(self._averaged, self._followed, 1 - decay)
        for mine, followed in zip(self._counted, self._counts, strict=True):
            mine.copy_(followed)


def _split(network: nn.Module) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Separate what can be averaged from whole-number counters, live views of the network."""
    tensors = list(network.state_dict(keep_vars=True).values())
    floating = [tensor.detach() for tensor in tensors if tensor.is_floating_point()]
    return floating, [tensor for tensor in tensors if not tensor.is_floating_point()]
