"""The kinds of text and numbers that a config holds, each with its own check.

The YAML file as one frozen, validated object.

Each section is a class of its own, handed to the part of the program that it concerns. Everything
that is wrong with a file is said at once, with its line and dotted key, before torch is imported.

Keys of a config that are right one by one and do not go together.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

# Keys of version 1 and their present names.
RENAMED_KEYS = {
    "augmentation.resolution": "augmentation.train_scale",
    "augmentation.flip": "augmentation.horizontal_flip",
    "augmentation.rotate_degrees": "augmentation.rotation_degrees",
    "augmentation.color": "augmentation.color_jitter",
    "augmentation.grey": "augmentation.grayscale",
    "augmentation.erase": "augmentation.random_erasing",
    "augmentation.mix": "augmentation.cutmix",
    "data.groups": "data.group_pattern",
    "model.backbone_lr": "model.backbone_lr_factor",
    "train.clip_norm": "train.max_grad_norm",
    "train.val_every_epochs": "train.validate_every_epochs",
}

SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def _check_name(text: str) -> str:
    if not text.isprintable() or text != text.strip() or not text:
        raise ValueError("want printable text without spaces around it")
    return text


def _check_class_name(text: str) -> str:
    _check_name(text)
    if re.search(r'[/\\:*?"<>|]', text) or text.startswith("."):
        raise ValueError('a class is a folder: no / \\ : * ? " < > | in its name, no dot before it')
    if text in sum(SPLIT_FOLDERS.values(), ()):
        raise ValueError("this is the name of a split's folder")
    if text == "unsure":
        raise ValueError("this is what a decision is called that is left to a person")
    return text


def _check_root(text: str) -> str:
    try:
        Path(_check_name(text)).expanduser()
    except RuntimeError as error:
        raise ValueError("no such user's home folder") from error
    return text


def _check_pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return text


def _check_network(text: str) -> str:
    # Which ones torchvision has, only torchvision knows, which no config waits for.
    if not re.fullmatch("[a-z][a-z0-9_]*", text):
        raise ValueError("want small_cnn, softmax_regression or torchvision's name of a network")
    return text


Root = Annotated[str, AfterValidator(_check_root)]
Text = Annotated[str, AfterValidator(_check_name)]
Pattern = Annotated[str, Field(min_length=1), AfterValidator(_check_pattern)]
NetworkName = Annotated[str, AfterValidator(_check_network)]
ClassName = Annotated[str, AfterValidator(_check_class_name)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


KeyPath = tuple[str | int, ...]


class Section(BaseModel):
    """What all sections share: no unknown keys, no silent conversions, no later changes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Data(Section):
    """Where the images lie and how one becomes a square of pixels."""

    root: Root | None = None  # relative paths start at the current directory; ~ is the home folder
    manifest: Root | None = None  # instead of root: a CSV file path,label[,split]
    ignored_folders: tuple[Text, ...] = ()  # class-level folders or labels left out on purpose
    aliases: dict[Text, ClassName] = {}  # other names of folders or labels: {person: human}
    group_pattern: Pattern | None = (
        None  # what of a path names a person, burst or video: never split up
    )
    max_unreadable: Fraction = 0.01  # share of the images; above it training does not begin
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.15  # only without a val folder
    test_fraction: Fraction = 0.15  # only where the root has no split folders at all
    image_size: Annotated[int, Field(ge=8, le=1024)] = 64  # pixels a side
    resize: Literal["squash", "pad", "crop"] = "crop"
    store: Literal["auto", "memory", "disk"] = "auto"

    @property
    def source(self) -> Path:
        """The folder or manifest that names the images."""
        return Path(self.root or self.manifest or "").expanduser()


class Augmentation(Section):
    """How much each training image may differ from its original."""

    # Pixels a side of the training images, as a share of data.image_size. Somewhat fewer cost less
    # and learn more: crops enlarge what they show (Touvron et al., "Fixing the train-test
    # resolution discrepancy", 2019).
    train_scale: Annotated[float, Field(gt=0.2, le=1)] = 1.0
    crop_scale: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] = (
        0.25,
        1.0,
    )  # share of the area that stays
    horizontal_flip: bool = True  # left to right, half of the time
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 7.0  # up to, either way
    color_jitter: Annotated[float, Field(ge=0, lt=1)] = (
        0.2  # change of brightness, contrast, saturation
    )
    grayscale: Annotated[float, Field(ge=0, le=1)] = 0.1  # probability
    random_erasing: Annotated[float, Field(ge=0, le=1)] = (
        0.25  # probability of one erased rectangle
    )
    cutmix: Annotated[float, Field(ge=0, le=1)] = 0.0  # probability of a part of another image


class Model(Section):
    """Which network; each returns logits."""

    # small_cnn, softmax_regression, or a classification network of torchvision, such as resnet18
    name: NetworkName = "small_cnn"
    width: Annotated[int, Field(ge=8, le=512)] = 32  # channels of the first stage of small_cnn
    # What a network of torchvision begins with: none is random weights, default the best that
    # torchvision knows, anything else a file of its state dict. The head is always new and random.
    weights: Root = "none"
    # Under weights all but the head is the backbone: it stands still for so many epochs, until the
    # head knows something, and then learns at this share of train.lr, lest it forget. With weights,
    # and for transformers, train.optimizer=adamw is the usual choice; muon is for convolutions.
    freeze_epochs: Annotated[int, Field(ge=0)] = Field(
        default_factory=lambda given: int(given.get("weights", "none") != "none")
    )
    backbone_lr_factor: Annotated[float, Field(gt=0, le=1)] = Field(
        default_factory=lambda given: 1.0 if given.get("weights", "none") == "none" else 0.1
    )


# Defaults that hang on train.optimizer.
_SUITED = {
    "muon": {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.1},
    "sgd": {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3},
    "adamw": {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-2},
}


def _suited(key: str) -> Callable[[dict[str, Any]], float]:
    return lambda given: _SUITED[given.get("optimizer", "muon")][key]


class Train(Section):
    """The recipe."""

    epochs: Annotated[int, Field(ge=0, le=100_000)]
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 128  # over all devices together
    optimizer: Literal["muon", "sgd", "adamw"] = "muon"
    lr: Annotated[float, Field(gt=0, le=100)] = Field(default_factory=_suited("lr"))  # the highest
    momentum: Fraction = Field(default_factory=_suited("momentum"))  # of muon and sgd
    weight_decay: Annotated[float, Field(ge=0, le=10)] = Field(
        default_factory=_suited("weight_decay")
    )
    warmup_epochs: Annotated[int, Field(ge=0)] = Field(  # 5, or a fifth of a short run
        default_factory=lambda given: min(5, given.get("epochs", 0) // 5)
    )
    validate_every_epochs: Annotated[int, Field(ge=1)] = 1  # the last epoch is always measured
    label_smoothing: Fraction = 0.0
    ema_decay: Fraction = 0.98  # a step, of the averaged weights that are evaluated and kept
    max_grad_norm: Annotated[float, Field(gt=0)] = 5.0  # the longest gradient


class Checkpoint(Section):
    """When to save besides the end of each epoch."""

    save_every_minutes: Annotated[float, Field(gt=0)] = 10.0


class Decision(Section):
    """What a run should promise for the images it decides on."""

    target_precision: Annotated[float, Field(gt=0, le=1)] = 0.98


class Config(Section):
    """One run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]  # of its folder
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:[0-9]+)?)$")] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # of the training step
    compile: bool = False  # the network, by torch.compile, where a compiler is
    classes: Annotated[tuple[ClassName, ...], Field(min_length=2, max_length=1000)]
    reject_class: ClassName | None = None
    data: Data
    augmentation: Augmentation = Augmentation()
    model: Model = Model()
    train: Train
    checkpoint: Checkpoint = Checkpoint()
    decision: Decision = Decision()


def translate_v1(values: dict[str, Any]) -> dict[str, Any]:
    """Rename the keys of a config that version 1 stored in a checkpoint.

    Args:
        values: a nested config, or some of its sections, such as `{"model": ...}`.

    Returns:
        A copy under the present names. What already has these stays as it is.
    """
    return {
        section: {
            RENAMED_KEYS.get(f"{section}.{key}", f".{key}").rpartition(".")[2]: value
            for key, value in below.items()
        }
        if isinstance(below, dict)
        else below
        for section, below in values.items()
    }


OWN_NETWORKS = ("small_cnn", "softmax_regression")  # all others are torchvision's


def contradictions(config: Config) -> Iterator[tuple[tuple[KeyPath, ...], str]]:
    """Yield the keys that do not go together, the one to mend first, and why."""
    classes, data, train = config.classes, config.data, config.train
    for name in sorted({name for name in classes if classes.count(name) > 1}):
        yield (("classes",),), f"{name} stands twice"
    if config.reject_class is not None and config.reject_class not in classes:
        what = f"{config.reject_class} is not one of classes: {', '.join(classes)}"
        yield (("reject_class",), ("classes",)), what
    for name in sorted(set(data.ignored_folders) & set(classes)):
        yield (("data", "ignored_folders"), ("classes",)), f"{name} is also one of classes"
    if (data.root is None) == (data.manifest is None):
        got = "got neither" if data.root is None else "got both; data.root=null unsets it"
        yield (("data", "root"), ("data", "manifest")), f"want this or data.manifest, {got}"
    for name, meant in sorted(data.aliases.items()):
        if meant not in classes:
            yield (("data", "aliases"), ("classes",)), f"{meant} is not one of classes"
        if name in classes:
            yield (("data", "aliases"), ("classes",)), f"{name} is itself one of classes"
        if name in data.ignored_folders:
            yield (("data", "aliases"), ("data", "ignored_folders")), f"{name} is also left out"
    if data.val_fraction + data.test_fraction >= 1:
        what = "together with data.test_fraction nothing is left to train on"
        yield (("data", "val_fraction"), ("data", "test_fraction")), what
    if data.image_size < 32 and config.model.name == "small_cnn":
        what = f"model.name small_cnn wants 32 or more, got {data.image_size}"
        yield (("data", "image_size"), ("model", "name")), what
    if config.augmentation.train_scale != 1 and config.model.name == "softmax_regression":
        what = "softmax_regression has a weight for each pixel of data.image_size: want 1"
        yield (("augmentation", "train_scale"), ("model", "name")), what
    model = config.model
    if model.name in OWN_NETWORKS and model.weights != "none":
        what = f"{model.name} has none to begin with: want none, got {model.weights}"
        yield (("model", "weights"), ("model", "name")), what
    if model.weights == "none" and model.freeze_epochs:
        what = f"random weights must learn from the first epoch: want 0, got {model.freeze_epochs}"
        yield (("model", "freeze_epochs"), ("model", "weights")), what
    if model.weights == "none" and model.backbone_lr_factor != 1:
        what = f"random weights learn at train.lr: want 1, got {model.backbone_lr_factor}"
        yield (("model", "backbone_lr_factor"), ("model", "weights")), what
    if config.augmentation.cutmix and train.batch_size % 2:
        what = f"augmentation.cutmix pairs images up: want an even number, got {train.batch_size}"
        yield (("train", "batch_size"), ("augmentation", "cutmix")), what
    if config.augmentation.crop_scale[0] > config.augmentation.crop_scale[1]:
        yield (("augmentation", "crop_scale"),), "the smaller share comes first"
    if train.warmup_epochs >= train.epochs and train.warmup_epochs:
        what = f"nothing is left of train.epochs, {train.epochs}, after {train.warmup_epochs}"
        yield (("train", "warmup_epochs"), ("train", "epochs")), what
