"""Validation: when the EMA weights are evaluated on val, their logits, and the metrics of these."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from neither.config.schema import Train
from neither.data.dataset import Dataset, MappedPixels, Split
from neither.evaluation.calibration import expected_calibration_error, fit_temperature
from neither.evaluation.metrics import confusion_matrix, curve_metrics, nll
from neither.inference.classifier import compute_outputs
from neither.models.softmax import to_probabilities
from neither.runtime.console import info
from neither.training.state import TrainState, diverged_error

_IMAGES_PER_POLL = 256  # of each rank, between two looks for signals


def is_validated(epoch: int, settings: Train) -> bool:
    """Return whether val is evaluated after this number of epochs; always after the last."""
    return epoch % settings.validate_every_epochs == 0 or epoch == settings.epochs


def compute_val_logits(
    state: TrainState,
    network: nn.Module,
    pixels: Tensor | MappedPixels,
    split: Split,
    device: torch.device,
) -> Tensor:
    """Compute the logits of a network, as `evaluate` does, each rank for its shard.

    Returns:
        (N, C) float32 logits on the CPU, for the N rows of a split.

    Raises:
        DivergedError: if a logit is not finite.
    """
    shards, world, network = [], state.world, state.eval_model(network)
    for start in range(0, len(split.rows), world.size * _IMAGES_PER_POLL):
        world.poll_signals()
        rows = split.rows[start : start + world.size * _IMAGES_PER_POLL]
        own_rows = rows[world.shard(len(rows))]
        logits = compute_outputs(network, pixels, own_rows, state.preprocessing, device)
        shards.append(world.all_gather(logits, len(rows)))
    logits = torch.cat(shards)
    if not logits.isfinite().all():
        raise diverged_error(state)
    return logits


def choose_network(
    state: TrainState, data: Dataset, device: torch.device
) -> tuple[nn.Module, Tensor]:
    """Return the candidate with the lowest calibrated loss on val, and its (N, C) logits."""
    labels, kept, candidates = data.val.labels, 1.0, state.candidates()
    logits = {
        fraction: compute_val_logits(state, network, data.pixels, data.val, device)
        for fraction, network in candidates.items()
    }
    if len(candidates) > 1:
        losses = {each: nll(own, labels, fit_temperature(own, labels))
                  for each, own in logits.items()}  # fmt: skip
        found = ", ".join(f"{loss:.4f} at {each:g}" for each, loss in sorted(losses.items()))
        info(f"from the first weights, 0, to the last, 1: calibrated loss on val {found}")
        kept = min(losses, key=losses.__getitem__)
    return candidates[kept], logits[kept]


def val_metrics(
    state: TrainState, logits: Tensor, labels: Tensor, classes: Sequence[str]
) -> dict[str, float]:
    """Return the metrics of (N, C) logits of val: those of `logit_metrics`, and calibration.

    The calibrated loss chooses weights, so it is at the best temperature for val, whatever images
    that of the state is for.
    """
    is_fitted = state.calibrated_on == "val"
    best = state.temperature if is_fitted else fit_temperature(logits, labels)
    probabilities = to_probabilities(logits, state.temperature)
    return logit_metrics(logits, labels, classes) | {
        "calibrated_loss": nll(logits, labels, best),
        "temperature": state.temperature,
        "ece": expected_calibration_error(probabilities, labels).value,
    }


def logit_metrics(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> dict[str, float]:
    """Return loss (at temperature 1, as in training), accuracy and recalls of (N, C) logits."""
    confusion = confusion_matrix(labels, logits.argmax(dim=1), len(classes))
    return curve_metrics(nll(logits, labels, 1.0), confusion, classes)
