"""Fitting a temperature: the best there is, and never worse than none."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neither.evaluation.metrics import nll
from neither.evaluation.temperature import fit_temperature
from neither.model.softmax import to_log_probabilities, to_probabilities


def sample(num: int, seed: int, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return logits that are right about themselves at this temperature, and labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(num, 3, dtype=torch.float64, generator=generator)
    labels = torch.multinomial(to_probabilities(logits), 1, generator=generator)[:, 0]
    return logits * temperature, labels


def smoothed(logits: Tensor, labels: Tensor, temperature: float) -> float:
    """Return the loss that Laplace's rule sees: each class has one image more."""
    num, num_classes = logits.shape
    targets = (num * torch.eye(num_classes)[labels] + 1) / (num + num_classes)
    return -float((targets * to_log_probabilities(logits, temperature)).sum(dim=1).mean())


@given(st.integers(1, 60), st.integers(0, 10_000), st.sampled_from([0.3, 1.0, 4.0]))
@settings(max_examples=60, deadline=None)
def test_t7_no_other_temperature_is_better(num: int, seed: int, scale: float) -> None:
    logits, labels = sample(num, seed, scale)
    found = fit_temperature(logits, labels)
    assert 0.05 <= found <= 20
    assert nll(logits, labels, found) <= nll(logits, labels, 1.0)
    if found != 1.0:
        best = smoothed(logits, labels, found)
        for other in torch.logspace(-1.3, 1.3, 40).tolist():
            assert best <= smoothed(logits, labels, other) + 1e-12


def test_where_the_labels_are_many_it_is_the_best_of_all_for_nll() -> None:
    logits, labels = sample(5000, 3, 2.5)
    found = fit_temperature(logits, labels)
    for factor in (0.97, 1.03):
        assert nll(logits, labels, found) < nll(logits, labels, factor * found)


def test_always_right_is_no_proof_of_certainty() -> None:
    """Of 99 right answers Laplace makes a chance of 100 / 102 for the next (with three classes)."""
    logits, labels = 8.0 * torch.eye(3)[torch.arange(99) % 3], torch.arange(99) % 3
    tight = fit_temperature(logits / 4, labels)
    assert tight < 1
    wrong = 1 - to_probabilities(logits / 4, tight).max(dim=1).values
    assert wrong.mean() == pytest.approx(2 / 102, rel=1e-6)
    assert fit_temperature(logits, labels) == 1.0  # any higher one would be worse on these


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
    wanted = (500 * own + logits.sum(dim=1)) / 503
    assert float((expected - wanted).mean()) == pytest.approx(0, abs=1e-8)


def test_saying_nothing_or_hardly_anything_ends_at_the_bounds() -> None:
    labels = torch.tensor([0, 1, 2])
    assert fit_temperature(5 * torch.eye(3), labels.flip(0)) == 20
    many = torch.arange(300) % 3
    assert fit_temperature(0.01 * torch.eye(3)[many], many) == 0.05


def test_order_and_precision_of_the_logits_hardly_matter() -> None:
    logits, labels = sample(300, 2, 1.5)
    order = torch.randperm(300)
    found = fit_temperature(logits, labels)
    assert fit_temperature(logits[order], labels[order]) == pytest.approx(found, rel=1e-12)
    assert fit_temperature(logits.float(), labels) == pytest.approx(found, rel=1e-6)


def test_without_images_there_is_nothing_to_fit() -> None:
    with pytest.raises(ValueError, match="no image"):
        fit_temperature(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
