"""What two outputs and what three outputs say of the same pictures of neither.

    python docs/forced_choice.py [TWO_CLASS_RUN THREE_CLASS_RUN] [--picture FILE]

Reads the evaluations that `make demo` leaves and prints two lines; draws the confidences on demand.
"""

import argparse
import csv
import statistics
import sys
from collections import Counter
from pathlib import Path

from matplotlib.figure import Figure

SCORED = Path("evaluations") / "demo-test" / "predictions.csv"
SUBJECT = "neither"
COLOURS = {"two": "#c8792b", "three": "#3b78c3"}


def main() -> None:
    """Print, and draw."""
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", type=Path, nargs="*", default=[Path("runs/two_class"),
                                                               Path("runs/demo")])  # fmt: skip
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    two, three = (read(run / SCORED) for run in arguments.runs)
    called = Counter(row["predicted"] for row in two)
    names = " and ".join(f"{num} {name}" for name, num in sorted(called.items()))
    print(f"two outputs:   {len(two)} pictures of {SUBJECT} called {names}, "
          f"at a mean confidence of {mean_confidence(two):.3f}")  # fmt: skip
    right = sum(row["predicted"] == SUBJECT for row in three)
    print(f"three outputs: {right} of the same {len(three)} called {SUBJECT}, "
          f"at a mean confidence of {mean_confidence(three):.3f}")  # fmt: skip
    if arguments.picture:
        draw(two, three, arguments.picture)


def read(path: Path) -> list[dict[str, str]]:
    """Return the rows of the pictures of neither."""
    if not path.is_file():
        sys.exit(f"error: {path}: no such file; make demo writes it")
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["true_label"] == SUBJECT]


def mean_confidence(rows: list[dict[str, str]]) -> float:
    """Return the mean probability of the predicted class."""
    return statistics.mean(float(row["confidence"]) for row in rows)


def draw(two: list[dict[str, str]], three: list[dict[str, str]], target: Path) -> None:
    """Show how the probability of being a dog or a human is spread."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, rows, name in zip(axes, (two, three), COLOURS, strict=True):
        known = [max(float(row["prob_dog"]), float(row["prob_human"])) for row in rows]
        axis.hist(known, bins=[step / 20 for step in range(21)], color=COLOURS[name])
        axis.set_title(f"{name} outputs", fontsize=11)
        axis.set_xlabel("probability of dog or of human, the larger of the two")
    axes[0].set_ylabel(f"pictures of {SUBJECT}")
    figure.savefig(target, dpi=100)


if __name__ == "__main__":
    main()
