"""Keep copies on one side: no image may be judged by a copy of what was learned.

Two images are linked if they look the same, hold the same bytes, or belong to one named group.
Where linked images stand in different splits, some are left out; none ever moves, so adding files
to a folder moves none of those that were there.
"""

from collections.abc import Sequence
from heapq import heapify, heappop, heappush

import numpy as np
from numpy.typing import NDArray

from neither.data.duplicates import group_alike, group_equal

SPLITS = ("", "train", "val", "test")  # a side is a place here; lower ones give way to higher ones
_TRAIN, _VAL, _TEST = 1, 2, 3

Sides = NDArray[np.int8]


def separate(
    facts: NDArray[np.void], sides: Sides, given: NDArray[np.bool_], groups: Sequence[str | None]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Say which images to leave out, so that no link goes from one split to another.

    Args:
        facts: (N,) records of `FACTS`.
        sides: (N,) the split of each; 0 for images in none.
        given: (N,) whether the user's folders say so. What they put into val or test is kept, and
            what is linked to it gives way. Among the others as few as possible give way.
        groups: the named group of each image, or None.

    Returns:
        left_out: (N,) bool.
        partner: (N,) int64, the image because of which each was left out; -1 for the others.
    """
    nodes, pairs = _nodes(facts)
    numbers: dict[str, int] = {}
    named = np.array(
        [-1 if name is None else numbers.setdefault(name, len(numbers)) for name in groups],
        dtype=np.int64,
    )
    partner = np.full(len(sides), -1, np.int64)
    sides = sides.copy()
    for side in (_VAL, _TRAIN):  # val gives way first: what it loses, train need not give way to
        others = np.where(given & (sides > side), sides, 0)
        cause = _highest(nodes, pairs, named, others)
        out = (sides == side) & (cause >= 0)
        partner[out] = cause[out]
        sides[out] = 0
    for node, side, rival in _fewest(nodes, pairs, sides):
        out = (nodes == node) & (sides == side)
        partner[out] = rival
        sides[out] = 0
    return partner >= 0, partner


def _nodes(facts: NDArray[np.void]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number what is the same: by look, or by bytes where an image is too flat to have a look."""
    looks, pairs = group_alike(facts)
    contents = group_equal(facts)
    flat = (looks < 0) & (contents >= 0)
    return np.where(flat, contents + looks.max(initial=-1) + 1, looks), pairs


def _highest(
    nodes: NDArray[np.int64], pairs: NDArray[np.int64], named: NDArray[np.int64], sides: Sides
) -> NDArray[np.int64]:
    """Return for each image one that it is linked to and that has the highest side, or -1."""
    num = len(sides)
    # A side and an image as one number, which is the larger the higher the side.
    codes = np.where(sides > 0, sides.astype(np.int64) * num + np.arange(num), -1)

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
    nodes: NDArray[np.int64], pairs: NDArray[np.int64], sides: Sides
) -> list[tuple[int, int, int]]:
    """Choose few images that, left out, leave no link across: (node, side, an image in the way).

    Greedy: what stands in the way of most others goes first; of equals, what also has company on
    its own side, as it is the bridge; of those, what lies in train.
    """
    used = sides > 0
    num_nodes = int(nodes.max(initial=-1)) + 1
    counts = np.zeros((num_nodes, len(SPLITS)), np.int32)
    np.add.at(counts, (nodes[used], sides[used]), 1)
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
        cause = np.flatnonzero(used & (nodes == node) & (sides == side))[0]
        found.append((*unit, int(cause)))
    return found
