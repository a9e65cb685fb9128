"""The border between logits and probabilities, held against the formula in plain Python."""

import itertools
import math
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neither.models.softmax import (
    label_probabilities,
    to_log_probabilities,
    to_probabilities,
)

EPSILON = torch.finfo(torch.float64).eps

logits = st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=6)
temperatures = st.floats(0.25, 8)
quick = settings(max_examples=50, deadline=None)


def probabilities(scores: Sequence[float], temperature: float = 1.0) -> list[float]:
    row: list[float] = to_probabilities(torch.tensor([scores]), temperature)[0].tolist()
    return row


def reference(scores: Sequence[float], temperature: float) -> list[float]:
    """Work the formula out as it stands, in float64, summing without rounding."""
    powers = [math.exp(score / temperature) for score in scores]
    return [power / math.fsum(powers) for power in powers]


def entropy(shares: Sequence[float]) -> float:
    return -math.fsum(share * math.log(share) for share in shares if share)


@given(logits, temperatures)
@quick
def test_probabilities_sum_to_one(scores: list[float], temperature: float) -> None:
    found = probabilities(scores, temperature)
    assert abs(math.fsum(found) - 1) <= 4 * EPSILON
    assert all(0 <= each <= 1 for each in found)


@given(logits, temperatures)
@quick
def test_probabilities_are_those_of_the_formula(scores: list[float], temperature: float) -> None:
    expected = reference(scores, temperature)
    assert probabilities(scores, temperature) == pytest.approx(expected, rel=1e-12, abs=0)


@given(logits, temperatures)
@quick
def test_log_probabilities_are_their_logarithms(scores: list[float], temperature: float) -> None:
    found = to_log_probabilities(torch.tensor([scores]), temperature)[0]
    assert found.dtype == torch.float64
    expected = [math.log(share) for share in reference(scores, temperature)]
    assert found.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-14)
    assert found.max() <= 0


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=6), st.integers(-1000, 1000))
@quick
def test_adding_a_constant_changes_nothing(scores: list[int], shift: int) -> None:
    moved = [float(score + shift) for score in scores]  # whole numbers, so that none is rounded
    assert probabilities(moved) == probabilities([float(score) for score in scores])


@given(st.lists(st.floats(-50, 50, width=32), min_size=4, max_size=4), st.permutations(range(4)))
@quick
def test_probabilities_move_with_their_classes(scores: list[float], order: list[int]) -> None:
    straight = probabilities(scores)
    moved = probabilities([scores[place] for place in order])
    assert moved == pytest.approx([straight[place] for place in order], rel=4 * EPSILON)


@given(st.floats(-30, 30, width=32), st.floats(-30, 30, width=32))
@quick
def test_two_classes_are_a_sigmoid_of_the_difference(one: float, other: float) -> None:
    expected = 1 / (1 + math.exp(other - one))
    assert probabilities([one, other])[0] == pytest.approx(expected, rel=1e-12)


@given(
    st.lists(st.integers(-20, 20), min_size=2, max_size=6, unique=True),
    st.floats(0.5, 4),
    st.floats(1.1, 3),
)
@quick
def test_p14_a_higher_temperature_keeps_the_answer_and_is_less_sure(
    whole: list[int], temperature: float, factor: float
) -> None:
    scores = [float(score) for score in whole]
    surer, less_sure = (
        probabilities(scores, temperature),
        probabilities(scores, temperature * factor),
    )
    best = scores.index(max(scores))
    assert surer.index(max(surer)) == less_sure.index(max(less_sure)) == best
    assert max(less_sure) < max(surer) or max(surer) == 1
    assert entropy(less_sure) >= entropy(surer)


def test_rows_do_not_touch_each_other() -> None:
    rows = [[1.0, 2.0, 3.0], [-4.0, 0.0, 4.0], [300.0, 200.0, 100.0]]
    together = to_probabilities(torch.tensor(rows))
    for row, scores in zip(together.tolist(), rows, strict=True):
        assert row == probabilities(scores)


def test_logarithm_is_right_where_the_probability_underflows() -> None:
    found = to_log_probabilities(torch.tensor([[0.0, -200.0, 0.0]]))[0].tolist()
    assert found == pytest.approx([-math.log(2), -200 - math.log(2), -math.log(2)], rel=1e-15)
    far = to_log_probabilities(torch.tensor([[0.0, -2000.0]]))[0].tolist()
    assert far == [0.0, -2000.0]
    assert probabilities([0.0, -2000.0]) == [1.0, 0.0]


@pytest.mark.parametrize("size", [1e4, 1e30, 3e38])
def test_extreme_logits_give_a_certain_answer(size: float) -> None:
    for scores in itertools.permutations((size, 0.0, -size)):
        expected = [float(score == size) for score in scores]
        assert probabilities(scores) == expected
    assert probabilities([size, size]) == [0.5, 0.5]


def test_half_precision_is_computed_in_float64() -> None:
    scores = [1.5, -0.25, 0.75]  # exact in each type
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        found = to_probabilities(torch.tensor([scores], dtype=kind))
        assert found.dtype == torch.float64
        assert found[0].tolist() == probabilities(scores)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("function", [to_probabilities, to_log_probabilities])
def test_p8_a_logit_that_is_not_finite_is_refused(
    function: Callable[[Tensor], Tensor], bad: float
) -> None:
    with pytest.raises(ValueError, match="not finite"):
        function(torch.tensor([[0.0, 1.0], [bad, 0.0]]))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("function", [to_probabilities, to_log_probabilities])
def test_a_temperature_that_is_none_is_refused(
    function: Callable[[Tensor, float], Tensor], temperature: float
) -> None:
    with pytest.raises(ValueError, match="temperature"):
        function(torch.zeros(1, 3), temperature)


def test_label_probabilities_are_those_of_the_labels() -> None:
    logits = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % 3
    found = label_probabilities(F.cross_entropy(logits, labels, reduction="none"))
    assert found.dtype == torch.float32
    expected = to_probabilities(logits).gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-7)
