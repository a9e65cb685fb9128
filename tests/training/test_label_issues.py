"""Disagreements are counted, saved to the bit, and find wrong labels."""

import csv
import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from neither.config.schema import Augmentation, Config
from neither.data.batches import Batches
from neither.data.dataset import Dataset, Split
from neither.data.preprocessing import Preprocessing
from neither.runtime import files
from neither.runtime.console import log_to_folder
from neither.runtime.devices import DeviceConfig
from neither.training.label_issues import LabelStats, find_label_issues, write_label_issues
from neither.training.state import build_state
from neither.training.step import train_step

CLASSES = ("dog", "human", "neither")
LABELS = torch.tensor([0, 1, 2, 0])


def labelled(image_indices: list[int], label_target: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Return labels, targets with the given probability of each label, and indices."""
    indices = torch.tensor(image_indices)
    labels = LABELS[indices]
    targets = label_target * F.one_hot(labels, 3) + (1 - label_target) * F.one_hot(
        (labels + 1) % 3, 3
    )
    return labels, targets.float(), indices


def name(*classes: int) -> Tensor:
    """Make logits that predict these classes, with a probability of about 0.96."""
    return 4.0 * F.one_hot(torch.tensor(classes), 3)


def test_disagreements_and_their_majority_class_are_counted() -> None:
    stats = LabelStats(LABELS)
    for named in ((0, 1, 2, 2), (0, 1, 0, 1), (1, 1, 0, 2), (0, 1, 0, 2)):
        stats.update(name(*named), *labelled([0, 1, 2, 3]))
        stats.end_epoch(is_counted=True)
    assert stats.num_epochs.tolist() == [4, 4, 4, 4]
    assert stats.num_disagreements.tolist() == [1, 0, 3, 4]
    assert stats.majority_class[[0, 2, 3]].tolist() == [1, 0, 2]
    probability = float(torch.softmax(name(0)[0], 0)[0])
    torch.testing.assert_close(stats.confidence_sum[1], torch.tensor(4 * probability))
    torch.testing.assert_close(stats.loss_sum[1], -4 * torch.tensor(probability).log())


def test_an_image_with_cutmix_is_not_counted() -> None:
    stats = LabelStats(LABELS)
    stats.update(name(1, 2), *labelled([0, 1], label_target=0.9))
    stats.update(name(1, 1), *labelled([2, 3]))
    stats.end_epoch(is_counted=True)
    assert stats.num_epochs.tolist() == [0, 0, 1, 1]
    assert stats.num_disagreements.tolist() == [0, 0, 1, 1]
    assert stats.confidence_sum[:2].tolist() == stats.loss_sum[:2].tolist() == [0, 0]


def test_a_discarded_epoch_changes_nothing() -> None:
    stats, fresh = LabelStats(LABELS), LabelStats(LABELS)
    stats.update(name(1, 1), *labelled([0, 2]))
    stats.end_epoch(is_counted=False)
    for part, value in stats.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[part]), part


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


def test_wrong_labels_are_the_first_issues(make_config: Callable[..., Config]) -> None:
    truth = torch.arange(180) % 3
    labels, false = truth.clone(), list(range(0, 180, 15))
    labels[false] = (truth[false] + 1 + torch.tensor(false) // 15 % 2) % 3
    epochs, device_config = 8, DeviceConfig(torch.device("cpu"), "float32")
    settings = Augmentation(cutmix=0.5, random_erasing=0, color_jitter=0, grayscale=0)
    config = make_config(train={"epochs": epochs, "batch_size": 30}, augmentation=settings)
    preprocessing = Preprocessing(32)
    state = build_state(config, preprocessing, device_config)
    state.set_training_labels(labels)
    split = Split([str(index) for index in range(180)], torch.arange(180), labels)
    data = Dataset(draw_pixels(truth), split, split, CLASSES, preprocessing, "")
    batches = Batches(data, settings, 30, 0, device_config.device)
    for epoch in range(epochs):
        for batch in batches.iterate_epoch(epoch):
            assert train_step(state, batch, 0.5, device_config)
        state.end_epoch(None)
    assert int(state.label_stats.num_epochs.max()) <= epochs // 2  # the first half does not count
    rows = find_label_issues(state.label_stats, split, CLASSES)
    first = [row for row in rows if int(row["path"]) in false]
    found = [int(row["path"]) in false for row in rows[: len(false)]]
    assert sum(found) >= 0.75 * len(false), rows[:20]
    right = [row["predicted"] == CLASSES[int(truth[int(row["path"])])] for row in first]
    assert sum(right) >= 0.75 * len(first)


SPLIT = Split(
    ["a.png", "=b,\udcff.png", "c.png", "d.png"], torch.arange(4), torch.tensor([0, 1, 2, 0])
)


def make_stats() -> LabelStats:
    stats = LabelStats(SPLIT.labels)
    stats.num_epochs += torch.tensor([10, 10, 10, 0], dtype=torch.int32)
    stats.num_disagreements += torch.tensor([6, 9, 5, 0], dtype=torch.int32)
    stats.confidence_sum += torch.tensor([3.0, 4.0, 1.0, 0.0])
    stats.loss_sum += torch.tensor([30.0, 12.0, 40.0, 0.0])
    stats.majority_class += torch.tensor([2, 0, 1, 0], dtype=torch.int16)
    return stats


def test_issues_are_listed_by_falling_loss() -> None:
    rows = find_label_issues(make_stats(), SPLIT, CLASSES)
    assert rows == [
        {"path": "a.png", "label": "dog", "predicted": "neither", "disagreement": "0.600",
         "confidence": "0.300", "loss": "3.000"},
        {"path": "=b,\udcff.png", "label": "human", "predicted": "dog", "disagreement": "0.900",
         "confidence": "0.400", "loss": "1.200"},
    ]  # fmt: skip


def test_the_file_has_the_rows_and_no_formula(tmp_path: Path) -> None:
    rows = find_label_issues(make_stats(), SPLIT, CLASSES)
    write_label_issues(tmp_path / "label_issues.csv", rows)
    with (tmp_path / "label_issues.csv").open(newline="", errors="surrogateescape") as file:
        read = list(csv.DictReader(file))
    assert read[0] == rows[0]
    assert read[1] == rows[1] | {"path": "./=b,\udcff.png"}


def test_a_full_disk_is_logged_and_does_not_raise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(_: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "atomic_writer", full_disk)
    with log_to_folder(tmp_path):
        write_label_issues(tmp_path / "label_issues.csv", [])
    assert "label_issues.csv: cannot be written" in (tmp_path / "log.txt").read_text()
