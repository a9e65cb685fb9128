"""Pretrained weights: downloaded, from a package or from a file; checked and loaded.

They are read only when a run starts; later its checkpoints hold all weights.
"""

import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import Tensor

from neither.config.schema import EFFICIENTNET_LITE0, Model
from neither.data.preprocessing import Preprocessing
from neither.models.checkpoint import check_values, load_weights
from neither.models.efficientnet_lite import find_imagenet_weights, rename_published
from neither.models.torchvision_networks import (
    BackboneNetwork,
    check_network_name,
    published_weights,
)
from neither.runtime import files
from neither.runtime.console import info
from neither.runtime.errors import CheckpointError, UsageError

# Old DenseNet files have one dot more in these names; torchvision renames them likewise.
_OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
_AUXILIARY_HEADS = ("AuxLogits.", "aux1.", "aux2.")


def match_preprocessing(preprocessing: Preprocessing, settings: Model) -> Preprocessing:
    """Return the preprocessing with the mean and standard deviation of the pretrained weights.

    A weights file is assumed to have those of the published weights. Image size and resize mode
    stay those of the config.
    """
    if settings.weights == "none":
        return preprocessing
    check_network_name(settings.name)
    published = published_weights(settings.name)
    return replace(preprocessing, mean=published.mean, std=published.std)


def load_pretrained(network: BackboneNetwork, settings: Model, image_size: int) -> None:
    """Load the weights of the config into the backbone of a network.

    Args:
        network: changed in place; its head stays random.
        settings: names the weights.
        image_size: side of the training images in pixels.

    Raises:
        UsageError: if the file does not exist.
        CheckpointError: if it is damaged, not a state dict, or of another network.
        OutputError: if the weights cannot be downloaded, or their package is not installed.
        Stopped: if a signal asks for an end during the download.
    """
    published = published_weights(settings.name)
    note = f"the published weights are for images of {published.image_size} pixels"
    path = Path(settings.weights).expanduser()
    if settings.weights == "default" and settings.name == EFFICIENTNET_LITE0:
        path = find_imagenet_weights()
    elif settings.weights == "default":
        path = _download(settings.name, published.url)
    elif not path.is_file():
        raise UsageError(f"model.weights: {path}: no such file; want default, none, or a file")
    content = _read(path)
    if settings.name == EFFICIENTNET_LITE0:
        content = rename_published(content)
    weights = {
        _OLD_NAME.sub(r"\1\2", name): tensor
        for name, tensor in content.items()
        if not name.startswith((f"{network.replaced}.", *_AUXILIARY_HEADS))
    }
    # These counters are not used, and old files do not have them.
    own = network.backbone.state_dict()
    weights = {key: own[key] for key in own if key.endswith("num_batches_tracked")} | weights
    try:
        load_weights(network.backbone, weights)
    except CheckpointError as error:
        raise CheckpointError(
            f"{path}: for {settings.name} with {image_size} pixels {error}; {note}"
        ) from error
    info(f"weights: {path}, without the head; {note}, images here have {image_size}")


def _download(name: str, url: str) -> Path:
    """Return the path of weights in torch.hub's cache; download them if they are not there.

    torch compares the downloaded file with the checksum that is part of its name.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if not path.is_file():
        files.make_folder(path.parent)
        info(f"weights: downloading {url} to {path.parent}")
        checksum = re.search(r"-([0-9a-f]+)\.", path.name)
        files.download(
            lambda: torch.hub.download_url_to_file(url, str(path), checksum and checksum[1]),
            f"the weights of {name}", url,
            f"copy {path.name} from elsewhere to {path.parent}, or name the file in model.weights",
        )  # fmt: skip
    return path


def _read(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # damage raises any of a dozen types
            raise CheckpointError(
                f"{path}: these weights cannot be read; the file is damaged, or holds more than "
                "tensors and their names"
            ) from error
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    ):
        raise CheckpointError(f"{path}: want a state dict: a mapping from names to tensors")
    sparse = [name for name, tensor in content.items() if tensor.layout != torch.strided]
    if sparse:
        raise CheckpointError(f"{path}: {sparse[0]} is not a dense tensor")
    try:
        check_values(content.items())
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return content
