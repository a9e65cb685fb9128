"""Folds for cross-validation: parts of the training images, each left out of one fit."""

from collections import Counter
from collections.abc import Sequence
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from neither.data.splits import named_groups


def group_names(
    paths: Sequence[str], fingerprints: NDArray[np.void], pattern: str | None
) -> list[str]:
    """Return the group of each image: images of one group belong in one fold.

    It is what `data.group_pattern` matches in the path; else images that look alike are a group.
    """
    coarse = fingerprints["coarse_hash"].tolist()
    contents = [each.tobytes().hex() for each in fingerprints["sha256"]]
    default = [
        f"look {look}" if look else content for look, content in zip(coarse, contents, strict=True)
    ]
    named = named_groups(paths, pattern)
    return [name or other for name, other in zip(named, default, strict=True)]


def assign_folds(
    groups: Sequence[str], labels: NDArray[np.int64], num_folds: int, seed: int
) -> NDArray[np.int64]:
    """Deal the groups of each class out to folds, in an order that depends on seed and name.

    A group of several classes is dealt out with the groups of its rarest one.

    Args:
        groups: of N images.
        labels: (N,) class indices.
        num_folds: the most folds; fewer if otherwise a fold would have no image of some class.
        seed: of the run.

    Returns:
        (N,) the fold of each image, from 0. All are 0 if not even two folds can have each class:
        then nothing can be left out.
    """
    classes_of: dict[str, set[int]] = {}
    for group, label in zip(groups, labels.tolist(), strict=True):
        classes_of.setdefault(group, set()).add(label)
    sizes = Counter(label for classes in classes_of.values() for label in classes)
    order = sorted(classes_of, key=lambda name: sha256(f"{seed} {name}".encode()).digest())
    for num in range(min(num_folds, *sizes.values()), 1, -1):
        num_dealt: Counter[int] = Counter()
        folds: dict[str, int] = {}
        for group in order:
            rarest = min(classes_of[group], key=lambda label: (sizes[label], label))
            folds[group] = num_dealt[rarest] % num
            num_dealt[rarest] += 1
        present = {(folds[group], label) for group in order for label in classes_of[group]}
        if len(present) == num * len(sizes):
            return np.array([folds[group] for group in groups], np.int64)
    return np.zeros(len(groups), np.int64)
