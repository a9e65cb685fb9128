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
    network: nn.Module,
    settings: Train,
    dtype: torch.dtype = torch.float32,
    backbone_lr: float = 1.0,
) -> torch.optim.Optimizer:
    """Build Muon for convolutions with SGD for the rest, SGD with Nesterov momentum, or AdamW.

    Weight decay applies to matrices and kernels; biases and normalisation are left alone, as they
    cannot overfit (He et al., "Bag of tricks", 2019). Under Muon, whose steps are long, it applies
    to kernels only.

    Args:
        network: whose parameters are trained.
        settings: which optimizer, its rate, momentum and weight decay.
        dtype: of Muon's matrix products.
        backbone_lr: the rate of all but the network's `head`, as a share of that of the same kind
            of parameters in it; at 1 there need be no head.
    """
    muon = settings.optimizer == "muon"
    groups = _groups_of_muon(network, settings) if muon else _groups(network, settings)
    if backbone_lr != 1:
        groups = _split(groups, network.get_submodule("head"), settings.lr, backbone_lr)
    groups = [group for group in groups if group["params"]]
    optimizer: torch.optim.Optimizer
    if muon:
        optimizer = Muon(groups, settings.lr, settings.momentum, dtype)
    elif settings.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=settings.lr, fused=True)
    else:
        optimizer = torch.optim.SGD(
            groups, lr=settings.lr, momentum=settings.momentum,
            nesterov=settings.momentum > 0, fused=True,
        )  # fmt: skip
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def _groups(network: nn.Module, settings: Train) -> list[dict[str, Any]]:
    matrices = [weights for weights in network.parameters() if _is_matrix(weights)]
    vectors = [weights for weights in network.parameters() if not _is_matrix(weights)]
    return [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


def _groups_of_muon(network: nn.Module, settings: Train) -> list[dict[str, Any]]:
    parameters = list(network.parameters())
    is_kernel = [weights.ndim > 2 and _is_matrix(weights) for weights in parameters]
    kernels = [weights for weights, yes in zip(parameters, is_kernel, strict=True) if yes]
    others = [weights for weights, yes in zip(parameters, is_kernel, strict=True) if not yes]
    plain = {"lr": _PLAIN_RATE * settings.lr, "momentum": _PLAIN_MOMENTUM, "orthogonal": False}
    return [
        {"params": kernels, "weight_decay": settings.weight_decay},
        {"params": others, **plain},
    ]


def _is_matrix(weights: nn.Parameter) -> bool:
    """Tell rows and columns from one row that is written with more dimensions."""
    return weights.ndim > 1 and weights.shape[0] > 1 and weights[0].numel() > 1


def _split(
    groups: list[dict[str, Any]], head: nn.Module, rate: float, backbone_lr: float
) -> list[dict[str, Any]]:
    """Part each group into what is of the backbone, at a lower rate, and what is of the head."""
    own = set(map(id, head.parameters()))
    parted = []
    for group in groups:
        of_head = [weights for weights in group["params"] if id(weights) in own]
        of_backbone = [weights for weights in group["params"] if id(weights) not in own]
        lower = backbone_lr * group.get("lr", rate)
        parted += [group | {"params": of_backbone, "lr": lower}, group | {"params": of_head}]
    return parted


def set_rate(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Set the learning rate of all parameters to a share of its highest."""
    for group in optimizer.param_groups:
        group["lr"] = share * group["initial_lr"]


def current_share(optimizer: torch.optim.Optimizer) -> float:
    """Return the share that was set last; 1 before the first step."""
    group = optimizer.param_groups[0]
    return float(group["lr"] / group["initial_lr"])


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
