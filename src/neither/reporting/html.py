"""What a run has recorded of itself, for its reports.

The pictures of a report: small, few enough to carry along, the telling ones first.

`report.html`: what a model is good and bad at, in one file that opens anywhere.
"""

import base64
import csv
import io
import json
import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files as resources
from io import StringIO
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from PIL import Image

from neither.data.decode import open_upright
from neither.data.image_file import UnreadableError, read_file
from neither.data.workers import parallel_map
from neither.evaluation.calibration import NUM_BINS, bin_center
from neither.evaluation.evaluation import (
    LabelledPredictions,
    PathEvaluation,
    most_confident_mistakes,
    risk_coverage,
)
from neither.evaluation.metrics import wilson_interval
from neither.models.checkpoint import find_checkpoint
from neither.reporting.plots import Axes, Bar, Line, draw_chart
from neither.reporting.text import ENOUGH, format_percent, summary_sentences
from neither.runtime import files
from neither.runtime.console import printable, warn

_MOST_BYTES = 1 << 26


def read_metrics_rows(run: Path) -> list[dict[str, Any]]:
    """Read `metrics.jsonl`, a row an epoch; without it a report has no curves of training."""
    rows = _read(run / "metrics.jsonl", lambda text: list(map(_to_row, _lines(text))))
    return list({row["epoch"]: row for row in rows}.values())


def read_label_issues(run: Path) -> list[Mapping[str, str]]:
    """Read `label_issues.csv`: the training images whose label the model doubts."""
    return _read(run / "label_issues.csv", _to_suspects)


def _lines(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n")


def _to_suspects(text: str) -> list[Mapping[str, str]]:
    rows: list[Mapping[str, str]] = list(csv.DictReader(StringIO(text, newline="")))
    for row in rows:
        texts = (row["path"], row["label"], row["predicted"])
        if None in texts or not 0 <= float(row["disagreement"]) <= 1:
            raise ValueError("a row of another form")
    return rows


def _to_row(line: str) -> dict[str, Any]:
    row = json.loads(line)
    splits = {split: _finite(row[split]) for split in ("train", "val") if split in row}
    return {"epoch": int(row["epoch"]), "train": splits["train"]} | splits


def _finite(figures: Mapping[str, Any]) -> dict[str, float]:
    """Keep what can be drawn."""
    return {name: float(value) for name, value in figures.items()
            if isinstance(value, int | float) and math.isfinite(value)}  # fmt: skip


def _read(path: Path, parse: Callable[[str], list[Any]]) -> list[Any]:
    """Parse the text of a file; a report goes without what is missing, huge or damaged."""
    if not path.is_file():  # a device never ends
        return []
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES).decode("utf-8", "surrogateescape")
        return parse(text)
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        ArithmeticError,
        RecursionError,
        csv.Error,
    ) as error:
        warn(f"{printable(path)}: cannot be read: {error}; the report goes without it")
        return []


MOST_PICTURES = 800  # of a whole report, 3 to 5 KB each; some mistakes are shown twice
MOST_IN_CELL = 100
MOST_MISTAKES = 100
_MOST_CLASSES = 40  # above which a table of all pairs could not be read
_MOST_BARS = 5
_MOST_NAMES = 500  # of a cell, of pictures that are only listed
_SIDE = 84  # pixels
_QUALITY = 70


@dataclass(frozen=True)
class Thumbnail:
    """One picture of a report.

    Attributes:
        shown: its path.
        uri: the picture itself; empty if it cannot be read any more.
        true: its class.
        predicted: the most probable class.
        confidence: its probability.
        shares: the most probable classes and the true one, with their probabilities.
    """

    shown: str
    uri: str
    true: str
    predicted: str
    confidence: float
    shares: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Cell:
    """The images of one true and one predicted class.

    Attributes:
        true: the class of the row.
        predicted: the class of the column.
        num_images: how many there are.
        pictures: some of them: mistakes by falling confidence, others by rising.
        names: of some more.
    """

    true: str
    predicted: str
    num_images: int
    pictures: Sequence[Thumbnail]
    names: Sequence[str]

    @property
    def is_right(self) -> bool:
        """Say whether these are no mistakes."""
        return self.true == self.predicted

    @property
    def num_left_out(self) -> int:
        """Count the images that are neither shown nor listed."""
        return self.num_images - len(self.pictures) - len(self.names)


@dataclass(frozen=True)
class Gallery:
    """The pictures of a report.

    Attributes:
        cells: the confusion matrix with pictures in it; empty for more than 40 classes.
        mistakes: the surest of all.
    """

    cells: Sequence[Sequence[Cell]]
    mistakes: Sequence[Thumbnail]


def build_gallery(scored: LabelledPredictions, classes: Sequence[str]) -> Gallery:
    """Choose and draw the pictures of a report.

    Raises:
        OutputError: if a decoding process was killed.
        Stopped: if a signal asks for an end.
    """
    places = _places(scored, len(classes))
    surest = most_confident_mistakes(scored, MOST_MISTAKES)
    num_filled = sum(map(bool, places.values()))
    in_each = min(MOST_IN_CELL, MOST_PICTURES // max(1, num_filled))
    if len(classes) > _MOST_CLASSES:
        places = {}
    chosen = {place for here in places.values() for place in here[:in_each]} | set(surest)
    order = sorted(chosen)
    drawn = draw_thumbnails([scored.paths[place] for place in order])
    pictures = {place: _picture(scored, classes, place, uri)
                for place, uri in zip(order, drawn, strict=True)}  # fmt: skip

    def cell(row: int, column: int) -> Cell:
        here = places[row, column]
        names = [scored.shown[place] for place in here[in_each : in_each + _MOST_NAMES]]
        shown = [pictures[place] for place in here[:in_each]]
        return Cell(classes[row], classes[column], len(here), shown, names)

    numbers = range(len(classes)) if places else range(0)
    cells = [[cell(row, column) for column in numbers] for row in numbers]
    return Gallery(cells, [pictures[place] for place in surest])


def _places(scored: LabelledPredictions, num_classes: int) -> dict[tuple[int, int], list[int]]:
    """Return which images lie in each cell: the surest mistakes first, the least sure hits."""
    confidences, predicted = scored.probabilities.max(dim=1)
    order = confidences.argsort(descending=True, stable=True)
    numbers = range(num_classes)
    places: dict[tuple[int, int], list[int]] = {(row, column): [] for row in numbers
                                                for column in numbers}  # fmt: skip
    for place in order.tolist():
        places[int(scored.labels[place]), int(predicted[place])].append(place)
    for row in numbers:
        places[row, row].reverse()
    return places


def _picture(
    scored: LabelledPredictions, classes: Sequence[str], place: int, uri: str
) -> Thumbnail:
    label, shares = int(scored.labels[place]), scored.probabilities[place].tolist()
    predicted = max(range(len(classes)), key=shares.__getitem__)
    likely = sorted(range(len(classes)), key=lambda number: -shares[number])[:_MOST_BARS]
    bars = [(classes[number], shares[number]) for number in sorted({*likely, label})]
    return Thumbnail(scored.shown[place], uri, classes[label], classes[predicted],
                   shares[predicted], bars)  # fmt: skip


def draw_thumbnails(paths: Sequence[Path]) -> Iterator[str]:
    """Yield a small JPEG of each file as a data URI; an empty one if it cannot be read.

    Raises:
        OutputError: if a decoding process was killed.
        Stopped: if a signal asks for an end.
    """
    return parallel_map(_thumbnail, paths)


def _thumbnail(path: Path) -> str:
    """Return a small JPEG of a file as a data URI, or nothing."""
    try:
        image = open_upright(read_file(path), _SIDE).image
    except UnreadableError:
        return ""
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


_MOST_SUSPECTS = 60
_MANY = 0.1  # suspects among the training images, above which it is the model that is weak
_GOOD = 0.9  # macro recall; below it the verdict is not in green
_CLEAR = 0.05  # the largest noise of an ECE that still tells something


@dataclass(frozen=True)
class ReportContext:
    """What a report tells besides figures.

    Attributes:
        title: of the report.
        source: what was scored.
        rows: of `metrics.jsonl`, for the curves of training; none for a bare checkpoint.
        suspects: rows of `label_issues.csv`; None if the report is not about training.
        num_trained: images that were trained on.
        root: what their paths are relative to.
        warnings: what was told while the images were read.
        commands: what to type next, each with what it is for.
    """

    title: str
    source: str
    rows: Sequence[Mapping[str, Any]] = ()
    suspects: Sequence[Mapping[str, str]] | None = None
    num_trained: int = 0
    root: Path = Path()
    warnings: Sequence[str] = ()
    commands: Sequence[tuple[str, str]] = ()


def report_evaluation(model: Path, evaluation: PathEvaluation) -> None:
    """Write `report.html` beside the results of an evaluation.

    Args:
        model: the folder of a run, or one checkpoint file.
        evaluation: of this model.

    Raises:
        OSError: if the disk is full or the folder cannot be written.
    """
    home = model if model.is_dir() else find_checkpoint(model).parent
    next_command = shlex.join(["python", "scripts/predict.py", str(model), "FOLDER"])
    context = ReportContext(
        f"{home.resolve().name} on {evaluation.name}",
        str(evaluation.source),
        rows=read_metrics_rows(home),
        warnings=evaluation.refused,
        commands=[("Say of any other pictures what they show:", next_command)],
    )
    path = evaluation.output_dir / "report.html"
    write_report(path, evaluation.metrics, evaluation.scored, context)


def write_report(
    path: Path, metrics: Mapping[str, Any], scored: LabelledPredictions | None, story: ReportContext
) -> None:
    """Write a report, whole or not at all.

    Args:
        path: of the HTML file.
        metrics: as in `metrics.json`.
        scored: the labelled images; None if there are none.
        story: what else to tell.

    Raises:
        OSError: if the disk is full or the folder cannot be written.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                              lstrip_blocks=True)  # fmt: skip
    environment.filters |= {"percent": format_percent, "number": "{:,}".format, "plain": printable}
    text = resources("neither.reporting").joinpath("report.html.jinja").read_text("utf-8")
    classes = metrics["classes"]
    album = build_gallery(scored, classes) if scored is not None else Gallery([], [])
    suspects = (story.suspects or ())[:_MOST_SUSPECTS]
    uris = draw_thumbnails([story.root / suspect["path"] for suspect in suspects])
    page = environment.from_string(text).render(
        metrics=metrics,
        story=story,
        suspects=list(zip(suspects, uris, strict=True)),
        many_suspects=len(story.suspects or ()) > _MANY * story.num_trained,
        classes=classes,
        verdict=summary_sentences(metrics),
        is_good=metrics.get("macro_recall", 0.0) >= _GOOD and "num_trained_on" not in metrics,
        findings=_findings(metrics),
        cells=album.cells,
        mistakes=album.mistakes,
        num_mistakes=_num_mistakes(metrics),
        num_scored=sum(map(sum, metrics.get("confusion_matrix", ()))),
        charts=_charts(metrics, scored, story.rows) if "accuracy" in metrics else {},
        enough=ENOUGH,
        range=_range,
    )
    files.write_atomic(path, page.encode("utf-8", "backslashreplace"))


def _num_mistakes(metrics: Mapping[str, Any]) -> int:
    rows = enumerate(metrics.get("confusion_matrix", ()))
    return sum(sum(row) - row[number] for number, row in rows)


def _findings(metrics: Mapping[str, Any]) -> list[str]:
    """Say what the model is good and bad at."""
    recalls = {name: figures["recall"] for name, figures in metrics.get("per_class", {}).items()
               if "recall" in figures}  # fmt: skip
    classes, said = metrics["classes"], []
    if len(set(recalls.values())) > 1:
        best, worst = max(recalls, key=recalls.__getitem__), min(recalls, key=recalls.__getitem__)
        said.append(
            f"Best at {best}: finds {format_percent(recalls[best])} of them. Worst "
            f"at {worst}: "
            f"{format_percent(recalls[worst])}."
        )
    confusion = metrics.get("confusion_matrix", ())
    wrong = [(num, classes[row], classes[column], sum(nums)) for row, nums in enumerate(confusion)
             for column, num in enumerate(nums) if num and row != column]  # fmt: skip
    if wrong:
        num, true, predicted, of = max(wrong, key=lambda cell: (cell[0], cell[0] / cell[3]))
        said.append(f"Most frequent mistake: {true} called {predicted}, {num:,} of {of:,}.")
    if "ece" in metrics:
        most = metrics["expected_if_calibrated"]["ece"]["q95"]
        judged = "are off"
        if metrics["ece"] <= most:
            judged = ("can be taken at their word" if most <= _CLEAR
                      else "may be right or off, these pictures are too few to tell")  # fmt: skip
        said.append(
            f"Its probabilities {judged}: on average {format_percent(metrics['ece'])} from "
            f"how often it "
            f"is right, where chance alone gives a perfect model up to {format_percent(most)}."
        )
    return said


def _charts(
    metrics: Mapping[str, Any],
    scored: LabelledPredictions | None,
    rows: Sequence[Mapping[str, Any]],
) -> dict[str, str]:
    charts = {}
    for key, name in (("loss", "loss"), ("macro_recall", "macro recall")):
        lines = [Line(split, [(row["epoch"], row[split][key]) for row in rows
                              if key in row.get(split, {})], kind)
                 for split, kind in (("train", "a"), ("val", "b"))]  # fmt: skip
        values = [y for line in lines for _, y in line.points]
        if len(rows) > 1 and values and rows[-1]["epoch"] > 0:
            top = 1.0 if key == "macro_recall" else max(values) * 1.05 or 1.0
            axes = Axes("epoch", name, (0, rows[-1]["epoch"]), (0, top), key == "macro_recall")
            charts[key] = draw_chart(axes, lines)
    if scored is not None:
        share = Axes("confidence", "share that is right", (0, 1), (0, 1), as_percent=True)
        bars = [Bar(bin_center(row["confidence"]), row["accuracy"],
                    *wilson_interval(row["accuracy"], row["num_images"]))
                for row in metrics["reliability"]]  # fmt: skip
        guide = Line("perfect", [(0, 0), (1, 1)], "guide")
        charts["reliability"] = draw_chart(share, [guide], bars, 0.9 / NUM_BINS)
        points = risk_coverage(scored)
        least = min(0.9, *(y for _, y in points))
        floor = math.floor(10 * least) / 10
        axes = Axes("share of pictures accepted, surest first", "share of these that is right",
                    (0, 1), (floor, 1), as_percent=True)  # fmt: skip
        promise = metrics["decision"]["target_precision"]
        guide = Line("promise", [(0, promise), (1, promise)], "guide")
        charts["coverage"] = draw_chart(axes, [guide, Line("accepted and right", points)])
    return charts


def _range(share: float, num: int) -> str:
    return " - ".join(f"{100 * bound:.0f}" for bound in wilson_interval(share, num)) + " %"
