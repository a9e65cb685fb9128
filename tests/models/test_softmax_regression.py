"""One linear layer under softmax, fitted to the end, is scikit-learn's logistic regression."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from neither.models.networks import SoftmaxRegression
from neither.models.softmax import to_probabilities

PENALTY = 2.0  # times half the squared weights; scikit-learn's C is its inverse


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    """Return digits 0, 1 and 2 as (N, 3, 8, 8) images that are grey, and their labels."""
    digits = load_digits(n_class=3)
    grey = torch.tensor(digits.images / 16).double()
    return grey[:, None].expand(-1, 3, -1, -1), torch.tensor(digits.target)


def fit(images: Tensor, labels: Tensor, seed: int) -> tuple[SoftmaxRegression, float]:
    """Go down by LBFGS in float64, without augmentation, until nothing moves."""
    torch.manual_seed(seed)
    network = SoftmaxRegression(8, 3).double()
    torch.nn.init.normal_(network.head.weight, std=0.5)
    optimizer = torch.optim.LBFGS(
        network.parameters(), max_iter=2000, max_eval=5000, tolerance_grad=1e-12,
        tolerance_change=0, history_size=50, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> Tensor:
        optimizer.zero_grad()
        total = F.cross_entropy(network(images), labels, reduction="sum")
        total = total + PENALTY / 2 * network.head.weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return network, float(loss().detach())


@torch.no_grad()
def answers(network: SoftmaxRegression, images: Tensor) -> Tensor:
    return to_probabilities(network(images))


def test_p16_every_start_ends_in_the_same_answers_as_scikit_learn(
    images: tuple[Tensor, Tensor],
) -> None:
    fits = [fit(*images, seed) for seed in range(5)]
    losses = [loss for _, loss in fits]
    assert max(losses) - min(losses) <= 1e-9 * max(losses)
    first = answers(fits[0][0], images[0])
    for network, _ in fits[1:]:
        assert (answers(network, images[0]) - first).abs().max() <= 1e-6
    flat = images[0].flatten(1).numpy()
    theirs = LogisticRegression(C=1 / PENALTY, tol=1e-12, max_iter=100_000).fit(flat, images[1])
    assert np.abs(theirs.predict_proba(flat) - first.numpy()).max() <= 1e-5


def test_p16_the_same_vector_added_to_all_classes_changes_nothing(
    images: tuple[Tensor, Tensor],
) -> None:
    torch.manual_seed(0)
    network = SoftmaxRegression(8, 3).double()
    before = answers(network, images[0])
    with torch.no_grad():
        network.head.weight.add_(torch.randn(network.head.in_features))
        network.head.bias.add_(3.0)
    assert (answers(network, images[0]) - before).abs().max() <= 1e-12
