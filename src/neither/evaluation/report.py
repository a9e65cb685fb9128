"""`report.html`: what a model is good and bad at, in one file that opens anywhere."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from neither import files
from neither.evaluation.album import Cell, Scored, fill_cells, risk_coverage
from neither.evaluation.calibration import NUM_BINS
from neither.evaluation.charts import Axes, Line, draw_lines
from neither.terminal import printable

_MOST_MISTAKES = 100
_ENOUGH = 50  # images of a class, below which its figures are coarse


@dataclass(frozen=True)
class Story:
    """What a report tells besides figures.

    Attributes:
        title: of the report.
        source: what was scored.
        rows: of `metrics.jsonl`, for the curves of training; none for an evaluation.
        suspects: rows of `suspects.csv`: path, label, and what the model takes it for.
        warnings: what was told while the images were read.
        commands: what to type next, each with what it is for.
    """

    title: str
    source: str
    rows: Sequence[Mapping[str, Any]] = ()
    suspects: Sequence[Mapping[str, str]] = ()
    warnings: Sequence[str] = ()
    commands: Sequence[tuple[str, str]] = field(default_factory=list)


def write_report(
    path: Path, metrics: Mapping[str, Any], scored: Scored | None, story: Story
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
    environment.filters |= {"percent": _percent, "number": "{:,}".format, "plain": printable}
    text = resources("neither.evaluation").joinpath("report.html.jinja").read_text("utf-8")
    classes = metrics["classes"]
    cells = fill_cells(scored, classes) if scored is not None else []
    page = environment.from_string(text).render(
        metrics=metrics,
        story=story,
        classes=classes,
        verdict=_verdict(metrics),
        findings=_findings(metrics, cells),
        cells=cells,
        mistakes=_worst(cells),
        charts=_charts(metrics, scored, story.rows),
        enough=_ENOUGH,
        wilson=_wilson,
    )
    files.write_whole(path, page)


def _verdict(metrics: Mapping[str, Any]) -> list[str]:
    """Say in plain words what to expect of the model, the most important first."""
    if "accuracy" not in metrics:
        return ["None of these pictures has a class as its label, so nobody knows how many answers "
                "are right."]  # fmt: skip
    low, high = (100 * bound for bound in metrics["intervals"]["accuracy"])
    said = [f"Of 100 pictures like these, about {100 * metrics['accuracy']:.0f} are called right "
            f"({low:.0f} to {high:.0f})."]  # fmt: skip
    found = metrics["decision"]
    if "threshold" in metrics and "precision" in found:
        said.append(f"When it is sure, which it is of {100 * found['coverage']:.0f} in 100, "
                    f"{100 * found['precision']:.1f} % of its answers are right.")  # fmt: skip
    reject = metrics.get("reject_class")
    recall = metrics["per_class"].get(reject, {}).get("recall") if reject else None
    if recall is not None:
        said.append(f"Of 100 pictures of {reject}, it calls {100 * recall:.0f} {reject}.")
    return said


def _findings(metrics: Mapping[str, Any], cells: Sequence[Sequence[Cell]]) -> list[str]:
    """Say what the model is good and bad at."""
    recalls = {name: figures["recall"] for name, figures in metrics.get("per_class", {}).items()
               if "recall" in figures}  # fmt: skip
    said = []
    if len(recalls) > 1:
        best, worst = max(recalls, key=recalls.__getitem__), min(recalls, key=recalls.__getitem__)
        said.append(f"Best at {best}: finds {_percent(recalls[best])} of them. Worst at {worst}: "
                    f"{_percent(recalls[worst])}.")  # fmt: skip
    wrong = [cell for row in cells for cell in row if not cell.is_right and cell.num_images]
    if wrong:
        most = max(wrong, key=lambda cell: cell.num_images)
        said.append(f"Most frequent mistake: {most.true} called {most.predicted}, "
                    f"{most.num_images:,} times.")  # fmt: skip
    if "ece" in metrics:
        is_good = metrics["ece"] <= metrics["chance"]["ece"]["q95"]
        said.append(
            f"Its probabilities {'can be taken at their word' if is_good else 'are off'}: on "
            f"average {_percent(metrics['ece'])} from how often it is right, where chance alone "
            f"gives a perfect model up to {_percent(metrics['chance']['ece']['q95'])}."
        )
    return said


def _worst(cells: Sequence[Sequence[Cell]]) -> list[Any]:
    pictures = [picture for row in cells for cell in row if not cell.is_right
                for picture in cell.pictures]  # fmt: skip
    return sorted(pictures, key=lambda picture: -picture.confidence)[:_MOST_MISTAKES]


def _charts(
    metrics: Mapping[str, Any], scored: Scored | None, rows: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    charts = {}
    for key, name in (("loss", "loss"), ("macro_recall", "macro recall")):
        lines = [Line(split, [(row["epoch"], row[split][key]) for row in rows
                              if key in row.get(split, {})], kind)
                 for split, kind in (("train", "a"), ("val", "b"))]  # fmt: skip
        values = [y for line in lines for _, y in line.points]
        if len(rows) > 1 and values:
            top = 1.0 if key == "macro_recall" else max(values) * 1.05
            axes = Axes("epoch", name, (0, rows[-1]["epoch"]), (0, top), key == "macro_recall")
            charts[key] = draw_lines(axes, lines)
    if scored is not None:
        share = Axes("confidence", "share that is right", (0, 1), (0, 1), as_percent=True)
        bins = [(row["confidence"], row["accuracy"]) for row in metrics["reliability"]]
        guide = Line("perfect", [(0, 0), (1, 1)], "guide")
        middles = [((math.ceil(x * NUM_BINS) - 0.5) / NUM_BINS, y) for x, y in bins]
        charts["reliability"] = draw_lines(share, [guide, Line("model", bins)], middles,
                                           0.9 / NUM_BINS)  # fmt: skip
        points = risk_coverage(scored)
        least = min(0.9, *(y for _, y in points))
        floor = math.floor(10 * least) / 10
        axes = Axes("share of pictures accepted, surest first", "share of these that is right",
                    (0, 1), (floor, 1), as_percent=True)  # fmt: skip
        guide = Line("promise", [(0, metrics["decision"]["target_precision"]),
                                 (1, metrics["decision"]["target_precision"])], "guide")  # fmt: skip
        charts["coverage"] = draw_lines(axes, [guide, Line("accepted and right", points)])
    return charts


def _wilson(share: float, num: int) -> str:
    """Return the 95 % interval of a share (Wilson, 1927), as text."""
    z = 1.96
    middle = (share + z * z / (2 * num)) / (1 + z * z / num)
    half = z / (1 + z * z / num) * math.sqrt(share * (1 - share) / num + z * z / (4 * num * num))
    return f"{100 * max(0.0, middle - half):.0f} - {100 * min(1.0, middle + half):.0f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
