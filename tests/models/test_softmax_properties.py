"""Properties P1 to P12 of softmax, on batches of 1,000 rows, with tolerances in roundings.

Each is tried on 216 batches; `benchmarks/softmax.py` tries the same on a thousand.
"""

import itertools
import math
from collections.abc import Callable

import mpmath  # type: ignore[import-untyped]
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from neither.evaluation.metrics import nll
from neither.models.softmax import to_log_probabilities, to_probabilities

EPSILON = torch.finfo(torch.float64).eps
ROWS = 1000
Property = Callable[[Tensor], None]


def p1_each_row_sums_to_one(logits: Tensor) -> None:
    shares = to_probabilities(logits)
    assert (shares.sum(dim=1) - 1).abs().max() <= 4 * EPSILON
    assert ((shares >= 0) & (shares <= 1)).all()


def p2_values_are_those_of_fifty_digits(logits: Tensor) -> None:
    with mpmath.workdps(50):
        for row, shares in zip(logits[:20].tolist(), to_probabilities(logits).tolist(),
                               strict=False):  # fmt: skip
            powers = [mpmath.exp(score) for score in row]
            for score, power, share in zip(row, powers, shares, strict=True):
                exact = power / mpmath.fsum(powers)
                assert abs(share - exact) <= 4 * EPSILON
                if exact > 1e-300:  # the lead of the largest score, rounded, is what exp gets
                    lead = max(row) - score
                    assert abs(share - exact) <= 4 * EPSILON * (1 + lead) * exact


def p3_logarithms_are_exact_where_probabilities_are_not(logits: Tensor) -> None:
    logs, scores = to_log_probabilities(logits), logits.double()
    expected = scores - scores.logsumexp(dim=1, keepdim=True)
    assert ((logs - expected).abs() <= 4 * EPSILON * (1 + expected.abs() + scores.abs())).all()


def p4_a_common_shift_changes_nothing(logits: Tensor) -> None:
    # On a grid of eighths a shift by a power of two is exact, and so is the result.
    grid = (8 * logits.double()).round() / 8
    assert torch.equal(to_probabilities(grid + 16), to_probabilities(grid))
    moved = (to_probabilities(logits.double() + 12.3) - to_probabilities(logits)).abs()
    assert (moved <= EPSILON * (12.3 + float(logits.abs().max()) + 4)).all()


def p5_classes_may_change_places(logits: Tensor) -> None:
    order = torch.randperm(logits.shape[1], generator=torch.Generator().manual_seed(1))
    moved = to_probabilities(logits[:, order]) - to_probabilities(logits)[:, order]
    assert moved.abs().max() <= (2 if logits.shape[1] <= 3 else 4) * EPSILON


def p5_a_higher_score_raises_its_class_and_lowers_the_others(logits: Tensor) -> None:
    raised = logits.double().clone()
    raised[:, 0] += 0.5
    change = to_probabilities(raised) - to_probabilities(logits)
    assert (change[:, 0] >= 0).all()
    assert (change[:, 1:] <= EPSILON).all()


def p6_the_largest_score_keeps_the_largest_probability(logits: Tensor) -> None:
    shares = to_probabilities(logits)
    best = shares.gather(1, logits.argmax(dim=1, keepdim=True))[:, 0]
    assert torch.equal(best, shares.max(dim=1).values)


def p9_cross_entropy_is_logsumexp_less_the_true_score(logits: Tensor) -> None:
    scores = logits.double()
    labels = torch.arange(len(logits)) % logits.shape[1]
    expected = scores.logsumexp(dim=1) - scores.gather(1, labels[:, None])[:, 0]
    assert nll(logits, labels, 1.0) == pytest.approx(float(expected.mean()), rel=1e-13, abs=1e-13)
    assert (to_log_probabilities(logits) <= 0).all()


def p10_the_gradient_is_probabilities_less_target(logits: Tensor) -> None:
    labels = torch.arange(len(logits)) % logits.shape[1]
    target = F.one_hot(labels, logits.shape[1]).double()
    for smoothing in (0.0, 0.1):
        scores = logits.double().clone().requires_grad_()
        loss = F.cross_entropy(scores, labels, reduction="sum", label_smoothing=smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        assert scores.grad is not None
        softened = (1 - smoothing) * target + smoothing / logits.shape[1]
        assert (scores.grad - (to_probabilities(logits) - softened)).abs().max() <= 8 * EPSILON
        assert scores.grad.sum(dim=1).abs().max() <= 8 * EPSILON


def p11_the_jacobian_is_symmetric_and_never_turns_a_step_around(logits: Tensor) -> None:
    shares = to_probabilities(logits[:50])
    jacobian = torch.diag_embed(shares) - shares[:, :, None] * shares[:, None, :]
    one = torch.func.jacrev(lambda row: to_probabilities(row[None])[0])(logits[0].double())
    assert (one - jacobian[0]).abs().max() <= 4 * EPSILON
    assert jacobian.sum(dim=2).abs().max() <= 8 * EPSILON
    assert torch.linalg.eigvalsh(jacobian).min() >= -8 * EPSILON
    step = torch.linspace(-1, 1, logits.shape[1], dtype=torch.float64)
    moved = to_probabilities(logits.double() + step) - to_probabilities(logits)
    assert (moved.norm(dim=1) <= 0.5 * step.norm() + 8 * EPSILON).all()


def p12_two_of_them_are_a_sigmoid(logits: Tensor) -> None:
    pair = logits[:, :2].double()
    difference = pair[:, 0] - pair[:, 1]
    shares = to_probabilities(pair)[:, 0]
    assert (shares - torch.sigmoid(difference)).abs().max() <= 2 * EPSILON
    losses = -to_log_probabilities(pair)[:, 0]
    assert torch.allclose(losses, F.softplus(-difference, threshold=800), rtol=1e-12, atol=1e-15)
    assert (to_probabilities(logits[:, :1]) == 1).all()


def p12_rejecting_is_a_sigmoid_too(logits: Tensor) -> None:
    """1 - p(last) is the sigmoid of how far the others' logsumexp is above the last score."""
    if logits.shape[1] < 3:
        return
    margin = logits[:, :-1].double().logsumexp(dim=1) - logits[:, -1].double()
    assert (to_probabilities(logits)[:, :-1].sum(1) - torch.sigmoid(margin)).abs().max() <= (
        8 * EPSILON
    )


PROPERTIES = [value for name, value in list(globals().items()) if name[0] == "p" and "_" in name]


DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
KINDS = tuple(itertools.product((2, 3, 10), (1, 10, 50), DTYPES))


def draw(kind: tuple[int, int, torch.dtype], seed: int) -> Tensor:
    """Return (ROWS, C) normal logits: so many classes, so large, of that type."""
    num_classes, scale, dtype = kind
    generator = torch.Generator().manual_seed(1_000_000 * num_classes + 10_000 * scale + seed)
    logits = torch.randn(ROWS, num_classes, dtype=torch.float64, generator=generator)
    return (scale * logits).to(dtype)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("check", PROPERTIES, ids=lambda check: check.__name__)
def test_property(check: Property, kind: tuple[int, int, torch.dtype]) -> None:
    for seed in range(6):
        check(draw(kind, seed))


def test_p7_where_probabilities_saturate() -> None:
    """In float64 a lead of 37 is exactly 1, and one of 750 leaves exactly 0."""
    assert to_probabilities(torch.tensor([[36.0, 0.0]]).double())[0, 0] < 1
    assert to_probabilities(torch.tensor([[38.0, 0.0]]).double())[0, 0] == 1
    assert to_probabilities(torch.tensor([[700.0, 0.0]]).double())[0, 1] > 0
    assert to_probabilities(torch.tensor([[750.0, 0.0]]).double())[0, 1] == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_p8_the_largest_numbers_there_are(dtype: torch.dtype) -> None:
    most = torch.finfo(dtype).max
    logits = torch.tensor([[most, 0, -most], [-most, -most, -most], [most, most, 0]], dtype=dtype)
    third, half = 1 / 3, 1 / 2
    expected = torch.tensor([[1, 0, 0], [third] * 3, [half, half, 0]], dtype=torch.float64)
    assert (to_probabilities(logits) - expected).abs().max() <= EPSILON


@pytest.mark.parametrize("size", [0.0, 1.0, 1e8, -1e8])
def test_p9_equal_logits_of_any_size_cost_ln_3(size: float) -> None:
    assert nll(torch.full((4, 3), size), torch.arange(4) % 3, 1.0) == pytest.approx(math.log(3))


def test_p9_no_image_has_no_loss() -> None:
    with pytest.raises(ValueError, match="no image"):
        nll(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), 1.0)


def test_p14_a_temperature_without_end_is_a_guess() -> None:
    logits = 20 * torch.rand(100, 3, generator=torch.Generator().manual_seed(0)) - 10
    assert (to_probabilities(logits, 1e9) - 1 / 3).abs().max() <= 1e-6
