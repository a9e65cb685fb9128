"""`report.html`: what a model is good and bad at, in one file that opens anywhere."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from neither import files
from neither.evaluation.album import Album, Scored, draw_thumbnails, fill_album, risk_coverage
from neither.evaluation.calibration import NUM_BINS, middle_of_bin
from neither.evaluation.charts import Axes, Bar, Line, draw_chart
from neither.evaluation.intervals import share_interval
from neither.evaluation.verdict import ENOUGH, judge, percent
from neither.terminal import printable

_MOST_SUSPECTS = 60
_MANY = 0.1  # suspects among the training images, above which it is the model that is weak
_GOOD = 0.9  # macro recall; below it the verdict is not in green
_CLEAR = 0.05  # the largest noise of an ECE that still tells something


@dataclass(frozen=True)
class Story:
    """What a report tells besides figures.

    Attributes:
        title: of the report.
        source: what was scored.
        rows: of `metrics.jsonl`, for the curves of training; none for a bare checkpoint.
        suspects: rows of `suspects.csv`, the most doubtful first; None if it is not about training.
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
    environment.filters |= {"percent": percent, "number": "{:,}".format, "plain": printable}
    text = resources("neither.evaluation").joinpath("report.html.jinja").read_text("utf-8")
    classes = metrics["classes"]
    album = fill_album(scored, classes) if scored is not None else Album([], [])
    suspects = (story.suspects or ())[:_MOST_SUSPECTS]
    uris = draw_thumbnails([story.root / suspect["path"] for suspect in suspects])
    page = environment.from_string(text).render(
        metrics=metrics,
        story=story,
        suspects=list(zip(suspects, uris, strict=True)),
        many_suspects=len(story.suspects or ()) > _MANY * story.num_trained,
        classes=classes,
        verdict=judge(metrics),
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
    files.write_whole(path, page.encode("utf-8", "backslashreplace"))


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
        said.append(f"Best at {best}: finds {percent(recalls[best])} of them. Worst at {worst}: "
                    f"{percent(recalls[worst])}.")  # fmt: skip
    confusion = metrics.get("confusion_matrix", ())
    wrong = [(num, classes[row], classes[column], sum(nums)) for row, nums in enumerate(confusion)
             for column, num in enumerate(nums) if num and row != column]  # fmt: skip
    if wrong:
        num, true, predicted, of = max(wrong, key=lambda cell: (cell[0], cell[0] / cell[3]))
        said.append(f"Most frequent mistake: {true} called {predicted}, {num:,} of {of:,}.")
    if "ece" in metrics:
        most = metrics["chance"]["ece"]["q95"]
        judged = "are off"
        if metrics["ece"] <= most:
            judged = ("can be taken at their word" if most <= _CLEAR
                      else "may be right or off, these pictures are too few to tell")  # fmt: skip
        said.append(
            f"Its probabilities {judged}: on average {percent(metrics['ece'])} from how often it "
            f"is right, where chance alone gives a perfect model up to {percent(most)}."
        )
    return said


def _charts(
    metrics: Mapping[str, Any], scored: Scored | None, rows: Sequence[Mapping[str, Any]]
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
        bars = [Bar(middle_of_bin(row["confidence"]), row["accuracy"],
                    *share_interval(row["accuracy"], row["num_images"]))
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
    return " - ".join(f"{100 * bound:.0f}" for bound in share_interval(share, num)) + " %"
