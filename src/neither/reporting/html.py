"""`report.html`: the strengths and weaknesses of a model in one file; and `MODEL_CARD.md`.

A report shows a summary, the confusion matrix with thumbnails behind each cell, the most confident
mistakes, label issues, plots and metrics. Its size is bounded, whatever the number of images.
"""

import base64
import csv
import io
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from neither.config.schema import Config
from neither.data.decode import make_thumbnail
from neither.data.workers import parallel_map
from neither.evaluation.evaluation import Evaluation, LabelledPredictions
from neither.evaluation.metrics import wilson_interval
from neither.evaluation.selective import most_confident_mistakes, risk_coverage
from neither.models.checkpoint import find_checkpoint
from neither.reporting.text import (
    FEW_IMAGES,
    calibration_sentence,
    count_unseen,
    cross_validation_sentences,
    decision_rule_sentences,
    describe_splits,
    render_template,
    review_sentence,
    summary_sentences,
)
from neither.runtime import files
from neither.runtime.console import format_percent, printable, warn

MAX_THUMBNAILS = 800  # in the confusion matrix, 3 to 5 KB each
MAX_CELL_THUMBNAILS = 100
MAX_MISTAKES = 100
_MAX_CELL_PATHS = 500  # listed after the thumbnails
_MAX_MATRIX_CLASSES = 40  # a larger table cannot be read
_MAX_BARS = 5
_MAX_LABEL_ISSUES = 60
_MAX_SOURCES = 30  # of a cross-validation, whose mistakes are shown
_THUMBNAIL_SIZE = 84  # pixels
_WEAK_MODEL_ISSUES = 0.1  # of the training images; more label issues mean that the model is weak
_GOOD_RECALL = 0.9  # macro recall, from which on the summary is green
_MAX_BYTES = 1 << 26  # of a file of the run


@dataclass(frozen=True)
class ReportContext:
    """What a report shows besides metrics and predictions."""

    title: str
    source: str  # what was evaluated
    # of `metrics.jsonl`, for the curves of training; none for a bare checkpoint
    metrics_rows: Sequence[Mapping[str, Any]] = ()
    # rows of `label_issues.csv`; None if the report is not about training
    label_issues: Sequence[Mapping[str, str]] | None = None
    num_train_images: int = 0  # number of images that were used for training
    image_root: Path = Path()  # the paths of the label issues are relative to it
    warnings: Sequence[str] = ()
    commands: Sequence[tuple[str, str]] = ()  # to run next, each with its purpose


@dataclass(frozen=True)
class Thumbnail:
    """One image of a report with its prediction."""

    path: str  # of the image, as in `predictions.csv`
    uri: str  # a small JPEG as a data URI; empty if the file cannot be read any more
    true: str  # its class
    predicted: str  # the most probable class
    probabilities: Mapping[str, float]  # of the most probable classes and the true one, by name


@dataclass(frozen=True)
class ConfusionCell:
    """The images of one true class, the row, and one predicted class, the column.

    Some have a thumbnail: of mistakes the most confident, of others the least confident. `paths`
    are those of further images.
    """

    num_images: int
    thumbnails: Sequence[Thumbnail]
    paths: Sequence[str]


def report_evaluation(model: Path, evaluation: Evaluation) -> None:
    """Write the report of a run or checkpoint file beside the other results of its evaluation."""
    run_folder = model if model.is_dir() else find_checkpoint(model).parent
    predict = shlex.join(["python", "scripts/predict.py", str(model), "FOLDER"])
    context = ReportContext(
        f"{run_folder.resolve().name} on {evaluation.name}",
        str(evaluation.source),
        metrics_rows=read_metrics_rows(run_folder),
        warnings=evaluation.unreadable_folders,
        commands=[("Classify other images:", predict)],
    )
    path = evaluation.output_dir / "report.html"
    write_report(path, evaluation.metrics, evaluation.labelled, context)


def write_report(
    path: Path,
    metrics: Mapping[str, Any],
    predictions: LabelledPredictions | None,
    context: ReportContext,
) -> None:
    """Write a report atomically, from the content of `metrics.json`.

    There are no predictions if no image is labelled.
    """
    classes, confusion = metrics["classes"], metrics.get("confusion_matrix", ())
    cells, mistakes = select_thumbnails(predictions, classes) if predictions else ([], [])
    issues = (context.label_issues or ())[:_MAX_LABEL_ISSUES]
    uris = make_thumbnails([context.image_root / issue["path"] for issue in issues])
    max_issues = _WEAK_MODEL_ISSUES * context.num_train_images
    page = render_template(
        "report.html.jinja",
        context=context,
        metrics=metrics,
        classes=classes,
        summary=summary_sentences(metrics),
        decision_rule=decision_rule_sentences(metrics),
        is_good=metrics.get("macro_recall", 0.0) >= _GOOD_RECALL
        and count_unseen(metrics)[0] <= (1 - _GOOD_RECALL) * count_unseen(metrics)[1]
        and metrics.keys().isdisjoint(("num_trained_on", "num_changed")),
        findings=_key_results(metrics),
        cells=cells,
        mistakes=mistakes,
        num_mistakes=sum(sum(row) - row[index] for index, row in enumerate(confusion)),
        label_issues=list(zip(issues, uris, strict=True)),
        is_weak_model=len(context.label_issues or ()) > max_issues,
        plots=_draw_plots(metrics, predictions, context.metrics_rows) if predictions else {},
        few_images=FEW_IMAGES,
        wilson_interval=wilson_interval,
    )
    files.write_atomic(path, page)


def write_model_card(
    folder: Path,
    config: Config,
    environment: Mapping[str, Any],
    metrics: Mapping[str, Any],
    num_parameters: int,
    evaluate_command: str,
    warnings: Sequence[str],
) -> None:
    """Write `MODEL_CARD.md` of a finished run (Mitchell et al., 2019) atomically.

    Metrics are those of the best checkpoint on val; `evaluate_command` evaluates the run on images
    that were not used to select it.
    """
    card = render_template(
        "model_card.md.jinja",
        folder=folder,
        config=config,
        known_classes=[name for name in config.classes if name != config.reject_class],
        environment=environment,
        splits_table=describe_splits(folder / "splits.csv", config.classes),
        metrics=metrics,
        decision_rule=decision_rule_sentences(metrics),
        num_labelled=sum(map(sum, metrics["confusion_matrix"])),
        num_parameters=num_parameters,
        evaluate_command=evaluate_command,
        has_test=not evaluate_command.endswith("--split val"),
        warnings=warnings,
        wilson_interval=wilson_interval,
    )
    files.write_atomic(folder / "MODEL_CARD.md", card)


def write_cross_validation_report(
    folder: Path, image_root: Path, name: str, metrics: Mapping[str, Any]
) -> None:
    """Write `report.html` of a cross-validation's folder and `metrics.json` atomically.

    The paths of the mistakes are relative to `image_root`.
    """
    rows = metrics["sources"]
    shown = [path for row in rows[:_MAX_SOURCES] for path in row["mistakes"]]
    root = image_root if image_root.is_dir() else image_root.parent
    uris = dict(zip(shown, make_thumbnails([root / path for path in shown]), strict=True))
    page = render_template(
        "cross_validation.html.jinja",
        name=name,
        sentences=cross_validation_sentences(metrics),
        metrics=metrics,
        uris=uris,
    )
    files.write_atomic(folder / "report.html", page)


def _key_results(metrics: Mapping[str, Any]) -> list[str]:
    """Return sentences about the best and worst class, the most frequent mistake, calibration."""
    per_class = metrics.get("per_class", {}).items()
    recalls = {name: row["recall"] for name, row in per_class if "recall" in row}
    findings = [sentence] if (sentence := review_sentence(metrics)) else []
    if len(set(recalls.values())) > 1:
        best, worst = max(recalls, key=recalls.__getitem__), min(recalls, key=recalls.__getitem__)
        findings.append(
            f"Best class: {best}, {format_percent(recalls[best])} of its images are classified "
            f"correctly. Worst class: {worst}, {format_percent(recalls[worst])}."
        )
    mistakes = [
        (num, num / sum(row), true, predicted, sum(row))
        for true, row in zip(metrics["classes"], metrics.get("confusion_matrix", ()), strict=False)
        for predicted, num in zip(metrics["classes"], row, strict=True)
        if num and true != predicted
    ]
    if mistakes:
        num, _, true, predicted, total = max(mistakes, key=lambda mistake: mistake[:2])
        counts = f"{num:,} of {total:,}"
        findings.append(f"Most frequent mistake: {true} classified as {predicted}, {counts}.")
    if "ece" in metrics:
        findings.append(calibration_sentence(metrics))
    return findings


def _draw_plots(
    metrics: Mapping[str, Any], predictions: LabelledPredictions, rows: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """Return the SVG elements by name."""
    from neither.reporting import plots  # Matplotlib takes half a second

    points = risk_coverage(predictions.probabilities, predictions.labels)
    charts = {
        "loss": plots.plot_curves(rows, "loss", as_percent=False),
        "macro_recall": plots.plot_curves(rows, "macro_recall", as_percent=True),
        "reliability": plots.plot_reliability(metrics["reliability"]),
        "risk_coverage": plots.plot_risk_coverage(points, metrics["decision"]["target_precision"]),
    }
    return {name: plots.to_svg(figure, name) for name, figure in charts.items() if figure}


def select_thumbnails(
    predictions: LabelledPredictions, classes: Sequence[str]
) -> tuple[list[list[ConfusionCell]], list[Thumbnail]]:
    """Select the images of a report and make their thumbnails.

    Returns:
        C rows of C cells, none for more than 40 classes; the most confident mistakes of all.
    """
    mistakes = most_confident_mistakes(predictions.probabilities, predictions.labels, MAX_MISTAKES)
    class_indices = range(len(classes)) if len(classes) <= _MAX_MATRIX_CLASSES else ()
    cells = _group_by_cell(predictions) if class_indices else {}
    num_shown = min(MAX_CELL_THUMBNAILS, MAX_THUMBNAILS // max(1, len(cells)))
    chosen = {index for cell in cells.values() for index in cell[:num_shown]} | set(mistakes)
    order = sorted(chosen)
    uris = make_thumbnails([predictions.files[index] for index in order])
    thumbnails = {
        index: _make_thumbnail(predictions, classes, index, uri)
        for index, uri in zip(order, uris, strict=True)
    }

    def make_cell(row: int, column: int) -> ConfusionCell:
        indices = cells.get((row, column), [])
        return ConfusionCell(
            len(indices),
            [thumbnails[index] for index in indices[:num_shown]],
            [predictions.paths[index] for index in indices[num_shown:][:_MAX_CELL_PATHS]],
        )

    matrix = [[make_cell(row, column) for column in class_indices] for row in class_indices]
    return matrix, [thumbnails[index] for index in mistakes]


def _group_by_cell(predictions: LabelledPredictions) -> dict[tuple[int, int], list[int]]:
    """Return indices by (label, predicted): most confident mistakes, least confident hits first."""
    confidences, predicted = predictions.probabilities.max(dim=1)
    cells: dict[tuple[int, int], list[int]] = {}
    for index in confidences.argsort(descending=True, stable=True).tolist():
        cell = int(predictions.labels[index]), int(predicted[index])
        cells.setdefault(cell, []).append(index)
    for (label, prediction), indices in cells.items():
        if label == prediction:
            indices.reverse()
    return cells


def _make_thumbnail(
    predictions: LabelledPredictions, classes: Sequence[str], index: int, uri: str
) -> Thumbnail:
    label, probabilities = int(predictions.labels[index]), predictions.probabilities[index].tolist()
    order = sorted(range(len(classes)), key=lambda number: -probabilities[number])
    shown = sorted({*order[:_MAX_BARS], label})
    bars = {classes[number]: probabilities[number] for number in shown}
    return Thumbnail(predictions.paths[index], uri, classes[label], classes[order[0]], bars)


def make_thumbnails(paths: Sequence[Path]) -> list[str]:
    """Return a small JPEG of each file as a data URI; an empty one if the file is unreadable."""
    # A function of data/: a process that imports this module needs ten times the memory for torch.
    images = parallel_map(partial(make_thumbnail, side=_THUMBNAIL_SIZE), paths)
    encoded = (base64.b64encode(image).decode() for image in images)
    return [text and f"data:image/jpeg;base64,{text}" for text in encoded]


def read_metrics_rows(run: Path) -> list[dict[str, Any]]:
    """Read `metrics.jsonl`: a row for each epoch with its `step` and the metrics of its splits.

    Returns:
        The last row of each epoch; none, after a warning, if the file is damaged.
    """

    def parse(text: str) -> list[dict[str, Any]]:
        rows: dict[int, dict[str, Any]] = {}
        for row in map(json.loads, text.removesuffix("\n").split("\n")):
            metrics = {
                split: {name: float(value) for name, value in row[split].items()}
                for split in ("train", "val")
                if split in row or split == "train"
            }
            epoch = int(row["epoch"])
            rows[epoch] = {"epoch": epoch, "step": int(row["step"]), **metrics}
        return list(rows.values())

    return _read(run / "metrics.jsonl", parse)


def read_label_issues(run: Path) -> list[dict[str, str]]:
    """Read `label_issues.csv`; return no rows, after a warning, if the file is damaged."""

    def parse(text: str) -> list[dict[str, str]]:
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        for row in rows:
            columns = (row["path"], row["label"], row["predicted"])
            if None in columns or not 0 <= float(row["disagreement"]) <= 1:
                raise ValueError("unexpected columns or values")
        return rows

    return _read(run / "label_issues.csv", parse)


def read_predictions(path: Path) -> list[dict[str, str]]:
    """Read the labelled images of `predictions.csv`, the most confident first, or none likewise."""

    def parse(text: str) -> list[dict[str, str]]:
        every = csv.DictReader(io.StringIO(text, newline=""))
        rows = [row for row in every if row["status"] == "ok"]
        if any(None in (row["predicted"], row["decision"], row["true_label"]) for row in rows):
            raise ValueError("unexpected columns")
        return sorted(rows, key=lambda row: -float(row["confidence"]))

    return _read(path, parse)


def _read(path: Path, parse: Callable[[str], list[Any]]) -> list[Any]:
    """Parse the text of a file; warn and return no rows if it is huge or damaged."""
    if not path.is_file():  # also not a device, which never ends
        return []
    try:
        with path.open("rb") as file:
            return parse(file.read(_MAX_BYTES).decode("utf-8", "surrogateescape"))
    except Exception as error:  # damage raises any of a dozen types
        warn(f"{printable(path)}: cannot be read: {error}; it is ignored")
        return []
