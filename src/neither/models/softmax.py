"""The border between logits and probabilities; nothing else in the code crosses it."""

import math

import torch
from torch import Tensor


def to_probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Turn scores of any size and sign into probabilities: softmax(logits / temperature).

    p_k = exp(z_k / T) / sum_j exp(z_j / T). The largest score keeps the largest probability at
    every temperature; above 1 the temperature makes the answer less sure, below 1 surer.

    Args:
        logits: (B, C), any floating-point type; the result is computed in float64.
        temperature: T > 0.

    Returns:
        (B, C) float64 in [0, 1]; each row sums to 1.

    Raises:
        ValueError: if a logit is not finite: every comparison with NaN fails, so the largest of
            such a row would be the first class, whatever the image; or if T is not above 0.
    """
    _require_sound(logits, temperature)
    return tempered_softmax(logits.double(), temperature)


def tempered_softmax(logits: Tensor, temperature: float) -> Tensor:
    """Return `to_probabilities` without a look at the numbers, for a graph that is exported.

    Args:
        logits: (B, C), any floating-point type.
        temperature: T > 0.

    Returns:
        (B, C) in [0, 1], of the same type.
    """
    return torch.softmax(logits / temperature, dim=1)


def to_log_probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the logarithm of `to_probabilities`, right where a probability rounds to zero.

    Args:
        logits: (B, C), any floating-point type; the result is computed in float64.
        temperature: T > 0.

    Returns:
        (B, C) float64, at most 0.

    Raises:
        ValueError: if a logit is not finite, or T not above 0.
    """
    _require_sound(logits, temperature)
    return torch.log_softmax(logits.double() / temperature, dim=1)


def label_probabilities(losses: Tensor) -> Tensor:
    """Return the probability of each label from its cross entropy: exp(-loss).

    Args:
        losses: (N,) cross entropy in nats, at least 0, any floating-point type.

    Returns:
        (N,) in [0, 1], of the same type.
    """
    return (-losses).exp()


def _require_sound(logits: Tensor, temperature: float) -> None:
    if not 0 < temperature < math.inf:
        raise ValueError(f"a temperature is above 0, not {temperature:g}")
    if not torch.isfinite(logits).all():
        raise ValueError("a logit is not finite: the network's weights or its input are damaged")
