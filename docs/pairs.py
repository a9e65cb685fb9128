"""Predictions of the demo run for drawn images of a dog and a human together.

    python docs/pairs.py [RUN]

Draws a hundred pairs into a temporary folder, evaluates them, and prints the mean probabilities.
Some are shown in `docs/pairs.png`.
"""

import csv
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from neither.demo.drawing import draw_pair

DOCS = Path(__file__).parent
CLASSES = ("dog", "human", "neither")
NUM_PAIRS = 100
NUM_SHOWN = 5


def main() -> None:
    """Draw, evaluate, print."""
    run = sys.argv[1] if len(sys.argv) > 1 else "runs/demo"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "pairs"
        folder.mkdir()
        for number in range(NUM_PAIRS):
            draw_pair(0, number).save(folder / f"{number:03}.png")
        subprocess.run(
            [sys.executable, DOCS.parent / "scripts" / "evaluate.py", run, folder,
             "--output-dir", Path(name) / "answers"],
            check=True, capture_output=True,
        )  # fmt: skip
        with (Path(name) / "answers" / "predictions.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        draw(rows[:NUM_SHOWN], folder)
    means = {name: statistics.mean(float(row[f"prob_{name}"]) for row in rows) for name in CLASSES}
    called = Counter(row["predicted"] for row in rows)
    num_confident = sum(float(row["confidence"]) > 0.9 for row in rows)
    shown = ", ".join(f"{name} {mean:.2f}" for name, mean in means.items())
    counts = ", ".join(f"{name} {called[name]}" for name in CLASSES)
    print(f"{NUM_PAIRS} images of a dog and a human: mean probabilities {shown}")
    print(f"predicted {counts}; confidence above 0.9 in {num_confident}")


def draw(rows: list[dict[str, str]], folder: Path) -> None:
    """Show some pairs below their probabilities."""
    figure = Figure(figsize=(12, 2.6), layout="constrained")
    for index, row in enumerate(rows):
        cell = figure.add_subplot(1, len(rows), index + 1)
        cell.imshow(Image.open(folder / row["path"]))
        cell.set_axis_off()
        values = (f"{name} {float(row[f'prob_{name}']):.2f}" for name in CLASSES)
        cell.set_title("  ".join(values), fontsize=9)
    figure.savefig(DOCS / "pairs.png", dpi=100)


if __name__ == "__main__":
    main()
