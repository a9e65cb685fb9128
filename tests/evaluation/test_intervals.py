"""Intervals: as wide as theory says, and the same each time."""

import math

import pytest
import torch

from neither.evaluation.metrics import macro_recall_interval, mean_interval


def test_the_interval_of_a_share_is_that_of_the_binomial() -> None:
    hits = (torch.arange(1000) < 900).double()
    low, high = mean_interval(hits)
    half = 1.96 * math.sqrt(0.9 * 0.1 / 1000)
    assert low == pytest.approx(0.9 - half, abs=0.003)
    assert high == pytest.approx(0.9 + half, abs=0.003)
    assert (low, high) == mean_interval(hits)


def test_macro_recall_is_as_uncertain_as_its_rarest_class() -> None:
    labels = torch.tensor([0] * 990 + [1] * 10)
    hits = (torch.arange(1000) % 10 != 0) | (torch.arange(1000) == 990)
    hits[992:995] = False
    low, high = macro_recall_interval(labels, hits)
    both = math.sqrt(0.9 * 0.1 / 990 + 0.7 * 0.3 / 10) / 2
    assert (low + high) / 2 == pytest.approx(0.8, abs=0.02)
    assert high - low == pytest.approx(2 * 1.96 * both, rel=0.15)


def test_a_class_that_a_draw_leaves_out_is_left_out_of_its_mean() -> None:
    labels = torch.tensor([0, 0, 0, 1])
    low, high = macro_recall_interval(labels, torch.tensor([True, True, True, False]))
    assert (low, high) == (0.5, 1.0)


def test_one_image_has_no_spread() -> None:
    assert mean_interval(torch.tensor([0.25], dtype=torch.float64)) == (0.25, 0.25)
