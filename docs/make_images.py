"""Draw the images of the README and of softmax.md from a finished `make demo`.

    .venv/bin/python docs/make_images.py

`softmax_scores.png` shows scores and their softmax; `predictions.png` shows test images and images
of unseen kinds with the probabilities of the demo run; `reasons.png` shows class activation maps.
"""

import csv
import itertools
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image

from neither.models.softmax import to_probabilities

DOCS = Path(__file__).parent
RUN = DOCS.parent / "runs" / "demo"
IMAGES = DOCS.parent / "data" / "demo" / "test"
COLORS = {"dog": "#c8792b", "human": "#3b78c3", "neither": "#7a7a7a"}
SCORES = {
    "all equal": (0.0, 0.0, 0.0),
    "all negative": (-4.0, -3.0, -5.0),
    "one a little larger": (1.0, 0.0, 0.5),
    "one much larger": (8.0, 1.0, -2.0),
    "the same, each less 4": (4.0, -3.0, -6.0),
}
EXPLAINED = ("dog/0003.png", "human/0005.png", "neither/0008.png")


def main() -> None:
    """Draw all images."""
    draw_scores(DOCS / "softmax_scores.png")
    draw_predictions(DOCS / "predictions.png")
    draw_reasons(DOCS / "reasons.png")


def draw_scores(target: Path) -> None:
    """Plot rows of scores above their softmax."""
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    axes = figure.subplots(2, len(SCORES), sharex=True, sharey="row")
    softmax = to_probabilities(torch.tensor(list(SCORES.values()))).tolist()
    rows = zip(axes.T, SCORES.items(), softmax, strict=True)
    for (above, below), (title, scores), probabilities in rows:
        for axis, values in ((above, scores), (below, probabilities)):
            bars = axis.bar(list(COLORS), values, color=list(COLORS.values()))
            axis.bar_label(bars, [f"{value:.3g}" for value in values], padding=2, fontsize=9)
            axis.axhline(0, color="black", linewidth=0.8)
            axis.spines[["top", "right"]].set_visible(False)
        above.set_title(title, fontsize=11)
        above.set_ylim(-8, 11)
        below.set_ylim(0, 1.12)
    axes[0, 0].set_ylabel("score")
    axes[1, 0].set_ylabel("probability")
    figure.savefig(target, dpi=100)


def draw_predictions(target: Path) -> None:
    """Show images with their probabilities as bars, including mistakes."""
    with (RUN / "evaluations" / "demo-test" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = choose_rows(rows)
    figure = Figure(figsize=(12, 4.9), layout="constrained")
    for index, row in enumerate(chosen):
        cell = figure.add_subplot(2, 6, index + 1)
        cell.imshow(square(Image.open(IMAGES / row["path"]).convert("RGB")))
        cell.set_xticks([])
        cell.set_yticks([])
        true = row["true_label"] if row["true_label"] in COLORS else "neither"
        right = row["predicted"] == true
        cell.set_title(
            f"{row['true_label']} → {row['predicted']} {float(row['confidence']):.2f}",
            fontsize=8,
            color="black" if right else "#b00020",
        )
        bars = cell.inset_axes((0, -0.36, 1, 0.32))
        values = [float(row[f"prob_{name}"]) for name in reversed(COLORS)]
        bars.barh(range(len(values)), values, color=list(reversed(COLORS.values())))
        bars.set_yticks(range(len(values)), list(reversed(COLORS)))
        bars.set_xlim(0, 1)
        bars.set_xticks([])
        bars.tick_params(axis="y", length=0, labelsize=8)
        bars.spines[["top", "right", "bottom"]].set_visible(False)
    figure.savefig(target, dpi=100)


def choose_rows(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Choose images of each class and each unseen kind, and the most confident mistakes."""
    known = [row for row in rows if row["true_label"] in COLORS]
    wrong = [row for row in known if row["predicted"] != row["true_label"]]
    wrong.sort(key=lambda row: -float(row["confidence"]))
    unseen = [row for row in rows if row["true_label"] not in COLORS]
    kinds = sorted({row["true_label"] for row in unseen})
    some = [
        [row for row in known if row["true_label"] == name and row["predicted"] == name][3::60][:2]
        for name in COLORS
    ]
    others = [next(row for row in unseen if row["true_label"] == kind) for kind in kinds]
    return [*itertools.chain(*some), *wrong[:2], *others[: 6 - len(wrong[:2])]]


def square(image: Image.Image) -> Image.Image:
    """Pad to a square, so that all bars have the same height."""
    side = max(image.size)
    padded = Image.new("RGB", (side, side), "white")
    padded.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return padded


def draw_reasons(target: Path) -> None:
    """Put some heat maps of `predict --explain` side by side."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = [IMAGES / name for name in EXPLAINED]
        subprocess.run(
            [sys.executable, DOCS.parent / "scripts" / "predict.py", RUN, *chosen,
             "--explain", folder, "--format", "csv"],
            check=True, capture_output=True,
        )  # fmt: skip
        drawn = [Image.open(path) for path in sorted(Path(folder).rglob("*.png"))]
        sheet = Image.new("RGB", (len(drawn) * 400, 218), "white")
        for number, image in enumerate(drawn):
            sheet.paste(image.resize((392, 214)), (number * 400, 0))
        sheet.save(target)


if __name__ == "__main__":
    main()
