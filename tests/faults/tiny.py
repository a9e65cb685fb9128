"""A run that takes a moment, and how its end is judged."""

import csv
from pathlib import Path

from calls import Done

TINY = """name: tiny
classes: [dog, human, neither]
reject_class: neither
device: cpu
data: {root: ROOT, image_size: 8}
augmentation: {crop_scale: [1.0, 1.0], rotation_degrees: 0, color_jitter: 0, grayscale: 0,
               random_erasing: 0}
model: {name: softmax_regression}
train: {epochs: 2, batch_size: 8, optimizer: sgd, lr: 0.01}
"""


def read_scores(done: Done, folder: Path) -> dict[str, tuple[str, ...]]:
    """Return the probabilities of each file, as written, by the names of the classes."""
    assert done.code == 0, done.err
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return {
            row["path"]: tuple(row[f"prob_{name}"] for name in ("dog", "human", "neither"))
            for row in csv.DictReader(file)
        }


def assert_refused(done: Done, code: int, *said: str) -> None:
    """Demand one message that says all this, an exit code, no results and no traceback."""
    assert done.code == code, done.err
    assert done.out == ""
    assert "Traceback" not in done.err
    assert [line for line in done.err.splitlines() if line.startswith(("error: ", "usage: "))]
    for each in said:
        assert each in done.err, done.err
