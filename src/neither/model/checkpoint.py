"""Checkpoint files: all that is needed to classify an image, or to go on training.

A checkpoint holds plain values and tensors only, so reading one can run no code. It is written
whole or not at all.
"""

import io
import os
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neither import files
from neither.config import Model
from neither.data.preprocessing import DECODER_VERSION, Preprocessing
from neither.errors import CheckpointError, UsageError
from neither.model.mirror import MirrorAverage
from neither.model.network import build_network

# 3 knew no shares of the classes; 2 no mirror images; 1 no aliases and no version of the decoder.
SCHEMA_VERSION = 4
_END_RECORD_BYTES = 22  # of a zip file, which torch's format is


@dataclass(frozen=True)
class Checkpoint:
    """A network and what its outputs mean.

    Attributes:
        classes: names in the order of the logits.
        reject_class: the class that means none of the others, if there is one.
        model: which network.
        preprocessing: from a file to the network's input.
        weights: the averaged weights, those to use.
        mirrored: whether logits are averaged over each image and its mirror image.
        temperature: what logits are divided by before softmax.
        threshold: the least probability of an accepted decision; None if none was fitted.
        shares: of each class among the training images.
        config: the whole config of the run, as in its `config.yaml`.
        epoch: full epochs trained.
        step: optimizer steps taken.
        metrics: on val, of these weights.
        training: what going on takes besides; None in a checkpoint that is only for use.
    """

    classes: tuple[str, ...]
    reject_class: str | None
    model: Model
    preprocessing: Preprocessing
    weights: dict[str, Tensor]
    mirrored: bool
    temperature: float
    threshold: float | None
    shares: tuple[float, ...]
    config: dict[str, Any]
    epoch: int
    step: int
    metrics: dict[str, float]
    training: dict[str, Any] | None = None

    def build(self) -> nn.Module:
        """Return the network with these weights, on the CPU, ready to evaluate.

        Raises:
            CheckpointError: if the weights do not fit the network that the checkpoint names.
        """
        network = build_network(
            self.model, len(self.classes), self.preprocessing.image_size, seed=0
        )
        load_weights(network, self.weights)
        if self.mirrored:
            network = MirrorAverage(network)
        return network.eval()


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all.

    Raises:
        OSError: if the disk is full or the folder cannot be written; an old file stays as it was.
    """
    content = vars(checkpoint) | {
        "schema_version": SCHEMA_VERSION,
        "model": checkpoint.model.model_dump(),
        "preprocessing": asdict(checkpoint.preprocessing),
    }
    # Through memory: torch's own writer leaves a partial file and no errno on a full disk.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    files.write_whole(path, buffer.getbuffer())


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: a checkpoint file, or the folder of a run, whose `best.pt` is meant.

    Raises:
        UsageError: if there is no such file.
        CheckpointError: if the file is damaged or not a checkpoint of this project.
    """
    path = find_checkpoint(path)
    try:
        _require_whole(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage shows as any of a dozen kinds
        raise CheckpointError(
            f"{path}: this checkpoint cannot be read; it is damaged or not one of ours"
        ) from error
    if not isinstance(content, dict) or "schema_version" not in content:
        raise CheckpointError(f"{path}: not a checkpoint of this project (no schema_version)")
    version = content.pop("schema_version")
    if version != SCHEMA_VERSION:
        raise CheckpointError(
            f"{path}: schema {version} is not {SCHEMA_VERSION}, the one this version of neither "
            "reads; install the version that made it"
        )
    try:
        content["model"] = Model.model_validate(content["model"])
        content["preprocessing"] = Preprocessing(**content["preprocessing"])
        _require_same_decoder(path, content["preprocessing"])
        return Checkpoint(**content)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: parts of this checkpoint are missing or wrong") from error


def _require_same_decoder(path: Path, preprocessing: Preprocessing) -> None:
    if preprocessing.decoder != DECODER_VERSION:
        raise CheckpointError(
            f"{path}: trained on images of decoder {preprocessing.decoder}, but this version of "
            f"neither has {DECODER_VERSION}, which gives other pixels; install the one that made it"
        )


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint that a path means: itself, or a run's `best.pt`.

    Raises:
        UsageError: if there is none.
    """
    if path.is_dir():
        best = path / "checkpoints" / "best.pt"
        if not best.is_file():
            raise UsageError(f"{path}: no checkpoints/best.pt here; is this the folder of a run?")
        return best
    if not path.is_file():
        raise UsageError(f"{path}: no such run or checkpoint")
    return path


def load_weights(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put weights into a network that has exactly these.

    Raises:
        CheckpointError: naming the first differences.
    """
    own = network.state_dict()
    differences = [
        f"{name}: {_shape(weights.get(name))} in the checkpoint, {_shape(own.get(name))} wanted"
        for name in sorted(own.keys() | weights.keys())
        if _shape(weights.get(name)) != _shape(own.get(name))
    ]
    if differences:
        raise CheckpointError("the weights fit another network: " + "; ".join(differences[:3]))
    network.load_state_dict(weights)


def _require_whole(path: Path) -> None:
    """Compare the checksums, which torch does not: a flipped bit would be a weight like any other.

    Raises:
        ValueError: if a byte was changed or added since the file was written.
    """
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        damaged = archive.testzip()
        file.seek(-_END_RECORD_BYTES, os.SEEK_END)
        if damaged or not file.read().startswith(b"PK\5\6"):
            raise ValueError(f"other bytes than were written: {damaged or 'after the end'}")


def _shape(weights: Tensor | None) -> str:
    return "nothing" if weights is None else str(tuple(weights.shape))
