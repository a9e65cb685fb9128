"""Keep copies on one side: no image may be judged by a copy of what was learned.

Two images are linked if they look the same, hold the same bytes, or belong to one named group.
Where linked images stand in different splits, some are left out; none ever moves, so adding files
to a folder moves none of those that were there.

Which image is in which split: as its folder says, else by hash of what it shows.

Where folders do not say, the split is a hash of (seed, group). The group is what
`data.group_pattern` finds in the path, such as a person or a video, else the scene, which copies
and near duplicates share. So shares hold in expectation within each class, an image's split
hangs on that image alone, and adding files moves none.

What a run says of its images before it trains on them, in a few lines.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

import numpy as np
from numpy.typing import NDArray

from neither.config.schema import Data
from neither.data.fingerprints import ImageFlag, find_near_duplicates, group_exact_duplicates
from neither.data.scan import ImageTable
from neither.data.store import ImageStore
from neither.runtime.console import info, printable, warn
from neither.runtime.errors import DataError
from neither.runtime.rng import hash_fraction

ADDED = "added since this run began"  # why an image stays left out of a run that goes on

SPLITS = ("", "train", "val", "test")  # a side is a place here; lower ones give way to higher ones
_TRAIN, _VAL, _TEST = 1, 2, 3

SplitIndices = NDArray[np.int8]


def separate_duplicates(
    fingerprints: NDArray[np.void],
    splits: SplitIndices,
    given: NDArray[np.bool_],
    groups: Sequence[str | None],
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Say which images to leave out, so that no link goes from one split to another.

    Args:
        fingerprints: (N,) records of `FINGERPRINT`.
        splits: (N,) the split of each; 0 for images in none.
        given: (N,) whether the user's folders say so. What they put into val or test is kept, and
            what is linked to it gives way. Among the others as few as possible give way.
        groups: the named group of each image, or None.

    Returns:
        left_out: (N,) bool.
        partner: (N,) int64, the image because of which each was left out; -1 for the others.
    """
    nodes, pairs = _nodes(fingerprints)
    numbers: dict[str, int] = {}
    named = np.array(
        [-1 if name is None else numbers.setdefault(name, len(numbers)) for name in groups],
        dtype=np.int64,
    )
    partner = np.full(len(splits), -1, np.int64)
    splits = splits.copy()
    for side in (_VAL, _TRAIN):  # val gives way first: what it loses, train need not give way to
        others = np.where(given & (splits > side), splits, 0)
        cause = _highest(nodes, pairs, named, others)
        out = (splits == side) & (cause >= 0)
        partner[out] = cause[out]
        splits[out] = 0
    for node, side, rival in _fewest(nodes, pairs, splits):
        out = (nodes == node) & (splits == side)
        partner[out] = rival
        splits[out] = 0
    return partner >= 0, partner


def _nodes(fingerprints: NDArray[np.void]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number what is the same: by look, or by bytes where an image is too flat to have a look."""
    looks, pairs = find_near_duplicates(fingerprints)
    contents = group_exact_duplicates(fingerprints)
    flat = (looks < 0) & (contents >= 0)
    return np.where(flat, contents + looks.max(initial=-1) + 1, looks), pairs


def _highest(
    nodes: NDArray[np.int64],
    pairs: NDArray[np.int64],
    named: NDArray[np.int64],
    splits: SplitIndices,
) -> NDArray[np.int64]:
    """Return for each image one that it is linked to and that has the highest side, or -1."""
    num = len(splits)
    # A side and an image as one number, which is the larger the higher the side.
    codes = np.where(splits > 0, splits.astype(np.int64) * num + np.arange(num), -1)

    def spread(numbers: NDArray[np.int64], edges: NDArray[np.int64]) -> NDArray[np.int64]:
        best = np.full(int(numbers.max(initial=-1)) + 2, -1, np.int64)  # the last for number -1
        used = numbers >= 0
        np.maximum.at(best, numbers[used], codes[used])
        near = best.copy()
        np.maximum.at(near, edges[:, 0], best[edges[:, 1]])
        np.maximum.at(near, edges[:, 1], best[edges[:, 0]])
        return near[numbers]

    found = np.maximum(spread(nodes, pairs), spread(named, np.zeros((0, 2), np.int64)))
    return np.where(found >= 0, found % max(num, 1), -1)


def _fewest(
    nodes: NDArray[np.int64], pairs: NDArray[np.int64], splits: SplitIndices
) -> list[tuple[int, int, int]]:
    """Choose few images that, left out, leave no link across: (node, side, an image in the way).

    Greedy: what stands in the way of most others goes first; of equals, what also has company on
    its own side, as it is the bridge; of those, what lies in train.
    """
    used = splits > 0
    num_nodes = int(nodes.max(initial=-1)) + 1
    counts = np.zeros((num_nodes, len(SPLITS)), np.int32)
    np.add.at(counts, (nodes[used], splits[used]), 1)
    split_up = np.flatnonzero((counts > 0).sum(axis=1) > 1)
    edges = np.concatenate([pairs, np.stack([split_up, split_up], axis=1)])
    one, other = counts[edges[:, 0]] > 0, counts[edges[:, 1]] > 0
    across = ((one[:, :, None] & other[:, None, :]) & ~np.eye(len(SPLITS), dtype=bool)).any((1, 2))
    rivals: dict[tuple[int, int], set[tuple[int, int]]] = {}
    for low, high in edges[across].tolist():
        for a in np.flatnonzero(counts[low]).tolist():
            for b in np.flatnonzero(counts[high]).tolist():
                if a != b:
                    rivals.setdefault((low, a), set()).add((high, b))
                    rivals.setdefault((high, b), set()).add((low, a))
    company = dict.fromkeys(rivals, 0)
    for low, high in pairs.tolist() if rivals else ():
        for side in (_TRAIN, _VAL, _TEST):
            if (low, side) in company:
                company[low, side] += int(counts[high, side])
            if (high, side) in company:
                company[high, side] += int(counts[low, side])

    def rank(unit: tuple[int, int]) -> tuple[int, int, int, int]:
        """Return what is the smaller the sooner a unit should go; it can only grow."""
        weight = sum(int(counts[rival]) for rival in rivals[unit] - out)
        return -weight, -company[unit], unit[1], unit[0]

    out: set[tuple[int, int]] = set()
    waiting = [(rank(unit), unit) for unit in rivals]
    heapify(waiting)
    chosen = []
    while waiting:
        before, worst = heappop(waiting)
        if rivals[worst] <= out:  # nothing is in its way any more
            continue
        if rank(worst) != before:
            heappush(waiting, (rank(worst), worst))
            continue
        out.add(worst)
        chosen.append(worst)
    for unit in reversed(chosen):  # what went first may be needless by what went later
        if rivals[unit] <= out:
            out.discard(unit)
    found = []
    for unit in sorted(out):
        node, side = max(rivals[unit] - out)
        cause = np.flatnonzero(used & (nodes == node) & (splits == side))[0]
        found.append((*unit, int(cause)))
    return found


_MAX_NAMED = 10
_MANY = 0.05  # share of the images that are left out, above which the look may be at fault
_BLACK = 2  # mean luma of an image in which nothing can be seen
_FEW = 10  # val images of a class, below which its recall moves in steps of 10 % and more


@dataclass(frozen=True)
class SplitAssignment:
    """The split of each image.

    Attributes:
        split_indices: (N,) places in `SPLITS`; 0 is none.
        reasons: why an image is in none, by its place.
    """

    split_indices: SplitIndices
    reasons: dict[int, str]


def assign_splits(
    found: ImageTable, store: ImageStore, seed: int, settings: Data
) -> SplitAssignment:
    """Give each image its split, and leave out what is unreadable or would link two splits.

    Raises:
        DataError: if the same bytes bear two labels.
    """
    if nothing := _shows_nothing(store):
        warn("all images are the same or black: their variance is zero, and nothing can be learned")
    else:
        _refuse_contradictions(found, store)
    groups = [None] * len(found.paths) if settings.group_pattern is None else [
        _named_group(settings.group_pattern, path) for path in found.paths
    ]  # fmt: skip
    if settings.group_pattern is not None:
        named = [name for name in groups if name is not None]
        info(f"data.group_pattern: {len(set(named)):,} groups of {len(named):,} images; "
            f"{len(groups) - len(named):,} images match nothing")  # fmt: skip
    splits = np.array([SPLITS.index(split) for split in found.splits], np.int8)
    has_folders, has_val = (
        bool(splits.any()),
        bool((splits == SPLITS.index("val")).any()),
    )
    test_fraction = 0.0 if has_folders else settings.test_fraction
    given = splits > 0
    if not has_val:
        given &= splits != SPLITS.index("train")
        for place in map(int, np.flatnonzero(~given)):
            own = found.paths[place] if nothing else _own_group(store.fingerprints[place])
            where = hash_fraction(seed, groups[place] or own)
            split = "test" if where < test_fraction else "train"
            if test_fraction <= where < test_fraction + settings.val_fraction:
                split = "val"
            splits[place] = SPLITS.index(split)
    reasons = dict(store.reasons)
    splits[list(reasons)] = 0
    if nothing:
        return SplitAssignment(splits, reasons)
    left_out, partner = separate_duplicates(store.fingerprints, splits, given, groups)
    if left_out.sum() > _MANY * len(splits):
        warn(
            f"{left_out.sum():,} of {len(splits):,} images look like others in another split and "
            "are left out; if they are no copies, say which split each is in by folders, or by "
            "a CSV file with a column split"
        )
    for place in np.flatnonzero(left_out).tolist():
        reasons[place] = _reason(found, store, groups, splits, place, int(partner[place]))
    splits[left_out] = 0
    return SplitAssignment(splits, reasons)


def check_class_counts(
    found: ImageTable, assignment: SplitAssignment, classes: Sequence[str]
) -> None:
    """Refuse to train where a class has nothing to learn from or to be judged by.

    Raises:
        DataError: naming the class, the split and what helps.
    """
    counts = Counter(zip(assignment.split_indices.tolist(), found.labels, strict=True))
    for split in ("train", "val"):
        for name in classes:
            num = counts[SPLITS.index(split), name]
            if not num:
                raise DataError(
                    f"class {name} has no image in {split} that can be used; add images of it"
                    + (", or raise data.val_fraction" if split == "val" else "")
                    + _why_none(found, assignment, name)
                )
            if split == "val" and num < _FEW:
                warn(f"class {name} has only {num} images in val: figures on them are coarse")


def _named_group(pattern: str, path: str) -> str | None:
    """Return what the pattern's groups hold, or its whole match where it has none."""
    match = re.search(pattern, path)
    if match is None:
        return None
    parts = [part or "" for part in match.groups() or (match.group(),)]
    return "group " + "/".join(parts) if any(parts) else None


def _own_group(fingerprints: np.void) -> str:
    scene = int(fingerprints["coarse_hash"])
    return f"scene {scene}" if scene else fingerprints["sha256"].tobytes().hex()


def _shows_nothing(store: ImageStore) -> bool:
    """Tell images that need not be kept apart, as there is nothing to tell them apart by."""
    fingerprints = store.fingerprints[store.is_readable]
    if len(fingerprints) <= 1:
        return False
    black = (
        bool((fingerprints["flags"] & ImageFlag.FLAT).all())
        and int(fingerprints["brightness"].max()) <= _BLACK
    )
    return black or int(group_exact_duplicates(fingerprints).max()) == 0


def _refuse_contradictions(found: ImageTable, store: ImageStore) -> None:
    """Raise a DataError if images of the same bytes bear two labels."""
    contents = np.where(store.is_readable, group_exact_duplicates(store.fingerprints), -1)
    pairs = find_label_conflicts(found.labels, contents)
    if pairs:
        lines = "\n       ".join(
            f"{printable(found.paths[one])} and {printable(found.paths[other])}"
            for one, other in pairs[:_MAX_NAMED]
        )
        raise DataError(
            f"{len(pairs):,} files have the same bytes as one of another class\n       {lines}\n"
            "       Remove one of each pair: nobody can learn what is both"
        )


def find_label_conflicts(
    labels: Sequence[str], contents: NDArray[np.int64]
) -> list[tuple[int, int]]:
    """Return pairs of images with the same bytes and different labels, each with the first one.

    Args:
        labels: of N images.
        contents: (N,) the number of each content, -1 for none.
    """
    used = np.flatnonzero(contents >= 0)
    repeated = np.bincount(contents[used])[contents[used]] > 1
    first: dict[int, int] = {}
    pairs = []
    for place in used[repeated].tolist():
        one = first.setdefault(int(contents[place]), place)
        if labels[one] != labels[place]:
            pairs.append((one, place))
    return pairs


def _reason(
    found: ImageTable,
    store: ImageStore,
    groups: Sequence[str | None],
    splits: SplitIndices,
    place: int,
    other: int,
) -> str:
    same = bool((store.fingerprints["sha256"][place] == store.fingerprints["sha256"][other]).all())
    what = "the same bytes as" if same else "nearly the same as"
    if not same and groups[place] is not None and groups[place] == groups[other]:
        what = f"in one {groups[place]} with"
    return f"{what} {found.paths[other]}, which is in {SPLITS[splits[other]]}"


def _why_none(found: ImageTable, assignment: SplitAssignment, name: str) -> str:
    reasons = [why for place, why in assignment.reasons.items() if found.labels[place] == name]
    if not reasons:
        return ""
    return f" ({len(reasons):,} of its images are left out: {printable(reasons[0])})"


_MAX_LOGGED = 10  # images left out that are named on the screen; all of them stand in splits.csv


def log_split_summary(
    found: ImageTable, store: ImageStore, assignment: SplitAssignment, classes: Sequence[str]
) -> None:
    """Say how many images are in which split, and what is odd about some."""
    counts = Counter(zip(assignment.split_indices.tolist(), found.labels, strict=True))
    for side, split in enumerate(SPLITS):
        if split:
            parts = ", ".join(f"{name} {counts[side, name]:,}" for name in classes)
            total = sum(counts[side, name] for name in classes)
            info(f"{split:5} {total:7,} images: {parts}")
    flags = store.fingerprints["flags"][store.is_readable]
    for flag, what in (
        (ImageFlag.ROTATED, "turned upright by their EXIF tag"),
        (ImageFlag.INVALID_EXIF, "with an EXIF tag that makes no sense, which was ignored"),
        (ImageFlag.ANIMATED, "with several frames or pages, of which the first counts"),
    ):
        if num := int(np.count_nonzero(flags & flag)):
            info(f"images {what}: {num:,}")
    linked = [place for place, reason in assignment.reasons.items()
              if place not in store.reasons and reason != ADDED]  # fmt: skip
    for places, what in (
        (list(store.reasons), "unreadable images"),
        (linked, "images that are copies of, or in one group with, others in another split"),
    ):
        if places:
            warn(f"{len(places):,} {what} are left out; splits.csv lists each")
        for place in places[:_MAX_LOGGED]:
            warn(f"  {printable(found.paths[place])}: {printable(assignment.reasons[place])}")
