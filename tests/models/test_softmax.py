"""Softmax: rows P1 to P14 of the list in `tests/test_property_rows.py`.

Tests with the argument `logits` run on 36,000 rows of every size and type, with tolerances in units
of rounding; `benchmarks/softmax.py` runs them on a million.
"""

import itertools
import math
from collections.abc import Sequence

import mpmath  # type: ignore[import-untyped]
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from neither.evaluation.metrics import nll
from neither.models.softmax import label_probabilities, to_log_probabilities, to_probabilities

EPSILON = torch.finfo(torch.float64).eps
NUM_ROWS = 1000
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
KINDS = tuple(itertools.product((2, 3, 10), (1, 10, 50), DTYPES))


def draw(kind: tuple[int, int, torch.dtype], seed: int) -> Tensor:
    """Draw (NUM_ROWS, C) normal logits of a kind: number of classes, scale, type."""
    num_classes, scale, dtype = kind
    generator = torch.Generator().manual_seed(1_000_000 * num_classes + 10_000 * scale + seed)
    logits = torch.randn(NUM_ROWS, num_classes, dtype=torch.float64, generator=generator)
    return (scale * logits).to(dtype)


@pytest.fixture(params=KINDS, ids=str)
def logits(request: pytest.FixtureRequest) -> Tensor:
    return draw(request.param, seed=0)


@pytest.mark.property("P1", "P6")
def test_each_row_sums_to_one_and_the_largest_score_is_most_probable(logits: Tensor) -> None:
    probabilities = to_probabilities(logits)
    assert (probabilities.sum(dim=1) - 1).abs().max() <= 4 * EPSILON
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    best = probabilities.gather(1, logits.argmax(dim=1, keepdim=True))[:, 0]
    assert torch.equal(best, probabilities.max(dim=1).values)


@pytest.mark.property("P2")
def test_values_are_those_of_fifty_digits(logits: Tensor) -> None:
    rows, found = logits[:20].tolist(), to_probabilities(logits[:20]).tolist()
    with mpmath.workdps(50):
        for scores, probabilities in zip(rows, found, strict=True):
            powers = [mpmath.exp(score) for score in scores]
            for score, power, probability in zip(scores, powers, probabilities, strict=True):
                exact = power / mpmath.fsum(powers)
                assert abs(probability - exact) <= 4 * EPSILON
                if exact > 1e-300:  # exp gets the rounded difference to the largest score
                    difference = max(scores) - score
                    assert abs(probability - exact) <= 4 * EPSILON * (1 + difference) * exact


@pytest.mark.property("P3")
def test_logarithms_are_exact_where_probabilities_are_not(logits: Tensor) -> None:
    logs, scores = to_log_probabilities(logits), logits.double()
    expected = scores - scores.logsumexp(dim=1, keepdim=True)
    assert ((logs - expected).abs() <= 4 * EPSILON * (1 + expected.abs() + scores.abs())).all()


@pytest.mark.property("P4")
def test_adding_a_constant_changes_nothing(logits: Tensor) -> None:
    # On a grid of eighths a shift by a power of two is exact, and so is the result.
    grid = (8 * logits.double()).round() / 8
    assert torch.equal(to_probabilities(grid + 16), to_probabilities(grid))
    moved = (to_probabilities(logits.double() + 12.3) - to_probabilities(logits)).abs()
    assert (moved <= EPSILON * (12.3 + float(logits.abs().max()) + 4)).all()


@pytest.mark.property("P5")
def test_permuting_classes_permutes_probabilities(logits: Tensor) -> None:
    order = torch.randperm(logits.shape[1], generator=torch.Generator().manual_seed(1))
    moved = to_probabilities(logits[:, order]) - to_probabilities(logits)[:, order]
    assert moved.abs().max() <= (2 if logits.shape[1] <= 3 else 4) * EPSILON


@pytest.mark.property("P5")
def test_a_higher_score_raises_its_class_and_lowers_the_others(logits: Tensor) -> None:
    raised = logits.double().clone()
    raised[:, 0] += 0.5
    change = to_probabilities(raised) - to_probabilities(logits)
    assert (change[:, 0] >= 0).all()
    assert (change[:, 1:] <= EPSILON).all()


@pytest.mark.property("P9")
def test_cross_entropy_is_logsumexp_less_the_score_of_the_label(logits: Tensor) -> None:
    scores = logits.double()
    labels = torch.arange(len(logits)) % logits.shape[1]
    expected = scores.logsumexp(dim=1) - scores.gather(1, labels[:, None])[:, 0]
    assert nll(logits, labels, 1.0) == pytest.approx(float(expected.mean()), rel=1e-13, abs=1e-13)
    assert (to_log_probabilities(logits) <= 0).all()


@pytest.mark.property("P10")
def test_the_gradient_of_cross_entropy_is_probabilities_less_targets(logits: Tensor) -> None:
    labels = torch.arange(len(logits)) % logits.shape[1]
    one_hot = F.one_hot(labels, logits.shape[1]).double()
    for smoothing in (0.0, 0.1):
        scores = logits.double().clone().requires_grad_()
        loss = F.cross_entropy(scores, labels, reduction="sum", label_smoothing=smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        assert scores.grad is not None
        targets = (1 - smoothing) * one_hot + smoothing / logits.shape[1]
        assert (scores.grad - (to_probabilities(logits) - targets)).abs().max() <= 8 * EPSILON
        assert scores.grad.sum(dim=1).abs().max() <= 8 * EPSILON


@pytest.mark.property("P11")
def test_the_jacobian_is_symmetric_and_positive_semidefinite(logits: Tensor) -> None:
    probabilities = to_probabilities(logits[:50])
    outer = probabilities[:, :, None] * probabilities[:, None, :]
    jacobian = torch.diag_embed(probabilities) - outer
    one = torch.func.jacrev(lambda row: to_probabilities(row[None])[0])(logits[0].double())
    assert (one - jacobian[0]).abs().max() <= 4 * EPSILON
    assert jacobian.sum(dim=2).abs().max() <= 8 * EPSILON
    assert torch.linalg.eigvalsh(jacobian).min() >= -8 * EPSILON
    step = torch.linspace(-1, 1, logits.shape[1], dtype=torch.float64)
    moved = to_probabilities(logits.double() + step) - to_probabilities(logits)
    assert (moved.norm(dim=1) <= 0.5 * step.norm() + 8 * EPSILON).all()


@pytest.mark.property("P12")
def test_two_classes_are_a_sigmoid_of_the_difference(logits: Tensor) -> None:
    pair = logits[:, :2].double()
    difference = pair[:, 0] - pair[:, 1]
    probabilities = to_probabilities(pair)[:, 0]
    assert (probabilities - torch.sigmoid(difference)).abs().max() <= 2 * EPSILON
    losses = -to_log_probabilities(pair)[:, 0]
    assert torch.allclose(losses, F.softplus(-difference, threshold=800), rtol=1e-12, atol=1e-15)
    assert (to_probabilities(logits[:, :1]) == 1).all()


@pytest.mark.property("P7")
def test_where_probabilities_saturate() -> None:
    """In float64 a difference of 37 gives exactly 1, and one of 750 exactly 0."""
    assert to_probabilities(torch.tensor([[36.0, 0.0]]).double())[0, 0] < 1
    assert to_probabilities(torch.tensor([[38.0, 0.0]]).double())[0, 0] == 1
    assert to_probabilities(torch.tensor([[700.0, 0.0]]).double())[0, 1] > 0
    assert to_probabilities(torch.tensor([[750.0, 0.0]]).double())[0, 1] == 0
    logs = to_log_probabilities(torch.tensor([[0.0, -2000.0]]))
    assert logs[0].tolist() == [0.0, -2000.0]


@pytest.mark.property("P8")
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_finite_logits(dtype: torch.dtype) -> None:
    top = torch.finfo(dtype).max
    logits = torch.tensor([[top, 0, -top], [-top, -top, -top], [top, top, 0]], dtype=dtype)
    third, half = 1 / 3, 1 / 2
    expected = torch.tensor([[1, 0, 0], [third] * 3, [half, half, 0]], dtype=torch.float64)
    assert (to_probabilities(logits) - expected).abs().max() <= EPSILON


@pytest.mark.property("P8")
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_must_be_finite(bad: float) -> None:
    for function in (to_probabilities, to_log_probabilities):
        with pytest.raises(ValueError, match="not finite"):
            function(torch.tensor([[0.0, 1.0], [bad, 0.0]]))


@pytest.mark.property("P9")
@pytest.mark.parametrize("size", [0.0, 1.0, 1e8, -1e8])
def test_the_cross_entropy_of_equal_logits_is_ln_3(size: float) -> None:
    assert nll(torch.full((4, 3), size), torch.arange(4) % 3, 1.0) == pytest.approx(math.log(3))


def _row(scores: Sequence[float], temperature: float = 1.0) -> list[float]:
    row: list[float] = to_probabilities(torch.tensor([scores]), temperature)[0].tolist()
    return row


@given(st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=6), st.floats(0.25, 8))
def test_scores_are_divided_by_the_temperature(scores: list[float], temperature: float) -> None:
    powers = [math.exp(score / temperature) for score in scores]
    expected = [power / math.fsum(powers) for power in powers]
    assert _row(scores, temperature) == pytest.approx(expected, rel=1e-12, abs=0)
    logs = to_log_probabilities(torch.tensor([scores]), temperature)[0].tolist()
    assert logs == pytest.approx([math.log(each) for each in expected], rel=1e-12, abs=1e-14)


@pytest.mark.property("P14")
@given(
    st.lists(st.integers(-20, 20), min_size=2, max_size=6, unique=True),
    st.floats(0.5, 4),
    st.floats(1.1, 3),
)
def test_a_higher_temperature(integers: list[int], temperature: float, factor: float) -> None:
    def entropy(probabilities: list[float]) -> float:
        return -math.fsum(each * math.log(each) for each in probabilities if each)

    scores = [float(each) for each in integers]
    lower, higher = _row(scores, temperature), _row(scores, temperature * factor)
    assert lower.index(max(lower)) == higher.index(max(higher)) == scores.index(max(scores))
    assert max(higher) < max(lower) or max(lower) == 1
    assert entropy(higher) >= entropy(lower)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_the_range_of_temperatures(temperature: float) -> None:
    for function in (to_probabilities, to_log_probabilities):
        with pytest.raises(ValueError, match="temperature"):
            function(torch.zeros(1, 3), temperature)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_is_computed_in_float64(dtype: torch.dtype) -> None:
    scores = [1.5, -0.25, 0.75]  # exact in each type
    found = to_probabilities(torch.tensor([scores], dtype=dtype))
    assert found.dtype == torch.float64
    assert found[0].tolist() == _row(scores)


def test_label_probabilities_are_those_of_the_labels() -> None:
    logits = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % 3
    found = label_probabilities(F.cross_entropy(logits, labels, reduction="none"))
    assert found.dtype == torch.float32
    expected = to_probabilities(logits).gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-7)
