"""One optimizer step on one batch."""

import math

import torch.nn.functional as F
from torch import nn

from neither.data.batches import Batch
from neither.devices import Compute
from neither.training.optimizer import set_rate
from neither.training.state import State


def take_step(state: State, batch: Batch, share: float, compute: Compute) -> bool:
    """Take a step at a share of the highest learning rate; say whether it was taken.

    On a CPU a loss or gradient that is not finite ends the step before any weight is touched.
    Elsewhere to look would be to wait for the device; there `Tally.is_finite` tells, in a while.
    """
    settings = state.config.train
    with compute.autocast():
        logits = state.network(batch.images)
    logits = logits.float()
    loss = F.cross_entropy(logits, batch.targets, label_smoothing=settings.label_smoothing)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(state.network.parameters(), settings.clip_norm)
    if compute.device.type == "cpu" and not (math.isfinite(loss.detach()) and math.isfinite(norm)):
        return False
    set_rate(state.optimizer, share)
    state.optimizer.step()
    state.end_step()
    state.tally.add(loss, logits, batch.labels, norm)
    state.doubts.add(logits.detach(), batch)
    return True
