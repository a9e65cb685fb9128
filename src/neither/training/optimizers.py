"""Muon: momentum, with the step of each kernel made orthogonal.

The optimizer and its schedule.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neither.config.schema import Train

# A quintic iteration that brings singular values from (0, 1] into about 0.7 to 1.2 in five steps
# (Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024).
_QUINTIC = (3.4445, -4.7750, 2.0315)
_NUM_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose steps on matrices move all directions alike.

    A gradient has a few large singular values, and plain momentum hardly moves along the others.
    Here each matrix takes a step whose singular values are all near one, so the learning rate is
    the length of the step whatever the gradient's. A convolution counts as a matrix of one row for
    each of its outputs.

    Groups of parameters with `orthogonal=False` take the plain steps of SGD.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        lr: float,
        momentum: float,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Take groups of parameters.

        Args:
            groups: each with `params`, and what else differs from the other arguments: `lr`,
                `momentum`, `weight_decay` (0 if none is given), `orthogonal` (True).
            lr: learning rate; the root mean square of an orthogonal step is this over the root of
                the number of columns.
            momentum: in [0, 1).
            dtype: of the matrix products; bfloat16 is exact enough and fast where it is native.
        """
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "orthogonal": True}
        super().__init__(groups, defaults)
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move all parameters that have a gradient."""
        for group in self.param_groups:
            weights = [each for each in group["params"] if each.grad is not None]
            if not weights:
                continue
            directions = self._accelerate(weights, group["momentum"])
            if group["orthogonal"]:
                directions = _orthogonalize_each(directions, self._dtype)
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(weights, directions, alpha=-group["lr"])

    def _accelerate(self, weights: Sequence[Tensor], momentum: float) -> list[Tensor]:
        """Add the gradients to their momenta and look one step ahead (Nesterov)."""
        gradients = [each.grad for each in weights if each.grad is not None]
        for each in weights:
            if not self.state[each]:
                self.state[each]["momentum_buffer"] = torch.zeros_like(each)
        momenta = [self.state[each]["momentum_buffer"] for each in weights]
        torch._foreach_mul_(momenta, momentum)
        torch._foreach_add_(momenta, gradients)
        return list(torch._foreach_add(gradients, momenta, alpha=momentum))


def orthogonalize(matrices: Tensor) -> Tensor:
    """Bring all singular values of matrices near one, keeping their singular vectors.

    Args:
        matrices: (N, R, K) of any floating type, which the arithmetic keeps to.

    Returns:
        (N, R, K); a matrix of zeros stays one.
    """
    is_tall = matrices.shape[1] > matrices.shape[2]
    wide = matrices.mT if is_tall else matrices
    wide = wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = _QUINTIC
    for _ in range(_NUM_ITERATIONS):
        squares = wide @ wide.mT
        squares = torch.baddbmm(squares, squares, squares, beta=b, alpha=c)
        wide = torch.baddbmm(wide, squares, wide, beta=a)
    result: Tensor = wide.mT if is_tall else wide
    return result


def _orthogonalize_each(directions: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Orthogonalise kernels of the same shape together, as one batch of products."""
    results = list(directions)
    # Kernels are channels last in memory: in this order of columns they need no copy.
    turned = [each.movedim(1, -1) for each in directions]
    shapes = [each.shape for each in turned]
    for shape in dict.fromkeys(shapes):
        places = [place for place, other in enumerate(shapes) if other == shape]
        flat = torch.stack([turned[place].flatten(1) for place in places]).to(dtype)
        scale = max(1.0, flat.shape[1] / flat.shape[2]) ** 0.5
        steps = (scale * orthogonalize(flat)).to(directions[places[0]].dtype)
        for place, step in zip(places, steps, strict=True):
            results[place] = step.view(shape).movedim(-1, 1)
    return results


# Muon's steps have a length of their own; the plain steps of all that is no convolution want more.
_PLAIN_RATE = 2.5
_PLAIN_MOMENTUM = 0.9


def build_optimizer(
    network: nn.Module,
    settings: Train,
    dtype: torch.dtype = torch.float32,
    backbone_lr_factor: float = 1.0,
) -> torch.optim.Optimizer:
    """Build Muon for convolutions with SGD for the rest, SGD with Nesterov momentum, or AdamW.

    Weight decay applies to matrices and kernels; biases and normalisation are left alone, as they
    cannot overfit (He et al., "Bag of tricks", 2019). Under Muon, whose steps are long, it applies
    to kernels only.

    Args:
        network: whose parameters are trained.
        settings: which optimizer, its rate, momentum and weight decay.
        dtype: of Muon's matrix products.
        backbone_lr_factor: the learning rate of all but the network's `head`, as a fraction of the
            head's for the same kind of parameters; at 1 the network needs no head.
    """
    muon = settings.optimizer == "muon"
    groups = _groups_of_muon(network, settings) if muon else _groups(network, settings)
    if backbone_lr_factor != 1:
        groups = _split(groups, network.get_submodule("head"), settings.lr, backbone_lr_factor)
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
    groups: list[dict[str, Any]], head: nn.Module, rate: float, backbone_lr_factor: float
) -> list[dict[str, Any]]:
    """Part each group into what is of the backbone, at a lower rate, and what is of the head."""
    own = set(map(id, head.parameters()))
    parted = []
    for group in groups:
        of_head = [weights for weights in group["params"] if id(weights) in own]
        of_backbone = [weights for weights in group["params"] if id(weights) not in own]
        lower = backbone_lr_factor * group.get("lr", rate)
        parted += [group | {"params": of_backbone, "lr": lower}, group | {"params": of_head}]
    return parted


def set_lr_factor(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Set the learning rate of all parameters to a share of its highest."""
    for group in optimizer.param_groups:
        group["lr"] = share * group["initial_lr"]


def current_lr_factor(optimizer: torch.optim.Optimizer) -> float:
    """Return the share that was set last; 1 before the first step."""
    group = optimizer.param_groups[0]
    return float(group["lr"] / group["initial_lr"])


def lr_factor(settings: Train, epoch: float) -> float:
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
