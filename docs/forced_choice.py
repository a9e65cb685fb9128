"""Compare the predictions of two and of three outputs for the same images of neither.

    python docs/forced_choice.py [TWO_CLASS_RUN THREE_CLASS_RUN] [--plot FILE]

Reads the evaluations of `make demo` and prints two lines; plots the confidences with --plot.
"""

import argparse
import csv
import statistics
import sys
from collections import Counter
from pathlib import Path

from matplotlib.figure import Figure

PREDICTIONS = Path("evaluations") / "demo-test" / "predictions.csv"
SUBJECT = "neither"
COLORS = {"two": "#c8792b", "three": "#3b78c3"}


def main() -> None:
    """Print the comparison, and plot it on request."""
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", type=Path, nargs="*", default=[Path("runs/two_class"),
                                                               Path("runs/demo")])  # fmt: skip
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    two, three = (read(run / PREDICTIONS) for run in arguments.runs)
    predicted = Counter(row["predicted"] for row in two)
    names = " and ".join(f"{num} {name}" for name, num in sorted(predicted.items()))
    print(f"two outputs:   {len(two)} images of {SUBJECT} predicted as {names}, "
          f"at a mean confidence of {mean_confidence(two):.3f}")  # fmt: skip
    right = sum(row["predicted"] == SUBJECT for row in three)
    print(f"three outputs: {right} of the same {len(three)} predicted as {SUBJECT}, "
          f"at a mean confidence of {mean_confidence(three):.3f}")  # fmt: skip
    if arguments.plot:
        draw(two, three, arguments.plot)


def read(path: Path) -> list[dict[str, str]]:
    """Return the rows of the images of neither."""
    if not path.is_file():
        sys.exit(f"error: {path}: no such file; make demo writes it")
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["true_label"] == SUBJECT]


def mean_confidence(rows: list[dict[str, str]]) -> float:
    """Return the mean probability of the predicted class."""
    return statistics.mean(float(row["confidence"]) for row in rows)


def draw(two: list[dict[str, str]], three: list[dict[str, str]], target: Path) -> None:
    """Plot histograms of the larger of the probabilities of dog and human."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, rows, name in zip(axes, (two, three), COLORS, strict=True):
        known = [max(float(row["prob_dog"]), float(row["prob_human"])) for row in rows]
        axis.hist(known, bins=[step / 20 for step in range(21)], color=COLORS[name])
        axis.set_title(f"{name} outputs", fontsize=11)
        axis.set_xlabel("larger of the probabilities of dog and human")
    axes[0].set_ylabel(f"images of {SUBJECT}")
    figure.savefig(target, dpi=100)


if __name__ == "__main__":
    main()
