"""Calibration: errors against torchmetrics and by hand; temperatures and thresholds by search."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from neither.evaluation.calibration import (
    adaptive_calibration_error,
    bin_index,
    brier_score,
    classwise_calibration_error,
    expected_calibration_error,
    fit_temperature,
)
from neither.evaluation.metrics import nll
from neither.models.softmax import to_probabilities

MEASURES = [expected_calibration_error, adaptive_calibration_error, classwise_calibration_error]
every = pytest.mark.parametrize("measure", MEASURES)


def calibrated(num: int, seed: int, sharpness: float = 3.0, num_classes: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(num, num_classes, dtype=torch.float64, generator=generator)
    return to_probabilities(logits)


def drawn(probabilities: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]


def tops(*pairs: tuple[float, bool]) -> tuple[Tensor, Tensor]:
    """Make two-class probabilities with these confidences in the first class, correct or wrong."""
    confidences = torch.tensor([pair[0] for pair in pairs], dtype=torch.float64)
    labels = torch.tensor([0 if pair[1] else 1 for pair in pairs])
    return torch.stack([confidences, 1 - confidences], dim=1), labels


@pytest.mark.property("T2")
@pytest.mark.parametrize("seed", range(3))
def test_ece_is_that_of_torchmetrics(seed: int) -> None:
    probabilities = calibrated(400, seed)
    labels = drawn(calibrated(400, seed, sharpness=1.0), seed)
    found = expected_calibration_error(probabilities, labels).value
    theirs = multiclass_calibration_error(probabilities, labels, 3, n_bins=15)
    assert found == pytest.approx(theirs.item(), abs=1e-6)


def test_bins_are_closed_on_the_right_and_hold_both_ends() -> None:
    edges = torch.arange(16, dtype=torch.float64) / 15
    assert bin_index(edges).tolist() == [0, *range(15)]
    assert bin_index(edges[1:] + 1e-12)[:-1].tolist() == list(range(1, 15))


@pytest.mark.property("T1")
def test_a_confidence_of_exactly_one_is_counted() -> None:
    """Half-open bins would drop 900 of these 1,000 and say 0."""
    certain = [(1.0, number % 2 == 0) for number in range(900)]
    rest = [(0.9, number < 90) for number in range(100)]
    assert expected_calibration_error(*tops(*certain, *rest)).value == pytest.approx(
        0.45, abs=1e-12
    )


@pytest.mark.property("T3")
def test_a_probability_of_exactly_zero_is_no_obstacle() -> None:
    probabilities = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    labels = torch.tensor([0, 1])
    assert [measure(probabilities, labels).value for measure in MEASURES] == [0, 0, 0]
    assert [measure(probabilities, 1 - labels).value for measure in MEASURES] == [1, 1, 1]


@pytest.mark.property("T4")
def test_adaptive_groups_drop_nothing_and_ties_stay_in_place() -> None:
    """All tied: one confidence, so groups cannot hide how far it is from the accuracy."""
    probabilities, labels = tops(*[(0.8, number < 30) for number in range(60)])
    assert adaptive_calibration_error(probabilities, labels).value == pytest.approx(0.3)
    lowest, labels = tops((0.55, False), *[(0.9, True)] * 14)
    assert adaptive_calibration_error(lowest, labels).value == pytest.approx((0.55 + 14 * 0.1) / 15)


@pytest.mark.property("T4")
@pytest.mark.parametrize("num", [15, 60, 100])
def test_adaptive_groups_are_of_equal_counts_by_rank(num: int) -> None:
    probabilities = calibrated(num, num)
    labels = drawn(calibrated(num, num, sharpness=1.0), num)
    confidences, predicted = probabilities.max(dim=1)
    order = confidences.argsort()
    total = 0.0
    for number in range(15):
        group = order[-(-number * num // 15) : -(-(number + 1) * num // 15)]
        correct = (predicted == labels)[group].double()
        total += len(group) * abs(float(correct.mean() - confidences[group].mean()))
    assert adaptive_calibration_error(probabilities, labels).value == pytest.approx(
        total / num, abs=1e-12
    )


@pytest.mark.property("T4")
def test_expected_errors_have_no_order_among_ties() -> None:
    """The bound of 300 equal confidences is that of a fraction, as if all were in one bin."""
    probabilities = torch.tensor([[0.8, 0.1, 0.1]], dtype=torch.float64).expand(300, 3)
    labels = (torch.arange(300) >= 216).long()
    found = adaptive_calibration_error(probabilities, labels)
    plain = expected_calibration_error(probabilities, labels)
    assert found.value == pytest.approx(plain.value)
    assert found.bound == pytest.approx(1.96 * (0.8 * 0.2 / 300) ** 0.5, rel=0.1)
    assert (found.expected, found.bound) == pytest.approx((plain.expected, plain.bound), rel=0.05)


@pytest.mark.property("T5")
def test_classwise_is_the_mean_of_each_class_against_the_rest() -> None:
    probabilities = calibrated(200, 5)
    labels = drawn(probabilities[:, :2] / probabilities[:, :2].sum(1, keepdim=True), 5)
    expected = 0.0
    for number in range(3):  # the last one has no image
        column = probabilities[:, number]
        bins = (15 * column).ceil().clamp(min=1)
        for each in sorted(set(bins.tolist())):
            inside = bins == each
            fraction = (labels == number)[inside].double().mean()
            expected += float(inside.sum() * (fraction - column[inside].mean()).abs()) / 200
    assert classwise_calibration_error(probabilities, labels).value == pytest.approx(
        expected / 3, abs=1e-12
    )


def test_brier_is_the_sum_over_all_classes() -> None:
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0]], dtype=torch.float64)
    first = 0.3**2 + 0.2**2 + 0.1**2
    assert brier_score(probabilities, torch.tensor([0, 1])) == pytest.approx(first / 2)
    assert brier_score(probabilities, torch.tensor([0, 2])) == pytest.approx((first + 2) / 2)


@pytest.mark.property("P21")
@every
@given(st.integers(1, 40), st.integers(0, 1000))
def test_order_does_not_matter_and_the_range_is_kept(measure: object, num: int, seed: int) -> None:
    assert callable(measure)
    probabilities = calibrated(num, seed).mul(8).round().div(8)  # many ties, zeros and ones
    probabilities /= probabilities.sum(dim=1, keepdim=True)
    labels = drawn(calibrated(num, seed + 1), seed)
    order = torch.randperm(num)
    first = measure(probabilities, labels)
    other = measure(probabilities[order], labels[order])
    assert first.value == pytest.approx(other.value, abs=1e-12)
    assert first == measure(probabilities, labels)
    assert all(0 <= each <= 1 for each in (first.value, first.expected, first.bound))


@pytest.mark.property("P22")
@every
def test_errors_of_calibrated_and_of_overconfident_classifiers(measure: object) -> None:
    """A perfect classifier is inside the bound in 95 % of draws, one at T = 0.5 hardly ever."""
    assert callable(measure)
    num_draws = 100
    inside = sharp_inside = 0
    errors = []
    for seed in range(num_draws):
        probabilities = calibrated(300, seed)
        labels = drawn(probabilities, seed + 1)
        error = measure(probabilities, labels)
        inside += error.value <= error.bound
        errors.append((error.value, error.expected))
        if seed % 4:
            continue
        sharper = probabilities**2 / (probabilities**2).sum(dim=1, keepdim=True)
        error = measure(sharper, labels)
        sharp_inside += error.value <= error.bound
    # Four standard deviations.
    assert abs(inside / num_draws - 0.95) <= 4 * math.sqrt(0.95 * 0.05 / num_draws)
    assert sharp_inside <= 1  # of 25
    value, expected = torch.tensor(errors).mean(dim=0).tolist()
    assert value == pytest.approx(expected, rel=0.1)


def sample(num: int, seed: int, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return logits that are calibrated at this temperature, and labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(num, 3, dtype=torch.float64, generator=generator)
    labels = torch.multinomial(to_probabilities(logits), 1, generator=generator)[:, 0]
    return logits * temperature, labels


def total(logits: Tensor, labels: Tensor, temperature: float) -> float:
    """Return the minimised objective: the loss of all images and of the prior."""
    inverse = 1 / temperature
    return len(labels) * nll(logits, labels, temperature) + 3 * (inverse - 1 - math.log(inverse))


@pytest.mark.property("T7", "P15")
@given(st.integers(1, 60), st.integers(0, 10_000), st.sampled_from([0.3, 1.0, 4.0]))
def test_no_other_temperature_is_better(num: int, seed: int, scale: float) -> None:
    logits, labels = sample(num, seed, scale)
    found = fit_temperature(logits, labels)
    assert 0.05 <= found <= 20
    assert nll(logits, labels, found) <= nll(logits, labels, 1.0)
    best = total(logits, labels, found)
    for other in torch.logspace(-1.3, 1.3, 40).tolist():
        assert best <= total(logits, labels, other) + 1e-10


def test_uninformative_logits_keep_1_and_always_wrong_ends_at_the_bound() -> None:
    labels = torch.arange(300) % 3
    assert fit_temperature(torch.zeros(300, 3), labels) == 1
    assert fit_temperature(5 * torch.eye(3)[labels], labels.flip(0)) == 20
    assert fit_temperature(1e-3 * torch.eye(3)[torch.arange(9_999) % 3],
                           torch.arange(9_999) % 3) == 0.05  # fmt: skip


def test_without_a_prior_the_labels_decide_alone_and_there_must_be_some() -> None:
    logits, labels = sample(60, 4, 6.0)
    found = fit_temperature(logits, labels, prior=0)
    assert found > fit_temperature(logits, labels)
    lowest = nll(logits, labels, found)
    assert all(lowest <= nll(logits, labels, t) for t in torch.linspace(3, 20, 200).tolist())
    assert fit_temperature(8.0 * torch.eye(3), torch.arange(3), prior=0) == 0.05
    with pytest.raises(ValueError, match="no image"):
        fit_temperature(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
