"""The optimizer and its schedule."""

import math

import torch
from torch import nn

from neither.config import Train


def build_optimizer(network: nn.Module, settings: Train) -> torch.optim.Optimizer:
    """Build SGD with Nesterov momentum, or AdamW.

    Weight decay applies to matrices and kernels; biases and normalisation are left alone, as they
    cannot overfit (He et al., "Bag of tricks", 2019).
    """
    decayed = [weights for weights in network.parameters() if weights.ndim > 1]
    others = [weights for weights in network.parameters() if weights.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, fused=True)
    nesterov = settings.momentum > 0
    return torch.optim.SGD(
        groups, lr=settings.lr, momentum=settings.momentum, nesterov=nesterov, fused=True
    )


def learning_rate(settings: Train, epoch: float) -> float:
    """Return the learning rate at a moment of training.

    It rises in a straight line over the first epochs and then falls along half a cosine to zero
    (Loshchilov and Hutter, "SGDR", 2017, without restarts).

    Args:
        settings: the highest rate, the number of epochs and how many of them it rises.
        epoch: the moment, in epochs from 0 to `settings.epochs`, fractions included.
    """
    if epoch < settings.warmup_epochs:
        return settings.lr * epoch / settings.warmup_epochs
    done = (epoch - settings.warmup_epochs) / (settings.epochs - settings.warmup_epochs)
    return settings.lr * (1 + math.cos(math.pi * done)) / 2
