"""What the parts of a batch, each on its own rank, add up to.

By hand instead of `DistributedDataParallel`: that averages over ranks, which is the mean over the
batch only if all have as many images; it takes no part without images; and its wrapper renames all
weights in checkpoints. What it would do better is to send gradients while others are still
computed.

One optimizer step on one batch, by all ranks together.
"""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neither.data.batches import Batch
from neither.runtime.devices import Compute
from neither.runtime.distributed import World
from neither.runtime.rng import seeded, step_seed
from neither.training.optimizers import set_lr_factor
from neither.training.state import TrainState


@torch.no_grad()
def all_reduce_step(
    network: nn.Module, loss: Tensor, logits: Tensor, batch: Batch, world: World
) -> tuple[Tensor, Tensor, Tensor]:
    """Add up over all ranks what each found for its part of a batch, in one message.

    The gradients in the network become those of the whole batch. Running statistics of batch norm,
    where each rank has its own, become their mean, weighted by the images they come from.

    Args:
        network: with gradients of this rank's share of the loss.
        loss: scalar, this rank's share.
        logits: (P, C) of its part.
        batch: that it is a part of.
        world: those that train.

    Returns:
        The loss, and the (B, C) logits and targets, of the whole batch. Nothing of this changes if
        there is one rank only.
    """
    if world.size == 1:
        return loss, logits, batch.targets
    gradients = [each.grad for each in network.parameters() if each.grad is not None]
    statistics = _statistics(network)
    for each in statistics:
        each *= len(logits) / len(batch.labels)
    whole = logits.new_zeros((2, len(batch.labels), logits.shape[1]))
    whole[:, world.shard(len(batch.labels))] = torch.stack([logits, batch.targets])
    world.all_reduce([*gradients, *statistics, loss, whole])
    return loss, whole[0], whole[1]


def _statistics(network: nn.Module) -> list[Tensor]:
    return [
        tensor
        for module in network.modules()
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.training
        for tensor in (module.running_mean, module.running_var)
        if tensor is not None
    ]


def train_step(state: TrainState, batch: Batch, share: float, compute: Compute) -> bool:
    """Take a step at a share of the highest learning rate; say whether it was taken.

    Each rank computes on its part of the batch, and what all add up to is the same as if one had
    computed on the whole.

    On a CPU a loss or gradient that is not finite ends the step before any weight is touched.
    Elsewhere to look would be to wait for the device; there `Tally.is_finite` tells, in a while.
    """
    settings = state.config.train
    # Dropout, where there is any, draws by (seed, step) too, and takes nothing from others' draws.
    seed = step_seed(state.config.seed, state.step)
    with seeded(seed, compute.device), compute.autocast():
        logits = state.network(batch.images)
    logits = logits.float()
    # A sum over this rank's part, over the size of the whole: of all ranks together, the mean.
    loss = F.cross_entropy(
        logits, batch.targets, reduction="sum", label_smoothing=settings.label_smoothing
    ) / len(batch.labels)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    loss, logits, targets = all_reduce_step(
        state.network, loss.detach(), logits.detach(), batch, state.world
    )
    norm = nn.utils.clip_grad_norm_(state.network.parameters(), settings.max_grad_norm)
    if compute.device.type == "cpu" and not (math.isfinite(loss) and math.isfinite(norm)):
        return False
    set_lr_factor(state.optimizer, share)
    state.optimizer.step()
    state.end_step()
    state.tally.add(loss, logits, batch.labels, norm)
    state.doubts.add(logits, replace(batch, targets=targets))
    return True
