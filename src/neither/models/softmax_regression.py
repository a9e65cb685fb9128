"""Softmax regression on features: many problems on the same images fitted at once by L-BFGS.

The loss is convex, so there is one solution, whatever the start, and no seed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_HISTORY = 10  # pairs of steps and gradient changes that approximate the curvature
_TOLERANCE = 1e-5  # largest entry of the gradient of a converged problem
_SUFFICIENT_DECREASE = 1e-4  # Armijo's condition
_MAX_HALVINGS = 30

_Pair = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Iterate:
    """The state of P problems with C classes and F features after an iteration."""

    weights: Tensor  # (C, P, F) float64
    bias: Tensor  # (C, P) float64
    logits: Tensor  # (C, P, N) float64, of all images
    is_converged: bool  # whether all problems are solved


def fit_softmax_regression(
    features: Tensor, labels: Tensor, image_weights: Tensor, l2: Tensor, num_classes: int
) -> Iterator[Iterate]:
    """Minimise mean cross entropy + l2 / 2 * squared weights, for P problems in lockstep.

    L-BFGS (Liu and Nocedal, 1989). Logits are linear in the weights, so the line search needs no
    pass over the features: an iteration is one product of matrices for the logits of all problems,
    and one for their gradients.

    Args:
        features: (N, F) float64, each of mean 0 and variance about 1.
        labels: (N,) int64, class indices.
        image_weights: (P, N) float64, how much each image counts in each problem: 0 leaves it out.
        l2: (P,) float64, above 0; the bias is not penalised.
        num_classes: C.

    Yields:
        The start, which is zero, so that the loss is ln(C); then each iteration up to the last.
    """
    num_images, num_features = features.shape
    inputs = torch.cat([features, features.new_ones(num_images, 1)], dim=1)  # the last is the bias
    targets = F.one_hot(labels, num_classes).T[:, None].to(inputs)  # (C, 1, N)
    counted = image_weights / image_weights.sum(dim=1, keepdim=True)
    penalty = l2[:, None].repeat(1, num_features + 1)  # (P, F + 1)
    penalty[:, -1] = 0

    def product(weights: Tensor) -> Tensor:
        return (weights.flatten(0, 1) @ inputs.T).view(num_classes, len(l2), num_images)

    def loss(weights: Tensor, logits: Tensor) -> Tensor:
        losses = logits.logsumexp(dim=0) - (logits * targets).sum(dim=0)
        return (counted * losses).sum(dim=1) + (penalty * weights**2).sum(dim=(0, 2)) / 2

    def gradient(weights: Tensor, logits: Tensor) -> Tensor:
        residuals = counted * (logits.softmax(dim=0) - targets)
        return (residuals.flatten(0, 1) @ inputs).view_as(weights) + penalty * weights

    weights = inputs.new_zeros(num_classes, len(l2), num_features + 1)
    logits = product(weights)
    value, slope = loss(weights, logits), gradient(weights, logits)
    history: list[_Pair] = []
    while True:
        is_solved = slope.abs().amax(dim=(0, 2)) <= _TOLERANCE
        yield Iterate(weights[..., :-1], weights[..., -1], logits, bool(is_solved.all()))
        if is_solved.all():
            return
        direction = -_inverse_hessian_product(slope, history)
        if not history:  # the length of the first step is unknown
            direction = direction / slope.norm(dim=(0, 2), keepdim=True)
        direction = torch.where(is_solved[:, None], 0.0, direction)
        change, descent = product(direction), _dot(slope, direction)[..., 0]
        step = torch.ones_like(value)
        for _ in range(_MAX_HALVINGS):
            new_weights = weights + step[:, None] * direction
            new_logits = logits + step[:, None] * change
            new_value = loss(new_weights, new_logits)
            is_too_long = new_value > value + _SUFFICIENT_DECREASE * step * descent
            if not is_too_long.any():
                break
            step = torch.where(is_too_long, step / 2, step)
        new_slope = gradient(new_weights, new_logits)
        history = [*history, _pair(new_weights - weights, new_slope - slope)][-_HISTORY:]
        weights, logits, value, slope = new_weights, new_logits, new_value, new_slope


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Return the (P, 1) dot products of (C, P, D) tensors, one for each problem."""
    return (one * other).sum(dim=(0, 2))[:, None]


def _pair(step: Tensor, change: Tensor) -> _Pair:
    """Return a step, the change of the gradient, and 1 / their product; 0 where nothing moved."""
    curvature = _dot(step, change)
    return step, change, torch.where(curvature > 0, 1 / curvature, 0.0)


def _inverse_hessian_product(slope: Tensor, history: list[_Pair]) -> Tensor:
    """Multiply gradients by the approximate inverse Hessians (the two-loop recursion)."""
    result, factors = slope, []
    for step, change, inverse in reversed(history):
        factors.append(inverse * _dot(step, result))
        result = result - factors[-1] * change
    if history:
        _, change, inverse = history[-1]
        scale = 1 / (inverse * _dot(change, change))
        result = torch.where(inverse > 0, scale, 1.0) * result
    for (step, change, inverse), factor in zip(history, reversed(factors), strict=True):
        result = result + (factor - inverse * _dot(change, result)) * step
    return result
