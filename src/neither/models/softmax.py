"""From logits to probabilities: the only module that converts one into the other."""

import math

import torch
from torch import Tensor


def to_probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute softmax(logits / temperature).

    p_k = exp(z_k / T) / sum_j exp(z_j / T). The order of the classes does not depend on the
    temperature; above 1 it makes the probabilities less confident, below 1 more (Guo et al., 2017).

    Args:
        logits: (B, C), any floating-point type; the result is computed in float64.
        temperature: T > 0.

    Returns:
        (B, C) float64 in [0, 1]; each row sums to 1.

    Raises:
        ValueError: if a logit is not finite (with NaN the first class would always be predicted),
            or if T is not above 0.
    """
    _check_finite(logits, temperature)
    return tempered_softmax(logits.double(), temperature)


def tempered_softmax(logits: Tensor, temperature: float) -> Tensor:
    """Compute `to_probabilities` without checks and without conversion, for an exported graph."""
    return torch.softmax(logits / temperature, dim=1)


def to_log_probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute the logarithm of `to_probabilities`, exact where a probability rounds to zero.

    Takes and raises the same; returns (B, C) float64, at most 0.
    """
    _check_finite(logits, temperature)
    return torch.log_softmax(logits.double() / temperature, dim=1)


def label_probabilities(losses: Tensor) -> Tensor:
    """Compute exp(-losses): the (N,) probabilities of labels from their cross entropy in nats."""
    return (-losses).exp()


def _check_finite(logits: Tensor, temperature: float) -> None:
    if not 0 < temperature < math.inf:
        raise ValueError(f"the temperature must be above 0 and finite, not {temperature:g}")
    if not torch.isfinite(logits).all():
        raise ValueError("a logit is not finite: the network's weights or its input are damaged")
