"""What TensorBoard shows besides curves: of the run, of val at ten epochs, of the weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from neither.config import Train, to_yaml
from neither.data.augmentation import normalize
from neither.data.batches import Batch
from neither.data.dataset import Dataset
from neither.errors import UserError
from neither.evaluation.album import Scored, risk_coverage, surest_mistakes
from neither.evaluation.calibration import reliability
from neither.evaluation.metrics import count_confusions
from neither.model.evidence import lead_of
from neither.model.softmax import to_probabilities
from neither.training import hparams
from neither.training.card import describe_images, describe_network
from neither.training.figures import draw_confusion, draw_reliability, draw_risk_coverage
from neither.training.sheet import Mistake, draw_mistakes
from neither.training.state import State
from neither.training.tracking import Tracker

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_NUM_SHOWN = 10
_MOST_MISTAKES = 12
_LAYOUT = {
    "at a glance": {
        "loss": ["Multiline", ["^loss$", "^calibrated_loss$"]],
        "recall per class": ["Multiline", ["^recall/"]],
        "calibration error (ece)": ["Multiline", ["^ece$"]],
        "temperature": ["Multiline", ["^temperature$"]],
    }
}


def is_shown(epoch: int, settings: Train) -> bool:
    """Say whether an epoch that was measured is one of ten evenly spaced, or the first after it."""
    before = (epoch - 1) // settings.val_every_epochs * settings.val_every_epochs
    return epoch * _NUM_SHOWN // settings.epochs > before * _NUM_SHOWN // settings.epochs


def show_run(tracker: Tracker, state: State, first: Batch, splits_file: Path) -> None:
    """Show what is known before the first step.

    Args:
        tracker: of the run.
        state: before the first step.
        first: the first batch.
        splits_file: `splits.csv` of the run.
    """
    config, size = state.config, state.preprocessing.image_size
    tracker.write_text("card/config", to_yaml(config))
    tracker.write_markdown("card/images", describe_images(splits_file, config.classes))
    tracker.write_markdown("card/network", describe_network(state.average.network, size))
    tracker.write_sheet("training_images", first, config.classes, state.preprocessing)
    tracker.add("val", lambda writer: writer.add_custom_scalars(_LAYOUT))
    tracker.add("val", lambda writer: hparams.write_told(writer, config))


def show_epoch(tracker: Tracker, state: State, data: Dataset, logits: Tensor) -> None:
    """Show what came of an epoch, and of the run after its last.

    Args:
        tracker: of the run.
        state: after the epoch.
        data: whose val was scored.
        logits: (N, C) of val.
    """
    config, step = state.config, state.step
    tracker.add("val", lambda writer: _show_val(writer, state, data, logits))
    tracker.add("train", lambda writer: _show_weights(writer, state))
    best, epoch = (
        (state.metrics, state.epoch) if state.is_best() else (state.best, state.best_epoch)
    )
    if state.epoch == config.train.epochs and best is not None:
        tracker.add("val", lambda writer: hparams.write_final(writer, config, best, epoch, step))


def _show_val(writer: "SummaryWriter", state: State, data: Dataset, logits: Tensor) -> None:
    """Show what the averaged weights make of val, with the temperature that was fitted."""
    config, labels, step = state.config, data.val.labels, state.step
    probabilities = to_probabilities(logits, state.temperature)
    confusion = count_confusions(labels, probabilities.argmax(dim=1), len(config.classes))
    scored = Scored([], [], labels, probabilities)
    pictures = {
        "confusion": draw_confusion(confusion.tolist(), config.classes, state.epoch),
        "reliability": draw_reliability(reliability(probabilities, labels), state.epoch),
        "risk_coverage": draw_risk_coverage(
            risk_coverage(scored), config.decision.target_precision, state.epoch
        ),
        "worst_mistakes": draw_mistakes(_worst(state, data, scored), config.classes),
    }  # fmt: skip
    for tag, picture in pictures.items():
        writer.add_image(f"val/{tag}", picture, step, dataformats="HWC")
    for number, name in enumerate(config.classes):
        writer.add_pr_curve(
            f"precision_recall/{name}", labels == number, probabilities[:, number], step
        )


def _show_weights(writer: "SummaryWriter", state: State) -> None:
    """Show how the weights of each layer are spread, and the gradients of the last step.

    There are no gradients if an earlier attempt was stopped between that step and the epoch's end.
    """
    for name, weights in state.network.named_parameters():
        if weights.ndim > 1:  # scales and offsets of normalisation would only fill the page
            writer.add_histogram(f"weights/{name}", weights, state.step)
            if weights.grad is not None:
                writer.add_histogram(f"gradients/{name}", weights.grad, state.step)


@torch.no_grad()
def _worst(state: State, data: Dataset, scored: Scored) -> list[Mistake]:
    """Return the mistakes that the network is surest of, the worst first."""
    places = surest_mistakes(scored, _MOST_MISTAKES)
    if not places:
        return []
    predicted = scored.probabilities.argmax(dim=1)
    pixels = data.pixels[data.val.rows[places]]
    device = next(state.network.parameters()).device
    images = normalize(pixels.to(device), state.preprocessing)
    leads: Sequence[Tensor | None]
    try:
        leads = list(lead_of(state.answering, images, predicted[places].to(device)).float().cpu())
    except (TypeError, UserError):  # of some networks no places are known: without heat maps then
        leads = [None] * len(places)
    return [
        Mistake(data.val.paths[place], pixels[number].numpy(), leads[number],
                int(scored.labels[place]), scored.probabilities[place].tolist())
        for number, place in enumerate(places)
    ]  # fmt: skip
