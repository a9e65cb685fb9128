"""The batches of an epoch: its order, a gather from the store, augmentation."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neither.config.schema import Augmentation
from neither.data import augmentation
from neither.data.augmentation import NUM_UNIFORMS, augment
from neither.data.preprocessing import Preprocessing
from neither.runtime.distributed import SINGLE_PROCESS, World
from neither.runtime.rng import Stream, permutation, uniform


@dataclass(frozen=True)
class Batch:
    """What one training step sees.

    Where several processes train, each has the images of its part, P of B, but knows of all.

    Attributes:
        images: (P, 3, T, T) float32, augmented and normalised, channels last in memory.
        labels: (B,) int64, the numbers of the classes.
        targets: (P, C) float32, what the probabilities ought to be: [1, 0, 0] for the first class,
            or shares of two classes where an image is mixed with another.
        indices: (B,) int64, the images' places in `Batches.rows`, on the CPU.
    """

    images: Tensor
    labels: Tensor
    targets: Tensor
    indices: Tensor


@dataclass(frozen=True)
class Batches:
    """The training images, cut into batches anew for each epoch.

    Each image comes once an epoch. The batches of an epoch hardly differ in size, so none is so
    small that its step would be mere noise.

    Attributes:
        pixels: (N, S, S, 3) uint8, the whole store.
        rows: (R,) int64, the rows of the store that are trained on.
        labels: (R,) int64, their classes.
        num_classes: C.
        batch_size: the largest size of a batch, over all processes.
        seed: of the run.
        world: the processes, each of which reads and changes the images of its part alone.
    """

    pixels: Tensor
    rows: Tensor
    labels: Tensor
    num_classes: int
    batch_size: int
    seed: int
    settings: Augmentation
    preprocessing: Preprocessing
    device: torch.device
    world: World = SINGLE_PROCESS

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return math.ceil(len(self.rows) / self.batch_size)

    def fewest(self) -> int:
        """Return the fewest images that are ever worked on at once, by a process that has any."""
        nums: set[int] = set(np.diff(self._ends()).tolist())
        every = [World(rank, self.world.size) for rank in range(self.world.size)]
        parts = [len(range(num)[each.shard(num)]) for num in nums for each in every]
        return min(filter(None, parts))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from the one numbered `start` on."""
        order = permutation(self.seed, epoch, len(self.rows))
        ends = self._ends()
        for number in range(start, len(self)):
            places = np.arange(ends[number], ends[number + 1])
            yield self._batch(epoch, places, torch.from_numpy(order[places]))

    def _batch(self, epoch: int, places: np.ndarray, indices: Tensor) -> Batch:
        part = self.world.shard(len(places))
        places = places[part]
        numbers = uniform(self.seed, Stream.AUGMENTATION, epoch, places, NUM_UNIFORMS)
        pixels = self.pixels[self.rows[indices[part]]].to(self.device)
        labels = self.labels[indices].to(self.device)
        images = augment(
            pixels, torch.from_numpy(numbers).to(self.device), self.settings, self.preprocessing
        )
        targets = F.one_hot(labels[part], self.num_classes).float()
        if self.settings.cutmix:
            numbers = uniform(
                self.seed, Stream.CUTMIX, epoch, places, augmentation.NUM_CUTMIX_UNIFORMS
            )
            images, targets = augmentation.cutmix(
                images, targets, torch.from_numpy(numbers).to(self.device), self.settings.cutmix
            )
        return Batch(images, labels, targets, indices)

    def _ends(self) -> np.ndarray:
        """Return where in the epoch's order each batch begins, and where the last one ends."""
        ends = np.linspace(0, len(self.rows), len(self) + 1)
        if self.batch_size % 2 == 0:
            ends[1:-1] = 2 * np.round(ends[1:-1] / 2)  # partners of `mixing` stay together
        return ends.astype(np.int64)
