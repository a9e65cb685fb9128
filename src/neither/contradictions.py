"""Keys of a config that are right one by one and do not go together."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from neither.complaints import Loc

if TYPE_CHECKING:  # which itself imports this file
    from neither.config import Config


OWN_NETWORKS = ("small_cnn", "softmax_regression")  # all others are torchvision's


def contradictions(config: "Config") -> Iterator[tuple[tuple[Loc, ...], str]]:
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
    if config.augmentation.resolution != 1 and config.model.name == "softmax_regression":
        what = "softmax_regression has a weight for each pixel of data.image_size: want 1"
        yield (("augmentation", "resolution"), ("model", "name")), what
    model = config.model
    if model.name in OWN_NETWORKS and model.weights != "none":
        what = f"{model.name} has none to begin with: want none, got {model.weights}"
        yield (("model", "weights"), ("model", "name")), what
    if model.weights == "none" and model.freeze_epochs:
        what = f"random weights must learn from the first epoch: want 0, got {model.freeze_epochs}"
        yield (("model", "freeze_epochs"), ("model", "weights")), what
    if model.weights == "none" and model.backbone_lr != 1:
        what = f"random weights learn at train.lr: want 1, got {model.backbone_lr}"
        yield (("model", "backbone_lr"), ("model", "weights")), what
    if config.augmentation.mix and train.batch_size % 2:
        what = f"augmentation.mix pairs images up: want an even number, got {train.batch_size}"
        yield (("train", "batch_size"), ("augmentation", "mix")), what
    if config.augmentation.crop_scale[0] > config.augmentation.crop_scale[1]:
        yield (("augmentation", "crop_scale"),), "the smaller share comes first"
    if train.warmup_epochs >= train.epochs and train.warmup_epochs:
        what = f"nothing is left of train.epochs, {train.epochs}, after {train.warmup_epochs}"
        yield (("train", "warmup_epochs"), ("train", "epochs")), what
