"""Score a classifier on the images of a folder: `metrics.json` and `predictions.csv`."""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neither import files
from neither.data.found import Found
from neither.evaluation.album import Scored
from neither.evaluation.summary import summarize
from neither.inference.answers import answer_files
from neither.inference.classifier import Classifier
from neither.inference.decision import UNSURE
from neither.inference.predictions import csv_header, encode, predict, to_csv
from neither.terminal import printable, progress, warn

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
    scored: Scored | None


def evaluate(
    classifier: Classifier,
    scored: Found,
    unseen: Found | None,
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
        files.replacing(output_dir / "predictions.csv") as file,
        progress("evaluating", len(targets)) as bar,
    ):
        file.write(encode(csv_header(classes)))
        answers = answer_files(classifier, [target.path for target in targets])
        for target, answer in zip(targets, answers, strict=True):
            bar.advance()
            num_learned += answer.sha256 in trained_on
            prediction = predict(classifier, answer, target.shown, target.label)
            file.write(encode(to_csv(prediction, classes)))
            if answer.logits is None or prediction.decision is None:
                errors.append(f"{printable(target.shown)}: {answer.reason}")
            elif target.label in classes:
                logits.append(answer.logits)
                labelled.append(target)
            else:
                counts = foreign[target.label] if target.label else unlabelled
                counts[prediction.decision.decided] += 1
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
        metrics |= summarize(classifier, torch.stack(logits), labels)
        album = Scored([target.path for target in labelled], [target.shown for target in labelled],
                       labels, classifier.probabilities(torch.stack(logits)))  # fmt: skip
    unsure = () if classifier.threshold is None else (UNSURE,)

    def told(counts: Counter[str]) -> dict[str, Any]:
        decided = {name: counts[name] for name in (*classes, *unsure)}
        return {"num_images": counts.total(), "decided": decided}

    if unlabelled:
        metrics["unlabelled"] = told(unlabelled)
    if foreign:
        metrics["foreign"] = {folder: told(foreign[folder]) for folder in sorted(foreign)}
    files.write_whole(output_dir / "metrics.json", json.dumps(metrics, indent=2) + "\n")
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
