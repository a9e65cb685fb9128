"""Assign each image to train, val or test, without duplicates across splits.

Where folders or a manifest give the split, it is kept. Otherwise it is a hash of (seed, group), so
that the fractions hold in expectation within each class and adding files moves no other image. The
group is what `data.group_pattern` matches in the path, such as a person or a video; without a match
it is the coarse hash of the image, which duplicates and near-duplicates mostly share.

Two images are linked if they look the same, have the same bytes, or belong to one named group. If
linked images are in different splits, some of them are excluded; none is ever moved.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

import numpy as np
from numpy.typing import NDArray

from neither.config.schema import Data
from neither.data.fingerprints import ImageFlag, find_near_duplicates, group_exact_duplicates
from neither.data.scan import ImageTable, search_paths
from neither.data.store import ImageStore
from neither.runtime.console import info, printable, warn
from neither.runtime.errors import DataError
from neither.runtime.rng import hash_fraction

ADDED = "added since this run began"  # the reason in a resumed run
DROPPED_IN_REVIEW = "dropped in a review"
SPLITS = ("", "train", "val", "test")  # a lower index gives way to a higher one; "" is excluded

_TRAIN, _VAL, _TEST = 1, 2, 3
_MAX_NAMED = 10
_COARSE_HASH_PREFIX = "scene"  # part of a hashed text: another would move images between splits
_MANY_EXCLUDED = 0.05  # fraction of the images above which the similarity may be misleading
_MAX_BLACK = 2  # mean luma of an image in which nothing can be seen
_MIN_VAL_IMAGES = 10  # of a class: below, its recall moves in steps of more than 10 %


@dataclass(frozen=True)
class SplitAssignment:
    """The split of each image."""

    split_indices: NDArray[np.int8]  # (N,) int8 indices into `SPLITS`; 0 is excluded
    reasons: dict[int, str]  # why an image is excluded, by its index


def assign_splits(
    table: ImageTable, store: ImageStore, seed: int, settings: Data
) -> SplitAssignment:
    """Assign each image to a split; exclude unreadable images and duplicates across splits.

    Raises:
        DataError: if files with the same bytes have different labels.
    """
    if is_uniform := _is_uniform(store):
        warn("all images are the same or black: their variance is zero, and nothing can be learned")
    else:
        _check_label_conflicts(table, store)
    groups = named_groups(table.paths, settings.group_pattern)
    if settings.group_pattern is not None:
        named = [name for name in groups if name is not None]
        info(
            f"data.group_pattern: {len(set(named)):,} groups of {len(named):,} images; "
            f"{len(groups) - len(named):,} images match nothing"
        )
    indices = np.array([SPLITS.index(split) for split in table.splits], np.int8)
    is_user_assigned = indices > 0
    test_fraction = 0.0 if is_user_assigned.any() else settings.test_fraction
    if not (indices == _VAL).any():
        is_user_assigned &= indices != _TRAIN  # val is missing, so train is split again
        for index in map(int, np.flatnonzero(~is_user_assigned)):
            default_group = store.fingerprints["sha256"][index].tobytes().hex()
            if is_uniform:
                default_group = table.paths[index]
            elif coarse_hash := int(store.fingerprints["coarse_hash"][index]):
                default_group = f"{_COARSE_HASH_PREFIX} {coarse_hash}"
            fraction = hash_fraction(seed, groups[index] or default_group)
            if fraction < test_fraction:
                indices[index] = _TEST
            elif fraction < test_fraction + settings.val_fraction:
                indices[index] = _VAL
            else:
                indices[index] = _TRAIN
    reasons = dict(store.reasons)
    indices[list(reasons)] = 0
    if is_uniform:
        return SplitAssignment(indices, reasons)
    partner = separate_duplicates(store.fingerprints, indices, is_user_assigned, groups)
    links = _describe_links(partner, store, table.paths, groups, indices)
    if len(links) > _MANY_EXCLUDED * len(indices):
        warn(
            f"{len(links):,} of {len(indices):,} images look like others in another split and are "
            "left out; if they are not duplicates, give the split of each image by folders, or by "
            "a CSV file with a column split"
        )
    indices[list(links)] = 0
    return SplitAssignment(indices, reasons | links)


def assign_unlabelled(
    unlabelled: ImageTable,
    table: ImageTable,
    joined: ImageStore,
    assignment: SplitAssignment,
    pattern: str | None,
) -> SplitAssignment:
    """Assign images without labels to train, without those linked to an image of val or test.

    Table and assignment are those of the labelled images; the joined store has these and then the
    others.
    """
    num, paths = len(table.paths), table.paths + unlabelled.paths
    groups = named_groups(paths, pattern)
    reasons = {index - num: why for index, why in joined.reasons.items() if index >= num}
    own = np.full(len(unlabelled.paths), _TRAIN, np.int8)
    own[list(reasons)] = 0
    indices = np.concatenate([assignment.split_indices, own])
    is_labelled = np.arange(len(indices)) < num
    partner = separate_duplicates(joined.fingerprints, indices, is_labelled, groups)
    partner[is_labelled] = -1
    links = _describe_links(partner, joined, paths, groups, indices)
    reasons |= {index - num: link for index, link in links.items()}
    own[list(reasons)] = 0
    return SplitAssignment(own, reasons)


def _describe_links(
    partner: NDArray[np.int64],
    store: ImageStore,
    paths: Sequence[str],
    groups: Sequence[str | None],
    indices: NDArray[np.int8],
) -> dict[int, str]:
    """Say of each image that has a partner how it is linked to it, and in which split that is."""
    hashes, links = store.fingerprints["sha256"], {}
    for index in np.flatnonzero(partner >= 0).tolist():
        other = int(partner[index])
        link = "nearly the same as"
        if (hashes[index] == hashes[other]).all():
            link = "the same bytes as"
        elif groups[index] is not None and groups[index] == groups[other]:
            link = f"in one {groups[index]} with"
        links[index] = f"{link} {paths[other]}, which is in {SPLITS[indices[other]]}"
    return links


def check_class_counts(
    table: ImageTable, assignment: SplitAssignment, classes: Sequence[str]
) -> None:
    """Check that each class has images in train and val.

    Raises:
        DataError: with the class, the split and a remedy.
    """
    counts = Counter(zip(assignment.split_indices.tolist(), table.labels, strict=True))
    for split in ("train", "val"):
        for name in classes:
            num = counts[SPLITS.index(split), name]
            if not num:
                remedy = ", or raise data.val_fraction" if split == "val" else ""
                reasons = [reason for index, reason in assignment.reasons.items()
                           if table.labels[index] == name]  # fmt: skip
                if reasons:
                    num_excluded, reason = len(reasons), printable(reasons[0])
                    remedy += f" ({num_excluded:,} of its images are left out: {reason})"
                raise DataError(
                    f"class {name} has no image in {split} that can be used; add images of it"
                    f"{remedy}"
                )
            if split == "val" and num < _MIN_VAL_IMAGES:
                warn(f"class {name} has only {num} images in val: its metrics are coarse")


def log_split_summary(
    table: ImageTable, store: ImageStore, assignment: SplitAssignment, classes: Sequence[str]
) -> None:
    """Log the number of images in each split, with flags, and excluded."""
    counts = Counter(zip(assignment.split_indices.tolist(), table.labels, strict=True))
    for split_index, split in enumerate(SPLITS[1:], start=1):
        parts = ", ".join(f"{name} {counts[split_index, name]:,}" for name in classes)
        total = sum(counts[split_index, name] for name in classes)
        info(f"{split:5} {total:7,} images: {parts}")
    flags = store.fingerprints["flags"][store.is_readable]
    for flag, description in (
        (ImageFlag.ROTATED, "turned upright by their EXIF tag"),
        (ImageFlag.INVALID_EXIF, "with an invalid EXIF orientation, which is ignored"),
        (ImageFlag.ANIMATED, "with several frames or pages, of which the first is used"),
    ):
        if num := int(np.count_nonzero(flags & flag)):
            info(f"images {description}: {num:,}")
    unlinked = (ADDED, DROPPED_IN_REVIEW)
    linked = [index for index, reason in assignment.reasons.items()
              if index not in store.reasons and reason not in unlinked]  # fmt: skip
    for indices, description in (
        (list(store.reasons), "unreadable images"),
        (linked, "images that duplicate, or share a group with, images in another split"),
    ):
        if indices:
            warn(f"{len(indices):,} {description} are left out; splits.csv lists each")
        for index in indices[:_MAX_NAMED]:
            warn(f"  {printable(table.paths[index])}: {printable(assignment.reasons[index])}")


def log_unlabelled(unlabelled: ImageTable, store: ImageStore, assignment: SplitAssignment) -> None:
    """Log how many images without labels are used, and which are left out."""
    num = int(np.count_nonzero(assignment.split_indices))
    info(f"train {num:7,} more images, without labels: data.unlabelled")
    linked = [index for index, reason in assignment.reasons.items()
              if index not in store.reasons and reason != ADDED]  # fmt: skip
    for count, description in (
        (len(store.reasons), "are unreadable"),
        (len(linked), "duplicate, or share a group with, images of val or test"),
    ):
        if count:
            warn(
                f"{count:,} images of {printable(unlabelled.root)} {description}, and are left "
                "out; unlabelled.csv lists each"
            )


def separate_duplicates(
    fingerprints: NDArray[np.void],
    indices: NDArray[np.int8],
    given: NDArray[np.bool_],
    groups: Sequence[str | None],
) -> NDArray[np.int64]:
    """Choose images to exclude so that no two linked images are in different splits.

    Args:
        fingerprints: (N,) records of `FINGERPRINT`.
        indices: (N,) the split of each image; 0 for images in none.
        given: (N,) whether the user chose the split. Images that the user put into val or test
            are kept, and images linked to them are excluded. Among the others as few as possible
            are excluded.
        groups: the named group of each image, or None.

    Returns:
        (N,) the image because of which each is excluded; -1 for those that are not.
    """
    # The nodes are the distinct hashes, and the distinct contents of flat images, which have none.
    nodes, pairs = find_near_duplicates(fingerprints)
    contents = group_exact_duplicates(fingerprints)
    flat = (nodes < 0) & (contents >= 0)
    nodes = np.where(flat, contents + nodes.max(initial=-1) + 1, nodes)
    numbers: dict[str | None, int] = {None: -1}
    group_numbers = np.array([numbers.setdefault(name, len(numbers)) for name in groups], np.int64)
    partner = np.full(len(indices), -1, np.int64)
    indices = indices.copy()
    for split in (_VAL, _TRAIN):  # val first: train images linked to what it loses may stay
        higher = np.where(given & (indices > split), indices, 0)
        cause = _highest_linked(nodes, pairs, group_numbers, higher)
        excluded = (indices == split) & (cause >= 0)
        partner[excluded] = cause[excluded]
        indices[excluded] = 0
    for node, split, linked in _choose_exclusions(nodes, pairs, indices):
        excluded = (nodes == node) & (indices == split)
        partner[excluded] = linked
        indices[excluded] = 0
    return partner


def _highest_linked(
    nodes: NDArray[np.int64],
    pairs: NDArray[np.int64],
    group_numbers: NDArray[np.int64],
    indices: NDArray[np.int8],
) -> NDArray[np.int64]:
    """Return for each image a linked one of the highest split, or -1."""
    num = len(indices)
    # Split and image as one number that grows with the split.
    codes = np.where(indices > 0, indices.astype(np.int64) * num + np.arange(num), -1)

    def highest_near(numbers: NDArray[np.int64], edges: NDArray[np.int64]) -> NDArray[np.int64]:
        best = np.full(int(numbers.max(initial=-1)) + 2, -1, np.int64)  # the last for number -1
        used = numbers >= 0
        np.maximum.at(best, numbers[used], codes[used])
        near = best.copy()
        np.maximum.at(near, edges[:, 0], best[edges[:, 1]])
        np.maximum.at(near, edges[:, 1], best[edges[:, 0]])
        return near[numbers]

    highest = np.maximum(highest_near(nodes, pairs), highest_near(group_numbers, pairs[:0]))
    return np.where(highest >= 0, highest % max(num, 1), -1)


def _choose_exclusions(
    nodes: NDArray[np.int64], pairs: NDArray[np.int64], indices: NDArray[np.int8]
) -> list[tuple[int, int, int]]:
    """Choose few images whose exclusion leaves no link across: (node, split, a linked image).

    A greedy vertex cover of the graph of (node, split) units: the unit with the most linked images
    in other splits goes first; of equals the one with more links inside its own split, as it is a
    bridge; of those the one in train.
    """
    used = indices > 0
    num_nodes = int(nodes.max(initial=-1)) + 1
    counts = np.zeros((num_nodes, len(SPLITS)), np.int32)
    np.add.at(counts, (nodes[used], indices[used]), 1)
    divided = np.flatnonzero((counts > 0).sum(axis=1) > 1)
    edges = np.concatenate([pairs, np.stack([divided, divided], axis=1)])
    first, second = counts[edges[:, 0]] > 0, counts[edges[:, 1]] > 0
    others = ~np.eye(len(SPLITS), dtype=bool)
    across = (first[:, :, None] & second[:, None, :] & others).any((1, 2))
    linked_units: dict[tuple[int, int], set[tuple[int, int]]] = {}
    for low, high in edges[across].tolist():
        for a in np.flatnonzero(counts[low]).tolist():
            for b in np.flatnonzero(counts[high]).tolist():
                if a != b:
                    linked_units.setdefault((low, a), set()).add((high, b))
                    linked_units.setdefault((high, b), set()).add((low, a))
    num_inside = dict.fromkeys(linked_units, 0)  # linked images in the same split
    for low, high in pairs.tolist() if linked_units else ():
        for split in (_TRAIN, _VAL, _TEST):
            for one, other in ((low, high), (high, low)):
                if (one, split) in num_inside:
                    num_inside[one, split] += int(counts[other, split])

    def priority(unit: tuple[int, int]) -> tuple[int, int, int, int]:
        """Return a key that is smaller the sooner a unit goes; it never decreases."""
        num_across = sum(int(counts[linked]) for linked in linked_units[unit] - chosen)
        return -num_across, -num_inside[unit], unit[1], unit[0]

    chosen: set[tuple[int, int]] = set()
    order = []
    queue = [(priority(unit), unit) for unit in linked_units]
    heapify(queue)
    while queue:
        before, unit = heappop(queue)
        if linked_units[unit] <= chosen:  # no link is left
            continue
        if priority(unit) != before:
            heappush(queue, (priority(unit), unit))
            continue
        chosen.add(unit)
        order.append(unit)
    for unit in reversed(order):  # a later choice may make an earlier one unnecessary
        if linked_units[unit] <= chosen:
            chosen.discard(unit)
    exclusions = []
    for unit in sorted(chosen):
        node, split = max(linked_units[unit] - chosen)
        cause = np.flatnonzero(used & (nodes == node) & (indices == split))[0]
        exclusions.append((*unit, int(cause)))
    return exclusions


def named_groups(paths: Sequence[str], pattern: str | None) -> list[str | None]:
    """Return for each path what the pattern's groups match, or its whole match if it has none."""
    if pattern is None:
        return [None] * len(paths)
    return [f"group {found}" if found else None for found in search_paths(pattern, paths)]


def _is_uniform(store: ImageStore) -> bool:
    """Return whether all readable images are the same or black, so that any split is as good."""
    readable = store.fingerprints[store.is_readable]
    if len(readable) <= 1:
        return False
    flat = bool((readable["flags"] & ImageFlag.FLAT).all())
    black = flat and int(readable["brightness"].max()) <= _MAX_BLACK
    return black or int(group_exact_duplicates(readable).max()) == 0


def _check_label_conflicts(table: ImageTable, store: ImageStore) -> None:
    contents = group_exact_duplicates(store.fingerprints).tolist()
    first: dict[int, int] = {}
    conflicts = []
    for index in np.flatnonzero(store.is_readable).tolist():
        one = first.setdefault(contents[index], index)
        if table.labels[one] != table.labels[index]:
            paths = printable(table.paths[one]), printable(table.paths[index])
            conflicts.append(" and ".join(paths))
    if conflicts:
        raise DataError(
            f"{len(conflicts):,} files have the same bytes as one of another class",
            *conflicts[:_MAX_NAMED],
            "Remove one of each pair: an image cannot have two labels",
        )
