"""Evaluate a classifier on a path: a folder, a split of it, a CSV file, or one image.

`evaluate_path` finds the images, `evaluate` predicts each and writes `predictions.csv` and
`metrics.json`, `compute_metrics` turns the logits of the labelled ones into metrics.
"""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neither.data.corrections import Answer, apply_answers, read_answers
from neither.data.image_file import hash_file
from neither.data.layout import find_evaluation_images, find_unseen_images, labels_by_name
from neither.data.manifest import find_evaluation_rows, given_splits, is_manifest
from neither.data.scan import ImageTable, nfc
from neither.data.split_file import holds_split, read_split, read_trained_on
from neither.evaluation import calibration
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
from neither.evaluation.selective import accepts, rejection_metrics, selective_metrics
from neither.inference.classifier import BATCH_SIZE, Classifier
from neither.inference.prediction import UNSURE, csv_header, to_csv
from neither.models.checkpoint import find_checkpoint
from neither.runtime import files
from neither.runtime.console import info, printable, progress_bar, warn
from neither.runtime.errors import DataError

SCHEMA_VERSION = 1
_MAX_LISTED = 10


@dataclass(frozen=True)
class LabelledPredictions:
    """Labelled images and their predictions, in columns."""

    files: Sequence[Path]
    paths: Sequence[str]  # as in predictions.csv
    labels: Tensor  # (N,) int64
    probabilities: Tensor  # (N, C) float64


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation."""

    # content of `metrics.json`. `num_images` counts the rows with a prediction; the confusion
    # matrix sums to those among them with a class as their label.
    metrics: dict[str, Any]
    labelled: LabelledPredictions | None  # the predictions for these; None if there are none
    name: str  # of the evaluation, from the last two parts of the evaluated path
    source: Path  # the evaluated path; of a folder with splits, that of the split
    output_dir: Path  # folder with the results
    unreadable_folders: Sequence[str]  # messages about folders that could not be read


class _Row(NamedTuple):
    """The file of one row of `predictions.csv`; its path, label and, from a run, its hash."""

    file: Path
    path: str
    label: str
    sha256: str = ""


def evaluate_path(
    model: Path,
    classifier: Classifier,
    path: Path,
    split: str | None,
    unseen_root: Path | None,
    output_dir: Path | None,
    corrections: Path | None = None,
) -> Evaluation:
    """Evaluate the classifier of a model, a run folder or checkpoint file, and write the results.

    Args:
        model: that the classifier was loaded from.
        classifier: perhaps with priors.
        path: a folder with or without labels, a CSV file, or an image.
        split: train, val or test; None for test if the folder has splits, else for all of it.
        unseen_root: folders of out-of-distribution images, if any.
        output_dir: None for `evaluations/<a>-<b>` in the run folder, or beside the checkpoint; with
            priors `-priors` is appended.
        corrections: answers of a review to follow; None for those that the training run followed.

    Raises:
        UsageError: if a path does not exist, or the results would be written among the images.
        DataError: if there is no image.
        CheckpointError: if a logit is not finite.
        OutputError: if a folder cannot be read or written, or a decoding process was killed.
    """
    roots = [root for root in (path, unseen_root) if root is not None and root.is_dir()]
    for root in roots:
        files.require_readable(root)
    images = _find_images(model, path, split, classifier)
    unseen = None
    if unseen_root is not None:
        unseen = find_unseen_images(unseen_root, classifier.classes)
        images.exclude(unseen_root)  # each image gets one row
    for table in filter(None, (images, unseen)):
        for note in table.notes:
            info(note)
    trained_on: Collection[str] = ()
    if (model / "splits.csv").is_file():
        trained_on = read_trained_on(model)
    else:
        info("a bare checkpoint does not record which images it was trained on; its run does")
    if corrections is None and classifier.corrections is not None:
        if classifier.corrections.is_file():
            corrections = classifier.corrections
        else:
            warn(f"{classifier.corrections}: the corrections of this run are gone; "
                 "--corrections names them")  # fmt: skip
    answers = read_answers(corrections, classifier.classes, classifier.aliases)
    _follow_answers(images, answers, trained_on)
    info(f"images are decoded as in training: {classifier.preprocessing}")
    source = images.root if path.is_dir() else path
    name = "-".join(source.resolve().parts[1:][-2:]) or "root"  # without the / or C:\ before them
    if split and source.resolve() == path.resolve():  # the split has no folder of its own
        name = f"{source.resolve().name}-{split}"
    if classifier.priors:  # must not overwrite the metrics without them
        name += "-priors"
    home = model if model.is_dir() else find_checkpoint(model).parent
    output_dir = output_dir or home / "evaluations" / name
    for root in roots:
        files.require_outside(output_dir, root)
    evaluation = evaluate(classifier, images, output_dir, unseen, trained_on)
    return replace(evaluation, name=name, source=source)


def _follow_answers(
    images: ImageTable, answers: Mapping[str, Answer], trained_on: Collection[str]
) -> None:
    """Replace labels, and remove what a review dropped; all but the training images count as test.

    Raises:
        DataError: if no image is left.
    """
    if not answers or not any(images.labels):
        return
    hashes = images.hashes or [hash_file(images.root / path) for path in images.paths]
    splits = ["train" if digest in trained_on else "test" for digest in hashes]
    images.remove({*apply_answers(images, hashes, splits, answers, is_expected=False)})
    if not images.paths:
        raise DataError(f"{images.source}: the corrections drop all images")


def _find_images(model: Path, path: Path, split: str | None, classifier: Classifier) -> ImageTable:
    """Find the images to evaluate; a run knows the splits it made of a folder without splits."""
    splits_file, classes, aliases = model / "splits.csv", classifier.classes, classifier.aliases
    is_own = path.exists() and path.resolve() == classifier.source.resolve()
    if splits_file.is_file() and (path.is_dir() or (is_manifest(path) and path.is_file())):
        given = given_splits(path, classes, aliases)
        is_run_split = split is not None and split not in given
        if split and is_run_split and (is_own or holds_split(splits_file, path, split)):
            return read_split(splits_file, path, split)
        if is_own and not given:
            info("the run was trained on these images; --split test evaluates only its test split")
    if is_manifest(path):
        return find_evaluation_rows(path, split, aliases, classes)
    return find_evaluation_images(path, classes, split, aliases)


def evaluate(
    classifier: Classifier,
    images: ImageTable,
    output_dir: Path,
    unseen: ImageTable | None = None,
    trained_on: Collection[str] = (),
    known_logits: Tensor | None = None,
) -> Evaluation:
    """Predict every image and write `metrics.json` and `predictions.csv`.

    An old `report.html` in the folder is deleted, as it does not describe the new results.

    Args:
        classifier: to evaluate.
        images: to evaluate it on. A label that is no class makes an image out of distribution. An
            image whose hash is not that in `images.hashes` is counted.
        output_dir: folder for the two files.
        unseen: further out-of-distribution images. Their rows come last, with paths relative to the
            root of `images` too.
        trained_on: SHA-256 hashes of the classifier's training images, if they are known.
        known_logits: (N, C), of all images; then no file is read.
    """
    classes = classifier.classes
    rows = _list_rows(images, unseen, labels_by_name(classes, {}))
    unreadable_folders = [
        message for table in filter(None, (images, unseen)) for message in table.unreadable_folders
    ]
    for message in unreadable_folders:
        warn(message)
    logits: list[Tensor] = []
    labelled: list[_Row] = []
    decisions: dict[str, Counter[str]] = defaultdict(Counter)  # by label that is no class
    errors: list[str] = []
    num_trained_on = num_changed = 0
    with (
        files.new_folder(output_dir),
        files.atomic_writer(output_dir / "predictions.csv") as file,
        progress_bar("evaluating", len(rows)) as bar,
    ):
        file.write(csv_header(classes))
        paths = [row.file for row in rows]
        if known_logits is None:
            results = classifier.predict_files(paths)
        else:
            results = classifier.predict_logits(known_logits, paths)
        for number, (row, result) in enumerate(zip(rows, results, strict=True), 1):
            prediction, row_logits, sha256 = result
            if number % BATCH_SIZE == 0 or number == len(rows):  # a batch is done at once
                bar.update(number, len(rows))
            num_trained_on += sha256 in trained_on
            num_changed += bool(row.sha256 and sha256) and sha256 != row.sha256
            prediction = replace(prediction, path=row.path, true_label=row.label)
            file.write(to_csv(prediction, classes))
            if row_logits is None:
                errors.append(f"{printable(row.path)}: {prediction.error}")
            elif row.label in classes:
                logits.append(row_logits)
                labelled.append(row)
            else:
                decisions[row.label][prediction.decision] += 1
    if errors:
        warn(f"{len(errors):,} files could not be read; predictions.csv lists each")
    for error in errors[:_MAX_LISTED]:
        warn(f"  {error}")
    if num_trained_on:
        warn(
            f"{num_trained_on:,} of these {len(rows):,} images were used for training; metrics on "
            "them do not apply to new images"
        )
    if num_changed:
        warn(
            f"{num_changed:,} of {len(images.paths):,} are not the images kept for "
            f"{images.splits[0]}: other images have their names now"
        )
    metrics: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "num_images": len(rows) - len(errors),
        "num_unreadable": len(errors),
        "classes": list(classes),
        "temperature": classifier.temperature,
        "calibrated_on": classifier.calibrated_on,
        **classifier.decision_rule.to_json(),
    }
    optional = {
        "num_trained_on": num_trained_on or None,
        "num_changed": num_changed or None,
        "reject_class": classifier.reject_class,
        "priors": dict(zip(classes, classifier.priors, strict=False)) or None,
    }
    metrics |= {name: value for name, value in optional.items() if value is not None}
    predictions = None
    if labelled:
        labels = torch.tensor([classes.index(row.label) for row in labelled])
        metrics |= compute_metrics(classifier, torch.stack(logits), labels)
        predictions = LabelledPredictions(
            [row.file for row in labelled],
            [row.path for row in labelled],
            labels,
            classifier.probabilities(torch.stack(logits)),
        )
    rule = classifier.decision_rule
    has_threshold = rule.threshold is not None or rule.reject_threshold is not None
    possible = (*classes, UNSURE) if has_threshold else classes
    counts = {
        label: {
            "num_images": decided.total(),
            "decided": {decision: decided[decision] for decision in possible},
        }
        for label, decided in sorted(decisions.items())
    }
    if "" in counts:
        metrics["unlabelled"] = counts.pop("")
    if counts:
        metrics["out_of_distribution"] = counts
    files.write_atomic(output_dir / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    (output_dir / "report.html").unlink(missing_ok=True)
    return Evaluation(
        metrics, predictions, output_dir.name, images.root, output_dir, unreadable_folders
    )


def _list_rows(
    images: ImageTable, unseen: ImageTable | None, classes: Mapping[str, str]
) -> list[_Row]:
    """List the rows; `classes` are the class names by their NFC, as runs may spell another form."""
    rows = [_Row(images.root / path, path, classes.get(nfc(label), label), sha256)
            for path, label, sha256 in zip_longest(
                images.paths, images.labels, images.hashes, fillvalue="")]  # fmt: skip
    if unseen is None:
        return rows
    for name, label in zip(unseen.paths, unseen.labels, strict=True):
        file = unseen.root / name
        try:
            path = Path(os.path.relpath(file, images.root)).as_posix()
        except ValueError:  # another drive on Windows
            path = file.resolve().as_posix()
        rows.append(_Row(file, path, label))
    return rows


def compute_metrics(classifier: Classifier, logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Compute all metrics of (N, C) logits and (N,) int64 labels, N of 1 or more.

    A metric that does not apply is absent.
    """
    classes, rule = classifier.classes, classifier.decision_rule
    scores = classifier.scores(logits)
    probabilities = classifier.probabilities(logits)
    confidences, predicted = probabilities.max(dim=1)
    hits = predicted == labels
    confusion = confusion_matrix(labels, predicted, len(classes))
    hit_rate = accuracy(confusion)
    best_temperature = calibration.fit_temperature(scores, labels, prior=0)
    errors = {
        "ece": calibration.expected_calibration_error(probabilities, labels),
        "adaptive_ece": calibration.adaptive_calibration_error(probabilities, labels),
        "classwise_ece": calibration.classwise_calibration_error(probabilities, labels),
    }
    selective = selective_metrics(confidences, hits)
    metrics: dict[str, Any] = {
        "accuracy": hit_rate,
        "macro_recall": macro_recall(confusion),
        "nll": nll(scores, labels, 1.0),
        "confusion_matrix": confusion.tolist(),
        "per_class": per_class_metrics(confusion, classes),
        "brier": calibration.brier_score(probabilities, labels),
        **{name: error.value for name, error in errors.items()},
        "expected_if_calibrated": {
            name: {"mean": error.expected, "q95": error.bound} for name, error in errors.items()
        },
        "refinement": nll(scores, labels, best_temperature),
        "reliability": calibration.reliability_bins(probabilities, labels),
        "intervals": {
            "accuracy": list(wilson_interval(hit_rate, len(hits))),
            "macro_recall": list(macro_recall_interval(labels, hits)),
            "nll": list(mean_interval(cross_entropies(scores, labels, 1.0))),
        },
        "selective": selective,
    }
    reject = -1 if classifier.reject_class is None else classes.index(classifier.reject_class)
    accepted = accepts(rule, probabilities, reject)
    metrics["decision"] = {
        "target_precision": rule.target_precision,
        "coverage": float(accepted.double().mean()),
        **_precision(hits[accepted]),
    }
    if classifier.reject_class is not None:
        for name, chosen in (("known", predicted != reject), ("reject", predicted == reject)):
            chosen_hits = hits[accepted & chosen]
            metrics["decision"][name] = {
                "num_predicted": int(chosen.sum()),
                "num_accepted": len(chosen_hits),
                **_precision(chosen_hits),
            }
        if rejection := rejection_metrics(probabilities, labels, reject):
            shared = {name: selective[name] for name in ("aurc", "augrc")}
            metrics["rejection"] = rejection | shared
    return metrics


def _precision(hits: Tensor) -> dict[str, float]:
    return {"precision": float(hits.double().mean())} if len(hits) else {}
