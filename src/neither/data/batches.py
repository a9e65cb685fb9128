"""The batches of an epoch: its order, a gather from the store, augmentation."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neither.config import Augmentation
from neither.data.augmentation import NUM_NUMBERS, augment
from neither.data.preprocessing import Preprocessing
from neither.randomness import Stream, permutation, uniforms


@dataclass(frozen=True)
class Batch:
    """What one training step sees.

    Attributes:
        images: (B, 3, S, S) float32, augmented and normalised, channels last in memory.
        labels: (B,) int64, the numbers of the classes.
        indices: (B,) int64, the images' places in `Batches.rows`, on the CPU.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor


@dataclass(frozen=True)
class Batches:
    """The training images, cut into batches anew for each epoch.

    Each image comes once an epoch. The batches of an epoch differ by one image in size at most, so
    none is so small that its step would be mere noise.

    Attributes:
        pixels: (N, S, S, 3) uint8, the whole store.
        rows: (R,) int64, the rows of the store that are trained on.
        labels: (R,) int64, their classes.
        batch_size: the largest size of a batch.
        seed: of the run.
    """

    pixels: Tensor
    rows: Tensor
    labels: Tensor
    batch_size: int
    seed: int
    settings: Augmentation
    preprocessing: Preprocessing
    device: torch.device

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return math.ceil(len(self.rows) / self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from the one numbered `start` on."""
        order = permutation(self.seed, epoch, len(self.rows))
        ends = np.linspace(0, len(order), len(self) + 1).astype(np.int64)
        for number in range(start, len(self)):
            places = np.arange(ends[number], ends[number + 1])
            yield self._batch(epoch, places, torch.from_numpy(order[places]))

    def _batch(self, epoch: int, places: np.ndarray, indices: Tensor) -> Batch:
        numbers = uniforms(self.seed, Stream.AUGMENTATION, epoch, places, NUM_NUMBERS)
        pixels = self.pixels[self.rows[indices]].to(self.device)
        labels = self.labels[indices].to(self.device)
        images = augment(
            pixels, torch.from_numpy(numbers).to(self.device), self.settings, self.preprocessing
        )
        return Batch(images, labels, indices)
