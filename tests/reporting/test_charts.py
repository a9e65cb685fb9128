"""Charts: where things are drawn, and what a reader who cannot see them is told."""

from xml.etree import ElementTree as ET

import pytest

from neither.reporting.plots import Axes, Bar, Line, draw_chart


def parse(svg: str) -> ET.Element:
    return ET.fromstring(svg)  # noqa: S314 - our own


def test_a_curve_goes_from_corner_to_corner() -> None:
    axes = Axes("epoch", "loss", (0, 10), (0, 2))
    (line,) = parse(draw_chart(axes, [Line("train", [(0, 0), (10, 2)])])).iter("polyline")
    (left, bottom), (right, top) = (
        map(float, point.split(",")) for point in line.attrib["points"].split()
    )
    assert (left, bottom, right, top) == (46, 224, 400, 10)


def test_what_lies_beyond_the_axes_is_drawn_at_their_edge() -> None:
    axes = Axes("epoch", "loss", (0, 1), (0, 1))
    (line,) = parse(draw_chart(axes, [Line("train", [(0, 9), (1, -9)])])).iter("polyline")
    assert line.attrib["points"] == "46.0,10.0 400.0,224.0"


def test_a_bar_has_its_whisker() -> None:
    axes = Axes("confidence", "right", (0, 1), (0, 1), as_percent=True)
    chart = parse(draw_chart(axes, [], [Bar(0.5, 0.5, 0.25, 1.0)], 0.1))
    (bar,) = chart.iter("rect")
    assert float(bar.attrib["width"]) == pytest.approx(35.4)
    assert float(bar.attrib["y"]) == 117
    (whisker,) = (line for line in chart.iter("line") if line.attrib["class"] == "whisker")
    assert (float(whisker.attrib["y1"]), float(whisker.attrib["y2"])) == (170.5, 10)


@pytest.mark.parametrize(
    ("most", "ticks"),
    [(12, "0 2 4 6 8 10 12"), (1, "0 0.2 0.4 0.6 0.8 1"), (200, "0 50 100 150 200"),
     (3, "0 0.5 1 1.5 2 2.5 3")],
)  # fmt: skip
def test_ticks_are_round_numbers(most: float, ticks: str) -> None:
    chart = parse(draw_chart(Axes("epoch", "loss", (0, most), (0, 1)), []))
    shown = [text.text for text in chart.iter("text") if text.get("text-anchor") == "middle"]
    assert shown[:-1] == ticks.split()


def test_the_ends_of_the_curves_are_told_and_names_stay_text() -> None:
    axes = Axes('a "name" <b>', "share", (0, 1), (0, 1), as_percent=True)
    lines = [Line("val", [(0, 0.5), (1, 0.75)]), Line("goal", [(0, 1), (1, 1)], "guide")]
    chart = parse(draw_chart(axes, lines))
    assert chart.attrib["aria-label"] == 'share over a "name" <b>. val ends at 75 %'
