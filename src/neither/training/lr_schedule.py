"""The learning-rate schedule: linear warmup, then a half cosine down to zero."""

import math

import torch

from neither.config.schema import Train


def scheduled_lr_factor(settings: Train, epoch: float) -> float:
    """Return the learning rate at a time of training, as a fraction of the peak, in [0, 1].

    It rises linearly over `warmup_epochs` and then falls along half a cosine to zero (Loshchilov
    and Hutter, "SGDR", 2017, without restarts). The time is in epochs, not only whole numbers.
    """
    if epoch < settings.warmup_epochs:
        return epoch / settings.warmup_epochs
    progress = (epoch - settings.warmup_epochs) / (settings.epochs - settings.warmup_epochs)
    return (1 + math.cos(math.pi * progress)) / 2


def set_lr_factor(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set the learning rate of each parameter group to a fraction of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["initial_lr"]


def current_lr_factor(optimizer: torch.optim.Optimizer) -> float:
    """Return the factor that was set last; 1 before the first step."""
    group = optimizer.param_groups[0]
    return float(group["lr"] / group["initial_lr"])
