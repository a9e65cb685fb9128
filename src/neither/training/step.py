"""One training step: forward, backward, all-reduce, optimizer, running metrics.

The gradients are summed here instead of by `DistributedDataParallel`, which averages over ranks
(wrong for shards of different sizes), needs an image on every rank, and renames the weights in
checkpoints. Only the overlap of communication with the backward pass is lost.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neither.data.batches import Batch
from neither.runtime.devices import DeviceConfig
from neither.runtime.distributed import World
from neither.runtime.rng import seeded, step_seed
from neither.training.optimizers import set_lr_factor
from neither.training.state import TrainState


def train_step(
    state: TrainState, batch: Batch, lr_factor: float, device_config: DeviceConfig
) -> bool:
    """Take one optimizer step on a batch, all ranks together.

    Each rank computes on its shard; after the all-reduce the gradients are those of one process
    with the whole batch. The learning rate is a fraction of the peak.

    Returns:
        False if the loss or the gradient is not finite: then no weight has changed. Only a CPU is
        checked in each step; on other devices the check would wait for the device, and
        `EpochMetrics.is_finite` finds it later.
    """
    settings, network = state.settings, state.network
    # Dropout is seeded by (seed, step); the state of the global RNG is restored.
    with seeded(step_seed(state.seed, state.step), device_config.device), device_config.autocast():
        logits = network(batch.images)
    logits = logits.float()
    # The sum over this rank's shard, divided by B: summed over the ranks, the mean of the batch.
    loss = F.cross_entropy(
        logits, batch.targets, reduction="sum", label_smoothing=settings.label_smoothing
    ) / len(batch.labels)
    parts = [
        F.cross_entropy(logits.detach(), each, reduction="sum") / len(batch.labels)
        for each in (batch.label_targets, batch.teacher_targets)
        if each is not None
    ]
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    losses, logits, targets = all_reduce_step(
        network, torch.stack([loss.detach(), *parts]), logits.detach(), batch, state.world
    )
    grad_norm = nn.utils.clip_grad_norm_(network.parameters(), settings.max_grad_norm)
    if device_config.device.type == "cpu" and not (
        math.isfinite(losses[0]) and math.isfinite(grad_norm)
    ):
        return False
    set_lr_factor(state.optimizer, lr_factor)
    state.optimizer.step()
    state.end_step()
    state.epoch_metrics.update(losses[0], logits, batch.labels, grad_norm, losses[1:])
    state.label_stats.update(logits, batch.labels, targets, batch.indices)
    return True


@torch.no_grad()
def all_reduce_step(
    network: nn.Module, losses: Tensor, logits: Tensor, batch: Batch, world: World
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum gradients, losses and logits over all ranks, in one all-reduce.

    The gradients in `network` become those of the whole batch. Running statistics of batch norm
    become the mean over the ranks, weighted by the number of images. Gradients, losses (L,) and
    logits (P, C) are those of this rank's shard; the losses are the loss, and its parts if there is
    a teacher.

    Returns:
        Losses (L,), logits (B, C) and targets of the labels (B, C) of the whole batch.
    """
    targets = batch.targets if batch.label_targets is None else batch.label_targets
    if world.size == 1:
        return losses, logits, targets
    gradients = [each.grad for each in network.parameters() if each.grad is not None]
    statistics = _running_statistics(network)
    for each in statistics:
        each *= len(logits) / len(batch.labels)
    gathered = logits.new_zeros((2, len(batch.labels), logits.shape[1]))
    gathered[:, world.shard(len(batch.labels))] = torch.stack([logits, targets])
    world.all_reduce([*gradients, *statistics, losses, gathered])
    return losses, gathered[0], gathered[1]


def _running_statistics(network: nn.Module) -> list[Tensor]:
    """Return running means and variances of batch norms in training, unless they are synced."""
    return [
        tensor
        for module in network.modules()
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.training
        for tensor in (module.running_mean, module.running_var)
        if tensor is not None
    ]
