"""The YAML file as one frozen, validated object.

Each section is a class of its own, handed to the part of the program that it concerns. Everything
that is wrong with a file is said at once, with its line and dotted key, before torch is imported.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from neither import complaints, strict_yaml
from neither.complaints import Loc, overlap
from neither.contradictions import contradictions
from neither.errors import UsageError
from neither.strict_yaml import Document, Problem
from neither.texts import ClassName, Fraction, NetworkName, Pattern, Root, Text


class Section(BaseModel):
    """What all sections share: no unknown keys, no silent conversions, no later changes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Data(Section):
    """Where the images lie and how one becomes a square of pixels."""

    root: Root | None = None  # relative paths start at the current directory; ~ is the home folder
    manifest: Root | None = None  # instead of root: a CSV file path,label[,split]
    ignored_folders: tuple[Text, ...] = ()  # class-level folders or labels left out on purpose
    aliases: dict[Text, ClassName] = {}  # other names of folders or labels: {person: human}
    groups: Pattern | None = None  # what of a path names a person, burst or video: never split up
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
    resolution: Annotated[float, Field(gt=0.2, le=1)] = 1.0
    crop_scale: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] = (
        0.25,
        1.0,
    )  # share of the area that stays
    flip: bool = True  # left to right, half of the time
    rotate_degrees: Annotated[float, Field(ge=0, le=180)] = 7.0  # up to, either way
    color: Annotated[float, Field(ge=0, lt=1)] = 0.2  # change of brightness, contrast, saturation
    grey: Annotated[float, Field(ge=0, le=1)] = 0.1  # probability
    erase: Annotated[float, Field(ge=0, le=1)] = 0.25  # probability of one erased rectangle
    mix: Annotated[float, Field(ge=0, le=1)] = 0.0  # probability of a part of another image


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
    backbone_lr: Annotated[float, Field(gt=0, le=1)] = Field(
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
    val_every_epochs: Annotated[int, Field(ge=1)] = 1  # the last epoch is always measured
    label_smoothing: Fraction = 0.0
    ema_decay: Fraction = 0.98  # a step, of the averaged weights that are evaluated and kept
    clip_norm: Annotated[float, Field(gt=0)] = 5.0  # the longest gradient


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


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file and put `section.key=value` overrides over it.

    Raises:
        UsageError: naming everything that is wrong, each with file, line and dotted key.
    """
    if not path.is_file():
        reason = "not a regular file" if path.exists() else "no such file"
        raise UsageError(f"{path}: {reason}; want a config such as configs/photos_quick.yaml")
    try:
        with path.open("rb") as file:
            document = strict_yaml.read_yaml(file.read(1 << 20), str(path))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    if document.problems and not document.values:  # not YAML: all else would be echoes of that
        return check_config(document)
    for assignment in overrides:
        strict_yaml.override(document, assignment)
    return check_config(document)


def check_config(document: Document) -> Config:
    """Turn a document into a config.

    Raises:
        UsageError: naming everything that is wrong with it.
    """
    problems = list(document.problems)
    config: Config | None = None
    if document.values or not problems:
        config, found, bad = _validate(document)
        problems += found
        problems += [
            Problem(document.where(keys[0]), complaints.dotted(keys[0]), what)
            for keys, what in (contradictions(config) if config else ())
            if not any(overlap(loc, key) for loc in bad for key in keys)
        ]
    if config is None or problems:
        lines = (str(problem) for problem in sorted(problems, key=complaints.place))
        raise UsageError("\n       ".join(lines))
    return config


def to_yaml(config: Config) -> str:
    """Write a config as YAML that reads back as the same config, every key spelled out."""
    return strict_yaml.write_yaml(config.model_dump(mode="json"))


def _validate(document: Document) -> tuple[Config | None, list[Problem], set[Loc]]:
    """Check types and ranges; give a config to check further even where some keys are bad."""
    try:
        return Config.model_validate(document.values), [], set()
    except ValidationError as error:
        problems, bad = complaints.from_pydantic(error, document, Config)
    # Stand-ins for what is missing or wrong, so that contradictions among the rest show too.
    values = complaints.without(document.values, bad)
    sections: dict[str, dict[str, int]] = {"data": {}, "train": {"epochs": 1}}
    values |= {name: stand_in | values.get(name, {}) for name, stand_in in sections.items()}
    values = {"name": "x", "classes": ("a", "b")} | values
    try:
        return Config.model_validate(values), problems, bad
    except ValidationError:  # a section is no mapping at all
        return None, problems, bad
