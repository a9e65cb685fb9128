"""Start from an own run: which images it has seen."""

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from neither.config.schema import Config
from neither.data.dataset import Dataset, Split
from neither.data.fingerprints import hex_digests
from neither.data.split_file import read_trained_on
from neither.models.checkpoint import Checkpoint, find_run
from neither.runtime.console import info, warn
from neither.runtime.errors import UserError


def check_seen_images(
    config: Config, initial: Checkpoint, data: Dataset, left_out: str = ""
) -> None:
    """Warn of val images that the initial network has seen, and where a fresh run may be better.

    `left_out` is what is computed for images of train that are left out, if anything.
    """
    path = config.model.weights
    seen = find_trained_on(Path(path).expanduser())
    if seen is None:
        info(f"{path}: the images that it was trained on are not known; val may hold some of them")
        return
    num_train, num_val = (count_seen(data, split, seen) for split in (data.train, data.val))
    if num_val:
        warn(
            f"{path} was trained on {num_val:,} of the {len(data.val.rows):,} images of val: "
            "metrics on them are too good; leave them out, or use seed and split fractions of that "
            "run"
        )
    if left_out and num_train and initial.model.trainable == "all":
        warn(f"{path} was trained on {num_train:,} of the images of train: {left_out} are too good")
    name = initial.model.name
    is_from_random = name == "small_cnn" or (
        initial.model.weights == "none" and name != "softmax_regression"  # whose loss is convex
    )
    if 0 < num_train < len(data.train.rows) and config.model.trainable == "all" and is_from_random:
        warn(
            f"{path} was trained from random weights on {num_train:,} of these "
            f"{len(data.train.rows):,} training images. A network that continues from such weights "
            "often generalises worse than one trained on all images from the start (Ash and Adams, "
            "2020): where time allows, compare it with a run with model.weights=none"
        )


def find_trained_on(path: Path) -> set[str] | None:
    """Return the SHA-256 of the images that a run was trained on; None if they are not known."""
    with suppress(UserError):
        return read_trained_on(find_run(path))
    return None


def count_seen(data: Dataset, split: Split, seen: Collection[str]) -> int:
    """Count the images of a split with one of these SHA-256."""
    fingerprints = data.image_fingerprints[split.rows.numpy()]
    return sum(digest in seen for digest in hex_digests(fingerprints))
