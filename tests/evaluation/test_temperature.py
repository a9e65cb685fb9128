"""Fitting a temperature: the best there is, never worse than none, not carried away by few."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neither.evaluation.calibration import fit_temperature
from neither.evaluation.metrics import nll
from neither.models.softmax import to_probabilities


def sample(num: int, seed: int, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return logits that are right about themselves at this temperature, and labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(num, 3, dtype=torch.float64, generator=generator)
    labels = torch.multinomial(to_probabilities(logits), 1, generator=generator)[:, 0]
    return logits * temperature, labels


def total(logits: Tensor, labels: Tensor, temperature: float) -> float:
    """Return what is minimised: the loss of all images, and of the prior in favour of 1."""
    inverse = 1 / temperature
    return len(labels) * nll(logits, labels, temperature) + 3 * (inverse - 1 - math.log(inverse))


@given(st.integers(1, 60), st.integers(0, 10_000), st.sampled_from([0.3, 1.0, 4.0]))
@settings(max_examples=60, deadline=None)
def test_t7_no_other_temperature_is_better(num: int, seed: int, scale: float) -> None:
    logits, labels = sample(num, seed, scale)
    found = fit_temperature(logits, labels)
    assert 0.05 <= found <= 20
    assert nll(logits, labels, found) <= nll(logits, labels, 1.0)
    best = total(logits, labels, found)
    for other in torch.logspace(-1.3, 1.3, 40).tolist():
        assert best <= total(logits, labels, other) + 1e-10


def test_where_the_labels_are_many_it_is_the_best_of_all_for_nll() -> None:
    logits, labels = sample(5000, 3, 2.5)
    found = fit_temperature(logits, labels)
    for factor in (0.97, 1.03):
        assert nll(logits, labels, found) < nll(logits, labels, factor * found)


def test_always_right_is_no_proof_of_certainty() -> None:
    labels = torch.arange(99) % 3
    for size in (2.0, 8.0):
        logits = size * torch.eye(3)[labels]
        found = fit_temperature(logits, labels)
        assert 0.3 < found < 1  # on these images T = 0 would have no loss at all
        wrong = (1 - to_probabilities(logits, found).max(dim=1).values).mean()
        assert 1e-4 < wrong < 2e-2


@pytest.mark.parametrize("size", [3.0, 10.0])
def test_two_mistakes_among_thirty_are_outvoted_by_neither_side(size: float) -> None:
    """Neither falls back to 1, nor lets the prior hide what the labels say plainly."""
    logits = torch.tensor([[size, 0, 0]] * 28 + [[0, size, 0], [0.1 * size, 0, 0]])
    labels = torch.tensor([0] * 28 + [1, 1])
    found = fit_temperature(logits, labels)
    lowest = min(nll(logits, labels, t) for t in torch.linspace(0.2, 8, 400).tolist())
    assert lowest <= nll(logits, labels, found) <= lowest + 0.01
    assert found != 1.0


def test_on_a_thousand_images_the_prior_weighs_next_to_nothing() -> None:
    logits, labels = sample(1000, 5, 2.5)
    lowest = min(nll(logits, labels, t) for t in torch.linspace(2, 3, 500).tolist())
    assert nll(logits, labels, fit_temperature(logits, labels)) <= lowest + 1e-4


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_what_was_multiplied_is_divided_out(temperature: float) -> None:
    logits, labels = sample(20_000, 0, temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.03)


def test_p15_the_loss_is_convex_and_the_slope_is_zero_at_the_fit() -> None:
    logits, labels = sample(500, 1, 2.0)
    losses = torch.tensor(
        [nll(logits, labels, 1 / inverse) for inverse in torch.linspace(0.05, 5, 200).tolist()]
    )
    assert (losses[2:] - 2 * losses[1:-1] + losses[:-2]).min() >= -1e-10
    found = fit_temperature(logits, labels)
    expected = (to_probabilities(logits, found) * logits).sum(dim=1)
    own = logits.gather(1, labels[:, None])[:, 0]
    prior = 3 * (1 - found) / 500  # an image's share of it
    assert float((expected - own).mean()) + prior == pytest.approx(0, abs=1e-8)


def test_saying_nothing_keeps_1_and_always_wrong_ends_at_the_bound() -> None:
    labels = torch.arange(300) % 3
    assert fit_temperature(torch.zeros(300, 3), labels) == 1
    assert fit_temperature(5 * torch.eye(3)[labels], labels.flip(0)) == 20
    assert fit_temperature(1e-3 * torch.eye(3)[torch.arange(99_999) % 3],
                           torch.arange(99_999) % 3) == 0.05  # fmt: skip


def test_the_labels_alone_have_no_regard_for_1() -> None:
    logits, labels = sample(60, 4, 6.0)
    found = fit_temperature(logits, labels, prior=0)
    assert found > fit_temperature(logits, labels)
    lowest = nll(logits, labels, found)
    assert all(lowest <= nll(logits, labels, t) for t in torch.linspace(3, 20, 200).tolist())
    assert fit_temperature(8.0 * torch.eye(3), torch.arange(3), prior=0) == 0.05


def test_order_and_precision_of_the_logits_hardly_matter() -> None:
    logits, labels = sample(300, 2, 1.5)
    order = torch.randperm(300)
    found = fit_temperature(logits, labels)
    assert fit_temperature(logits[order], labels[order]) == pytest.approx(found, rel=1e-12)
    assert fit_temperature(logits.float(), labels) == pytest.approx(found, rel=1e-6)


def test_without_images_there_is_nothing_to_fit() -> None:
    with pytest.raises(ValueError, match="no image"):
        fit_temperature(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
