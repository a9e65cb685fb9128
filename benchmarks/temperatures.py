"""How far should a temperature be held to 1, when the images to fit it on are few?

    python benchmarks/temperatures.py [--draws 30]

Draws networks whose right temperature is known, fits one on 20 to 1,000 images, and prints the mean
loss on 20,000 others: the lowest that any temperature reaches; labels alone; labels smoothed by
Laplace's rule, as if each class had one image more, or T = 1 where that is worse on the labels; and
a prior for T = 1 with the weight of 1, 3 or 10 images. The product's is that of 3.
"""

import argparse
import statistics
from collections.abc import Callable
from itertools import product
from typing import Any

import results
import torch
import torch.nn.functional as F
from torch import Tensor

from neither.evaluation.calibration import MAX_TEMPERATURE, MIN_TEMPERATURE, fit_temperature
from neither.evaluation.metrics import nll
from neither.models.softmax import to_probabilities

NUM_CLASSES = 3
NUM_OTHERS = 20_000
# How far classes are apart, share of labels at random, spread of how sure it is without being right
WORLDS = {"92 %": (2.4, 0, 0), "98 %": (3.2, 0, 0), "99.8 %": (4.5, 0, 0),
          "98 %, 1 % wrong labels": (3.2, 0.01, 0), "uneven": (2.4, 0.005, 0.7)}  # fmt: skip
SIZES = (20, 75, 300, 1000)
RIGHT = (0.25, 0.6, 1.0, 1.6, 3.0)
Fit = Callable[[Tensor, Tensor], float]


def main() -> None:
    """Draw, fit, score, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--draws", type=int, default=30)
    num_draws = parser.parse_args().draws
    fits: dict[str, Fit] = {"labels": held(0), "laplace": laplace}
    fits |= {f"prior {weight}": held(weight) for weight in (1, 3, 10)}
    generator = torch.Generator().manual_seed(0)
    rows: list[dict[str, Any]] = []
    print(f"{'world':24}     n right T  lowest " + " ".join(f"{name:>8}" for name in fits))
    for (world, kind), num, right in product(WORLDS.items(), SIZES, RIGHT):
        others = draw(kind, NUM_OTHERS, generator)
        lowest = min(nll(*others, each) for each in (0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.4))
        losses: dict[str, list[float]] = {name: [] for name in fits}
        for logits, labels in (draw(kind, num, generator) for _ in range(num_draws)):
            for name, fit in fits.items():
                losses[name].append(nll(*others, fit(right * logits, labels) / right))
        means = {name: statistics.mean(each) for name, each in losses.items()}
        rows.append({"world": world, "n": num, "right": right, "lowest": lowest, **means})
        print(f"{world:24} {num:5} {right:7} {lowest:7.4f} "
              + " ".join(f"{mean:8.4f}" for mean in means.values()), flush=True)  # fmt: skip
    print("mean excess over the lowest: " + ", ".join(
        f"{name} {statistics.mean(row[name] / row['lowest'] - 1 for row in rows):.0%}"
        for name in fits
    ))  # fmt: skip
    results.write("temperatures", rows)


def draw(
    kind: tuple[float, float, float], num: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return (N, C) logits, right at T = 1 but for noise and unevenness, and (N,) labels."""
    distance, noise, unevenness = kind
    labels = torch.randint(NUM_CLASSES, (num,), generator=generator)
    seen = torch.randn(num, NUM_CLASSES, dtype=torch.float64, generator=generator)
    logits = distance * (seen + distance * F.one_hot(labels, NUM_CLASSES))
    spread = torch.randn(num, 1, dtype=torch.float64, generator=generator)
    wrong = torch.rand(num, generator=generator) < noise
    random = torch.randint(NUM_CLASSES, (num,), generator=generator)
    return logits * (unevenness * spread).exp(), torch.where(wrong, random, labels)


def held(prior: float) -> Fit:
    """Return the product's fit, with a prior of this weight."""
    return lambda logits, labels: fit_temperature(logits, labels, prior)


def laplace(logits: Tensor, labels: Tensor) -> float:
    """Fit to labels smoothed by Laplace's rule; 1 where that is worse than 1 on the labels."""
    num, num_classes = logits.shape
    wanted = (num * F.one_hot(labels, num_classes).double() + 1) / (num + num_classes)
    wanted_score = (wanted * logits).sum(dim=1).mean()
    found = 1 / bisected(logits, wanted_score)
    return found if nll(logits, labels, found) <= nll(logits, labels, 1.0) else 1.0


def bisected(logits: Tensor, wanted: Tensor) -> float:
    """Return the inverse temperature under which softmax expects the wanted score."""
    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    for _ in range(50):
        middle = (low + high) / 2
        expected = (to_probabilities(logits, 1 / middle) * logits).sum(dim=1).mean()
        low, high = (middle, high) if expected <= wanted else (low, middle)
    return (low + high) / 2


if __name__ == "__main__":
    main()
