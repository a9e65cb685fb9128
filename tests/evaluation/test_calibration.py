"""Calibration errors: against torchmetrics where it is right, by hand where it is not."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from neither.evaluation.calibration import (
    adaptive_calibration_error,
    bin_index,
    brier_score,
    classwise_calibration_error,
    expected_calibration_error,
)
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
    """Make two-class probabilities with these confidences in the first class, right or wrong."""
    confidences = torch.tensor([pair[0] for pair in pairs], dtype=torch.float64)
    labels = torch.tensor([0 if pair[1] else 1 for pair in pairs])
    return torch.stack([confidences, 1 - confidences], dim=1), labels


def by_hand(probabilities: Tensor, labels: Tensor) -> float:
    """Work out the definition, bin by bin, with no trick."""
    total = 0.0
    confidences, predicted = probabilities.max(dim=1)
    for number in range(15):
        low, high = number / 15, (number + 1) / 15
        inside = (confidences <= high) & ((confidences > low) | (number == 0))
        if inside.any():
            right = float((predicted == labels)[inside].double().mean())
            total += float(inside.sum()) * abs(right - float(confidences[inside].mean()))
    return total / len(labels)


@pytest.mark.parametrize("seed", range(3))
def test_ece_is_that_of_the_definition_and_of_torchmetrics(seed: int) -> None:
    probabilities = calibrated(400, seed)
    labels = drawn(calibrated(400, seed, sharpness=1.0), seed)
    found = expected_calibration_error(probabilities, labels).value
    assert found == pytest.approx(by_hand(probabilities, labels), abs=1e-12)
    theirs = multiclass_calibration_error(probabilities, labels, 3, n_bins=15)
    assert found == pytest.approx(theirs.item(), abs=1e-6)


def test_bins_are_closed_on_the_right_and_hold_both_ends() -> None:
    edges = torch.arange(16, dtype=torch.float64) / 15
    assert bin_index(edges).tolist() == [0, *range(15)]
    assert bin_index(edges[1:] + 1e-12)[:-1].tolist() == list(range(1, 15))


def test_t1_a_confidence_of_exactly_one_is_counted() -> None:
    """Half-open bins would drop 900 of these 1,000 and say 0."""
    sure = [(1.0, number % 2 == 0) for number in range(900)]
    rest = [(0.9, number < 90) for number in range(100)]
    assert expected_calibration_error(*tops(*sure, *rest)).value == pytest.approx(0.45, abs=1e-12)


def test_t2_confidence_is_a_probability_not_a_logit() -> None:
    probabilities = calibrated(50, 0)
    labels = drawn(probabilities, 0)
    assert expected_calibration_error(probabilities, labels).value == pytest.approx(
        by_hand(probabilities, labels)
    )
    assert expected_calibration_error(probabilities, labels).value < 1


def test_t3_a_probability_of_exactly_zero_is_no_obstacle() -> None:
    probabilities = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    labels = torch.tensor([0, 1])
    assert [measure(probabilities, labels).value for measure in MEASURES] == [0, 0, 0]
    assert [measure(probabilities, 1 - labels).value for measure in MEASURES] == [1, 1, 1]


def test_t4_adaptive_groups_drop_nothing_and_ties_stay_in_place() -> None:
    """All tied: one confidence, so groups cannot hide how far it is from the share of hits."""
    probabilities, labels = tops(*[(0.8, number < 30) for number in range(60)])
    assert adaptive_calibration_error(probabilities, labels).value == pytest.approx(0.3)
    lowest, labels = tops((0.55, False), *[(0.9, True)] * 14)
    assert adaptive_calibration_error(lowest, labels).value == pytest.approx((0.55 + 14 * 0.1) / 15)


@pytest.mark.parametrize("num", [15, 60, 100])
def test_t4_adaptive_groups_are_of_equal_counts_by_rank(num: int) -> None:
    probabilities = calibrated(num, num)
    labels = drawn(calibrated(num, num, sharpness=1.0), num)
    confidences, predicted = probabilities.max(dim=1)
    order = confidences.argsort()
    total = 0.0
    for number in range(15):
        group = order[-(-number * num // 15) : -(-(number + 1) * num // 15)]
        right = (predicted == labels)[group].double()
        total += len(group) * abs(float(right.mean() - confidences[group].mean()))
    assert adaptive_calibration_error(probabilities, labels).value == pytest.approx(
        total / num, abs=1e-12
    )


def test_t4_chance_too_has_no_order_among_ties() -> None:
    """Of 300 answers of one confidence the bound is that of a share, as if all were one bin."""
    probabilities = torch.tensor([[0.8, 0.1, 0.1]], dtype=torch.float64).expand(300, 3)
    labels = (torch.arange(300) >= 216).long()
    found, plain = (
        adaptive_calibration_error(probabilities, labels),
        expected_calibration_error(probabilities, labels),
    )
    assert found.value == pytest.approx(plain.value)
    assert found.bound == pytest.approx(1.96 * (0.8 * 0.2 / 300) ** 0.5, rel=0.1)
    assert (found.expected, found.bound) == pytest.approx((plain.expected, plain.bound), rel=0.05)


def test_t5_a_class_without_images_counts() -> None:
    probabilities = torch.tensor([[0.6, 0.0, 0.4]] * 10, dtype=torch.float64)
    labels = torch.zeros(10, dtype=torch.int64)
    assert classwise_calibration_error(probabilities, labels).value == pytest.approx(
        (0.4 + 0 + 0.4) / 3
    )


def test_t5_classwise_is_the_mean_of_each_class_against_the_rest() -> None:
    probabilities = calibrated(200, 5)
    labels = drawn(probabilities[:, :2] / probabilities[:, :2].sum(1, keepdim=True), 5)
    expected = 0.0
    for number in range(3):  # the last one has no image
        column = probabilities[:, number]
        bins = (15 * column).ceil().clamp(min=1)
        for each in sorted(set(bins.tolist())):
            inside = bins == each
            share = (labels == number)[inside].double().mean()
            expected += float(inside.sum() * (share - column[inside].mean()).abs()) / 200
    assert classwise_calibration_error(probabilities, labels).value == pytest.approx(
        expected / 3, abs=1e-12
    )


def test_brier_is_the_sum_over_all_classes() -> None:
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0]], dtype=torch.float64)
    first = 0.3**2 + 0.2**2 + 0.1**2
    assert brier_score(probabilities, torch.tensor([0, 1])) == pytest.approx(first / 2)
    assert brier_score(probabilities, torch.tensor([0, 2])) == pytest.approx((first + 2) / 2)


@every
@given(st.integers(1, 40), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_p21_order_does_not_matter_and_the_range_is_kept(
    measure: object, num: int, seed: int
) -> None:
    assert callable(measure)
    probabilities = calibrated(num, seed).mul(8).round().div(8)  # many ties, zeros and ones
    probabilities /= probabilities.sum(dim=1, keepdim=True)
    labels = drawn(calibrated(num, seed + 1), seed)
    order = torch.randperm(num)
    first = measure(probabilities, labels)
    other = measure(probabilities[order], labels[order])
    assert first.value == pytest.approx(other.value, abs=1e-12)
    assert all(0 <= each <= 1 for each in (first.value, first.expected, first.bound))


def test_p21_with_one_confidence_it_is_accuracy_less_confidence() -> None:
    probabilities, labels = tops(*[(0.75, number < 50) for number in range(100)])
    for measure in MEASURES:
        assert measure(probabilities, labels).value == pytest.approx(0.25)


@every
def test_p22_chance_is_known_and_over_confidence_is_found(measure: object) -> None:
    """A perfect classifier is inside the bound in 95 % of draws, one at T = 0.5 hardly ever."""
    assert callable(measure)
    num_draws = 200
    inside = sharp = 0
    for seed in range(num_draws):
        probabilities = calibrated(300, seed)
        labels = drawn(probabilities, seed + 1)
        error = measure(probabilities, labels)
        inside += error.value <= error.bound
        sharper = probabilities**2 / (probabilities**2).sum(dim=1, keepdim=True)
        error = measure(sharper, labels)
        sharp += error.value <= error.bound
    # Four standard deviations of a share of 200.
    assert abs(inside / num_draws - 0.95) <= 4 * math.sqrt(0.95 * 0.05 / num_draws)
    assert sharp / num_draws < 0.05


def test_the_floor_is_the_measured_one() -> None:
    """A mean of 2.6 % and a 95 % quantile of 3.7 % at n = 1,000 and an accuracy of 81 %."""
    probabilities = calibrated(1000, 0, sharpness=3.3)
    accuracy = float(probabilities.max(dim=1).values.mean())
    assert accuracy == pytest.approx(0.81, abs=0.05)
    error = expected_calibration_error(probabilities, drawn(probabilities, 0))
    assert error.expected == pytest.approx(0.026, abs=0.006)
    assert error.bound == pytest.approx(0.037, abs=0.008)


def test_the_same_figures_come_each_time() -> None:
    probabilities = calibrated(100, 0)
    labels = drawn(probabilities, 0)
    for measure, _ in itertools.product(MEASURES, range(2)):
        assert measure(probabilities, labels) == measure(probabilities, labels)
