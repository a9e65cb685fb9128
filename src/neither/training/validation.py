"""The averaged weights on val: when, their logits, and the figures that come of these."""

from collections.abc import Sequence

import torch
from torch import Tensor

from neither.config.schema import Train
from neither.data.dataset import MappedPixels, Split
from neither.evaluation.calibration import expected_calibration_error
from neither.evaluation.metrics import confusion_matrix, curve_metrics, nll
from neither.inference.classifier import compute_logits
from neither.models.softmax import to_probabilities
from neither.training.state import TrainState, diverged_error

_AT_ONCE = 256  # images between two looks for signals


def is_validated(epoch: int, settings: Train) -> bool:
    """Say whether val is scored after so many epochs."""
    return epoch % settings.validate_every_epochs == 0 or epoch == settings.epochs


def val_logits(
    state: TrainState, pixels: Tensor | MappedPixels, split: Split, device: torch.device
) -> Tensor:
    """Return the logits of the averaged weights, exactly as `evaluate` would, on all ranks.

    Args:
        state: whose weights they are.
        pixels: (M, S, S, 3) uint8, those of the dataset.
        split: N of its images.
        device: where to compute.

    Returns:
        (N, C) float32 logits on the CPU.

    Raises:
        DivergedError: if one is not finite.
        Stopped: if a signal asks for an end.
    """
    parts, world = [], state.world
    for start in range(0, len(split.rows), world.size * _AT_ONCE):
        world.poll_signals()
        rows = split.rows[start : start + world.size * _AT_ONCE]
        mine = rows[world.shard(len(rows))]
        logits = compute_logits(state.eval_model, pixels, mine, state.preprocessing, device)
        parts.append(world.all_gather(logits, len(rows)))
    logits = torch.cat(parts)
    if not logits.isfinite().all():
        raise diverged_error(state)
    return logits


def val_metrics(state: TrainState, logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Measure (N, C) logits of val with its (N,) labels; fit what turns them into decisions."""
    state.calibrate(logits, labels)
    return logit_metrics(logits, labels, state.config.classes) | {
        "calibrated_loss": nll(logits, labels, state.temperature),
        "temperature": state.temperature,
        "ece": expected_calibration_error(
            to_probabilities(logits, state.temperature), labels
        ).value,
    }


def logit_metrics(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> dict[str, float]:
    """Return the values of the curves; the loss, as on train, is that of the logits as they are."""
    confusion = confusion_matrix(labels, logits.argmax(dim=1), len(classes))
    return curve_metrics(nll(logits, labels, 1.0), confusion, classes)
