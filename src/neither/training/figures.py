"""Charts of val as images: TensorBoard has no page of its own for them."""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from neither.evaluation.calibration import NUM_BINS, middle_of_bin

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
    middles = [middle_of_bin(each) for each in confidences]
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


def _new_figure(title: str) -> tuple[Figure, Axes]:
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
