"""How often the network doubts the label of each training image, told by the steps themselves.

`label_issues.csv`: training images whose label the network doubts, the most doubtful first.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neither.data.batches import Batch
from neither.data.dataset import Split
from neither.data.split_file import csv_line, safe_cell
from neither.runtime import files
from neither.runtime.console import warn


class LabelStats:
    """What the network made of each of R training images, epoch by epoch.

    An image is doubted in an epoch if the logits of its own training step name another class. That
    costs no pass, and nothing here waits for the device. An image with a part of another class
    (`augmentation.cutmix`) does not count in that epoch: to see the other class there is right.

    Attributes:
        named: (R,) int16, of this epoch: 1 + the predicted class, 0 where the image did not count.
        loss: (R,) float32, of this epoch: cross entropy of the label, in nats.
        num_epochs: (R,) int32, epochs that count.
        num_doubted: (R,) int32, those among them in which the label was doubted.
        confidences: (R,) float32, sum over the epochs of the label's probability.
        losses: (R,) float32, sum of `loss`.
        rivals: (R,) int16, the class that most doubts name, if one is in more than half of them.
        leads: (R,) int32, the number of doubts for it, less those against, since it was chosen.
    """

    def __init__(self, labels: Tensor) -> None:
        """Begin with no epoch.

        Args:
            labels: (R,) int64, on the device to count on.
        """
        self._labels = labels
        num, device = len(labels), labels.device
        self.named = torch.zeros(num, dtype=torch.int16, device=device)
        self.loss = torch.zeros(num, device=device)
        self.num_epochs = torch.zeros(num, dtype=torch.int32, device=device)
        self.num_doubted = torch.zeros_like(self.num_epochs)
        self.confidences = torch.zeros(num, device=device)
        self.losses = torch.zeros(num, device=device)
        self.rivals = torch.zeros(num, dtype=torch.int16, device=device)
        self.leads = torch.zeros_like(self.num_epochs)

    @torch.no_grad()
    def add(self, logits: Tensor, batch: Batch) -> None:
        """Note one step.

        Args:
            logits: (B, C) float32, before the update.
            batch: that they answer.
        """
        places = batch.indices.to(logits.device, non_blocking=True)
        own = batch.labels[:, None]
        counts = batch.targets.gather(1, own)[:, 0] == 1
        named = torch.where(counts, logits.argmax(dim=1) + 1, 0)
        loss = logits.logsumexp(dim=1) - logits.gather(1, own)[:, 0]
        self.named.index_copy_(0, places, named.to(torch.int16))
        self.loss.index_copy_(0, places, torch.where(counts, loss, 0.0))

    @torch.no_grad()
    def end_epoch(self, is_counted: bool) -> None:
        """Add the epoch to the sums, or leave it out, and begin the next.

        The rival is found by a majority vote that keeps one candidate (Boyer and Moore, "MJRTY",
        1991): a count for each class would take a thousand numbers an image in some runs.
        """
        if is_counted:
            seen = self.named > 0
            predicted = self.named - 1
            doubted = seen & (predicted != self._labels)
            self.num_epochs += seen
            self.num_doubted += doubted
            self.losses += self.loss
            self.confidences += torch.where(seen, (-self.loss).exp(), 0.0)
            self.rivals = torch.where(doubted & (self.leads == 0), predicted, self.rivals)
            self.leads += torch.where(doubted, torch.where(predicted == self.rivals, 1, -1), 0)
        self.named.zero_()
        self.loss.zero_()

    def state(self) -> dict[str, Any]:
        """Return what `restore` takes back."""
        return {name: value.cpu().clone() for name, value in self._own().items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state.

        Raises:
            KeyError: if a part of it is missing.
            ValueError: if it is of other images.
        """
        for name, own in self._own().items():
            if state[name].shape != own.shape:
                raise ValueError(f"{name} of {len(state[name]):,} images, not {len(own):,}")
            own.copy_(state[name])

    def _own(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}


_COLUMNS = ("path", "label", "predicted", "disagreement", "confidence", "loss")
_LEAST = 0.5  # share of the epochs that must doubt a label: most of them


def find_label_issues(
    doubts: LabelStats, split: Split, classes: Sequence[str]
) -> list[dict[str, str]]:
    """Return a row for each training image whose label is doubted in most epochs.

    Args:
        doubts: of these images.
        split: what is trained on.
        classes: names by number.

    Returns:
        Rows of `path`, `label`, `looks_like` (the class that most doubts name), `doubted` (share of
        the epochs that count), `confidence` (mean probability of the label) and `loss` (mean cross
        entropy of the label, in nats); by falling `loss`.
    """
    # Measured with 166 false labels among 5,723 photos, 40 epochs with `cutmix: 0.5`, macro recall
    # on val 0.82. Average precision by mean loss 0.55, by confidence 0.53, by share of doubts 0.45;
    # of the first half of the epochs alone 0.40, of all 0.53. Mixed images too: 0.55, no better.
    nums = doubts.num_epochs.cpu().clamp(min=1)
    shares = doubts.num_doubted.cpu() / nums
    confidences = doubts.confidences.cpu() / nums
    losses, rivals = doubts.losses.cpu() / nums, doubts.rivals.cpu()
    # One look is no majority: an image that was mixed in most epochs tells too little.
    enough = int(nums.median()) // 2 if len(nums) else 0
    places = ((shares > _LEAST) & (nums >= enough)).nonzero()[:, 0].tolist()
    places.sort(key=lambda place: -float(losses[place]))
    return [
        {
            "path": split.paths[place],
            "label": classes[int(split.labels[place])],
            "predicted": classes[int(rivals[place])],
            "disagreement": f"{shares[place]:.3f}",
            "confidence": f"{confidences[place]:.3f}",
            "loss": f"{losses[place]:.3f}",
        }
        for place in places
    ]


def write_label_issues(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """Write the rows, whole or not at all; trouble with the disk is said and costs only them."""
    try:
        with files.atomic_writer(path) as file:
            file.write(csv_line(_COLUMNS).encode())
            for row in rows:
                cells = [safe_cell(row["path"]), *(row[name] for name in _COLUMNS[1:])]
                file.write(csv_line(cells).encode("utf-8", "surrogateescape"))
    except OSError as error:
        warn(f"{path}: cannot be written: {error}; training goes on without it")
