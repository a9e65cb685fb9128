"""A config that trains in a fraction of a second, and checks of how a command ended."""

import csv
from dataclasses import dataclass
from pathlib import Path

import torch

from calls import Call, Done
from images import CLASSES
from neither.models.checkpoint import read_archive

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


@dataclass(frozen=True)
class TinyRun:
    """A run that a test starts, interrupts and resumes.

    Attributes:
        folder: of the run; its config is beside it.
        reference: a finished run of the same config.
        call: runs a command.
    """

    folder: Path
    reference: Path
    call: Call

    def train(self, *more: str | Path) -> Done:
        """Start or resume it."""
        config = self.folder.with_name("tiny.yaml")
        return self.call("train", config, *more, "--output-dir", self.folder)

    def assert_finished(self) -> None:
        """Require that it ends with exit code 0 in the bits of the reference."""
        done = self.train()
        assert done.code == 0, done.err
        self.assert_same_weights()

    def assert_same_weights(self) -> None:
        ours, expected = (read_archive(run / "checkpoints" / "last.pt")[0]["weights"]
                          for run in (self.folder, self.reference))  # fmt: skip
        assert all(torch.equal(ours[name], expected[name]) for name in expected)


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def read_probabilities(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return the probabilities of each file, as written, in the order of the class names."""
    return {
        row["path"]: tuple(row[f"prob_{name}"] for name in CLASSES)
        for row in read_rows(folder / "predictions.csv")
    }


def assert_refused(done: Done, code: int, *parts: str) -> None:
    """Require one error message with all these parts, no results and no traceback."""
    assert done.code == code, done.err
    assert done.out == ""
    assert "Traceback" not in done.err
    assert [line for line in done.err.splitlines() if line.startswith(("error: ", "usage: "))]
    for part in parts:
        assert part in done.err, done.err
