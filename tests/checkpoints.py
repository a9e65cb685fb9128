"""An untrained checkpoint in which every part has an effect on the prediction."""

from pathlib import Path

import torch

from neither.config.schema import Model
from neither.data.preprocessing import Preprocessing
from neither.models.checkpoint import Checkpoint, DecisionRule, save_checkpoint
from neither.models.networks import build_network

SIZE = 32
MODEL = Model(width=8)


def make_checkpoint(images: Path, resize: str = "crop") -> Checkpoint:
    """Return a checkpoint whose predictions differ from image to image."""
    network = build_network(MODEL, 3, SIZE, seed=1)
    network(torch.randn(64, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)))
    weights = network.state_dict()
    weights["head.weight"] = 200 * weights["head.weight"]
    return Checkpoint(
        classes=("dog", "human", "neither"),
        reject_class="neither",
        model=MODEL,
        preprocessing=Preprocessing(SIZE, resize),  # type: ignore[arg-type]
        weights=weights,
        flip_tta=True,
        temperature=1.25,
        decision_rule=DecisionRule(0.98, 0.5, 0.4, num_lacking=7),
        calibrated_on="val",
        class_frequencies=(0.25, 0.5, 0.25),
        source=str(images),
        aliases={},
        config={},
        epoch=1,
        step=1,
        metrics={},
    )


def save_run(folder: Path, images: Path) -> Path:
    """Write the checkpoint as the `best.pt` of a run."""
    (folder / "checkpoints").mkdir(parents=True)
    save_checkpoint(folder / "checkpoints" / "best.pt", make_checkpoint(images))
    return folder
