"""How often does a threshold chosen on val keep its target precision on other images?

    python benchmarks/certify.py [--draws 2000]

Draws val sets of 100 to 3,000 images for classifiers of known accuracy, whose probabilities are
calibrated; or overconfident and out of order; or calibrated but for 0.5 % of mistakes at any
confidence, such as wrong labels. Fits a threshold for 98 % by the product's rule
(`certify_threshold`) and by the smallest that looks right (`choose_threshold`). All is measured on
the same 200,000 other images: how often the target is kept, and the coverage relative to the best
threshold there. Certified: the fraction of draws; kept and coverage are of these.
"""

import argparse
from itertools import product
from typing import Any

import results
import torch
from torch import Tensor

from neither.evaluation.selective import certify_threshold, choose_threshold

TARGET = 0.98
SIZES = (100, 300, 1000, 3000)
ACCURACIES = (0.85, 0.9, 0.92, 0.95, 0.98)
NUM_OTHERS = 200_000
NUM_CLASSES = 3
OVERCONFIDENCE, NOISE = 2.0, 0.7  # factor of the logit, and standard deviation added to it
MISTAKES = 0.005  # of the images, at any confidence
KINDS = ("calibrated", "miscalibrated", "mistakes")


def main() -> None:
    """Draw, fit, score, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--draws", type=int, default=2000)
    num_draws = parser.parse_args().draws
    generator = torch.Generator().manual_seed(0)
    rows: list[dict[str, Any]] = []
    print("scores         accuracy     n   certified: draws    kept  coverage   "
          "looks right: kept  coverage")  # fmt: skip
    for kind, accuracy in product(KINDS, ACCURACIES):
        scale = find_scale(accuracy)
        others = Population(*draw(kind, scale, NUM_OTHERS, generator))
        for num in SIZES:
            certified, plain = Scores(others), Scores(others)
            for _ in range(num_draws):
                confidences, hits = draw(kind, scale, num, generator)
                certified.add(certify_threshold(confidences, hits, TARGET)[0])
                plain.add(choose_threshold(confidences, hits, TARGET))
            row = {"scores": kind, "accuracy": accuracy, "n": num, "best": others.best}
            row |= {"certified": certified.summary(), "looks_right": plain.summary()}
            rows.append(row)
            print(f"{kind:14} {accuracy:8.2f} {num:5} {describe(certified):>33} "
                  f"{describe(plain):>36}", flush=True)  # fmt: skip
    results.write("certify", {"draws": num_draws, "rows": rows})


def draw(kind: str, scale: float, num: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the (N,) confidences of images, and which predictions are correct.

    Logits are normal, and the label is drawn from their softmax: perfectly calibrated. The accuracy
    follows from their scale.
    """
    logits = scale * torch.randn(num, NUM_CLASSES, generator=generator, dtype=torch.float64)
    top = logits.softmax(dim=1).amax(dim=1)
    hits = torch.rand(num, generator=generator, dtype=torch.float64) < top
    if kind == "mistakes":
        hits &= torch.rand(num, generator=generator) >= MISTAKES
    if kind != "miscalibrated":
        return top, hits
    noise = torch.randn(num, generator=generator, dtype=torch.float64)
    return (OVERCONFIDENCE * top.logit(eps=1e-12) + NOISE * noise).sigmoid(), hits


def find_scale(accuracy: float) -> float:
    """Find the scale of the logits at which the mean confidence is the accuracy, by bisection."""
    normal = torch.randn(NUM_OTHERS, NUM_CLASSES, generator=torch.Generator().manual_seed(1))
    low, high = 0.0, 1000.0
    for _ in range(40):
        scale = (low + high) / 2
        mean = float((scale * normal).softmax(dim=1).amax(dim=1).mean())
        low, high = (scale, high) if mean < accuracy else (low, scale)
    return scale


class Population:
    """Images on which thresholds are scored."""

    def __init__(self, confidences: Tensor, hits: Tensor) -> None:
        self._ordered, order = confidences.sort(descending=True)
        num = torch.arange(1, len(hits) + 1)
        self._precisions = hits[order].double().cumsum(dim=0) / num
        reached = (self._precisions >= TARGET).nonzero()
        self.best = (int(reached.max()) + 1) / len(hits) if len(reached) else 0.0

    def score(self, threshold: float) -> tuple[bool, float]:
        """Return whether a threshold keeps the target here, and its coverage."""
        num = int((self._ordered >= threshold).sum())
        return num == 0 or bool(self._precisions[num - 1] >= TARGET), num / len(self._ordered)


class Scores:
    """What the thresholds of many draws are worth."""

    def __init__(self, others: Population) -> None:
        self._others = others
        self._num, self._kept, self._coverage = 0, 0, 0.0
        self.num_draws = 0

    def add(self, threshold: float | None) -> None:
        """Add a draw; None if it has no threshold."""
        self.num_draws += 1
        if threshold is not None:
            is_kept, coverage = self._others.score(threshold)
            self._num, self._kept = self._num + 1, self._kept + is_kept
            self._coverage += coverage

    def summary(self) -> dict[str, float]:
        """Return fractions: draws with a threshold; of these, those that keep; mean coverage."""
        if self._num == 0:
            return {"found": 0.0}
        return {
            "found": self._num / self.num_draws,
            "kept": self._kept / self._num,
            "coverage": self._coverage / self._num / self._others.best,
        }


def describe(scores: Scores) -> str:
    """Return the summary as three columns of percentages."""
    values = scores.summary()
    return "  ".join(f"{100 * values[key]:6.1f} %" for key in values)


if __name__ == "__main__":
    main()
