"""Label issues: training images whose label the network disagrees with in most epochs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from neither.data.dataset import Split
from neither.data.split_file import csv_line, safe_cell
from neither.models.softmax import label_probabilities
from neither.runtime import files
from neither.runtime.console import warn

_COLUMNS = ("path", "label", "predicted", "disagreement", "confidence", "loss")
_MIN_DISAGREEMENT = 0.5  # fraction of the epochs: most of them


class LabelStats:
    """How often the network disagreed with the label of each of R training images.

    The logits of the training steps are used, so there is no extra pass, and nothing here waits for
    the device. An image into which CutMix pasted another class is not counted in that epoch:
    there the other class is correct.
    """

    def __init__(self, labels: Tensor) -> None:
        """Start with no epoch; labels are (R,) int64, on the device to count on."""
        self._labels = labels
        num_images, device = len(labels), labels.device
        # Of the present epoch: 1 + predicted class, 0 if not counted; cross entropy of the label.
        self.epoch_predicted = torch.zeros(num_images, dtype=torch.int16, device=device)
        self.epoch_loss = torch.zeros(num_images, device=device)
        # Of all epochs: those counted, those in which another class was predicted, the sums of the
        # label's probability and of its cross entropy in nats.
        self.num_epochs = torch.zeros(num_images, dtype=torch.int32, device=device)
        self.num_disagreements = torch.zeros_like(self.num_epochs)
        self.confidence_sum = torch.zeros(num_images, device=device)
        self.loss_sum = torch.zeros(num_images, device=device)
        # The class predicted in more than half of the disagreements, if there is one, and the
        # disagreements for it minus those against, since it was chosen.
        self.majority_class = torch.zeros(num_images, dtype=torch.int16, device=device)
        self.majority_lead = torch.zeros_like(self.num_epochs)

    @torch.no_grad()
    def update(self, logits: Tensor, labels: Tensor, targets: Tensor, indices: Tensor) -> None:
        """Count one training step.

        Args:
            logits: (B, C) float32, before the optimizer step.
            labels: (B,) int64; -1 for images without a label, which are not counted.
            targets: (B, C); an image counts if its target is its own label alone.
            indices: (B,) int64 on the CPU, of the images in train, after which come those without
                a label.
        """
        own = (indices < len(self._labels)).nonzero()[:, 0]
        if len(own) < len(indices):
            indices, own = indices[own], own.to(logits.device, non_blocking=True)
            logits, labels, targets = logits[own], labels[own], targets[own]
        indices = indices.to(logits.device, non_blocking=True)
        labels = labels[:, None]
        is_counted = targets.gather(1, labels)[:, 0] == 1
        predicted = torch.where(is_counted, logits.argmax(dim=1) + 1, 0)
        loss = logits.logsumexp(dim=1) - logits.gather(1, labels)[:, 0]
        self.epoch_predicted.index_copy_(0, indices, predicted.to(torch.int16))
        self.epoch_loss.index_copy_(0, indices, torch.where(is_counted, loss, 0.0))

    @torch.no_grad()
    def end_epoch(self, is_counted: bool) -> None:
        """Add the epoch to the sums, or discard it, and start the next.

        The majority class comes from a vote with one candidate (Boyer and Moore, "MJRTY", 1991):
        counts of all classes would need up to a thousand numbers for each image.
        """
        if is_counted:
            seen = self.epoch_predicted > 0
            predicted = self.epoch_predicted - 1
            disagrees = seen & (predicted != self._labels)
            self.num_epochs += seen
            self.num_disagreements += disagrees
            self.loss_sum += self.epoch_loss
            self.confidence_sum += torch.where(seen, label_probabilities(self.epoch_loss), 0.0)
            is_replaced = disagrees & (self.majority_lead == 0)
            self.majority_class = torch.where(is_replaced, predicted, self.majority_class)
            vote = torch.where(predicted == self.majority_class, 1, -1)
            self.majority_lead += torch.where(disagrees, vote, 0)
        self.epoch_predicted.zero_()
        self.epoch_loss.zero_()

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies on the CPU for `load_state_dict`."""
        return {name: value.cpu().clone() for name, value in self._tensors().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state.

        Raises:
            KeyError: if a tensor is missing.
            ValueError: if the number of images differs.
        """
        for name, own in self._tensors().items():
            if state[name].shape != own.shape:
                raise ValueError(f"{name} of {len(state[name]):,} images, not {len(own):,}")
            own.copy_(state[name])

    def _tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}


def find_label_issues(
    stats: LabelStats, split: Split, classes: Sequence[str]
) -> list[dict[str, str]]:
    """Return a row for each training image with another class predicted in most epochs.

    Returns:
        Rows of `path`, `label`, `predicted` (the majority class of the disagreements),
        `disagreement` (fraction of the counted epochs), `confidence` (mean probability of the
        label) and `loss` (mean cross entropy of the label, in nats), by falling `loss`.
    """
    # Measured with 166 wrong labels among 5,723 photos, 40 epochs with `cutmix: 0.5`, macro recall
    # on val 0.82. Average precision by mean loss 0.55, by confidence 0.53, by disagreement 0.45; of
    # the first half of the epochs alone 0.40, of all 0.53. CutMix images too: 0.55, no better.
    num_epochs = stats.num_epochs.cpu().clamp(min=1)
    disagreement = stats.num_disagreements.cpu() / num_epochs
    # One counted epoch is no majority: leave out images that CutMix changed in most epochs.
    min_epochs = int(num_epochs.median()) // 2 if len(num_epochs) else 0
    is_issue = (disagreement > _MIN_DISAGREEMENT) & (num_epochs >= min_epochs)
    return _list_issues(split, classes, is_issue, stats.majority_class.cpu(), {
        "disagreement": disagreement,
        "confidence": stats.confidence_sum.cpu() / num_epochs,
        "loss": stats.loss_sum.cpu() / num_epochs,
    })  # fmt: skip


def find_out_of_fold_issues(
    logits: Tensor, split: Split, classes: Sequence[str]
) -> list[dict[str, str]]:
    """Return the rows of `find_label_issues` from (N, C) logits of networks trained without it."""
    losses = F.cross_entropy(logits, split.labels, reduction="none")
    predicted, confidences = logits.argmax(dim=1), label_probabilities(losses)
    numbers = {"disagreement": torch.ones(len(losses)), "confidence": confidences, "loss": losses}
    return _list_issues(split, classes, predicted != split.labels, predicted, numbers)


def _list_issues(
    split: Split,
    classes: Sequence[str],
    is_issue: Tensor,
    predicted: Tensor,
    numbers: dict[str, Tensor],
) -> list[dict[str, str]]:
    """Return a row for each of the (N,) images that is an issue, with its numbers."""
    indices = is_issue.nonzero()[:, 0].tolist()
    indices.sort(key=lambda index: -float(numbers["loss"][index]))
    return [
        {
            "path": split.paths[index],
            "label": classes[int(split.labels[index])],
            "predicted": classes[int(predicted[index])],
            **{name: f"{values[index]:.3f}" for name, values in numbers.items()},
        }
        for index in indices
    ]


def write_label_issues(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """Write `label_issues.csv` atomically; warn and go on if the disk is full."""
    try:
        with files.atomic_writer(path) as file:
            file.write(csv_line(_COLUMNS))
            for row in rows:
                cells = [safe_cell(row["path"]), *(row[name] for name in _COLUMNS[1:])]
                file.write(csv_line(cells))
    except OSError as error:
        warn(f"{path}: cannot be written: {error}; training continues without it")
