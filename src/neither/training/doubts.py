"""How often the network doubts the label of each training image, told by the steps themselves."""

from typing import Any

import torch
from torch import Tensor

from neither.data.batches import Batch


class Doubts:
    """What the network made of each of R training images, epoch by epoch.

    An image is doubted in an epoch if the logits of its own training step name another class. That
    costs no pass, and nothing here waits for the device. An image that bears a part of another
    class (`augmentation.mix`) does not count in that epoch: to see the other class there is right.

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
