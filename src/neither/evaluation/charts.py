"""Charts as SVG that takes its colours from the page around it, light or dark."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

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
