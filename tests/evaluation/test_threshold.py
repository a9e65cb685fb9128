"""The smallest threshold that keeps the promise, against trying all of them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neither.evaluation.calibration import choose_threshold


@given(
    st.lists(st.tuples(st.integers(1, 10), st.booleans()), min_size=1, max_size=30),
    st.sampled_from([0.5, 0.9, 0.98, 1.0]),
)
@settings(max_examples=100, deadline=None)
def test_it_is_the_smallest_that_reaches_the_target(
    pairs: list[tuple[int, bool]], target: float
) -> None:
    def precision(threshold: int) -> float:
        accepted = [right for confidence, right in pairs if confidence >= threshold]
        return sum(accepted) / len(accepted)

    reached = [each for each in sorted({pair[0] for pair in pairs}) if precision(each) >= target]
    expected = min(reached) / 10 if reached else None
    found = choose_threshold(
        torch.tensor([pair[0] / 10 for pair in pairs], dtype=torch.float64),
        torch.tensor([pair[1] for pair in pairs]), target,
    )  # fmt: skip
    assert found == pytest.approx(expected, abs=2e-12)
    assert found is None or found < min(reached) / 10


@pytest.mark.parametrize("below", [1 - 5e-13, 1 - 2**-53])
def test_a_hair_never_lets_in_the_next_lower(below: float) -> None:
    confidences = torch.tensor([1.0, below], dtype=torch.float64)
    found = choose_threshold(confidences, torch.tensor([True, False]), 1.0)
    assert found is not None
    assert (confidences >= found).tolist() == [True, False]


def test_a_share_that_is_met_exactly_is_met() -> None:
    """98 of 100, where 0.98 has no exact binary form."""
    confidences = torch.full((100,), 0.7, dtype=torch.float64)
    hits = torch.arange(100) >= 2
    assert choose_threshold(confidences, hits, 0.98) == pytest.approx(0.7)
    assert choose_threshold(confidences, torch.arange(100) >= 3, 0.98) is None
