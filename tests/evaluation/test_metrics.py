"""Metrics against scikit-learn, intervals against theory."""

import math
import warnings
from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as oracle
from torch import Tensor

from neither.evaluation.metrics import (
    accuracy,
    confusion_matrix,
    curve_metrics,
    describe_mean,
    macro_recall,
    macro_recall_interval,
    mean_interval,
    nll,
    per_class_metrics,
    recalls,
)

CLASSES = ("dog", "human", "neither")
NUM_CLASSES = len(CLASSES)
HAND = torch.tensor([[3, 1, 0], [2, 4, 0], [0, 0, 0]])  # the last class has no image
EMPTY = torch.zeros(3, 3, dtype=torch.int64)

indices = st.integers(0, NUM_CLASSES - 1)
answers = st.lists(st.tuples(indices, indices), min_size=1, max_size=40)


def columns(pairs: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    labels, predicted = zip(*pairs, strict=True)
    return torch.tensor(labels), torch.tensor(predicted)


def make_logits(num: int, seed: int, spread: float = 5.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(NUM_CLASSES, (num,), generator=generator)
    return spread * torch.randn(num, NUM_CLASSES, generator=generator), labels


@given(answers)
def test_the_confusion_matrix_agrees_with_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    labels, predicted = columns(pairs)
    confusion = confusion_matrix(labels, predicted, NUM_CLASSES)
    every = list(range(NUM_CLASSES))
    assert confusion.tolist() == oracle.confusion_matrix(labels, predicted, labels=every).tolist()
    assert accuracy(confusion) == oracle.accuracy_score(labels, predicted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of predictions without images
        balanced = oracle.balanced_accuracy_score(labels, predicted)
    assert macro_recall(confusion) == pytest.approx(balanced, rel=1e-12)


@given(answers)
def test_per_class_metrics_agree_with_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    labels, predicted = columns(pairs)
    found = per_class_metrics(confusion_matrix(labels, predicted, NUM_CLASSES), CLASSES)
    precision, recall, f1, num_images = oracle.precision_recall_fscore_support(
        labels, predicted, labels=list(range(NUM_CLASSES)), zero_division=np.nan
    )
    assert list(found) == list(CLASSES)
    for number, row in enumerate(found.values()):
        assert row["num_images"] == num_images[number]
        assert ("recall" in row) == ("f1" in row) == (num_images[number] > 0)
        assert ("precision" in row) == bool((predicted == number).any())
        if "precision" in row:
            assert row["precision"] == pytest.approx(precision[number], rel=1e-12)
        if "recall" in row:
            assert row["recall"] == pytest.approx(recall[number], rel=1e-12)
            assert row["f1"] == pytest.approx(f1[number], rel=1e-12)


@given(st.integers(1, 60), st.integers(0, 1000), st.floats(0.5, 4))
def test_nll_is_the_log_loss_of_scikit_learn(num: int, seed: int, temperature: float) -> None:
    logits, labels = make_logits(num, seed, spread=2.0)
    probabilities = torch.softmax(logits.double() / temperature, 1).numpy()
    theirs = oracle.log_loss(labels, probabilities, labels=list(range(NUM_CLASSES)))
    assert nll(logits, labels, temperature) == pytest.approx(theirs, rel=1e-10)


def test_nll_is_finite_where_a_probability_underflows() -> None:
    assert nll(torch.tensor([[0.0, -2000.0]]), torch.tensor([1]), 1.0) == 2000
    assert nll(torch.tensor([[0.0, -2000.0]]), torch.tensor([0]), 1.0) == 0


@given(st.integers(0, 1000), st.randoms(use_true_random=False))
def test_the_order_of_the_images_changes_no_bit_of_nll(seed: int, random: Random) -> None:
    logits, labels = make_logits(101, seed)
    order = list(range(101))
    random.shuffle(order)
    assert nll(logits, labels, 1.3).hex() == nll(logits[order], labels[order], 1.3).hex()


def test_curves_leave_out_the_recall_of_classes_without_images() -> None:
    assert curve_metrics(0.25, HAND, CLASSES) == {
        "loss": 0.25, "accuracy": 0.7, "macro_recall": pytest.approx(17 / 24),
        "recall/dog": 3 / 4, "recall/human": 4 / 6,
    }  # fmt: skip


def test_nothing_to_score_is_an_error_not_a_zero() -> None:
    with pytest.raises(ValueError, match="no image"):
        accuracy(EMPTY)
    with pytest.raises(ValueError, match="no class has an image"):
        macro_recall(EMPTY)
    with pytest.raises(ValueError, match="no image"):
        nll(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), 1.0)
    assert recalls(EMPTY) == [None, None, None]


def test_the_interval_of_a_fraction_is_that_of_the_binomial() -> None:
    hits = (torch.arange(1000) < 900).double()
    low, high = mean_interval(hits)
    half = 1.96 * math.sqrt(0.9 * 0.1 / 1000)
    assert low == pytest.approx(0.9 - half, abs=0.003)
    assert high == pytest.approx(0.9 + half, abs=0.003)
    assert (low, high) == mean_interval(hits)
    assert mean_interval(hits[:1]) == (1, 1)


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


@pytest.mark.parametrize("num", [2, 3, 5, 30])
def test_the_mean_of_a_few_runs_has_the_interval_of_scipy(num: int) -> None:
    values = [0.9 + 0.01 * math.sin(number) for number in range(num)]
    found = describe_mean(values)
    expected = stats.t.interval(0.95, num - 1, np.mean(values), stats.sem(values))
    assert found["interval"] == pytest.approx(expected, abs=1e-5)
    assert (found["mean"], found["std"]) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert describe_mean([0.5] * num)["interval"] == [0.5, 0.5]
