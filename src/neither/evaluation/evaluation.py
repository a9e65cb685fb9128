"""Every figure of an evaluation, as `metrics.json` holds them; what does not apply is absent.

Score a classifier on the images of a folder: `metrics.json` and `predictions.csv`.

Score a model on what a path means: a folder, its split, a CSV file, or one image.
"""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neither.data.layout import find_evaluation_images, find_unseen_images
from neither.data.manifest import find_evaluation_rows, given_splits, is_manifest
from neither.data.scan import ImageTable
from neither.data.split_file import read_hashes, read_split
from neither.evaluation import calibration
from neither.evaluation.calibration import fit_temperature
from neither.evaluation.metrics import (
    accuracy,
    confusion_matrix,
    cross_entropies,
    macro_recall,
    macro_recall_interval,
    mean_interval,
    nll,
    per_class_metrics,
    wilson_interval,
)
from neither.evaluation.selective import cumulative_errors, rejection_metrics, selective_metrics
from neither.inference.classifier import Classifier
from neither.inference.prediction import UNSURE, csv_header, encode, to_csv
from neither.models.checkpoint import find_checkpoint
from neither.runtime import files
from neither.runtime.console import info, printable, progress_bar, warn


@dataclass(frozen=True)
class LabelledPredictions:
    """Labelled images and what was said of them, in columns.

    Attributes:
        paths: of the files.
        shown: the same as the reader knows them.
        labels: (N,) int64.
        probabilities: (N, C) float64.
    """

    paths: Sequence[Path]
    shown: Sequence[str]
    labels: Tensor
    probabilities: Tensor


def compute_metrics(classifier: Classifier, logits: Tensor, labels: Tensor) -> dict[str, Any]:
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
    confusion = confusion_matrix(labels, predicted, len(classes))
    figures: dict[str, Any] = {
        "accuracy": accuracy(confusion),
        "macro_recall": macro_recall(confusion),
        "nll": nll(scores, labels, 1.0),
        "confusion_matrix": confusion.tolist(),
        "per_class": per_class_metrics(confusion, classes),
    }
    figures |= _calibration(scores, probabilities, labels)
    figures["intervals"] = {
        "accuracy": list(wilson_interval(figures["accuracy"], len(hits))),
        "macro_recall": list(macro_recall_interval(labels, hits)),
        "nll": list(mean_interval(cross_entropies(scores, labels, 1.0))),
    }
    selective = {
        name: value
        for name, value in asdict(selective_metrics(confidences, hits)).items()
        if value is not None
    }
    if classifier.reject_class is not None:
        reject = classes.index(classifier.reject_class)
        rejection = rejection_metrics(probabilities, labels, reject)
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
        "ece": calibration.expected_calibration_error(probabilities, labels),
        "adaptive_ece": calibration.adaptive_calibration_error(probabilities, labels),
        "classwise_ece": calibration.classwise_calibration_error(probabilities, labels),
    }
    return {
        "brier": calibration.brier_score(probabilities, labels),
        **{name: error.value for name, error in errors.items()},
        "expected_if_calibrated": {
            name: {"mean": error.expected, "q95": error.bound} for name, error in errors.items()
        },
        "refinement": nll(scores, labels, fit_temperature(scores, labels, prior=0)),
        "reliability": calibration.reliability_bins(probabilities, labels),
    }


def _decision(confidences: Tensor, hits: Tensor, threshold: float | None) -> dict[str, Any]:
    accepted = torch.ones_like(hits) if threshold is None else confidences >= threshold
    figures: dict[str, Any] = {"coverage": float(accepted.double().mean())}
    if accepted.any():
        figures["precision"] = float(hits[accepted].double().mean())
    return figures


SCHEMA_VERSION = 1
_MAX_NAMED = 10


@dataclass(frozen=True)
class _File:
    """One file to score: where it is, what its row says of it."""

    path: Path
    shown: str
    label: str


@dataclass(frozen=True)
class Evaluation:
    """The outcome of an evaluation.

    Attributes:
        metrics: what `metrics.json` holds. `num_images` counts the rows with a prediction; the
            confusion matrix sums to those among them that have a class as their label.
        scored: these, one by one; None if there are none.
    """

    metrics: dict[str, Any]
    scored: LabelledPredictions | None


def evaluate(
    classifier: Classifier,
    scored: ImageTable,
    unseen: ImageTable | None,
    trained_on: Collection[str],
    output_dir: Path,
) -> Evaluation:
    """Score every image found and write the results.

    Args:
        classifier: to be scored.
        scored: the images of the scored folder.
        unseen: images of other kinds, if any; their rows follow, with paths relative to the scored
            folder too.
        trained_on: the hashes of the images that the classifier has learned, if they are known.
        output_dir: an existing folder, which gets `metrics.json` and `predictions.csv`.

    Raises:
        CheckpointError: if a logit is not finite.
        OutputError: if a decoding process was killed.
    """
    classes = classifier.classes
    targets = [_File(scored.root / image.path, image.path, image.label) for image in scored.images]
    if unseen is not None:
        targets += [_beside(scored.root, unseen.root / image.path, image.label)
                    for image in unseen.images]  # fmt: skip
    logits: list[Tensor] = []
    labelled: list[_File] = []
    unlabelled: Counter[str] = Counter()
    foreign: dict[str, Counter[str]] = defaultdict(Counter)
    errors: list[str] = []
    num_learned = 0
    with (
        files.atomic_writer(output_dir / "predictions.csv") as file,
        progress_bar("evaluating", len(targets)) as bar,
    ):
        file.write(encode(csv_header(classes)))
        results = classifier.predict_files(target.path for target in targets)
        for target, (prediction, row, sha256) in zip(targets, results, strict=True):
            bar.advance()
            num_learned += sha256 in trained_on
            prediction = replace(prediction, path=target.shown, true_label=target.label)
            file.write(encode(to_csv(prediction, classes)))
            if row is None:
                errors.append(f"{printable(target.shown)}: {prediction.error}")
            elif target.label in classes:
                logits.append(row)
                labelled.append(target)
            else:
                counts = foreign[target.label] if target.label else unlabelled
                counts[prediction.decision] += 1
    _name_unreadable(errors)
    if num_learned:
        warn(
            f"{num_learned:,} of these {len(targets):,} images were trained on; figures on them "
            "say nothing about new ones"
        )
    metrics: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "num_images": len(targets) - len(errors),
        "num_unreadable": len(errors),
        "classes": list(classes),
        "temperature": classifier.temperature,
    }
    if num_learned:
        metrics["num_trained_on"] = num_learned
    if classifier.reject_class is not None:
        metrics["reject_class"] = classifier.reject_class
    if classifier.threshold is not None:
        metrics["threshold"] = classifier.threshold
    if classifier.priors:
        metrics["priors"] = dict(zip(classes, classifier.priors, strict=True))
    album = None
    if logits:
        labels = torch.tensor([classes.index(target.label) for target in labelled])
        metrics |= compute_metrics(classifier, torch.stack(logits), labels)
        album = LabelledPredictions(
            [target.path for target in labelled],
            [target.shown for target in labelled],
            labels,
            classifier.probabilities(torch.stack(logits)),
        )
    unsure = () if classifier.threshold is None else (UNSURE,)

    def told(counts: Counter[str]) -> dict[str, Any]:
        decided = {name: counts[name] for name in (*classes, *unsure)}
        return {"num_images": counts.total(), "decided": decided}

    if unlabelled:
        metrics["unlabelled"] = told(unlabelled)
    if foreign:
        metrics["out_of_distribution"] = {
            folder: told(foreign[folder]) for folder in sorted(foreign)
        }
    files.write_atomic(output_dir / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    return Evaluation(metrics, album)


def _beside(root: Path, path: Path, label: str) -> _File:
    try:
        shown = Path(os.path.relpath(path, root)).as_posix()
    except ValueError:  # another drive on Windows
        shown = path.resolve().as_posix()
    return _File(path, shown, label)


def _name_unreadable(errors: Sequence[str]) -> None:
    if errors:
        warn(f"{len(errors):,} files could not be read; predictions.csv lists each")
    for error in errors[:_MAX_NAMED]:
        warn(f"  {error}")


class PathEvaluation(NamedTuple):
    """The outcome of evaluating a path.

    Attributes:
        metrics: the content of `metrics.json`.
        scored: the labelled images; None if there are none.
        name: of the evaluation, after the last two parts of the scored path.
        source: what was scored: of a folder with splits, that of the split.
        output_dir: the folder that holds the results.
        refused: folders that could not be read.
    """

    metrics: dict[str, Any]
    scored: LabelledPredictions | None
    name: str
    source: Path
    output_dir: Path
    refused: list[str]


def evaluate_path(
    model: Path,
    classifier: Classifier,
    images: Path,
    split: str | None,
    unseen_root: Path | None,
    output_dir: Path | None,
) -> PathEvaluation:
    """Score a model's classifier and write the results.

    Args:
        model: the folder of a run, or one checkpoint file.
        classifier: loaded from it.
        images: a folder with or without labels, a CSV file, or an image.
        split: train, val or test; None for test where the folder has splits, else for all of it.
        unseen_root: folders of kinds that are no class, if any.
        output_dir: None for `evaluations/<a>-<b>` in the run's folder, or beside the checkpoint;
            with priors `-priors` is added.

    Raises:
        UsageError: if something is not there, or the results would lie among the images.
        DataError: if there is no image.
        CheckpointError: if a logit is not finite.
        OutputError: if a folder cannot be read or written, or a decoding process was killed.
    """
    roots = [root for root in (images, unseen_root) if root is not None and root.is_dir()]
    for root in roots:
        files.require_readable(root)
    scored = _find(model, images, split, classifier)
    unseen = None
    if unseen_root is not None:
        unseen = find_unseen_images(unseen_root, classifier.classes)
        scored.exclude(unseen_root)  # they get their rows once
    refused = [*scored.unreadable_folders, *(unseen.unreadable_folders if unseen else [])]
    for note in [*scored.notes, *(unseen.notes if unseen else [])]:
        info(note)
    for refusal in refused:
        warn(refusal)
    info(f"images are decoded as in training: {classifier.preprocessing}")
    whole = scored.root if images.is_dir() else images
    name = "-".join(whole.resolve().parts[1:][-2:]) or "root"  # without the / or C:\ before them
    if split and whole.resolve() == images.resolve():  # no folder of its own
        name = f"{whole.resolve().name}-{split}"
    if classifier.priors:  # beside the figures without them, not in their place
        name += "-priors"
    home = model if model.is_dir() else find_checkpoint(model).parent
    output_dir = output_dir or home / "evaluations" / name
    for root in roots:
        files.require_outside(output_dir, root)
    files.make_folder(output_dir)
    evaluation = evaluate(classifier, scored, unseen, _trained_on(model), output_dir)
    # Never an old report beside new figures, however the drawing of the new one ends.
    (output_dir / "report.html").unlink(missing_ok=True)
    return PathEvaluation(evaluation.metrics, evaluation.scored, name, whole, output_dir, refused)


def _find(model: Path, images: Path, split: str | None, classifier: Classifier) -> ImageTable:
    """Find what to score; a run knows the splits that it made of a folder that lacks them."""
    kept = model / "splits.csv"
    own = images.exists() and images.resolve() == classifier.source.resolve() and kept.is_file()
    if own:
        given = given_splits(images)
        if split is not None and split not in given:
            return read_split(kept, images, split)
        if not given:
            info("the run was trained on this; --split test scores only what it kept for that")
    if is_manifest(images):
        return find_evaluation_rows(images, split, classifier.aliases, classifier.classes)
    return find_evaluation_images(images, classifier.classes, split, classifier.aliases)


def _trained_on(model: Path) -> set[str]:
    """Return the hashes of the images that a run was trained on; a bare checkpoint knows none."""
    splits_file = model / "splits.csv"
    if not splits_file.is_file():
        info("a checkpoint alone cannot tell whether it was trained on these images; its run can")
        return set()
    return read_hashes(splits_file, "train")


def most_confident_mistakes(scored: LabelledPredictions, most: int) -> list[int]:
    """Return the places of the mistakes that the model is surest of, the surest first."""
    confidences, predicted = scored.probabilities.max(dim=1)
    wrong = (predicted != scored.labels).nonzero()[:, 0]
    order = confidences[wrong].argsort(descending=True, stable=True)
    places: list[int] = wrong[order][:most].tolist()
    return places


def risk_coverage(scored: LabelledPredictions, most: int = 200) -> list[tuple[float, float]]:
    """Return (share accepted, share of these that is right), from the surest image on.

    Args:
        scored: at least one image.
        most: of the points; a curve of more would only be a longer file.
    """
    confidences, predicted = scored.probabilities.max(dim=1)
    hits = predicted == scored.labels
    right = 1 - cumulative_errors(confidences, hits) / torch.arange(1, len(hits) + 1)
    chosen = {round(place) for place in torch.linspace(0, len(hits) - 1, most).tolist()}
    return [((place + 1) / len(hits), float(right[place])) for place in sorted(chosen)]
