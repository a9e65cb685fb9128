"""One optimizer step on one batch, by all ranks together."""

import math
from dataclasses import replace

import torch.nn.functional as F
from torch import nn

from neither.data.batches import Batch
from neither.devices import Compute
from neither.randomness import drawn_from, step_seed
from neither.training.gradients import add_up
from neither.training.optimizer import set_rate
from neither.training.state import State


def take_step(state: State, batch: Batch, share: float, compute: Compute) -> bool:
    """Take a step at a share of the highest learning rate; say whether it was taken.

    Each rank computes on its part of the batch, and what all add up to is the same as if one had
    computed on the whole.

    On a CPU a loss or gradient that is not finite ends the step before any weight is touched.
    Elsewhere to look would be to wait for the device; there `Tally.is_finite` tells, in a while.
    """
    settings = state.config.train
    # Dropout, where there is any, draws by (seed, step) too, and takes nothing from others' draws.
    seed = step_seed(state.config.seed, state.step)
    with drawn_from(seed, compute.device), compute.autocast():
        logits = state.network(batch.images)
    logits = logits.float()
    # A sum over this rank's part, over the size of the whole: of all ranks together, the mean.
    loss = F.cross_entropy(
        logits, batch.targets, reduction="sum", label_smoothing=settings.label_smoothing
    ) / len(batch.labels)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    loss, logits, targets = add_up(
        state.network, loss.detach(), logits.detach(), batch, state.ranks
    )
    norm = nn.utils.clip_grad_norm_(state.network.parameters(), settings.clip_norm)
    if compute.device.type == "cpu" and not (math.isfinite(loss) and math.isfinite(norm)):
        return False
    set_rate(state.optimizer, share)
    state.optimizer.step()
    state.end_step()
    state.tally.add(loss, logits, batch.labels, norm)
    state.doubts.add(logits, replace(batch, targets=targets))
    return True
