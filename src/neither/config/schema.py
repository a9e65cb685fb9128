"""The config: its sections, the type, range, default and meaning of each key, and the cross-checks.

The text below a key is its description in `docs/config.md` and `configs/schema.json`, which
`docs/generate_config_reference.py` writes. Importing this module does not import torch.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
NETWORKS_WITHOUT_WEIGHTS = ("small_cnn", "softmax_regression")
EFFICIENTNET_LITE0, EFFICIENTNET_LITE0_SMALL = "efficientnet_lite0", "efficientnet_lite0_small"
EFFICIENTNETS = (EFFICIENTNET_LITE0, EFFICIENTNET_LITE0_SMALL)  # others are torchvision's or timm's

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
    "train.clip_norm": "train.max_grad_norm",
    "train.val_every_epochs": "train.validate_every_epochs",
}
_REMOVED_FROM_MODEL = ("freeze_epochs", "backbone_lr", "backbone_lr_factor")


def _check_label(text: str) -> str:
    if not text.isprintable() or text != text.strip() or not text:
        raise ValueError("must be printable text without spaces around it")
    return text


def _check_class_name(text: str) -> str:
    _check_label(text)
    if re.search(r'[/\\:*?"<>|]', text) or text.startswith("."):
        raise ValueError('must be a folder name without / \\ : * ? " < > | or a leading dot')
    if text in sum(SPLIT_FOLDERS.values(), ()):
        raise ValueError("this name is reserved for the folder of a split")
    if text == "unsure":
        raise ValueError("this name is reserved for decisions below the threshold")
    return text


def _check_path(text: str) -> str:
    try:
        Path(_check_label(text)).expanduser()
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
    # The exact list is checked when the network is built: reading it needs torchvision or timm.
    if not re.fullmatch(r"[a-z][a-z0-9_]*|timm/[a-z][a-z0-9_]*(\.[a-z0-9_]+)?", text):
        own = ", ".join((*NETWORKS_WITHOUT_WEIGHTS, *EFFICIENTNETS))
        raise ValueError(f"must be {own}, a network name of torchvision, or timm/NAME")
    return text


def _in_nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)  # one form for each name: macOS writes another


Label = Annotated[str, AfterValidator(_check_label), AfterValidator(_in_nfc)]
ClassName = Annotated[str, AfterValidator(_check_class_name), AfterValidator(_in_nfc)]
PathText = Annotated[str, AfterValidator(_check_path)]
Pattern = Annotated[str, Field(min_length=1), AfterValidator(_check_pattern)]
NetworkName = Annotated[str, AfterValidator(_check_network)]
Probability = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]


class Section(BaseModel):
    """Settings of all sections: no unknown keys, no type conversion, no later changes."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Data(Section):
    """Which images to use, how to split them, and how to turn each into a square."""

    root: PathText | None = None
    """Folder of the images. A relative path starts at the current directory; `~` is the home
    folder. Exactly one of `data.root` and `data.manifest` is required."""
    manifest: PathText | None = None
    """CSV file with the columns `path,label` and perhaps `split` and `source`, used instead of
    `data.root`."""
    ignored_folders: tuple[Label, ...] = ()
    """Class-level folders, or labels of the manifest, to leave out."""
    aliases: dict[Label, ClassName] = {}
    """Other names of class folders or labels, such as `{person: human}`."""
    group_pattern: Pattern | None = None
    """Regular expression searched in each path. Images with the same match (a person, a burst, a
    video) are kept in one split."""
    sources: Pattern | None = None
    """Regular expression searched in each path. What its group matches names the source of the
    image: the camera, site, collection or shoot. Images without a match have no source. A manifest
    with a column `source` names them instead."""
    corrections: PathText | None = None
    """CSV file with the answers of a review (docs/review.md): labels are replaced, and dropped
    images left out. Answers about images of val and test count if they come from the random sample,
    or if every image of that split has one."""
    unlabelled: PathText | None = None
    """Folder of images without labels, read recursively, to train on with `train.teacher`: their
    target is the teacher's probabilities alone. Near-duplicates of val and test are left out."""
    max_unreadable: Fraction = 0.01
    """Fraction of the images that may be unreadable. With more, training does not start."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Fraction of the images for validation, if there is no folder `val`."""
    test_fraction: Fraction = 0.15
    """Fraction of the images for testing, if there are no split folders at all."""
    image_size: Annotated[int, Field(ge=8, le=1024)] = 64
    """Side of the square images, in pixels."""
    resize: Literal["squash", "pad", "crop"] = "crop"
    """How an image becomes a square: `squash` changes its aspect ratio, `pad` adds a border,
    `crop` keeps the central square."""
    store: Literal["auto", "memory", "disk"] = "auto"
    """Where the decoded images are kept during training. `auto` uses memory if they fit."""

    @property
    def source(self) -> Path:
        """The folder or manifest that names the images."""
        return Path(self.root or self.manifest or "").expanduser()

    @property
    def folder(self) -> Path:
        """The folder that paths of images start at."""
        return self.source if self.manifest is None else self.source.parent


class Augmentation(Section):
    """Random changes of the training images."""

    train_scale: Annotated[float, Field(gt=0.2, le=1)] = 1.0
    """Side of the training images as a fraction of `data.image_size`. Smaller ones are faster, and
    make up for crops that enlarge objects (Touvron et al., "Fixing the train-test resolution
    discrepancy", 2019)."""
    crop_scale: tuple[PositiveFraction, PositiveFraction] = (0.25, 1.0)
    """Smallest and largest fraction of the area that a random crop keeps."""
    horizontal_flip: bool = True
    """Flip half of the images left to right. If true, logits are also averaged over each image and
    its mirror image in validation and inference."""
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 7.0
    """Largest rotation in either direction, in degrees."""
    color_jitter: Fraction = 0.2
    """Largest relative change of brightness, contrast and saturation."""
    grayscale: Probability = 0.1
    """Probability that an image loses its colour."""
    random_erasing: Probability = 0.25
    """Probability that a rectangle of an image is filled with one colour."""
    cutmix: Probability = 0.0
    """Probability that a rectangle of another image is pasted in, and the target mixed by area
    (CutMix). Requires an even `train.batch_size`."""


NO_AUGMENTATION = {
    "train_scale": 1.0,
    "crop_scale": (1.0, 1.0),
    "horizontal_flip": False,
    "rotation_degrees": 0.0,
    "color_jitter": 0.0,
    "grayscale": 0.0,
    "random_erasing": 0.0,
    "cutmix": 0.0,
}


class Model(Section):
    """The network and its initial weights."""

    name: NetworkName = "small_cnn"
    """`small_cnn`, `softmax_regression`, `efficientnet_lite0`, `efficientnet_lite0_small`, a
    classification network of torchvision such as `resnet18`, or one of timm such as
    `timm/resnet18`, perhaps with the name of its pretrained weights: `timm/resnet18.a1_in1k`."""
    width: Annotated[int, Field(ge=8, le=512)] = 32
    """Channels of the first stage of `small_cnn`."""
    weights: PathText = "none"
    """Initial weights: `none` (random); for an EfficientNet, a torchvision or a timm network
    `default` (published ones, from a package or downloaded) or a file with a state dict; or another
    run of the same network, or its checkpoint, with the rows of the head for classes of the same
    name, or, if there are new ones, a head that is fitted anew. With pretrained weights that
    are trained further, and for transformers, `train.optimizer: adamw` with a low `train.lr` is
    the usual choice."""
    pooling: Literal["average", "max"] = "average"
    """How the last feature map of an EfficientNet becomes one feature vector. The published weights
    were trained with `average`. For `efficientnet_lite0` a head on `max` does better on images from
    other sources, if images have 160 pixels or more; for `efficientnet_lite0_small` it does not."""
    trainable: Literal["all", "head"] = "all"
    """`head` keeps the pretrained backbone as it is: each image goes through it once, and the head
    is fitted to these features by L-BFGS, which takes seconds. Of the section `train` only `epochs`
    then has an effect: the most iterations. Of the augmentations only `horizontal_flip` is
    possible; all are off by default. `all` trains random weights, or fine-tunes pretrained ones,
    from a head that is fitted in this way."""

    @property
    def is_frozen(self) -> bool:
        """Whether only a head is fitted, to the features of a frozen backbone."""
        return self.trainable == "head"

    @property
    def is_fine_tuned(self) -> bool:
        """Whether pretrained weights are trained further."""
        return self.trainable == "all" and self.weights != "none"


_OPTIMIZER_DEFAULTS = {
    "muon": {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.1},
    "sgd": {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3},
    "adamw": {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-2},
}


def _optimizer_default(key: str) -> Callable[[dict[str, Any]], float]:
    return lambda values: _OPTIMIZER_DEFAULTS[values.get("optimizer", "muon")][key]


class Train(Section):
    """The training recipe."""

    epochs: Annotated[int, Field(ge=0, le=100_000)]
    """Passes over the training images."""
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 128
    """Images per step, over all processes together."""
    optimizer: Literal["muon", "sgd", "adamw"] = "muon"
    """`muon` suits convolutional networks trained from scratch."""
    lr: Annotated[float, Field(gt=0, le=100)] = Field(default_factory=_optimizer_default("lr"))
    """Peak learning rate; a linear warmup precedes it and a cosine decay follows. Default: 0.02 for
    muon, 0.1 for sgd, 0.001 for adamw."""
    momentum: Fraction = Field(default_factory=_optimizer_default("momentum"))
    """Momentum of muon and sgd. Default: 0.95 for muon, else 0.9."""
    weight_decay: Annotated[float, Field(ge=0, le=10)] = Field(
        default_factory=_optimizer_default("weight_decay")
    )
    """Weight decay. Default: 0.1 for muon, 0.001 for sgd, 0.01 for adamw."""
    warmup_epochs: Annotated[int, Field(ge=0)] = Field(
        default_factory=lambda values: min(5, values.get("epochs", 0) // 5)
    )
    """Epochs of linear warmup; fewer than `train.epochs`. Default: 5, or a fifth of `train.epochs`
    if that is less."""
    validate_every_epochs: Annotated[int, Field(ge=1)] = 1
    """Epochs between validations. The last epoch is always validated."""
    label_smoothing: Fraction = 0.0
    """Label smoothing of the cross entropy."""
    teacher: PathText | None = None
    """Run or checkpoint with the same classes that the network learns from (distillation): its
    probabilities for the same view of an image are part of the target. Eight views of each image
    are answered before training, and kept on disk for later runs."""
    teacher_weight: PositiveFraction = 0.9
    """Weight of the teacher's probabilities in the target, if there is a teacher; the rest is the
    label's."""
    ema_decay: Fraction = 0.98
    """Decay per step of the exponential moving average (EMA) of the weights, which is what is
    validated and saved."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 5.0
    """Gradients with a larger L2 norm are scaled down to it."""


class Checkpoint(Section):
    """When to save, besides at the end of each epoch."""

    save_every_minutes: Annotated[float, Field(gt=0)] = 10.0
    """Minutes between checkpoints within an epoch."""


class Decision(Section):
    """How the decision thresholds are chosen."""

    cross_validation: PathText | None = None
    """Folder of a finished cross-validation of the same config and images, which temperature and
    thresholds are taken from, and label issues if the whole network is trained. With a frozen
    backbone and `data.sources` training finds temperature and thresholds itself."""
    target_precision: PositiveFraction = 0.98
    """Precision that accepted decisions must reach, with 90 % confidence where val is large
    enough."""


class Config(Section):
    """One training run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    """Name of the run and of its folder `runs/<name>`: letters, digits, dots, `-` and `_`, at most
    100, not starting with a dot, `-` or `_`."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of splits, initial weights, order and augmentation."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:[0-9]+)?)$")] = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:N` or `mps`. `auto` uses an accelerator if there is one."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the training step. Validation and inference always use float32."""
    compile: bool = False
    """Compile the network with `torch.compile`, if a compiler is available."""
    classes: Annotated[tuple[ClassName, ...], Field(min_length=2, max_length=1000)]
    """Class names, which are folder names or labels of the manifest, in the order of the outputs.
    Each may appear once."""
    reject_class: ClassName | None = None
    """The class that means "none of the others", one of `classes`, or null."""
    data: Data
    augmentation: Augmentation = Field(default_factory=Augmentation)
    model: Model = Field(default_factory=Model)
    train: Train
    checkpoint: Checkpoint = Field(default_factory=Checkpoint)
    decision: Decision = Field(default_factory=Decision)

    @property
    def reject_index(self) -> int | None:
        """Return the index of the reject class; None if there is none."""
        return None if self.reject_class is None else self.classes.index(self.reject_class)

    @field_validator("reject_class", mode="before")
    @classmethod
    def _read_none(cls, value: object, info: ValidationInfo) -> object:
        """Read the None of Python as null, unless a class has this name."""
        is_none = isinstance(value, str) and value.casefold() == "none"
        return None if is_none and value not in info.data.get("classes", ()) else value

    @model_validator(mode="before")
    @classmethod
    def _augment_nothing_by_default(cls, values: Any) -> Any:  # noqa: ANN401 - not yet validated
        """Turn augmentations off by default where each image goes through the backbone once."""
        if not isinstance(values, dict):
            return values
        model, augmentation = values.get("model"), values.get("augmentation", {})
        is_head = isinstance(model, dict) and model.get("trainable") == "head"
        if is_head and isinstance(augmentation, dict):
            return values | {"augmentation": NO_AUGMENTATION | augmentation}
        return values


def cross_check(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    """Find values that are valid one by one but do not fit together.

    Yields:
        The dotted keys involved, the one to report first, and a message.
    """
    classes, data, model, train = config.classes, config.data, config.model, config.train
    for name in sorted({name for name in classes if classes.count(name) > 1}):
        yield ("classes",), f"{name} appears twice"
    if config.reject_class is not None and config.reject_class not in classes:
        message = f"{config.reject_class} is not one of classes: {', '.join(classes)}"
        yield ("reject_class", "classes"), message
    for name in sorted(set(data.ignored_folders) & set(classes)):
        yield ("data.ignored_folders", "classes"), f"{name} is also one of classes"
    if (data.root is None) == (data.manifest is None):
        got = "neither" if data.root is None else "both; data.root=null unsets it"
        message = f"exactly one of data.root and data.manifest must be set, got {got}"
        yield ("data.root", "data.manifest"), message
    for name, target in sorted(data.aliases.items()):
        if target not in classes:
            yield ("data.aliases", "classes"), f"{target} is not one of classes"
        if name in classes:
            yield ("data.aliases", "classes"), f"{name} is itself one of classes"
    for name in sorted(set(data.ignored_folders) & set(data.aliases)):
        yield ("data.aliases", "data.ignored_folders"), f"{name} is also in data.ignored_folders"
    if data.val_fraction + data.test_fraction >= 1:
        message = "with data.test_fraction this leaves no images to train on"
        yield ("data.val_fraction", "data.test_fraction"), message
    if data.image_size < 32 and model.name == "small_cnn":
        message = f"must be 32 or more for model.name small_cnn, got {data.image_size}"
        yield ("data.image_size", "model.name"), message
    if config.augmentation.train_scale != 1 and model.name == "softmax_regression":
        message = "must be 1 for softmax_regression, which has a weight for each pixel"
        yield ("augmentation.train_scale", "model.name"), message
    if model.name in NETWORKS_WITHOUT_WEIGHTS and model.weights == "default":
        message = f"{model.name} has no published weights: must be none, or a run or its checkpoint"
        yield ("model.weights", "model.name"), message
    if model.name in NETWORKS_WITHOUT_WEIGHTS and model.is_frozen:
        yield ("model.trainable", "model.name"), f"must be all for {model.name}"
    if model.name not in EFFICIENTNETS and model.pooling != "average":
        yield ("model.pooling", "model.name"), f"must be average for {model.name}"
    if model.is_frozen and model.weights == "none":
        message = "head needs pretrained weights, as its backbone stays as it is: set model.weights"
        yield ("model.trainable", "model.weights"), message
    if data.unlabelled is not None and train.teacher is None:
        message = "needs train.teacher, whose probabilities are the target of these images"
        yield ("data.unlabelled", "train.teacher"), message
    if model.is_frozen and train.teacher is not None:
        message = "must be null with model.trainable head, which is fitted to the labels"
        yield ("train.teacher", "model.trainable"), message
    if model.is_frozen:
        for key, value in NO_AUGMENTATION.items():
            if key != "horizontal_flip" and getattr(config.augmentation, key) != value:
                message = (
                    f"must be {value} with model.trainable head, where each image goes through the "
                    "backbone once"
                )
                yield (f"augmentation.{key}", "model.trainable"), message
    if config.augmentation.cutmix and train.batch_size % 2:
        message = f"must be even, as augmentation.cutmix pairs images, got {train.batch_size}"
        yield ("train.batch_size", "augmentation.cutmix"), message
    if config.augmentation.crop_scale[0] > config.augmentation.crop_scale[1]:
        yield ("augmentation.crop_scale",), "the smaller fraction must come first"
    if train.warmup_epochs >= train.epochs and train.warmup_epochs:
        message = f"must be less than train.epochs, {train.epochs}, got {train.warmup_epochs}"
        yield ("train.warmup_epochs", "train.epochs"), message


def translate_old(values: dict[str, Any]) -> dict[str, Any]:
    """Give the keys of an old config, or of some of its sections, their present names."""
    renamed = deepcopy(values)
    for old, new in RENAMED_KEYS.items():
        section, key = old.split(".")
        keys = renamed.get(section)
        if isinstance(keys, dict) and key in keys:
            keys[new.partition(".")[2]] = keys.pop(key)
    if isinstance(model := renamed.get("model"), dict):
        renamed["model"] = {
            key: value for key, value in model.items() if key not in _REMOVED_FROM_MODEL
        }
    return renamed
