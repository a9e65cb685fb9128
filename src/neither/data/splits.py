"""Which image is in which split: as its folder says, else by hash of what it shows.

Where folders do not say, the split is a hash of (seed, group). The group is what `data.groups`
finds in the path, such as a person or a video, else the scene, which copies and near duplicates
share. So shares hold in expectation within each class, an image's split hangs on that image alone,
and adding files moves none.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neither.config import Data
from neither.data.duplicates import group_equal
from neither.data.facts import Flag
from neither.data.found import Found
from neither.data.separation import SPLITS, Sides, separate
from neither.data.store import Store
from neither.errors import DataError
from neither.randomness import fraction
from neither.terminal import printable, say, warn

_MAX_NAMED = 10
_MANY = 0.05  # share of the images that are left out, above which the look may be at fault
_BLACK = 2  # mean luma of an image in which nothing can be seen
_FEW = 10  # val images of a class, below which its recall moves in steps of 10 % and more


@dataclass(frozen=True)
class Assignment:
    """The split of each image.

    Attributes:
        sides: (N,) places in `SPLITS`; 0 is none.
        reasons: why an image is in none, by its place.
    """

    sides: Sides
    reasons: dict[int, str]


def assign(found: Found, store: Store, seed: int, settings: Data) -> Assignment:
    """Give each image its split, and leave out what is unreadable or would link two splits.

    Raises:
        DataError: if the same bytes bear two labels.
    """
    if nothing := _shows_nothing(store):
        warn("all images are the same or black: their variance is zero, and nothing can be learned")
    else:
        _refuse_contradictions(found, store)
    groups = [None] * len(found.paths) if settings.groups is None else [
        _named_group(settings.groups, path) for path in found.paths
    ]  # fmt: skip
    if settings.groups is not None:
        named = [name for name in groups if name is not None]
        say(f"data.groups: {len(set(named)):,} groups of {len(named):,} images; "
            f"{len(groups) - len(named):,} images match nothing")  # fmt: skip
    sides = np.array([SPLITS.index(split) for split in found.splits], np.int8)
    has_folders, has_val = bool(sides.any()), bool((sides == SPLITS.index("val")).any())
    test_fraction = 0.0 if has_folders else settings.test_fraction
    given = sides > 0
    if not has_val:
        given &= sides != SPLITS.index("train")
        for place in map(int, np.flatnonzero(~given)):
            own = found.paths[place] if nothing else _own_group(store.facts[place])
            where = fraction(seed, groups[place] or own)
            split = "test" if where < test_fraction else "train"
            if test_fraction <= where < test_fraction + settings.val_fraction:
                split = "val"
            sides[place] = SPLITS.index(split)
    reasons = dict(store.reasons)
    sides[list(reasons)] = 0
    if nothing:
        return Assignment(sides, reasons)
    left_out, partner = separate(store.facts, sides, given, groups)
    if left_out.sum() > _MANY * len(sides):
        warn(
            f"{left_out.sum():,} of {len(sides):,} images look like others in another split and "
            "are left out; if they are no copies, say which split each is in by folders, or by "
            "a CSV file with a column split"
        )
    for place in np.flatnonzero(left_out).tolist():
        reasons[place] = _reason(found, store, groups, sides, place, int(partner[place]))
    sides[left_out] = 0
    return Assignment(sides, reasons)


def check_counts(found: Found, assignment: Assignment, classes: Sequence[str]) -> None:
    """Refuse to train where a class has nothing to learn from or to be judged by.

    Raises:
        DataError: naming the class, the split and what helps.
    """
    counts = Counter(zip(assignment.sides.tolist(), found.labels, strict=True))
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


def _own_group(facts: np.void) -> str:
    scene = int(facts["scene"])
    return f"scene {scene}" if scene else facts["sha256"].tobytes().hex()


def _shows_nothing(store: Store) -> bool:
    """Tell images that need not be kept apart, as there is nothing to tell them apart by."""
    facts = store.facts[store.rows >= 0]
    if len(facts) <= 1:
        return False
    black = bool((facts["flags"] & Flag.FLAT).all()) and int(facts["brightness"].max()) <= _BLACK
    return black or int(group_equal(facts).max()) == 0


def _refuse_contradictions(found: Found, store: Store) -> None:
    """Raise a DataError if images of the same bytes bear two labels."""
    contents = np.where(store.rows >= 0, group_equal(store.facts), -1)
    pairs = contradictions(found.labels, contents)
    if pairs:
        lines = "\n       ".join(
            f"{printable(found.paths[one])} and {printable(found.paths[other])}"
            for one, other in pairs[:_MAX_NAMED]
        )
        raise DataError(
            f"{len(pairs):,} files have the same bytes as one of another class\n       {lines}\n"
            "       Remove one of each pair: nobody can learn what is both"
        )


def contradictions(labels: Sequence[str], contents: NDArray[np.int64]) -> list[tuple[int, int]]:
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
    found: Found, store: Store, groups: Sequence[str | None], sides: Sides, place: int, other: int
) -> str:
    same = bool((store.facts["sha256"][place] == store.facts["sha256"][other]).all())
    what = "the same bytes as" if same else "nearly the same as"
    if not same and groups[place] is not None and groups[place] == groups[other]:
        what = f"in one {groups[place]} with"
    return f"{what} {found.paths[other]}, which is in {SPLITS[sides[other]]}"


def _why_none(found: Found, assignment: Assignment, name: str) -> str:
    reasons = [why for place, why in assignment.reasons.items() if found.labels[place] == name]
    if not reasons:
        return ""
    return f" ({len(reasons):,} of its images are left out: {printable(reasons[0])})"
