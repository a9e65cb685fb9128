"""The optimizer and its schedule."""

import math
from typing import Any

import torch
from torch import nn

from neither.config import Train
from neither.training.muon import Muon

# Muon's steps have a length of their own; the plain steps of all that is no convolution want more.
_PLAIN_RATE = 2.5
_PLAIN_MOMENTUM = 0.9


def build_optimizer(
    network: nn.Module, settings: Train, dtype: torch.dtype = torch.float32
) -> torch.optim.Optimizer:
    """Build Muon for convolutions with SGD for the rest, SGD with Nesterov momentum, or AdamW.

    Weight decay applies to matrices and kernels; biases and normalisation are left alone, as they
    cannot overfit (He et al., "Bag of tricks", 2019). Under Muon, whose steps are long, it applies
    to kernels only.

    Args:
        network: whose parameters are trained.
        settings: which optimizer, its rate, momentum and weight decay.
        dtype: of Muon's matrix products.
    """
    optimizer: torch.optim.Optimizer
    if settings.optimizer == "muon":
        optimizer = _build_muon(network, settings, dtype)
    elif settings.optimizer == "adamw":
        optimizer = torch.optim.AdamW(_groups(network, settings), lr=settings.lr, fused=True)
    else:
        optimizer = torch.optim.SGD(
            _groups(network, settings), lr=settings.lr, momentum=settings.momentum,
            nesterov=settings.momentum > 0, fused=True,
        )  # fmt: skip
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def _groups(network: nn.Module, settings: Train) -> list[dict[str, Any]]:
    matrices = [weights for weights in network.parameters() if weights.ndim > 1]
    vectors = [weights for weights in network.parameters() if weights.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


def _build_muon(network: nn.Module, settings: Train, dtype: torch.dtype) -> Muon:
    kernels = [weights for weights in network.parameters() if weights.ndim > 2]
    others = [weights for weights in network.parameters() if weights.ndim <= 2]
    plain = {"lr": _PLAIN_RATE * settings.lr, "momentum": _PLAIN_MOMENTUM, "orthogonal": False}
    groups = [
        {"params": kernels, "weight_decay": settings.weight_decay},
        {"params": others, **plain},
    ]
    groups = [group for group in groups if group["params"]]
    return Muon(groups, settings.lr, settings.momentum, dtype)


def set_rate(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Set the learning rate of all parameters to a share of its highest."""
    for group in optimizer.param_groups:
        group["lr"] = share * group["initial_lr"]


def rate_share(settings: Train, epoch: float) -> float:
    """Return the learning rate at a moment of training, as a share of the highest.

    It rises in a straight line over the first epochs and then falls along half a cosine to zero
    (Loshchilov and Hutter, "SGDR", 2017, without restarts).

    Args:
        settings: the number of epochs and how many of them the rate rises.
        epoch: the moment, in epochs from 0 to `settings.epochs`, fractions included.
    """
    if epoch < settings.warmup_epochs:
        return epoch / settings.warmup_epochs
    done = (epoch - settings.warmup_epochs) / (settings.epochs - settings.warmup_epochs)
    return (1 + math.cos(math.pi * done)) / 2
