"""Plots: what is drawn, and that both renderings work."""

import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from neither.reporting.plots import (
    plot_confusion,
    plot_curves,
    plot_reliability,
    plot_risk_coverage,
    to_pixels,
    to_svg,
)

ROWS = [
    {"epoch": epoch, "train": {"loss": 2 - epoch / 2}, "val": {"loss": 2.5 - epoch / 2}}
    for epoch in range(4)
]
BINS = [
    {"num_images": 10, "confidence": 0.5, "accuracy": 0.4},
    {"num_images": 90, "confidence": 1.0, "accuracy": 1.0},
]


def texts(svg: str) -> list[str | None]:
    root = ET.fromstring(svg.replace("xlink:href", "href"))  # noqa: S314 - our own
    return [element.text for element in root.iter() if element.tag.endswith("text")]


def plot_loss() -> Figure:
    figure = plot_curves(ROWS, "loss", as_percent=False)
    assert figure is not None
    return figure


def test_curves_show_train_and_val_and_leave_out_what_cannot_be_drawn() -> None:
    odd = [*ROWS, {"epoch": 4, "train": {"loss": float("nan")}}]
    figure = plot_curves(odd, "loss", as_percent=False)
    assert figure is not None
    train, val = figure.axes[0].lines
    assert np.asarray(train.get_xydata()).tolist() == [[0, 2], [1, 1.5], [2, 1], [3, 0.5]]
    assert np.asarray(val.get_ydata()).tolist() == [2.5, 2, 1.5, 1]
    assert figure.axes[0].get_xlim() == (0, 4)
    assert plot_curves(ROWS[:1], "loss", as_percent=False) is None
    assert plot_curves(ROWS, "macro_recall", as_percent=True) is None
    assert plot_curves([], "loss", as_percent=False) is None


def test_bars_of_a_reliability_diagram_are_at_their_bins_with_wilson_intervals() -> None:
    axes = plot_reliability(BINS).axes[0]
    bars = [bar for bar in axes.patches if isinstance(bar, Rectangle)]
    assert [bar.get_height() for bar in bars] == [0.4, 1.0]
    centers = [bar.get_x() + bar.get_width() / 2 for bar in bars]
    assert centers == pytest.approx([7.5 / 15, 14.5 / 15])
    (whiskers,) = axes.collections
    assert isinstance(whiskers, LineCollection)
    assert whiskers.get_segments()[0][:, 1] == pytest.approx([0.168, 0.687], abs=1e-3)


def test_risk_and_target_are_drawn() -> None:
    axes = plot_risk_coverage([(0.5, 0.0), (1.0, 0.2)], 0.95).axes[0]
    target, risk = axes.lines
    assert np.asarray(target.get_ydata()) == pytest.approx([0.05, 0.05])
    assert np.asarray(risk.get_ydata()).tolist() == [0.0, 0.2]


def test_svg_takes_fonts_and_colors_of_the_page_and_is_the_same_each_time() -> None:
    svg = to_svg(plot_loss(), "loss")
    assert svg == to_svg(plot_loss(), "loss")
    assert {"train", "val", "epoch", "loss", "0.0", "0"} <= set(texts(svg))
    assert 'aria-label="loss over epoch; train ends at 0.5; val ends at 1"' in svg
    assert all(f"var(--{name})" in svg for name in ("a", "b", "soft", "line"))
    assert not re.search(r"#[0-9a-f]{6}|font-family|metadata|<style", svg)
    assert len(svg) < 10_000


def test_svg_of_percent_plots_and_ids_have_their_prefix() -> None:
    svg = to_svg(plot_risk_coverage([(0.5, 0.0), (1.0, 0.2)], 0.95), "risk")
    assert "model ends at 20.0 %" in svg
    assert "target ends" not in svg
    assert all(each.startswith("risk-") for each in re.findall(r' id="([^"]*)"', svg))
    assert "100 %" in texts(to_svg(plot_reliability(BINS), "reliability"))


@pytest.mark.parametrize("num_classes", [2, 13, 50])
def test_pixels_are_rgb_on_a_light_background(num_classes: int) -> None:
    """Class names may be in any script, and no formula is set."""
    classes = ["犬 $x", *map(str, range(num_classes - 1))]
    counts = np.eye(num_classes, dtype=int).tolist()
    for figure in (plot_confusion(counts, classes, "epoch 3"), plot_reliability(BINS, "epoch 3")):
        pixels = to_pixels(figure)
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == 3
        assert pixels[0, 0].tolist() == [250, 250, 250]
        assert pixels.std() > 5
