"""Softmax regression by L-BFGS: scikit-learn's solution, many problems at once, a falling loss."""

import math
import warnings
from itertools import islice

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from neither.models.softmax_regression import Iterate, fit_softmax_regression

MAX_ITERATIONS = 1000  # that every test here stays far below


def draw(
    num: int, num_features: int, num_classes: int, seed: int = 0, distance: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Draw standardised features of classes whose means are some distance apart, and labels."""
    random = np.random.default_rng(seed)
    labels = np.arange(num) % num_classes
    means = distance * random.normal(size=(num_classes, num_features))
    features = means[labels] + random.normal(size=(num, num_features))
    features = (features - features.mean(0)) / features.std(0).clip(1e-6)
    return torch.from_numpy(features), torch.from_numpy(labels)


def every_iterate(
    features: Tensor, labels: Tensor, l2: Tensor, num_classes: int, weights: Tensor | None = None
) -> list[Iterate]:
    if weights is None:
        weights = torch.ones(len(l2), len(labels), dtype=torch.float64)
    fit = fit_softmax_regression(features, labels, weights, l2, num_classes)
    iterates = list(islice(fit, MAX_ITERATIONS + 1))
    assert iterates[-1].is_converged
    return iterates


def penalties(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def loss(iterate: Iterate, labels: Tensor, l2: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the (P,) losses, by their definition."""
    losses = []
    for problem, penalty in enumerate(l2.tolist()):
        each = F.cross_entropy(iterate.logits[:, problem].T, labels, reduction="none")
        counts = torch.ones_like(each) if weights is None else weights[problem]
        mean = (counts * each).sum() / counts.sum()
        losses.append(float(mean + penalty / 2 * iterate.weights[:, problem].square().sum()))
    return penalties(*losses)


def by_scikit(
    features: Tensor, labels: Tensor, l2: float, weights: Tensor | None = None
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return the (N, C) probabilities of the same model."""
    total = len(labels) if weights is None else float(weights.sum())
    model = LogisticRegression(C=1 / (total * l2), tol=1e-8, max_iter=20_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        model.fit(features.numpy(), labels.numpy(), None if weights is None else weights.numpy())
    return np.asarray(model.predict_proba(features.numpy()))


@pytest.mark.parametrize("l2", [0.003, 0.03, 1.0])
@pytest.mark.parametrize(("num", "num_features", "num_classes"), [(90, 5, 3), (40, 60, 4)])
def test_the_solution_is_that_of_scikit_learn(
    num: int, num_features: int, num_classes: int, l2: float
) -> None:
    features, labels = draw(num, num_features, num_classes)
    last = every_iterate(features, labels, penalties(l2), num_classes)[-1]
    found = last.logits[:, 0].softmax(dim=0).T
    assert found.numpy() == pytest.approx(by_scikit(features, labels, l2), abs=1e-4)
    logits = features @ last.weights[:, 0].T + last.bias[:, 0]
    torch.testing.assert_close(logits, last.logits[:, 0].T)


def test_two_classes_are_softmax_regression_too() -> None:
    """Scikit-learn fits one vector there, which is the difference of ours: half the penalty."""
    features, labels = draw(50, 4, 2)
    last = every_iterate(features, labels, penalties(0.1), 2)[-1]
    expected = by_scikit(features, labels, 0.05)
    assert last.logits[:, 0].softmax(dim=0).T.numpy() == pytest.approx(expected, abs=1e-4)
    torch.testing.assert_close(last.weights.sum(dim=0), torch.zeros_like(last.weights[0]))


def test_one_class_needs_no_iteration() -> None:
    features, labels = draw(5, 2, 1)
    (only,) = every_iterate(features, labels, penalties(0.1), 1)
    assert only.is_converged
    assert torch.equal(only.logits, torch.zeros(1, 1, 5, dtype=torch.float64))


def test_problems_in_lockstep_equal_each_alone() -> None:
    features, labels = draw(60, 20, 3)
    l2 = penalties(1.0, 0.001, 0.03, 0.03)  # some are solved long before others
    weights = torch.ones(4, 60, dtype=torch.float64)
    weights[3, :20] = 0
    iterates = every_iterate(features, labels, l2, 3, weights)
    lengths = []
    for problem in range(4):
        part = slice(problem, problem + 1)
        alone = every_iterate(features, labels, l2[part], 3, weights[part])
        lengths.append(len(alone))
        for name in ("weights", "bias", "logits"):
            both = (getattr(iterates[-1], name)[:, problem], getattr(alone[-1], name)[:, 0])
            torch.testing.assert_close(*both, rtol=0, atol=1e-9)
    assert len(iterates) == max(lengths) > min(lengths)


def test_images_of_weight_0_do_not_matter_but_have_logits() -> None:
    features, labels = draw(60, 8, 3)
    weights = (torch.arange(60) < 40).double()[None]
    last = every_iterate(features, labels, penalties(0.01), 3, weights)[-1]
    alone = every_iterate(features[:40], labels[:40], penalties(0.01), 3)[-1]
    torch.testing.assert_close(last.weights, alone.weights, rtol=0, atol=1e-9)
    expected = features @ last.weights[:, 0].T + last.bias[:, 0]
    torch.testing.assert_close(last.logits[:, 0].T, expected)
    other = labels.clone()
    other[40:] = 0
    changed = every_iterate(features, other, penalties(0.01), 3, weights)[-1]
    assert torch.equal(changed.weights, last.weights)


def test_weights_count_images_as_often() -> None:
    features, labels = draw(30, 4, 3)
    counts = torch.arange(30) % 3 + 1
    last = every_iterate(features, labels, penalties(0.01), 3, counts[None].double())[-1]
    images, names = features.repeat_interleave(counts, 0), labels.repeat_interleave(counts)
    expected = every_iterate(images, names, penalties(0.01), 3)[-1]
    torch.testing.assert_close(last.weights, expected.weights, rtol=0, atol=1e-4)
    scaled = every_iterate(features, labels, penalties(0.01), 3, 8 * counts[None].double())[-1]
    assert torch.equal(scaled.weights, last.weights)  # as 8 is a power of two


@given(
    num=st.integers(1, 30),
    num_features=st.integers(1, 40),
    num_classes=st.integers(1, 5),
    seed=st.integers(0, 2**16),
    exponents=st.lists(st.floats(-4, 1), min_size=1, max_size=3),
    distance=st.sampled_from([0.0, 1.0, 100.0]),
)
def test_the_loss_falls_from_ln_c_to_where_the_gradient_is_zero(
    num: int, num_features: int, num_classes: int, seed: int, exponents: list[float],
    distance: float,
) -> None:  # fmt: skip
    features, labels = draw(num, num_features, num_classes, seed, distance)
    l2 = penalties(*(10**each for each in exponents))
    iterates = every_iterate(features, labels, l2, num_classes)
    losses = torch.stack([loss(each, labels, l2) for each in iterates])
    torch.testing.assert_close(losses[0], torch.full_like(l2, math.log(num_classes)))
    assert (losses.diff(dim=0) <= 1e-12).all()
    last = iterates[-1]
    residuals = last.logits.softmax(dim=0) - F.one_hot(labels, num_classes).T[:, None]
    slope = residuals @ features / num + l2[:, None] * last.weights
    assert float(slope.abs().max()) <= 1.1e-5
    assert float(residuals.mean(dim=2).abs().max()) <= 1.1e-5


def test_a_constant_feature_gets_no_weight() -> None:
    features, labels = draw(60, 4, 3)
    features[:, 2] = 0  # as standardised
    last = every_iterate(features, labels, penalties(0.01), 3)[-1]
    assert torch.equal(last.weights[..., 2], torch.zeros(3, 1, dtype=torch.float64))
    alone = every_iterate(features[:, [0, 1, 3]], labels, penalties(0.01), 3)[-1]
    torch.testing.assert_close(last.weights[..., [0, 1, 3]], alone.weights, rtol=0, atol=1e-9)


def test_constant_features_give_the_class_frequencies() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    features = torch.zeros(6, 4, dtype=torch.float64)
    last = every_iterate(features, labels, penalties(0.01), 3)[-1]
    frequencies = last.logits[:, 0, 0].softmax(dim=0)
    assert frequencies.numpy() == pytest.approx([1 / 2, 1 / 3, 1 / 6], abs=1e-4)


def test_separable_data_converges_and_is_separated() -> None:
    features, labels = draw(30, 100, 3, distance=10)
    iterates = every_iterate(features, labels, penalties(1e-4, 0.1), 3)
    assert len(iterates) < 200
    assert (iterates[-1].logits.argmax(dim=0) == labels).all()


def test_features_that_are_not_finite_never_converge() -> None:
    features, labels = draw(12, 3, 3)
    features[5, 1] = math.nan
    fit = fit_softmax_regression(
        features, labels, torch.ones(1, 12, dtype=torch.float64), penalties(0.1), 3
    )
    assert not any(iterate.is_converged for iterate in islice(fit, 5))
