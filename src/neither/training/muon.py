"""Muon: momentum, with the step of each kernel made orthogonal."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

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
