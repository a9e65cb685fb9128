"""Sums over uneven batches give what one pass over all images would."""

import io
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neither.evaluation.metrics import confusion_matrix, curve_metrics, nll
from neither.training.state import EpochMetrics

CPU = torch.device("cpu")
CLASSES = ("dog", "human", "neither")


def make_images(num: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (num,), generator=generator)
    return 3 * torch.randn(num, 3, generator=generator), labels


def add(tally: EpochMetrics, logits: Tensor, labels: Tensor, norm: float = 1.0) -> None:
    tally.add(F.cross_entropy(logits, labels), logits, labels, torch.tensor(norm))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_uneven_batches_add_up_to_the_figures_of_all_images(sizes: list[int], seed: int) -> None:
    logits, labels = make_images(sum(sizes), seed)
    tally = EpochMetrics(3, CPU)
    for number, batch in enumerate(
        zip(torch.split(logits, sizes), torch.split(labels, sizes), strict=True)
    ):
        add(tally, *batch, norm=float(number))
    confusion = confusion_matrix(labels, logits.argmax(1), 3)
    expected = curve_metrics(nll(logits, labels, 1.0), confusion, CLASSES)
    found = tally.figures(CLASSES)
    assert found.pop("gradient_norm") == pytest.approx((len(sizes) - 1) / 2)
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_mean_loss_weighs_images_not_batches() -> None:
    tally = EpochMetrics(3, CPU)
    for loss, num in ((4.0, 1), (1.0, 3)):
        tally.add(torch.tensor(loss), *make_images(num), torch.tensor(1.0))
    assert tally.mean_loss() == (4 + 3) / 4


def test_nothing_added_yet_has_no_loss() -> None:
    assert EpochMetrics(3, CPU).mean_loss() == 0
    assert EpochMetrics(3, CPU).is_finite()


def test_counting_holds_on_to_no_graph() -> None:
    logits, labels = make_images(4)
    tally = EpochMetrics(3, CPU)
    add(tally, logits.requires_grad_(), labels)
    assert not tally.loss.requires_grad
    assert tally.loss.grad_fn is None


def test_a_restored_tally_goes_on_to_the_bit() -> None:
    logits, labels = make_images(20)
    whole, before, after = EpochMetrics(3, CPU), EpochMetrics(3, CPU), EpochMetrics(3, CPU)
    for tally in (whole, before):
        add(tally, logits[:7], labels[:7], norm=0.1)
    buffer = io.BytesIO()
    torch.save(before.state(), buffer)  # as in a checkpoint
    buffer.seek(0)
    after.restore(torch.load(buffer, weights_only=True))
    for tally in (whole, after):
        add(tally, logits[7:], labels[7:], norm=0.2)
    assert after.figures(CLASSES) == whole.figures(CLASSES)
    assert after.num_steps == whole.num_steps == 2
    assert torch.equal(after.loss, whole.loss)
    assert torch.equal(after.confusion, whole.confusion)


def test_a_saved_state_does_not_change_with_what_is_added_later() -> None:
    logits, labels = make_images(4)
    tally = EpochMetrics(3, CPU)
    add(tally, logits, labels)
    saved = tally.state()
    before = saved["loss"].clone()
    add(tally, logits, labels)
    assert torch.equal(saved["loss"], before)
    assert saved["confusion"].sum() == 4
    assert saved["num_steps"] == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["loss", "norm"])
def test_what_is_not_finite_stays_noticed(place: str, bad: float) -> None:
    logits, labels = make_images(4)
    tally = EpochMetrics(3, CPU)
    add(tally, logits, labels)
    assert tally.is_finite()
    values = {"loss": 1.0, "norm": 1.0} | {place: bad}
    tally.add(torch.tensor(values["loss"]), logits, labels, torch.tensor(values["norm"]))
    assert not tally.is_finite()
    add(tally, logits, labels)
    assert not tally.is_finite()
