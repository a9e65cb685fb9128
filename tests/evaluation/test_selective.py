"""Withholding the least sure: by the definition, by identity, by hand."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neither.evaluation.selective import SelectiveMetrics, selective_metrics

images = st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=7)


def measure(pairs: list[tuple[int, bool]]) -> SelectiveMetrics:
    confidences = torch.tensor([pair[0] / 8 for pair in pairs], dtype=torch.float64)
    return selective_metrics(confidences, torch.tensor([pair[1] for pair in pairs]))


@given(images)
@settings(max_examples=60, deadline=None)
def test_ties_are_the_mean_over_all_their_orders(pairs: list[tuple[int, bool]]) -> None:
    rows = []
    for order in itertools.permutations(pairs):
        if [pair[0] for pair in order] == sorted((pair[0] for pair in pairs), reverse=True):
            wrong = list(itertools.accumulate(not pair[1] for pair in order))
            rows.append([wrong[k] / (k + 1) for k in range(len(wrong))])
    risks = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    found = measure(pairs)
    num = len(pairs)
    assert found.aurc == pytest.approx(sum(risks) / num, abs=1e-12)
    counted = sum(risk * (k + 1) for k, risk in enumerate(risks)) / num**2
    assert found.augrc == pytest.approx(counted, abs=1e-12)


def test_a_table_worked_by_hand() -> None:
    # By confidence: right, right, wrong, right; errors among the first k: 0, 0, 1, 1.
    found = measure([(8, True), (6, True), (5, False), (3, True)])
    assert found.aurc == pytest.approx((0 + 0 + 1 / 3 + 1 / 4) / 4)
    assert found.augrc == pytest.approx((0 + 0 + 1 + 1) / 16)
    assert found.auroc == pytest.approx(2 / 3)
    assert found.coverage_at_99 == 0.5
    assert found.accuracy_at == {"0.95": 0.75, "0.9": 0.75, "0.8": pytest.approx(2 / 3)}


def test_p21_augrc_follows_from_auroc_and_accuracy() -> None:
    """(1 - AUROC) acc (1 - acc) + (1 - acc)^2 / 2 (Traub et al., 2024), up to 1 / n."""
    generator = torch.Generator().manual_seed(0)
    confidences = torch.rand(20_000, dtype=torch.float64, generator=generator)
    hits = torch.rand(20_000, dtype=torch.float64, generator=generator) < 0.5 + confidences / 2
    found = selective_metrics(confidences, hits)
    accuracy = float(hits.double().mean())
    assert found.auroc is not None
    expected = (1 - found.auroc) * accuracy * (1 - accuracy) + (1 - accuracy) ** 2 / 2
    assert found.augrc == pytest.approx(expected, abs=1e-4)


def test_all_right_and_all_wrong() -> None:
    right, wrong = measure([(5, True), (3, True)]), measure([(5, False), (3, False)])
    assert (right.aurc, right.augrc, right.coverage_at_99, right.auroc) == (0, 0, 1, None)
    assert (wrong.aurc, wrong.augrc, wrong.coverage_at_99, wrong.auroc) == (1, 0.75, 0, None)
