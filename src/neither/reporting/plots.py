"""Charts as SVG that takes its colours from the page around it, light or dark.

Charts of val as images: TensorBoard has no page of its own for them.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from matplotlib.axes import Axes as MatplotlibAxes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from neither.evaluation.calibration import NUM_BINS, bin_center

_WIDTH, _HEIGHT = 420, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 20, 10, 36
_MOST_TICKS = 6

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """One curve of a chart.

    Attributes:
        name: what the legend calls it.
        points: (x, y), x not falling.
        kind: of its style in the page: a, b, or guide.
    """

    name: str
    points: Points
    kind: str = "a"


@dataclass(frozen=True)
class Axes:
    """What the places of a chart mean.

    Attributes:
        across: what x is.
        up: what y is.
        x: least and greatest, the latter larger.
        y: likewise; what lies beyond is drawn at the edge.
        as_percent: write y, and x if it ends at 1, in percent.
    """

    across: str
    up: str
    x: tuple[float, float]
    y: tuple[float, float]
    as_percent: bool = False


@dataclass(frozen=True)
class Bar:
    """A share that was counted, with its 95 % interval as a whisker.

    Attributes:
        x: its middle.
        y: its height.
        low: end of the whisker.
        high: the other one.
    """

    x: float
    y: float
    low: float
    high: float


def draw_chart(
    axes: Axes, lines: Sequence[Line], bars: Sequence[Bar] = (), bar_width: float = 0.0
) -> str:
    """Draw curves, and bars behind them, as one SVG element.

    Args:
        axes: of the chart.
        lines: its curves.
        bars: all of one width.
        bar_width: in units of x.
    """
    parts = [_grid(axes), *(_bar(axes, bar, bar_width) for bar in bars)]
    for line in lines:
        path = " ".join(f"{_x(axes, x):.1f},{_y(axes, y):.1f}" for x, y in line.points)
        parts.append(f'<polyline class="line {line.kind}" points="{path}"/>')
    told = escape(_tell(axes, lines))
    box = f'viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    return f'<svg {box} role="img" aria-label="{told}">{"".join(parts)}</svg>'


def _bar(axes: Axes, bar: Bar, width: float) -> str:
    left, middle, right = (_x(axes, bar.x + share * width) for share in (-0.5, 0, 0.5))
    top, low, high = (_y(axes, y) for y in (bar.y, bar.low, bar.high))
    return (
        f'<rect class="bar" x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
        f'height="{_HEIGHT - _BOTTOM - top:.1f}"/><line class="whisker" x1="{middle:.1f}" '
        f'x2="{middle:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
    )


def _tell(axes: Axes, lines: Sequence[Line]) -> str:
    """Say what a reader who cannot see the chart needs: where each curve ends."""
    ends = [f"{line.name} ends at {_figure(line.points[-1][1], axes.as_percent)}"
            for line in lines if line.points and line.kind != "guide"]  # fmt: skip
    return f"{axes.up} over {axes.across}. {'; '.join(ends)}"


def _grid(axes: Axes) -> str:
    parts = []
    for y in _ticks(*axes.y):
        at = _y(axes, y)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" '
                     f'y2="{at:.1f}"/><text class="tick" x="{_LEFT - 6}" y="{at + 4:.1f}" '
                     f'text-anchor="end">{_figure(y, axes.as_percent)}</text>')  # fmt: skip
    for x in _ticks(*axes.x):
        is_share = axes.as_percent and axes.x[1] == 1
        parts.append(f'<text class="tick" x="{_x(axes, x):.1f}" y="{_HEIGHT - _BOTTOM + 15}" '
                     f'text-anchor="middle">{_figure(x, is_share)}</text>')  # fmt: skip
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{_HEIGHT - 4}" text-anchor="middle">'
                 f"{escape(axes.across)}</text>")  # fmt: skip
    return "".join(parts)


def _ticks(least: float, most: float) -> list[float]:
    """Return round numbers of a range, a few: multiples of 1, 2 or 5 times a power of ten."""
    step = 10.0 ** math.floor(math.log10((most - least) / _MOST_TICKS or 1))
    step *= next(factor for factor in (1, 2, 5, 10) if step * factor * _MOST_TICKS >= most - least)
    first = math.ceil(least / step - 1e-9)
    return [number * step for number in range(first, math.floor(most / step + 1e-9) + 1)]


def _x(axes: Axes, value: float) -> float:
    share = (value - axes.x[0]) / (axes.x[1] - axes.x[0])
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _y(axes: Axes, value: float) -> float:
    share = (value - axes.y[0]) / (axes.y[1] - axes.y[0])
    return _HEIGHT - _BOTTOM - min(max(share, 0.0), 1.0) * (_HEIGHT - _TOP - _BOTTOM)


def _figure(value: float, as_percent: bool) -> str:
    if as_percent:
        return f"{100 * value:.0f} %"
    return f"{value:g}" if abs(value) < 1e5 else f"{value:.0f}"


_MOST_COUNTS = 12  # classes, above which the counts in the cells could not be read
_MOST_NAMES = 40
_PAPER = "#fafafa"  # light in TensorBoard's dark theme too: ink on nothing would vanish in one
_MODEL, _GUIDE = "#286ec8", "#969696"


def draw_confusion(
    counts: Sequence[Sequence[int]], classes: Sequence[str], epoch: int
) -> NDArray[np.uint8]:
    """Draw a confusion matrix; the darker a cell, the larger its share of the true class.

    Args:
        counts: C rows of C; row = true class, column = predicted class.
        classes: C names.
        epoch: for the title.

    Returns:
        (H, W, 3) uint8 RGB, as all of this file.
    """
    figure, axes = _new_figure(f"confusion on val, epoch {epoch}")
    table = np.array(counts)
    shares = table / np.maximum(1, table.sum(axis=1, keepdims=True))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(classes) <= _MOST_COUNTS:
        for (row, column), share in np.ndenumerate(shares):
            text = f"{table[row, column]:,}\n{100 * share:.0f} %"
            colour = "white" if share > 0.5 else "black"
            axes.text(column, row, text, ha="center", va="center", color=colour)
    if len(classes) <= _MOST_NAMES:
        axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right", parse_math=False)
        axes.set_yticks(range(len(classes)), classes, parse_math=False)
    axes.set(xlabel="predicted", ylabel="true")
    return _render(figure)


def draw_reliability(rows: Sequence[Mapping[str, float]], epoch: int) -> NDArray[np.uint8]:
    """Draw how often predictions of each confidence are right.

    Args:
        rows: of `reliability`.
        epoch: for the title.
    """
    figure, axes = _new_figure(f"reliability on val, epoch {epoch}")
    axes.plot([0, 1], [0, 1], color=_GUIDE, linestyle="--", label="perfect")
    confidences = [row["confidence"] for row in rows]
    middles = [bin_center(each) for each in confidences]
    most = max(row["num_images"] for row in rows)
    axes.bar(middles, [row["num_images"] / most for row in rows], 0.9 / NUM_BINS, color="#dddddd",
             label="images, to scale")  # fmt: skip
    accuracies = [row["accuracy"] for row in rows]
    axes.plot(confidences, accuracies, color=_MODEL, marker="o", label="network")
    axes.set(xlabel="confidence", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(loc="upper left")
    return _render(figure)


def draw_risk_coverage(
    points: Sequence[tuple[float, float]], promise: float, epoch: int
) -> NDArray[np.uint8]:
    """Draw how many errors are accepted when the least sure images are withheld.

    Args:
        points: (share accepted, share of these that is right), of `risk_coverage`.
        promise: the share that the threshold is fitted to.
        epoch: for the title.
    """
    figure, axes = _new_figure(f"risk over coverage on val, epoch {epoch}")
    axes.axhline(1 - promise, color=_GUIDE, linestyle="--", label="promise")
    axes.plot([share for share, _ in points], [1 - right for _, right in points], color=_MODEL,
              label="network")  # fmt: skip
    axes.set(xlabel="share of images accepted, surest first", ylabel="share of these that is wrong",
             xlim=(0, 1))  # fmt: skip
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left")
    return _render(figure)


def _new_figure(title: str) -> tuple[Figure, MatplotlibAxes]:
    figure = Figure(figsize=(4.4, 3.9), layout="constrained", facecolor=_PAPER)
    axes = figure.add_subplot(facecolor=_PAPER)
    axes.set_title(title, fontsize=10)
    return figure, axes


def _render(figure: Figure) -> NDArray[np.uint8]:
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a class may be named in any script
        canvas.draw()  # type: ignore[no-untyped-call]
    pixels: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return pixels[:, :, :3].copy()
