"""Charts as SVG that takes its colours from the page around it, light or dark."""

from collections.abc import Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT = 420, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 36
_TICKS = 5

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
        x: least and greatest.
        y: likewise.
        as_percent: write y, and x if it ends at 1, in percent.
    """

    across: str
    up: str
    x: tuple[float, float]
    y: tuple[float, float]
    as_percent: bool = False


def draw_lines(axes: Axes, lines: Sequence[Line], bars: Points = (), bar_width: float = 0.0) -> str:
    """Draw curves, and bars behind them, as one SVG element.

    Args:
        axes: of the chart.
        lines: its curves.
        bars: (middle, height) of each bar.
        bar_width: of all bars, in units of x.
    """
    parts = [_grid(axes)]
    for middle, height in bars:
        left, right = (_x(axes, middle + side * bar_width / 2) for side in (-1, 1))
        top = _y(axes, height)
        parts.append(f'<rect class="bar" x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
                     f'height="{_HEIGHT - _BOTTOM - top:.1f}"/>')  # fmt: skip
    for line in lines:
        path = " ".join(f"{_x(axes, x):.1f},{_y(axes, y):.1f}" for x, y in line.points)
        parts.append(f'<polyline class="line {line.kind}" points="{path}"/>')
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{_escape(_tell(axes, lines))}">'
        f"{''.join(parts)}</svg>"
    )


def _tell(axes: Axes, lines: Sequence[Line]) -> str:
    """Say what a reader who cannot see the chart needs: where each curve ends."""
    ends = [f"{line.name} ends at {_figure(line.points[-1][1], axes.as_percent)}"
            for line in lines if line.points and line.kind != "guide"]  # fmt: skip
    return f"{axes.up} over {axes.across}. {'; '.join(ends)}"


def _grid(axes: Axes) -> str:
    parts = []
    for step in range(_TICKS + 1):
        y = axes.y[0] + (axes.y[1] - axes.y[0]) * step / _TICKS
        x = axes.x[0] + (axes.x[1] - axes.x[0]) * step / _TICKS
        at, across = _y(axes, y), _x(axes, x)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" '
                     f'y2="{at:.1f}"/><text class="tick" x="{_LEFT - 6}" y="{at + 4:.1f}" '
                     f'text-anchor="end">{_figure(y, axes.as_percent)}</text>')  # fmt: skip
        is_share = axes.as_percent and axes.x[1] == 1
        parts.append(f'<text class="tick" x="{across:.1f}" y="{_HEIGHT - _BOTTOM + 15}" '
                     f'text-anchor="middle">{_figure(x, is_share)}</text>')  # fmt: skip
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{_HEIGHT - 4}" text-anchor="middle">'
                 f"{_escape(axes.across)}</text>")  # fmt: skip
    return "".join(parts)


def _x(axes: Axes, value: float) -> float:
    share = (value - axes.x[0]) / ((axes.x[1] - axes.x[0]) or 1)
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _y(axes: Axes, value: float) -> float:
    share = (value - axes.y[0]) / ((axes.y[1] - axes.y[0]) or 1)
    return _HEIGHT - _BOTTOM - min(max(share, 0.0), 1.0) * (_HEIGHT - _TOP - _BOTTOM)


def _figure(value: float, as_percent: bool) -> str:
    if as_percent:
        return f"{100 * value:.0f} %"
    return f"{value:.0f}" if value == round(value) or abs(value) >= 20 else f"{value:.2g}"


def _escape(text: str) -> str:
    from html import escape

    return escape(text, quote=True)
