"""Optimizers: which parameters get weight decay and which learning rate; its schedule; Muon."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neither.config.schema import Train

# Muon's steps have a fixed length; the SGD steps of all other parameters need a higher rate.
_SGD_LR_FACTOR = 2.5
_SGD_MOMENTUM = 0.9

# Coefficients of a Newton-Schulz iteration that maps singular values from (0, 1] to about
# [0.7, 1.2] in five steps (Jordan et al., "Muon: an optimizer for hidden layers in neural
# networks", 2024).
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NUM_ITERATIONS = 5


def build_optimizer(
    network: nn.Module, settings: Train, dtype: torch.dtype = torch.float32
) -> torch.optim.Optimizer:
    """Build Muon (convolutions, with SGD for the rest), SGD with Nesterov momentum, or AdamW.

    Weight decay applies to matrices and kernels, not to biases and normalization, which cannot
    overfit (He et al., "Bag of tricks", 2019). Under Muon it applies to convolutions only. `dtype`
    is that of Muon's matrix products.
    """
    is_muon = settings.optimizer == "muon"
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for weights in network.parameters():
        is_decayed = _is_matrix(weights) and (weights.ndim > 2 or not is_muon)
        (decayed if is_decayed else others).append(weights)
    sgd = {"lr": _SGD_LR_FACTOR * settings.lr, "momentum": _SGD_MOMENTUM, "orthogonal": False}
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0, **(sgd if is_muon else {})},
    ]
    groups = [group for group in groups if group["params"]]
    lr, momentum = settings.lr, settings.momentum
    optimizer: torch.optim.Optimizer
    if is_muon:
        optimizer = Muon(groups, lr, momentum, dtype)
    elif settings.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, lr, fused=True)
    else:
        optimizer = torch.optim.SGD(groups, lr, momentum, nesterov=momentum > 0, fused=True)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def _is_matrix(weights: nn.Parameter) -> bool:
    """Return False also for a vector with extra dimensions of size 1, such as (C, 1, 1)."""
    return weights.ndim > 1 and weights.shape[0] > 1 and weights[0].numel() > 1


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


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose updates of matrices are orthogonalized.

    A gradient has a few large singular values, and momentum SGD hardly moves along the others. Muon
    brings all singular values of each update near one, so the learning rate sets the length of
    the step whatever the gradient's scale. A convolution counts as a matrix with one row for each
    output channel.

    Parameter groups with `orthogonal=False` take SGD steps.
    """

    # Torch's own have a wrapper, for compiled optimizers only, that imports its compiler: a third
    # of the start of a training run.
    add_param_group = torch.optim.Optimizer.add_param_group.__wrapped__  # type: ignore[attr-defined]
    state_dict = torch.optim.Optimizer.state_dict.__wrapped__  # type: ignore[attr-defined]
    load_state_dict = torch.optim.Optimizer.load_state_dict.__wrapped__  # type: ignore[attr-defined]
    zero_grad = torch.optim.Optimizer.zero_grad.__wrapped__  # type: ignore[attr-defined]

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        lr: float,
        momentum: float,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Set up the parameter groups, which have `params` and may have their own values.

        The RMS of an orthogonal update is the learning rate divided by the square root of the
        number of columns. For the matrix products bfloat16 is accurate enough.
        """
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "orthogonal": True}
        super().__init__(groups, defaults)
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            weights = [each for each in group["params"] if each.grad is not None]
            if not weights:
                continue
            updates = self._nesterov_updates(weights, group["momentum"])
            if group["orthogonal"]:
                updates = _orthogonalize_kernels(updates, self._dtype)
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(weights, updates, alpha=-group["lr"])

    def _nesterov_updates(self, weights: Sequence[Tensor], momentum: float) -> list[Tensor]:
        gradients = [each.grad for each in weights if each.grad is not None]
        for each in weights:
            if not self.state[each]:
                self.state[each]["momentum_buffer"] = torch.zeros_like(each)
        buffers = [self.state[each]["momentum_buffer"] for each in weights]
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, gradients)
        return list(torch._foreach_add(gradients, buffers, alpha=momentum))


def orthogonalize(matrices: Tensor) -> Tensor:
    """Bring all singular values of (N, R, K) matrices near one and keep their singular vectors.

    The arithmetic uses the type of the matrices; a matrix of zeros stays zero.
    """
    is_tall = matrices.shape[1] > matrices.shape[2]
    wide = matrices.mT if is_tall else matrices
    wide = wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = _NEWTON_SCHULZ
    for _ in range(_NUM_ITERATIONS):
        squares = wide @ wide.mT
        squares = torch.baddbmm(squares, squares, squares, beta=b, alpha=c)
        wide = torch.baddbmm(wide, squares, wide, beta=a)
    result: Tensor = wide.mT if is_tall else wide
    return result


def _orthogonalize_kernels(updates: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Orthogonalize each update; those of one shape together, as one batch of products."""
    results = list(updates)
    # Kernels are channels last in memory: with channels as the last dimension they need no copy.
    channels_last = [each.movedim(1, -1) for each in updates]
    shapes = [each.shape for each in channels_last]
    for shape in dict.fromkeys(shapes):
        indices = [index for index, other in enumerate(shapes) if other == shape]
        flat = torch.stack([channels_last[index].flatten(1) for index in indices]).to(dtype)
        scale = max(1.0, flat.shape[1] / flat.shape[2]) ** 0.5
        orthogonal = (scale * orthogonalize(flat)).to(updates[indices[0]].dtype)
        for index, update in zip(indices, orthogonal, strict=True):
            results[index] = update.view(shape).movedim(-1, 1)
    return results
