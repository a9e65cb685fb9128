"""Pretrained weights: downloaded, from a package, a file or an own run; checked and loaded.

They are read only when a run starts; later its checkpoints hold all weights.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from neither.config.schema import (
    EFFICIENTNET_LITE0,
    EFFICIENTNET_LITE0_SMALL,
    EFFICIENTNETS,
    NETWORKS_WITHOUT_WEIGHTS,
    Config,
    Model,
)
from neither.data.preprocessing import Preprocessing
from neither.models.checkpoint import (
    Checkpoint,
    check_values,
    find_checkpoint,
    is_checkpoint,
    load_checkpoint,
    load_weights,
)
from neither.models.efficientnet_lite import find_imagenet_weights, first_blocks, rename_published
from neither.models.networks import (
    NORMALISED_AGAIN,
    TIMM,
    BackboneNetwork,
    build_timm,
    check_network_name,
    import_timm,
    published_weights,
)
from neither.runtime import files
from neither.runtime.console import info, warn
from neither.runtime.errors import CheckpointError, UsageError
from neither.runtime.rng import seeded

# Old DenseNet files have one dot more in these names; torchvision renames them likewise.
_OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
_AUXILIARY_HEADS = ("AuxLogits.", "aux1.", "aux2.")
_TIMM_LITE0 = "tf_efficientnet_lite0"
_MAX_REASON = 200  # characters of timm's


def load_initial(settings: Model) -> Checkpoint | None:
    """Load the run or checkpoint of ours that `model.weights` names; None for other weights.

    Raises:
        UsageError: if there is no such file.
        CheckpointError: if the checkpoint cannot be used.
    """
    path = Path(settings.weights).expanduser()
    if settings.weights in ("none", "default"):
        return None
    if path.is_dir() or is_checkpoint(path):
        return load_checkpoint(path)
    if settings.name in NETWORKS_WITHOUT_WEIGHTS:
        find_checkpoint(path)
        raise CheckpointError(
            f"model.weights: {path}: not a run or an intact checkpoint of this project, and "
            f"{settings.name} has no other weights"
        )
    return None


def take_over(network: nn.Module, initial: Checkpoint, config: Config) -> None:
    """Copy the weights of an own run: of the head, only the rows of classes that both know.

    Rows of new classes stay random; `keeps_head` says whether training starts from this head. The
    checkpoint is that of `model.weights` in the config.

    Raises:
        CheckpointError: if it is of another network, or its head is kept and for other features.
    """
    path, before = f"model.weights: {config.model.weights}", initial.preprocessing
    theirs, ours = _architecture(initial.model), _architecture(config.model)
    if theirs != ours:
        raise CheckpointError(f"{path}: its network is {theirs}, not {ours}; set model to match it")
    pooling = initial.model.pooling
    if pooling != config.model.pooling and keeps_head(initial, config):
        raise CheckpointError(
            f"{path}: its head is for {pooling} pooling: set model.pooling={pooling}"
        )
    own, weights = network.state_dict(), dict(initial.weights)
    known = [name for name in config.classes if name in initial.classes]
    if not known and config.model.name == "softmax_regression":
        raise CheckpointError(f"{path}: no class in common, and {theirs} has no other weights")
    for key in ("head.weight", "head.bias"):
        rows = own[key].clone()
        if key in weights and weights[key].shape == (len(initial.classes), *rows.shape[1:]):
            for name in known:
                rows[config.classes.index(name)] = weights[key][initial.classes.index(name)]
            weights[key] = rows
    try:
        load_weights(network, weights)
    except CheckpointError as error:
        raise CheckpointError(
            f"{path}: {error}; its images have {before.image_size} pixels, these "
            f"{config.data.image_size}"
        ) from error
    if (before.image_size, before.resize) != (config.data.image_size, config.data.resize):
        warn(
            f"{path}: trained on images of {before.image_size} pixels ({before.resize}), not "
            f"{config.data.image_size} ({config.data.resize}), so it knows them less well"
        )
    new = ", ".join(name for name in config.classes if name not in known) or "none"
    gone = ", ".join(name for name in initial.classes if name not in known) or "none"
    taken = "the head is fitted anew"
    if keeps_head(initial, config):
        taken = f"of the head the rows of {', '.join(known) or 'no class'}"
    (info if known else warn)(
        f"{path}, epoch {initial.epoch}: taken over are all layers before the head; {taken}; "
        f"classes that are new: {new}, gone: {gone}"
    )


def keeps_head(initial: Checkpoint, config: Config) -> bool:
    """Return whether training starts from rows of an own run's head.

    If there are new classes it gets a head that is fitted to its features instead: random rows
    beside trained ones spoil them (`benchmarks/LOG.md`). Softmax regression has no features.
    """
    is_complete = set(config.classes) <= {*initial.classes}
    has_features = config.model.name != "softmax_regression"
    return config.model.trainable == "all" and (is_complete or not has_features)


def _architecture(settings: Model) -> str:
    """Return what decides whether weights fit, which a tag of timm does not."""
    details = f" of width {settings.width}" if settings.name == "small_cnn" else ""
    if settings.name in NORMALISED_AGAIN and settings.weights == "none":
        details = " with another normalisation, from random weights"
    return settings.name.partition(".")[0] + details


def match_preprocessing(
    preprocessing: Preprocessing, settings: Model, initial: Checkpoint | None = None
) -> Preprocessing:
    """Return the preprocessing with the mean and standard deviation of the pretrained weights.

    A weights file is assumed to have those of the published weights. Image size and resize mode
    stay those of the config.
    """
    if initial is not None:
        before = initial.preprocessing
        return replace(preprocessing, mean=before.mean, std=before.std)
    if settings.weights == "none":
        return preprocessing
    check_network_name(settings.name)
    published = published_weights(settings.name)
    return replace(preprocessing, mean=published.mean, std=published.std)


def load_pretrained(network: BackboneNetwork, settings: Model, image_size: int) -> None:
    """Load the weights of the config into the backbone of a network; its head stays random.

    Raises:
        UsageError: if the file does not exist.
        CheckpointError: if it is damaged, not a state dict, or of another network.
        OutputError: if the weights cannot be downloaded, or their package is not installed.
    """
    name, published = settings.name, published_weights(settings.name)
    note = f"the published weights are for images of {published.image_size} pixels"
    own = network.backbone.state_dict()
    content: dict[str, Tensor] | None = None
    source: Path | str = f"default of {name}"
    if settings.weights != "default" or not name.startswith(TIMM):
        source = path = _find_file(settings, published.url)
        content = _read(path)
        if name.removeprefix(TIMM).partition(".")[0] in (EFFICIENTNET_LITE0, _TIMM_LITE0):
            content = rename_published(content, [*own, "classifier.weight", "classifier.bias"])
        elif name == EFFICIENTNET_LITE0_SMALL:
            content = first_blocks(content, list(own))
    try:
        if content is None or name.startswith(TIMM):
            weights = _convert_by_timm(settings, published.url, image_size, content)
        else:
            weights = {
                _OLD_NAME.sub(r"\1\2", key): tensor
                for key, tensor in content.items()
                if not key.startswith((f"{network.replaced}.", *_AUXILIARY_HEADS))
            }
            # These counters are not used, and old files do not have them.
            counters = {key: own[key] for key in own if key.endswith("num_batches_tracked")}
            weights = counters | weights
        load_weights(network.backbone, weights)
    except CheckpointError as error:
        what = f"{source}: for {name} with {image_size} pixels"
        raise CheckpointError(f"{what} {error}; {note}") from error
    info(f"weights: {source}, without the head; {note}, images here have {image_size}")


def _find_file(settings: Model, url: str) -> Path:
    """Return the path of the file that `model.weights` means, after downloading it if need be."""
    if settings.weights != "default":
        path = Path(settings.weights).expanduser()
        if not path.is_file():
            raise UsageError(
                f"model.weights: {path}: no such file; want default, none, a file, or a run"
            )
        return path
    if settings.name in EFFICIENTNETS:
        return find_imagenet_weights()
    return _download(settings.name, url)


def _convert_by_timm(
    settings: Model, url: str, image_size: int, content: dict[str, Tensor] | None
) -> dict[str, Tensor]:
    """Return the weights of a network of timm, without its head; None as content downloads them.

    timm knows older names of its weights, and resamples those that depend on the image size.
    """
    name = settings.name
    cfg = import_timm().get_pretrained_cfg(name.removeprefix(TIMM))
    options: dict[str, Any] = {"pretrained": True}
    if content is None and not url:
        raise UsageError(f"model.weights: timm has no published weights of {name}")
    if content is not None:
        heads = (cfg.classifier,) if isinstance(cfg.classifier, str) else cfg.classifier or ()
        sizes = [len(content[f"{head}.bias"]) for head in heads if f"{head}.bias" in content]
        num_classes = sizes[0] if sizes else cfg.num_classes  # timm then compares all names
        overlay = {"state_dict": content, "num_classes": num_classes, "label_offset": 0}
        options |= {"pretrained_cfg_overlay": overlay, "num_classes": num_classes}

    def build() -> nn.Module:
        try:
            with seeded(0):
                return build_timm(name, image_size, **options)
        except Exception as error:  # of a download or of other weights: any of a dozen types
            raise RuntimeError(" ".join(str(error).split())[:_MAX_REASON]) from error

    if content is None:
        info(f"weights: {url}, from the Hugging Face hub or its cache on this machine")
        whole = files.download(
            build, f"the weights of {name}", url,
            "name a file in model.weights=FILE that was downloaded elsewhere",
        )  # fmt: skip
    else:
        try:
            whole = build()
        except RuntimeError as error:
            raise CheckpointError(f"the weights fit another network: {error}") from error
    whole.reset_classifier(0)  # type: ignore[operator]
    weights: dict[str, Tensor] = whole.state_dict()
    check_values(weights.items())
    return weights


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
            if path.suffix == ".safetensors":
                from safetensors.torch import load  # which timm installs

                content: object = load(file.read())
            else:
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
