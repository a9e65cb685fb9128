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
from neither.data.augmentation import (
    NUM_CROP_UNIFORMS,
    NUM_CUTMIX_UNIFORMS,
    NUM_UNIFORMS,
    augment,
    cutmix,
)
from neither.data.dataset import Dataset
from neither.runtime.distributed import SINGLE_PROCESS, World
from neither.runtime.rng import Stream, permutation, uniform


@dataclass(frozen=True)
class Batch:
    """The input of one training step: B images, of which this process has a shard of P."""

    images: Tensor  # (P, 3, T, T) float32, augmented and normalized, channels last in memory
    labels: Tensor  # (B,) int64, class indices; -1 for images without a label
    # (P, C) float32, the target probabilities: those of the label (one-hot), perhaps mixed with
    # those of the teacher; a blend of two images' where CutMix pastes one into another
    targets: Tensor
    # (B,) int64 on the CPU, the images' indices in the train split, after which come those without
    # labels
    indices: Tensor
    # The two parts of the targets, (P, C) each and blended likewise; None without a teacher. Images
    # without a label have zeros in the first.
    label_targets: Tensor | None = None
    teacher_targets: Tensor | None = None


@dataclass(frozen=True)
class Batches:
    """The train split and images without labels, cut into batches anew for each epoch.

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
    # (N, K, C) float32, the teacher's probabilities for K views of each image, if there is one; in
    # epoch e an image is cropped as in its view e mod K
    teacher: Tensor | None = None
    teacher_weight: float = 1.0  # of these probabilities in the targets

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return math.ceil(self.num_images / self.batch_size)

    @property
    def num_images(self) -> int:
        """The number of images of an epoch."""
        return len(self.data.train.rows) + len(self.data.unlabelled.rows)

    def paths(self, indices: Tensor) -> list[str]:
        """Return the paths of images, by their (B,) indices."""
        paths = self.data.train.paths + self.data.unlabelled.paths
        return [paths[index] for index in indices.tolist()]

    def min_shard_size(self) -> int:
        """Return the size of the smallest shard of any batch that is not empty."""
        sizes: set[int] = set(np.diff(self._starts()).tolist())
        ranks = [World(rank, self.world.size) for rank in range(self.world.size)]
        shards = [len(range(size)[rank.shard(size)]) for size in sizes for rank in ranks]
        return min(filter(None, shards))

    def iterate_epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from the batch of index `start` on."""
        order = permutation(self.seed, epoch, self.num_images)
        starts = self._starts()
        for index in range(start, len(self)):
            positions = np.arange(starts[index], starts[index + 1])
            yield self._batch(epoch, positions, torch.from_numpy(order[positions]))

    def _batch(self, epoch: int, positions: NDArray[np.int64], indices: Tensor) -> Batch:
        shard = self.world.shard(len(positions))
        parts = (self.data.train, self.data.unlabelled)
        rows = torch.cat([part.rows for part in parts])[indices[shard]]

        def draw(stream: Stream, num_uniforms: int) -> Tensor:
            numbers = uniform(self.seed, stream, epoch, positions[shard], num_uniforms)
            return torch.from_numpy(numbers).to(self.device)

        pixels = self.data.pixels[rows].to(self.device)
        labels = torch.cat([part.labels for part in parts])[indices].to(self.device)
        numbers = draw(Stream.AUGMENTATION, NUM_UNIFORMS)
        is_labelled = labels[shard, None] >= 0
        targets = F.one_hot(labels[shard].clamp(min=0), len(self.data.classes)).float()
        targets *= is_labelled
        if self.teacher is not None:
            view = epoch % self.teacher.shape[1]
            hashes = self.data.image_fingerprints["sha256"][rows.numpy()]
            crops = torch.from_numpy(view_uniforms(self.seed, view, hashes))
            numbers[:, :NUM_CROP_UNIFORMS] = crops.to(self.device)
            answers = self.teacher[indices[shard], view].to(self.device)
            mixed = torch.lerp(targets, answers, self.teacher_weight)
            mixed = torch.where(is_labelled, mixed, answers)
            targets = torch.cat([mixed, targets, answers], dim=1)
        images = augment(pixels, numbers, self.augmentation, self.data.preprocessing)
        if probability := self.augmentation.cutmix:
            numbers = draw(Stream.CUTMIX, NUM_CUTMIX_UNIFORMS)
            images, targets = cutmix(images, targets, numbers, probability)
        targets, *both = torch.split(targets, len(self.data.classes), dim=1)
        return Batch(images, labels, targets, indices, *both)

    def _starts(self) -> NDArray[np.int64]:
        """Return where in the epoch's order each batch starts, and where the last one ends."""
        starts = np.linspace(0, self.num_images, len(self) + 1)
        if self.batch_size % 2 == 0:
            starts[1:-1] = 2 * np.round(starts[1:-1] / 2)  # CutMix partners stay together
        return starts.astype(np.int64)


def view_uniforms(seed: int, view: int, hashes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the (B, NUM_CROP_UNIFORMS) numbers in [0, 1) of the crops of a view of images.

    They depend on the content of the image, so that answers of a teacher serve several runs: the
    hashes are the (B, 32) bytes of the SHA-256 of the files.
    """
    numbers = np.ascontiguousarray(hashes[:, :8]).view("<i8")[:, 0]
    return uniform(seed, Stream.VIEW, view, numbers, NUM_CROP_UNIFORMS)
