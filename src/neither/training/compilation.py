"""Translating the network into code for this machine."""

import torch
from torch import Tensor, nn

from neither.terminal import say


def compile_network(network: nn.Module, device: torch.device) -> None:
    """Let torch.compile fuse what lies between the convolutions, where a compiler is.

    Where none is, or it lacks its headers, a message says so and training goes on without. The sums
    are the same, rounded elsewhere: a run is compiled from its beginning to its end or not at all.

    Args:
        network: changed in place; its first steps then take half a minute longer.
        device: that it trains on.
    """
    try:
        torch.compile(_double, dynamic=False)(torch.ones(1, device=device))
    except Exception as error:  # a compiler, a header or a writable folder that is not there
        reason = str(error).strip().partition("\n")[0]
        say(f"compile: no compiler works here, so training goes on without ({reason})")
        return
    # Batches come in two or three sizes; code for each keeps the bits the same after a resume.
    network.compile(dynamic=False)
    say("compile: the first steps take longer, half a minute on two cores")


def _double(values: Tensor) -> Tensor:
    return 2 * values
