"""The temperature that makes a network's probabilities say how often it is right."""

from torch import Tensor

from neither.evaluation.metrics import nll
from neither.model.softmax import to_probabilities

LEAST, MOST = 0.05, 20.0
_NUM_HALVINGS = 100  # float64 has 53 bits; the rest costs nothing


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Find the temperature with the lowest negative log-likelihood (Guo et al., 2017).

    In b = 1 / T the likelihood is convex, so its slope, the mean of what softmax expects of the
    logits less what the labels do, has one zero: bisection finds it. The labels are smoothed by
    Laplace's rule of succession, as if each class had one image more, so that N right answers are
    no proof that the next will be right. The result is never worse than T = 1 on these images.

    Args:
        logits: (N, C), finite, of images that were not trained on.
        labels: (N,) int64.

    Returns:
        T in [0.05, 20]; the bounds are reached only by logits that hardly differ, or say nothing.

    Raises:
        ValueError: if there is no image, or a logit is not finite.
    """
    if len(labels) == 0:
        raise ValueError("no image to fit a temperature on")
    scores = logits.double()
    wanted = _wanted(scores, labels)
    low, high = 1 / MOST, 1 / LEAST
    for _ in range(_NUM_HALVINGS):
        middle = (low + high) / 2
        if _slope(scores, wanted, middle) <= 0:
            low = middle
        else:
            high = middle
    found = min(max(2 / (low + high), LEAST), MOST)
    return found if nll(scores, labels, found) <= nll(scores, labels, 1.0) else 1.0


def _wanted(scores: Tensor, labels: Tensor) -> Tensor:
    """Return what the smoothed labels expect of the scores of each image."""
    num_images, num_classes = scores.shape
    share = num_classes / (num_images + num_classes)
    own = scores.gather(1, labels[:, None])[:, 0]
    return (1 - share) * own + share * scores.mean(dim=1)


def _slope(scores: Tensor, wanted: Tensor, inverse: float) -> float:
    """Return the derivative of the loss by 1 / T."""
    expected = (to_probabilities(scores, 1 / inverse) * scores).sum(dim=1)
    return float((expected - wanted).mean())
