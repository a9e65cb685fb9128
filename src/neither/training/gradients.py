"""What the parts of a batch, each on its own rank, add up to.

By hand instead of `DistributedDataParallel`: that averages over ranks, which is the mean over the
batch only if all have as many images; it takes no part without images; and its wrapper renames all
weights in checkpoints. What it would do better is to send gradients while others are still
computed.
"""

import torch
from torch import Tensor, nn

from neither.data.batches import Batch
from neither.ranks import Ranks


def synchronize_statistics(network: nn.Module, device: torch.device, ranks: Ranks) -> None:
    """Let batch norm normalise by the whole batch where its parts lie on several GPUs.

    Elsewhere each part is normalised by statistics of its own, as PyTorch can do no other.

    Args:
        network: changed in place, but not its weights, nor their names.
        device: that it trains on.
        ranks: those that train.
    """
    if ranks.size > 1 and device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]


@torch.no_grad()
def add_up(
    network: nn.Module, loss: Tensor, logits: Tensor, batch: Batch, ranks: Ranks
) -> tuple[Tensor, Tensor, Tensor]:
    """Add up over all ranks what each found for its part of a batch, in one message.

    The gradients in the network become those of the whole batch. Running statistics of batch norm,
    where each rank has its own, become their mean, weighted by the images they come from.

    Args:
        network: with gradients of this rank's share of the loss.
        loss: scalar, this rank's share.
        logits: (P, C) of its part.
        batch: that it is a part of.
        ranks: those that train.

    Returns:
        The loss, and the (B, C) logits and targets, of the whole batch. Nothing of this changes if
        there is one rank only.
    """
    if ranks.size == 1:
        return loss, logits, batch.targets
    gradients = [each.grad for each in network.parameters() if each.grad is not None]
    statistics = _statistics(network)
    for each in statistics:
        each *= len(logits) / len(batch.labels)
    whole = logits.new_zeros((2, len(batch.labels), logits.shape[1]))
    whole[:, ranks.part(len(batch.labels))] = torch.stack([logits, batch.targets])
    ranks.sum([*gradients, *statistics, loss, whole])
    return loss, whole[0], whole[1]


def _statistics(network: nn.Module) -> list[Tensor]:
    return [
        tensor
        for module in network.modules()
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.training
        for tensor in (module.running_mean, module.running_var)
        if tensor is not None
    ]
