"""EfficientNet-Lite0 made so small that its features take a moment, and weights for it."""

from pathlib import Path

import pytest
import torch
from torch import nn

from neither.models import efficientnet_lite

_SMALL = {"_STAGES": ((1, 3, 1, 8, 1), (6, 5, 2, 16, 2)), "_STEM_CHANNELS": 8, "_NUM_FEATURES": 40}


def shrink(patch: pytest.MonkeyPatch) -> None:
    for name, value in _SMALL.items():
        patch.setattr(efficientnet_lite, name, value)


def write_weights(path: Path) -> None:
    """Write random weights with batch norm statistics as after training."""
    torch.manual_seed(0)
    network = efficientnet_lite.EfficientNetLite0()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean of the batches
    with torch.no_grad():
        network(torch.randn(32, 3, 48, 48))
    torch.save(network.state_dict(), path)
