"""What a run says of its images before it trains on them, in a few lines."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from neither.data.facts import Flag
from neither.data.found import Found
from neither.data.separation import SPLITS
from neither.data.split_file import ADDED
from neither.data.splits import Assignment
from neither.data.store import Store
from neither.terminal import printable, say, warn

_MAX_NAMED = 10  # images left out that are named on the screen; all of them stand in splits.csv


def tell_findings(
    found: Found, store: Store, assignment: Assignment, classes: Sequence[str]
) -> None:
    """Say how many images are in which split, and what is odd about some."""
    counts = Counter(zip(assignment.sides.tolist(), found.labels, strict=True))
    for side, split in enumerate(SPLITS):
        if split:
            parts = ", ".join(f"{name} {counts[side, name]:,}" for name in classes)
            total = sum(counts[side, name] for name in classes)
            say(f"{split:5} {total:7,} images: {parts}")
    flags = store.facts["flags"][store.rows >= 0]
    for flag, what in (
        (Flag.ROTATED, "turned upright by their EXIF tag"),
        (Flag.ODD_EXIF, "with an EXIF tag that makes no sense, which was ignored"),
        (Flag.ANIMATED, "with several frames or pages, of which the first counts"),
    ):
        if num := int(np.count_nonzero(flags & flag)):
            say(f"images {what}: {num:,}")
    linked = [place for place, reason in assignment.reasons.items()
              if place not in store.reasons and reason != ADDED]  # fmt: skip
    for places, what in (
        (list(store.reasons), "unreadable images"),
        (linked, "images that are copies of, or in one group with, others in another split"),
    ):
        if places:
            warn(f"{len(places):,} {what} are left out; splits.csv lists each")
        for place in places[:_MAX_NAMED]:
            warn(f"  {printable(found.paths[place])}: {printable(assignment.reasons[place])}")
