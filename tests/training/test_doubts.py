"""Doubt is counted where it means something, comes back to the bit, and finds false labels."""

import io
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neither.config.schema import Augmentation, Config
from neither.data.batches import Batch, Batches
from neither.data.dataset import Dataset, Split
from neither.data.preprocessing import Preprocessing
from neither.runtime.devices import Compute
from neither.training.label_issues import LabelStats, find_label_issues
from neither.training.state import build_state
from neither.training.step import train_step

CLASSES = ("dog", "human", "neither")
LABELS = torch.tensor([0, 1, 2, 0])


def make_batch(places: list[int], shares: float = 1.0) -> Batch:
    """Make a batch whose targets give the labels only a share."""
    indices = torch.tensor(places)
    labels = LABELS[indices]
    targets = shares * F.one_hot(labels, 3) + (1 - shares) * F.one_hot((labels + 1) % 3, 3)
    return Batch(torch.zeros(len(places), 3, 8, 8), labels, targets.float(), indices)


def name(*classes: int) -> Tensor:
    """Make logits that name these classes, with a probability of about 0.96."""
    return 4.0 * F.one_hot(torch.tensor(classes), 3)


def test_doubted_epochs_and_the_class_that_most_of_them_name_are_counted() -> None:
    doubts = LabelStats(LABELS)
    for named in ((0, 1, 2, 2), (0, 1, 0, 1), (1, 1, 0, 2), (0, 1, 0, 2)):
        doubts.add(name(*named), make_batch([0, 1, 2, 3]))
        doubts.end_epoch(is_counted=True)
    assert doubts.num_epochs.tolist() == [4, 4, 4, 4]
    assert doubts.num_doubted.tolist() == [1, 0, 3, 4]
    assert doubts.rivals[[0, 2, 3]].tolist() == [1, 0, 2]
    sure = float(torch.softmax(name(0)[0], 0)[0])
    torch.testing.assert_close(doubts.confidences[1], torch.tensor(4 * sure))
    torch.testing.assert_close(doubts.losses[1], -4 * torch.tensor(sure).log())


def test_an_image_with_a_part_of_another_class_is_not_counted() -> None:
    doubts = LabelStats(LABELS)
    doubts.add(name(1, 2), make_batch([0, 1], shares=0.9))
    doubts.add(name(1, 1), make_batch([2, 3]))
    doubts.end_epoch(is_counted=True)
    assert doubts.num_epochs.tolist() == [0, 0, 1, 1]
    assert doubts.num_doubted.tolist() == [0, 0, 1, 1]
    assert doubts.confidences[:2].tolist() == doubts.losses[:2].tolist() == [0, 0]


def test_an_epoch_that_is_left_out_leaves_nothing() -> None:
    doubts, fresh = LabelStats(LABELS), LabelStats(LABELS)
    doubts.add(name(1, 1), make_batch([0, 2]))
    doubts.end_epoch(is_counted=False)
    for part, value in doubts.state().items():
        assert torch.equal(value, fresh.state()[part]), part


def test_restored_doubts_go_on_to_the_bit_in_mid_epoch() -> None:
    whole, before, after = LabelStats(LABELS), LabelStats(LABELS), LabelStats(LABELS)
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    for doubts in (whole, before):
        doubts.add(logits[:2], make_batch([3, 0]))
    buffer = io.BytesIO()
    torch.save(before.state(), buffer)  # as in a checkpoint
    buffer.seek(0)
    after.restore(torch.load(buffer, weights_only=True))
    for doubts in (whole, after):
        doubts.add(logits[2:], make_batch([1, 2]))
        doubts.end_epoch(is_counted=True)
    for part, value in whole.state().items():
        assert torch.equal(value, after.state()[part]), part
    assert whole.num_epochs.tolist() == [1, 1, 1, 1]


def draw_pixels(labels: Tensor) -> Tensor:
    """Draw a disc on grain for each label: red, green or blue, in any place; (N, 32, 32, 3)."""
    random = np.random.default_rng(0)
    pixels = random.integers(60, 200, (len(labels), 32, 32, 3))
    y, x = np.mgrid[:32, :32]
    for image, label in zip(pixels, labels.tolist(), strict=True):
        middle = random.integers(10, 22, 2)
        disc = (x - middle[0]) ** 2 + (y - middle[1]) ** 2 < 64
        image[disc] = image[disc] // 2
        image[disc, label] = 255
    return torch.from_numpy(pixels.astype(np.uint8))


def test_false_labels_are_the_first_suspects(make_config: Callable[..., Config]) -> None:
    truth = torch.arange(180) % 3
    labels, false = truth.clone(), list(range(0, 180, 15))
    labels[false] = (truth[false] + 1 + torch.tensor(false) // 15 % 2) % 3
    epochs, compute = 8, Compute(torch.device("cpu"), "float32")
    settings = Augmentation(cutmix=0.5, random_erasing=0, color_jitter=0, grayscale=0)
    config = make_config(train={"epochs": epochs, "batch_size": 30}, augmentation=settings)
    preprocessing = Preprocessing(32)
    state = build_state(config, preprocessing, compute)
    state.meet(labels)
    split = Split([str(index) for index in range(180)], torch.arange(180), labels)
    data = Dataset(draw_pixels(truth), split, split, CLASSES, preprocessing, "")
    batches = Batches(data, settings, 30, 0, compute.device)
    for epoch in range(epochs):
        for batch in batches.epoch(epoch):
            assert train_step(state, batch, 0.5, compute)
        state.end_epoch(None)
    assert int(state.doubts.num_epochs.max()) <= epochs // 2  # the first half does not count
    rows = find_label_issues(state.doubts, split, CLASSES)
    first = [row for row in rows if int(row["path"]) in false]
    found = [int(row["path"]) in false for row in rows[: len(false)]]
    assert sum(found) >= 0.75 * len(false), rows[:20]
    right = [row["predicted"] == CLASSES[int(truth[int(row["path"])])] for row in first]
    assert sum(right) >= 0.75 * len(first)
