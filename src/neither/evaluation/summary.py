"""Every figure of an evaluation, as `metrics.json` holds them; what does not apply is absent."""

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from neither.evaluation import calibration
from neither.evaluation.intervals import macro_recall_interval, mean_interval, share_interval
from neither.evaluation.metrics import (
    accuracy,
    count_confusions,
    losses,
    macro_recall,
    nll,
    per_class,
)
from neither.evaluation.rejection import measure_rejection
from neither.evaluation.selective import measure_selective
from neither.evaluation.temperature import fit_temperature
from neither.inference.classifier import Classifier


def summarize(classifier: Classifier, logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Work out every figure for labelled images.

    Args:
        classifier: whose logits they are.
        logits: (N, C), N of 1 or more.
        labels: (N,) int64.

    Returns:
        The part of `metrics.json` that takes labels.
    """
    classes = classifier.classes
    scores = classifier.scores(logits)
    probabilities = classifier.probabilities(logits)
    confidences, predicted = probabilities.max(dim=1)
    hits = predicted == labels
    confusion = count_confusions(labels, predicted, len(classes))
    figures: dict[str, Any] = {
        "accuracy": accuracy(confusion),
        "macro_recall": macro_recall(confusion),
        "nll": nll(scores, labels, 1.0),
        "confusion_matrix": confusion.tolist(),
        "per_class": per_class(confusion, classes),
    }
    figures |= _calibration(scores, probabilities, labels)
    figures["intervals"] = {
        "accuracy": list(share_interval(figures["accuracy"], len(hits))),
        "macro_recall": list(macro_recall_interval(labels, hits)),
        "nll": list(mean_interval(losses(scores, labels, 1.0))),
    }
    selective = {
        name: value
        for name, value in asdict(measure_selective(confidences, hits)).items()
        if value is not None
    }
    if classifier.reject_class is not None:
        reject = classes.index(classifier.reject_class)
        rejection = measure_rejection(probabilities, labels, reject)
        if rejection is not None:
            both = {name: selective[name] for name in ("aurc", "augrc")}
            figures["rejection"] = asdict(rejection) | both
    return figures | {
        "selective": selective,
        "decision": {"target_precision": classifier.target_precision}
        | _decision(confidences, hits, classifier.threshold),
    }


def _calibration(scores: Tensor, probabilities: Tensor, labels: Tensor) -> dict[str, Any]:
    errors = {
        "ece": calibration.ece(probabilities, labels),
        "adaptive_ece": calibration.adaptive_ece(probabilities, labels),
        "classwise_ece": calibration.classwise_ece(probabilities, labels),
    }
    return {
        "brier": calibration.brier(probabilities, labels),
        **{name: error.value for name, error in errors.items()},
        "chance": {
            name: {"mean": error.expected, "q95": error.bound} for name, error in errors.items()
        },
        "refinement": nll(scores, labels, fit_temperature(scores, labels, prior=0)),
        "reliability": calibration.reliability(probabilities, labels),
    }


def _decision(confidences: Tensor, hits: Tensor, threshold: float | None) -> dict[str, Any]:
    accepted = torch.ones_like(hits) if threshold is None else confidences >= threshold
    figures: dict[str, Any] = {"coverage": float(accepted.double().mean())}
    if accepted.any():
        figures["precision"] = float(hits[accepted].double().mean())
    return figures
