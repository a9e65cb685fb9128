"""The temperature that makes a network's probabilities say how often it is right."""

from torch import Tensor

from neither.evaluation.metrics import nll
from neither.model.softmax import to_probabilities

LEAST, MOST = 0.05, 20.0
PRIOR = 3.0  # benchmarks/temperatures.py compares it with others
_NUM_HALVINGS = 100  # float64 has 53 bits; the rest costs nothing


def fit_temperature(logits: Tensor, labels: Tensor, prior: float = PRIOR) -> float:
    """Find the temperature with the lowest negative log-likelihood (Guo et al., 2017), held to 1.

    In b = 1 / T the likelihood is convex. Added to it is 3 (b - 1 - ln b), as of a gamma
    distribution with its mode at b = 1 and the weight of about three images: hundreds of labels
    outvote it, but few that are all right, which alone would ask for T = 0, do not. The sum is
    strictly convex and its slope has one zero, which bisection finds. As the prior is 0 at T = 1
    and positive elsewhere, the result is never worse than T = 1 on these images.

    Args:
        logits: (N, C), finite, of images that were not trained on.
        labels: (N,) int64.
        prior: the weight of T = 1, in images; 0 for the labels alone.

    Returns:
        T in [0.05, 20]; the bounds are reached only by logits that hardly differ, or say nothing.

    Raises:
        ValueError: if there is no image, or a logit is not finite.
    """
    if len(labels) == 0:
        raise ValueError("no image to fit a temperature on")
    scores = logits.double()
    own = scores.gather(1, labels[:, None])[:, 0]
    low, high = 1 / MOST, 1 / LEAST
    for _ in range(_NUM_HALVINGS):
        middle = (low + high) / 2
        if _slope(scores, own, middle) + prior * (1 - 1 / middle) <= 0:
            low = middle
        else:
            high = middle
    found = min(max(2 / (low + high), LEAST), MOST)
    # Where 1 is the best there is, rounding may make its neighbour worse by a last digit.
    return found if nll(scores, labels, found) <= nll(scores, labels, 1.0) else 1.0


def _slope(scores: Tensor, own: Tensor, inverse: float) -> float:
    """Return the likelihood's: what softmax expects of the scores less the true ones, summed."""
    expected = (to_probabilities(scores, 1 / inverse) * scores).sum(dim=1)
    return float((expected - own).sum())
