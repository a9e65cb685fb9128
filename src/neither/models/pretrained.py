"""The weights that a network of torchvision begins with: found, read without trust, put in place.

Only the beginning of a run reads them. From then on its checkpoints hold all weights.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor

from neither.config.schema import Model
from neither.data.preprocessing import Preprocessing
from neither.models.checkpoint import load_weights
from neither.models.torchvision_networks import TorchvisionNetwork, check_network_name
from neither.runtime import files
from neither.runtime.console import info
from neither.runtime.errors import CheckpointError, UsageError

# The earliest DenseNets have names with one dot more; torchvision, too, reads them so.
_OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
_LEFT_OUT = ("AuxLogits.", "aux1.", "aux2.")  # heads on the way to the last one


def match_preprocessing(preprocessing: Preprocessing, settings: Model) -> Preprocessing:
    """Return the preprocessing with the mean and deviation that a network's weights were made with.

    Size and shape stay those of the config. A file is taken to be made like torchvision's own.
    """
    if settings.weights == "none":
        return preprocessing
    made = _weights_of(settings.name).transforms()
    return replace(preprocessing, mean=tuple(made.mean), std=tuple(made.std))


def load_pretrained(network: TorchvisionNetwork, settings: Model, image_size: int) -> None:
    """Put the weights that the config asks for into the backbone of a network.

    Args:
        network: changed in place; its head stays random.
        settings: which weights.
        image_size: pixels a side of the images it will see.

    Raises:
        UsageError: if there is no such file.
        CheckpointError: if it is damaged, no state dict, or of another network.
        OutputError: if the weights cannot be downloaded.
        Stopped: if a signal asks for an end while they are.
    """
    known = _weights_of(settings.name)
    made = f"torchvision's own are made with images of {known.transforms().crop_size[0]} pixels"
    path = Path(settings.weights).expanduser()
    if settings.weights == "default":
        path = _download(settings.name, known.url)
    elif not path.is_file():
        raise UsageError(f"model.weights: {path}: no such file; want default, none, or a file")
    weights = {
        _OLD_NAME.sub(r"\1\2", name): tensor for name, tensor in _read(path).items()
        if not name.startswith((f"{network.replaced}.", *_LEFT_OUT))
    }  # fmt: skip
    # Counters that nothing here reads, and that the earliest files lack.
    own = network.backbone.state_dict()
    weights = {key: own[key] for key in own if key.endswith("num_batches_tracked")} | weights
    try:
        load_weights(network.backbone, weights)
    except CheckpointError as error:
        raise CheckpointError(
            f"{path}: for {settings.name} with {image_size} pixels {error}; {made}"
        ) from error
    info(f"weights: {path}, all but the head; {made}, images here are of {image_size}")


def _weights_of(name: str) -> Any:  # noqa: ANN401 - torchvision is not typed
    """Return what torchvision knows of its best weights of a network: url, transforms and more."""
    check_network_name(name)
    from torchvision import models

    return models.get_model_weights(name).DEFAULT


def _download(name: str, url: str) -> Path:
    """Return where weights lie that were downloaded now or earlier, by anyone who uses torch.hub.

    torch compares the sum that is part of the file's name when it has downloaded it.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if not path.is_file():
        files.make_folder(path.parent)
        info(f"weights: downloading {url} to {path.parent}")
        found = re.search(r"-([0-9a-f]+)\.", path.name)
        files.download(
            lambda: torch.hub.download_url_to_file(url, str(path), found and found[1]),
            f"the weights of {name}", url,
            f"put {path.name}, fetched elsewhere, into {path.parent}, or name it in model.weights",
        )  # fmt: skip
    return path


def _read(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # damage shows as any of a dozen kinds
            raise CheckpointError(
                f"{path}: these weights cannot be read; the file is damaged, or holds more than "
                "tensors and their names"
            ) from error
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    ):
        raise CheckpointError(f"{path}: want a state dict, which is names with a tensor each")
    for name, tensor in content.items():
        if tensor.layout != torch.strided:
            raise CheckpointError(f"{path}: {name} is no plain tensor")
        if not tensor.isfinite().all():
            raise CheckpointError(f"{path}: {name} holds numbers that are not finite")
        if name.endswith("running_var") and (tensor < 0).any():
            raise CheckpointError(f"{path}: {name} holds negative variances")
    return content
