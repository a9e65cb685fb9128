"""Folds for cross-validation: parts of the training images, each left out of one fit."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from neither.data.fingerprints import connect, hex_digests
from neither.data.splits import SPLITS, named_groups, separate_duplicates
from neither.runtime.console import printable, warn

MAX_FOLDS = 10
MIN_SOURCE_IMAGES = 50  # smaller sources are merged: their metrics would be too coarse
_NUM_LOOSE_FOLDS = 5  # at least, for images without a source
_SOURCE, _GROUP = 0, 1  # the kinds of a unit: a group is one of images without a source

Unit = tuple[int, str]  # images that stay together: their kind, and a name


def group_names(
    paths: Sequence[str],
    fingerprints: NDArray[np.void],
    pattern: str | None,
    sources: Sequence[str] = (),
) -> list[str]:
    """Return the group of each image: images of one group belong in one fold.

    It is what `data.group_pattern` matches in the path; else images that look alike are a group. If
    sources are given, look-alikes of different sources are not.
    """
    coarse = fingerprints["coarse_hash"].tolist()
    default = [
        f"look {look}" if look else content
        for look, content in zip(coarse, hex_digests(fingerprints), strict=True)
    ]
    if any(sources):
        default = [f"{source} {name}" for source, name in zip(sources, default, strict=True)]
    named = named_groups(paths, pattern)
    return [name or other for name, other in zip(named, default, strict=True)]


def assign_folds(
    groups: Sequence[str], labels: NDArray[np.int64], num_folds: int, seed: int
) -> NDArray[np.int64]:
    """Deal the groups of each class out to folds, in an order that depends on seed and name.

    A group of several classes is dealt out with the groups of its rarest one. There are fewer folds
    if otherwise one would have no image of some class.

    Returns:
        (N,) the fold of each image, from 0. All are 0 if not even two folds can have each class:
        then nothing can be left out.
    """
    classes_of: dict[str, set[int]] = {}
    for group, label in zip(groups, labels.tolist(), strict=True):
        classes_of.setdefault(group, set()).add(label)
    sizes = Counter(label for classes in classes_of.values() for label in classes)
    order = sorted(classes_of, key=lambda name: _shuffled(seed, name))
    for num in range(min(num_folds, *sizes.values()), 1, -1):
        num_dealt: Counter[int] = Counter()
        folds: dict[str, int] = {}
        for group in order:
            rarest = _rarest(classes_of[group], sizes)
            folds[group] = num_dealt[rarest] % num
            num_dealt[rarest] += 1
        present = {(folds[group], label) for group in order for label in classes_of[group]}
        if len(present) == num * len(sizes):
            return np.array([folds[group] for group in groups], np.int64)
    return np.zeros(len(groups), np.int64)


def assign_source_folds(
    sources: Sequence[str],
    groups: Sequence[str],
    labels: NDArray[np.int64],
    max_folds: int,
    seed: int,
) -> NDArray[np.int64]:
    """Assign the images to folds so that each source is left out once, as a whole.

    Sources of fewer than 50 images are merged within their rarest class, and sources that share a
    group are one. If there are more than `max_folds`, some folds have several, so that all are of
    similar size. Images without a source are dealt out by class and group. So are those of sources
    without which a class would have no image to train on; a warning names them. Outside each fold
    there are images of each class.

    Groups are those that `group_names` returns if it is given the sources.

    Returns:
        (N,) the fold of each image, from 0. All are 0 if nothing can be left out, such as where a
        class has one group only.
    """
    totals = Counter(labels.tolist())
    own_units = _join_sources(sources, groups)
    units = _count_classes(own_units, labels)
    whole = [unit for unit in sorted(units, key=lambda unit: _shuffled(seed, unit))
             if unit[0] == _SOURCE and not _hold_class(units[unit], totals)]  # fmt: skip
    parts = _merge_small({unit: units[unit] for unit in whole}, totals)
    others = units.keys() - whole
    in_others = (group for unit, group in zip(own_units, groups, strict=True) if unit in others)
    num_loose = len({*in_others})
    num = min(max_folds, max(2, len(parts), min(_NUM_LOOSE_FOLDS, num_loose)))
    inside = [Counter[int]() for _ in range(num)]  # of each fold, by class
    fold_of: dict[Unit, int] = {}
    parts.sort(key=lambda part: -_sum(part, units).total())
    for part in parts:
        counts = _sum(part, units)
        order = sorted(range(num), key=lambda fold: inside[fold].total())
        if (fold := _first_possible(order, counts, inside, totals)) is not None:
            inside[fold] += counts
            fold_of |= dict.fromkeys(part, fold)
        elif len(part) > 1:  # each alone may do
            parts += [[unit] for unit in part]
    divided = sorted(
        name for kind, name in units if kind == _SOURCE and (kind, name) not in fold_of
    )
    if divided:
        warn(
            f"sources that cannot be left out: {len(divided):,}, such as {printable(divided[0])}, "
            "as some class has no images outside of them; their images are dealt out to all folds"
        )
    if not fold_of:
        return assign_folds(groups, labels, max_folds, seed)
    own_units = [
        unit if unit in fold_of else (_GROUP, group)
        for unit, group in zip(own_units, groups, strict=True)
    ]
    loose = {unit: counts for unit, counts in _count_classes(own_units, labels).items()
             if unit not in fold_of}  # fmt: skip
    sizes = [counts.total() for counts in inside]
    dealt = [Counter[int]() for _ in range(num)]
    for unit in sorted(loose, key=lambda unit: _shuffled(seed, unit)):
        rarest = _rarest(loose[unit], totals)
        order = sorted(range(num), key=lambda fold: (dealt[fold][rarest], sizes[fold]))
        if (fold := _first_possible(order, loose[unit], inside, totals)) is None:
            return np.zeros(len(groups), np.int64)
        fold_of[unit] = fold
        sizes[fold] += loose[unit].total()
        for counts in (inside[fold], dealt[fold]):
            counts.update(loose[unit])
    folds = np.array([fold_of[unit] for unit in own_units], np.int64)
    return np.unique(folds, return_inverse=True)[1].astype(np.int64)  # none is empty


def find_left_out(sources: Sequence[str], folds: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return (N,) bool, which images are of a source that one fold holds as a whole.

    None are if all these are in one fold: thresholds for a source come from the others.
    """
    folds_of: dict[str, set[int]] = {}
    for source, fold in zip(sources, folds.tolist(), strict=True):
        folds_of.setdefault(source, set()).add(fold)
    is_whole = {source: len(own) == 1 for source, own in folds_of.items()}
    is_left_out = np.array([bool(source) and is_whole[source] for source in sources])
    return is_left_out & (len(np.unique(folds[is_left_out])) > 1)


def split_fold(
    is_left_out: NDArray[np.bool_],
    is_val: NDArray[np.bool_],
    groups: Sequence[str],
    labels: NDArray[np.int64],
    fingerprints: NDArray[np.void],
    seed: int,
) -> NDArray[np.int8] | None:
    """Split the images for a run that leaves one fold out: into test.

    The others stay in train and val, unless these would lack a class: one that has val images in
    this fold alone, say, or look-alikes of the fold, which a run leaves out. Then they are divided
    anew by class and group.

    Returns:
        (N,) int8 indices into `SPLITS`; None if train or val would lack a class all the same.
    """
    train, val, test = map(SPLITS.index, ("train", "val", "test"))
    rest = np.flatnonzero(~is_left_out)
    dealt = assign_folds(
        [groups[index] for index in rest.tolist()], labels[rest], _NUM_LOOSE_FOLDS, seed
    )
    anew = np.zeros_like(is_val)
    anew[rest] = dealt == 0
    wanted = {(split, label) for split in (train, val) for label in labels.tolist()}
    for in_val in (is_val, anew):
        splits = np.where(is_left_out, test, np.where(in_val, val, train)).astype(np.int8)
        given = np.ones_like(is_val)
        kept = separate_duplicates(fingerprints, splits, given, [None] * len(given)) < 0
        if wanted <= {*zip(splits[kept].tolist(), labels[kept].tolist(), strict=True)}:
            return splits
    return None


def _join_sources(sources: Sequence[str], groups: Sequence[str]) -> list[Unit]:
    """Return the unit of each image: its source with those that share a group, or its group."""
    images = list(zip(sources, groups, strict=True))
    root = connect(((_SOURCE, source), (_GROUP, group)) for source, group in images if source)
    return [root((_SOURCE, source) if source else (_GROUP, group)) for source, group in images]


def _merge_small(units: Mapping[Unit, Counter[int]], totals: Counter[int]) -> list[list[Unit]]:
    """Join small units of one class to parts of about 50 images, but never all of a class."""
    parts = [[unit] for unit, counts in units.items() if counts.total() >= MIN_SOURCE_IMAGES]
    by_class: dict[int, list[Unit]] = {}
    for unit, counts in units.items():
        if counts.total() < MIN_SOURCE_IMAGES:
            by_class.setdefault(_rarest(counts, totals), []).append(unit)
    for small in by_class.values():
        together = _sum(small, units)
        num = max(together.total() // MIN_SOURCE_IMAGES, 2 if _hold_class(together, totals) else 1)
        parts += [small[start::num] for start in range(num)]
    return parts


def _count_classes(units: Sequence[Unit], labels: NDArray[np.int64]) -> dict[Unit, Counter[int]]:
    counts: dict[Unit, Counter[int]] = {}
    for unit, label in zip(units, labels.tolist(), strict=True):
        counts.setdefault(unit, Counter())[label] += 1
    return counts


def _sum(names: Iterable[Unit], units: Mapping[Unit, Counter[int]]) -> Counter[int]:
    return sum((units[name] for name in names), Counter[int]())


def _hold_class(counts: Counter[int], totals: Counter[int]) -> bool:
    """Return whether these are all images that there are of some class."""
    return any(num == totals[label] for label, num in counts.items())


def _first_possible(
    folds: Sequence[int], counts: Counter[int], inside: Sequence[Counter[int]], totals: Counter[int]
) -> int | None:
    """Return the first fold that, with these images too, would not hold all of a class."""
    for fold in folds:
        if all(inside[fold][label] + num < totals[label] for label, num in counts.items()):
            return fold
    return None


def _rarest(labels: Iterable[int], totals: Counter[int]) -> int:
    return min(labels, key=lambda label: (totals[label], label))


def _shuffled(seed: int, name: str | Unit) -> bytes:
    """Return the key by which names are sorted."""
    return sha256(f"{seed} {name}".encode("utf-8", "surrogateescape")).digest()
