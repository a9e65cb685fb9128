"""The batches of an epoch: its order, a gather of pixels, augmentation."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from neither.config.schema import Augmentation
from neither.data.augmentation import NUM_CUTMIX_UNIFORMS, NUM_UNIFORMS, augment, cutmix
from neither.data.dataset import Dataset
from neither.runtime.distributed import SINGLE_PROCESS, World
from neither.runtime.rng import Stream, permutation, uniform


@dataclass(frozen=True)
class Batch:
    """The input of one training step: B images, of which this process has a shard of P."""

    images: Tensor  # (P, 3, T, T) float32, augmented and normalized, channels last in memory
    labels: Tensor  # (B,) int64, class indices
    # (P, C) float32, the target probabilities: one-hot, or a blend of two classes where CutMix
    # pastes one image into another
    targets: Tensor
    indices: Tensor  # (B,) int64 on the CPU, the images' indices in the train split


@dataclass(frozen=True)
class Batches:
    """The train split, cut into batches anew for each epoch.

    Each image comes once an epoch. The batches of an epoch are of nearly one size, so that no step
    has the noise of a small last batch. Order and augmentation depend on (seed, epoch, index in the
    epoch's order) alone, not on how batches are cut or on the number of processes.
    """

    data: Dataset  # the images, their labels, and how to normalize them
    augmentation: Augmentation  # settings of the random changes
    batch_size: int  # the largest size of a batch, over all processes
    seed: int  # of the run
    device: torch.device  # where batches are computed
    world: World = SINGLE_PROCESS  # the processes; each loads and augments its own shard of a batch

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return math.ceil(len(self.data.train.rows) / self.batch_size)

    def min_shard_size(self) -> int:
        """Return the size of the smallest shard of any batch that is not empty."""
        sizes: set[int] = set(np.diff(self._starts()).tolist())
        ranks = [World(rank, self.world.size) for rank in range(self.world.size)]
        shards = [len(range(size)[rank.shard(size)]) for size in sizes for rank in ranks]
        return min(filter(None, shards))

    def iterate_epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from the batch of index `start` on."""
        order = permutation(self.seed, epoch, len(self.data.train.rows))
        starts = self._starts()
        for index in range(start, len(self)):
            positions = np.arange(starts[index], starts[index + 1])
            yield self._batch(epoch, positions, torch.from_numpy(order[positions]))

    def _batch(self, epoch: int, positions: NDArray[np.int64], indices: Tensor) -> Batch:
        train, shard = self.data.train, self.world.shard(len(positions))

        def draw(stream: Stream, num_uniforms: int) -> Tensor:
            numbers = uniform(self.seed, stream, epoch, positions[shard], num_uniforms)
            return torch.from_numpy(numbers).to(self.device)

        pixels = self.data.pixels[train.rows[indices[shard]]].to(self.device)
        labels = train.labels[indices].to(self.device)
        images = augment(
            pixels, draw(Stream.AUGMENTATION, NUM_UNIFORMS), self.augmentation,
            self.data.preprocessing,
        )  # fmt: skip
        targets = F.one_hot(labels[shard], len(self.data.classes)).float()
        if probability := self.augmentation.cutmix:
            numbers = draw(Stream.CUTMIX, NUM_CUTMIX_UNIFORMS)
            images, targets = cutmix(images, targets, numbers, probability)
        return Batch(images, labels, targets, indices)

    def _starts(self) -> NDArray[np.int64]:
        """Return where in the epoch's order each batch starts, and where the last one ends."""
        starts = np.linspace(0, len(self.data.train.rows), len(self) + 1)
        if self.batch_size % 2 == 0:
            starts[1:-1] = 2 * np.round(starts[1:-1] / 2)  # CutMix partners stay together
        return starts.astype(np.int64)
