"""The reliability diagram: is a confidence of 0.8 right in 80 % of cases?"""

from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from neither import files
from neither.evaluation.calibration import NUM_BINS, bins_of

_COLOUR = "#3b78c3"


def draw_reliability(metrics: dict[str, Any], path: Path) -> None:
    """Draw accuracy over confidence, and how many images there are of each (Guo et al., 2017).

    Args:
        metrics: of labelled images, as in `metrics.json`.
        path: of the PNG file.
    """
    bins = metrics["reliability"]
    confidences = torch.tensor([row["confidence"] for row in bins], dtype=torch.float64)
    places = ((bins_of(confidences) + 0.5) / NUM_BINS).tolist()
    figure = Figure(figsize=(5, 5.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.bar(places, [row["accuracy"] for row in bins], 0.9 / NUM_BINS, color=_COLOUR,
              label="accuracy")  # fmt: skip
    above.plot([0, 1], [0, 1], "--", color="grey", label="perfectly calibrated")
    above.plot(confidences.tolist(), [row["accuracy"] for row in bins], "k.",
               label="mean confidence of the bin")  # fmt: skip
    above.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="share that is right")
    above.set_title(
        f"ECE {100 * metrics['ece']:.1f} %; chance alone stays below "
        f"{100 * metrics['chance']['ece']['q95']:.1f} % in 95 % of cases",
        fontsize=10,
    )
    above.legend(loc="upper left", fontsize=9)
    below.bar(places, [row["num_images"] for row in bins], 0.9 / NUM_BINS, color="grey")
    below.set(xlabel="confidence", ylabel="images")
    with files.replacing(path) as file:
        figure.savefig(file, format="png", dpi=100)
