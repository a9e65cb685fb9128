"""`report.html` and `MODEL_CARD.md` of a finished run: its best checkpoint on val."""

import json
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neither.config.schema import Config
from neither.data.corrections import DROPPED, read_answers
from neither.data.manifest import given_splits
from neither.data.scan import ImageTable
from neither.data.split_file import read_hashes, read_split, read_splits, read_trained_on
from neither.evaluation.evaluation import LabelledPredictions, evaluate
from neither.inference.classifier import Classifier, load_classifier
from neither.models.networks import count_parameters
from neither.reporting.html import (
    ReportContext,
    read_label_issues,
    read_metrics_rows,
    write_model_card,
    write_report,
)
from neither.runtime import files
from neither.runtime.console import info, read_warnings
from neither.runtime.devices import choose_device_config
from neither.runtime.errors import DataError, UserError
from neither.training.run_folder import RunFolder, last_moved
from neither.training.validation import logit_metrics

_MAX_WARNINGS = 20
_CAUTION = (
    "These images were used to choose {}, so expect slightly lower results on new ones: "
    "evaluate on images that were not used."
)


def report_run(config: Config, run: RunFolder, val_logits: Mapping[str, Tensor]) -> None:
    """Evaluate `best.pt` on val, and write report and model card into the folder of a finished run.

    `val_logits` are (C,) of `best.pt` by path, as far as they are known.

    Raises:
        CheckpointError: if `best.pt` cannot be used.
        DataError: if the run's `splits.csv` cannot be read back, or the images are gone.
    """
    source, splits_file = config.data.source, run.folder / "splits.csv"
    classifier = load_classifier(run.best, choose_device_config(config.device, "float32").device)
    folder = val_folder(config.data.source, run.folder)
    val = read_split(splits_file, source, "val")
    known = [val_logits[path] for path in val.paths if path in val_logits]
    logits = torch.stack(known) if len(known) == len(val.paths) > 0 else None
    evaluation = evaluate(classifier, val, folder, known_logits=logits)
    if evaluation.labelled is None:
        raise DataError(f"{source}: no image of val can be read any more")
    if config.data.corrections is not None:
        with suppress(UserError):  # the file may be gone by now
            evaluation.metrics["review"] = _describe_review(config, run, val, folder)
    if run.initial.exists():
        initial = load_classifier(run.initial, classifier.device)
        evaluation.metrics["compared_with"] = _compare(
            initial, config.model.weights, config.classes, evaluation.labelled
        )
    if not evaluation.metrics.keys().isdisjoint(("review", "compared_with")):
        text = json.dumps(evaluation.metrics, indent=2) + "\n"
        files.write_atomic(folder / "metrics.json", text)
    evaluate_text = evaluate_command(config, run.folder)
    predict_text = shlex.join(["python", "scripts/predict.py", str(run.folder), "FOLDER"])
    review_text = shlex.join(["python", "scripts/review.py", str(run.folder)])
    warnings = read_warnings(run.folder)[:_MAX_WARNINGS]
    write_model_card(
        run.folder,
        config,
        files.read_json(run.folder / "environment.json"),
        evaluation.metrics,
        count_parameters(classifier.network),
        evaluate_text,
        warnings,
    )
    chosen = [] if config.model.is_frozen else ["the epoch"]
    if classifier.calibrated_on == "val":
        chosen.append("the temperature and the thresholds")
    if chosen:
        warnings = [_CAUTION.format(", ".join(chosen)), *warnings]
    context = ReportContext(
        title=f"{config.name}: {', '.join(config.classes)}",
        source=f"val of {source}",
        metrics_rows=read_metrics_rows(run.folder),
        label_issues=read_label_issues(run.folder),
        num_train_images=len(read_split(splits_file, source, "train").paths),
        image_root=val.root,
        warnings=warnings,
        commands=[
            ("Review the labels that it doubts, in a browser:", review_text),
            ("Classify other images:", predict_text),
            ("Evaluate on images that were not used to choose anything:", evaluate_text),
        ],
    )
    write_report(run.report, evaluation.metrics, evaluation.labelled, context)


def _describe_review(
    config: Config, run: RunFolder, val: ImageTable, folder: Path
) -> dict[str, Any]:
    """Count the answers that a run follows, and score the reviewed run on the same val.

    That is the run whose folder the corrections are in, unless it was trained on images of val. Its
    results get a folder beside `folder`, which has those of this run.

    Returns:
        `num_reviewed` and `num_changed`; `macro_recall_before` if the reviewed run is known.
    """
    path = Path(str(config.data.corrections)).expanduser()
    answers = read_answers(path, config.classes, config.data.aliases)
    labels = {digest: label if split else DROPPED
              for _, label, split, digest, _ in read_splits(run.folder / "splits.csv")}  # fmt: skip
    followed = [each for each in answers.values() if labels.get(each.sha256) == each.new_label]
    review: dict[str, Any] = {
        "num_reviewed": len(followed),
        "num_changed": sum(each.is_change for each in followed),
    }
    is_own = path.parent.resolve() == run.folder.resolve()  # the reviewed run was moved aside
    old = RunFolder(last_moved(run.folder) if is_own else path.parent)
    if old.best.exists():
        device = choose_device_config(config.device, "float32").device
        classifier = load_classifier(old.best, device)
        is_fair = not read_trained_on(old.folder) & {*val.hashes}
        if is_fair and classifier.classes == config.classes:
            before = evaluate(classifier, val, folder.with_name(f"{folder.name}-before-review"))
            review["macro_recall_before"] = before.metrics["macro_recall"]
    return review


def _compare(
    initial: Classifier, name: str, classes: Sequence[str], labelled: LabelledPredictions
) -> dict[str, Any]:
    """Compare a run with its initial network, of this name, on val images of classes both know.

    Returns:
        `compared_with` in metrics.json. If there are no such images, it has no metrics.
    """
    lacking = [each for each in classes if each not in initial.classes]
    comparison: dict[str, Any] = {"weights": name, "lacking": lacking, "num_images": 0}
    own = [initial.classes.index(each) if each in initial.classes else -1 for each in classes]
    labels = torch.tensor(own)[labelled.labels]
    indices = (labels >= 0).nonzero()[:, 0].tolist()
    results = initial.predict_files(labelled.files[index] for index in indices)
    pairs = [(index, result.logits) for index, result in zip(indices, results, strict=True)
             if result.logits is not None]  # fmt: skip
    if not pairs:
        return comparison
    rows = torch.tensor([index for index, _ in pairs])
    before = initial.scores(torch.stack([logits for _, logits in pairs]))
    after = labelled.probabilities[rows].log()
    comparison["before"] = logit_metrics(before, labels[rows], initial.classes)
    comparison["after"] = logit_metrics(after, labelled.labels[rows], classes)
    info(
        f"val images of classes that {name} knows, {len(pairs):,}: macro recall "
        f"{comparison['before']['macro_recall']:.3f} before, "
        f"{comparison['after']['macro_recall']:.3f} now"
    )
    return comparison | {"num_images": len(pairs)}


def read_val_metrics(config: Config, folder: Path) -> dict[str, Any]:
    """Return the metrics on val that `report_run` wrote; empty if they cannot be read."""
    return files.read_json(val_folder(config.data.source, folder) / "metrics.json")


def val_folder(source: Path, folder: Path) -> Path:
    """Return where a run keeps its results on val, given its folder or manifest of images."""
    return folder / "evaluations" / f"{source.resolve().name}-val"


def evaluate_command(config: Config, folder: Path) -> str:
    """Return the command that evaluates a run on images that were not used to choose anything."""
    source = config.data.source
    command = ["python", "scripts/evaluate.py", str(folder), str(source)]
    with suppress(UserError):  # the images may be gone by now
        if "test" not in given_splits(source, config.classes, config.data.aliases):
            has_test = bool(read_hashes(folder / "splits.csv", "test"))
            command += ["--split", "test" if has_test else "val"]
    return shlex.join(command)
