"""Plots of a run and an evaluation, for TensorBoard as pixels and for a report as inline SVG.

Each `plot_*` function returns a matplotlib figure; `to_pixels` and `to_svg` render it.
"""

import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from neither.evaluation.calibration import NUM_BINS, bin_center
from neither.evaluation.metrics import wilson_interval

# The colors of report.html.jinja by light; `to_svg` puts the variables in, which dark pages change.
_TRAIN, _VAL, _TEXT, _GRID = "#c2410c", "#1d63c4", "#5a6675", "#cfd6df"
_VARIABLES = {_TRAIN: "var(--a)", _VAL: "var(--b)", _TEXT: "var(--soft)", _GRID: "var(--line)"}
_BACKGROUND = "#fafafa"  # light in TensorBoard's dark theme too: text would vanish on transparency
_MAX_COUNT_CLASSES = 12  # more classes leave no space for the counts in the cells
_MAX_NAME_CLASSES = 40


def plot_curves(rows: Sequence[Mapping[str, Any]], metric: str, as_percent: bool) -> Figure | None:
    """Plot a metric on train and val over the epochs, from the rows of `metrics.jsonl`.

    The range is 0 to 100 % or, if not `as_percent`, to the largest value. The result is None if
    there are not two epochs with the metric.
    """
    figure, axes = _new_figure("epoch", metric.replace("_", " "), as_percent)
    values: list[float] = []
    for split, color in (("train", _TRAIN), ("val", _VAL)):
        points = [
            (row["epoch"], value)
            for row in rows
            if math.isfinite(value := row.get(split, {}).get(metric, math.nan))
        ]
        if points:
            values += [value for _, value in points]
            marker = "o" if len(points) == 1 else None
            axes.plot(*zip(*points, strict=True), color=color, marker=marker, label=split)
    epochs = [row["epoch"] for row in rows]
    if not values or min(epochs) == max(epochs):
        return None
    axes.set_xlim(0, max(epochs))
    axes.set_ylim(0, 1 if as_percent else 1.05 * max(values) or 1)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    _add_legend(axes)
    return figure


def plot_reliability(bins: Sequence[Mapping[str, float]], title: str = "") -> Figure:
    """Plot the accuracy of each bin of `reliability_bins` with its 95 % interval."""
    figure, axes = _new_figure("confidence", "accuracy", True, title)
    accuracies = np.array([row["accuracy"] for row in bins])
    intervals = [wilson_interval(row["accuracy"], int(row["num_images"])) for row in bins]
    whiskers = np.abs(np.transpose(intervals) - accuracies)
    axes.bar(
        [bin_center(row["confidence"]) for row in bins], accuracies, 0.9 / NUM_BINS,
        yerr=whiskers, color=_VAL, alpha=0.4, label="model, with 95 % interval",
        error_kw={"ecolor": _VAL, "elinewidth": 1.2},
    )  # fmt: skip
    axes.plot([0, 1], [0, 1], color=_TEXT, linestyle="--", linewidth=1.2, label="calibrated")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.xaxis.set_major_formatter(_percent_formatter())
    _add_legend(axes)
    return figure


def plot_risk_coverage(
    points: Sequence[tuple[float, float]], target_precision: float, title: str = ""
) -> Figure:
    """Plot `risk_coverage`: the error rate of the accepted predictions over their fraction.

    A dashed line shows the error rate that the target precision of the threshold allows.
    """
    figure, axes = _new_figure("accepted, most confident first", "error rate", True, title)
    target = 1 - target_precision
    axes.plot([0, 1], [target, target], color=_TEXT, linestyle="--", linewidth=1.2, label="target")
    axes.plot(*zip(*points, strict=True), color=_VAL, label="model")
    top = max(target, *(risk for _, risk in points))
    axes.set(xlim=(0, 1), ylim=(0, min(1, 1.25 * top) or 0.01))
    axes.xaxis.set_major_formatter(_percent_formatter())
    axes.yaxis.set_major_formatter(_percent_formatter(None))
    _add_legend(axes)
    return figure


def plot_confusion(
    counts: Sequence[Sequence[int]], classes: Sequence[str], title: str = ""
) -> Figure:
    """Plot a confusion matrix; the darker a cell, the larger its fraction of the true class.

    The counts are C rows of C; row = true class, column = predicted class.
    """
    figure, axes = _new_figure("predicted", "true", False, title)
    figure.set_size_inches(4.4, 3.9)
    axes.grid(False)
    table = np.array(counts)
    fractions = table / np.maximum(1, table.sum(axis=1, keepdims=True))
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    if len(classes) <= _MAX_COUNT_CLASSES:
        for (row, column), fraction in np.ndenumerate(fractions):
            text = f"{table[row, column]:,}\n{100 * fraction:.0f} %"
            color = "white" if fraction > 0.5 else "black"
            axes.text(column, row, text, ha="center", va="center", color=color)
    if len(classes) <= _MAX_NAME_CLASSES:
        axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right", parse_math=False)
        axes.set_yticks(range(len(classes)), classes, parse_math=False)
    return figure


def to_pixels(figure: Figure) -> NDArray[np.uint8]:
    """Render a figure as (H, W, 3) uint8 RGB."""
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a class name may be in any script
        canvas.draw()  # type: ignore[no-untyped-call]
    pixels: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return pixels[:, :, :3].copy()


def to_svg(figure: Figure, name: str) -> str:
    """Render a figure as an `<svg>` element with the fonts and colors of the page around it.

    The ids in the element begin with `name`, which is unique in the page.
    """
    file = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", facecolor="none", metadata={"Date": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(|href=")#(\w+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{name}-", svg)
    svg = re.sub(r"font-family: [^;]*; |font-weight: \w+; ", "", svg)
    svg = re.sub(r"(\.\d\d)\d+", r"\1", svg)  # coordinates
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, variable)
    svg = re.sub(r">\s+<", "><", svg).strip()
    viewbox = re.search(r'viewBox="[^"]*"', svg)
    label = f'role="img" aria-label="{_describe(figure.axes[0])}"'
    return re.sub(r"<svg[^>]*>", f"<svg {viewbox[0] if viewbox else ''} {label}>", svg, count=1)


def _describe(axes: Axes) -> str:
    """Return the labels of the axes and where each curve ends, for readers who see no plot."""
    is_percent = isinstance(axes.yaxis.get_major_formatter(), PercentFormatter)
    ends = [
        f"{line.get_label()} ends at {f'{100 * y:.1f} %' if is_percent else f'{y:.3g}'}"
        for line in axes.lines
        if line.get_linestyle() == "-" and not str(line.get_label()).startswith("_")
        for y in [float(np.asarray(line.get_ydata())[-1])]
    ]
    return "; ".join([f"{axes.get_ylabel()} over {axes.get_xlabel()}", *ends])


def _new_figure(
    x_label: str, y_label: str, as_percent: bool, title: str = ""
) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.4, 3.0), layout="constrained", facecolor=_BACKGROUND)
    axes = figure.add_subplot(facecolor="none")
    figure.suptitle(title, fontsize=10)
    axes.set_xlabel(x_label, color=_TEXT, fontsize=9)
    axes.set_ylabel(y_label, color=_TEXT, fontsize=9)
    axes.tick_params(labelsize=8.5, labelcolor=_TEXT, length=0, pad=5)
    axes.spines[:].set_visible(False)
    axes.grid(color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    if as_percent:
        axes.yaxis.set_major_formatter(_percent_formatter())
    return figure, axes


def _percent_formatter(decimals: int | None = 0) -> PercentFormatter:
    return PercentFormatter(1, decimals, symbol=" %")


def _add_legend(axes: Axes) -> None:
    """Add a legend above the axes, where it hides no curve."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=8.5,
                labelcolor=_TEXT)  # fmt: skip
