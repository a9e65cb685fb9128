"""The source of each image: the camera, site, collection or shoot that it comes from.

A network is better on images of the sources that it was trained on than on others (Zech et al.,
"Variable generalization performance of a deep learning model to detect pneumonia in chest
radiographs", 2018), all the more if a source has images of one class alone: then it may learn the
source instead of the class. The sources of a dataset show how much, if each is left out once.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from sys import intern

import numpy as np
from numpy.typing import NDArray

from neither.data.scan import ImageTable, nfc, search_paths
from neither.data.splits import SPLITS, SplitAssignment
from neither.runtime.console import info, printable, warn

_MAX_LISTED = 20
_MAX_NAMED = 10
_MAX_DISTINCT = 0.9  # sources for each image: more are names of images
_SMALL_SOURCE = 50  # images of a class: benchmarks/LOG.md
_MAX_CHANCE = 0.001  # of a source without images of other classes, if it were like the others


def name_sources(table: ImageTable, pattern: str | None) -> None:
    """Set the source of each image to what a regular expression finds in its path, if it is given.

    A manifest that names sources itself comes first. The expression may find none, as configs
    expect names that not all photos have; and names of single images, such as a column of URLs, or
    of classes are no sources. Each is a warning.
    """
    is_named = any(table.sources)
    if pattern is not None and not is_named:
        table.sources = [intern(nfc(found)) for found in search_paths(pattern, table.paths)]
        if not any(table.sources):
            warn(
                f"data.sources: {printable(pattern)} matches none of {len(table.paths):,} paths, "
                f"such as {printable(table.paths[0])}: no image has a source"
            )
    named = [source for source in table.sources if source]
    num, labels = len({*named}), {*table.labels}
    if 1 < num > _MAX_DISTINCT * len(named):
        found = f"{num:,} sources of {len(named):,} images"
    elif 1 < num == len(labels) == len({*zip(table.sources, table.labels, strict=True)}):
        found = "one source for each class"
    else:
        return
    key = "the column source" if is_named else "data.sources"
    warn(
        f"{table.source}: {key} names {found}, such as {printable(named[0])}: so they are not "
        "used; a source has many images, and a class several sources"
    )
    table.sources = [""] * len(table.paths)


def weigh_images(sources: Sequence[str], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Compute how much each of N images counts in a fit, so that no large source decides it alone.

    The n images of a class from one source count n / (n + 50) together, up to a factor: a thousand
    images 1.4 times as much as a hundred. What all sources have in common is what a new one has
    (compare Idrissi et al., "Simple data balancing achieves competitive worst-group-accuracy",
    2022). The images of a class that have a source count as many as they are, together; an image
    without a source counts 1.
    """
    weights = np.ones(len(labels))
    if not any(sources):
        return weights
    names = np.array(sources)
    for label in np.unique(labels):
        rows = np.flatnonzero((labels == label) & (names != ""))
        _, groups, nums = np.unique(names[rows], return_inverse=True, return_counts=True)
        shares = 1 / (nums[groups] + _SMALL_SOURCE)
        weights[rows] = shares * len(rows) / shares.sum()
    return weights


def count_by_source(sources: Sequence[str], labels: Sequence[str]) -> dict[str, Counter[str]]:
    """Count the images of each class in each source.

    Returns:
        Counts by label, by source: the largest source first, images without a source last, under an
        empty name. Nothing if no image has a source.
    """
    counts: dict[str, Counter[str]] = {}
    for source, label in zip(sources, labels, strict=True):
        counts.setdefault(source, Counter())[label] += 1
    if counts.keys() <= {""}:
        return {}
    return dict(sorted(counts.items(), key=lambda each: (not each[0], -each[1].total(), each[0])))


def find_source_problems(counts: Mapping[str, Counter[str]]) -> list[str]:
    """Describe what the sources, as `count_by_source` returns them, make unmeasurable or too easy.

    These are classes with fewer than two sources, and sources that give their class away: all their
    images are of one class, and there are too many of them for that to be chance.
    """
    named = {name: count for name, count in counts.items() if name}
    totals = Counter[str]()
    for count in counts.values():
        totals += count
    if len(named) == 1:
        return [
            f"all images that have a source have the same, {printable(*named)}: how well the "
            "network does on images from elsewhere cannot be measured; add images of other sources"
        ]
    problems = []
    few = []
    for label in sorted(filter(None, totals)) if named else ():
        own = [name for name, count in named.items() if label in count]
        if len(own) < 2:
            few.append(f"{label} ({printable(own[0]) if own else 'none'})")
    if few:
        more = f" and {len(few) - _MAX_NAMED:,} more" if len(few) > _MAX_NAMED else ""
        problems.append(
            f"classes with images of one source alone: {', '.join(few[:_MAX_NAMED])}{more}; how "
            "well they are recognised elsewhere cannot be measured; add images of other sources"
        )
    revealing = [
        f"{printable(name)} ({label}, {num:,})"
        for name, count in named.items()
        for label, num in count.items()
        if len(count) == 1 and (totals[label] / totals.total()) ** num < _MAX_CHANCE
    ]
    if revealing:
        problems.append(
            f"{len(revealing):,} of {len(named):,} sources give their class away, as all their "
            f"images are of one class: {', '.join(revealing[:3])}"
            f"{', ...' if len(revealing) > 3 else ''}; the network may learn the source instead; "
            "add images of other classes from the same sources"
        )
    return problems


def log_sources(table: ImageTable, assignment: SplitAssignment) -> None:
    """Log the images that a run uses by class and source, and what is wrong with the sources."""
    used = np.flatnonzero(assignment.split_indices)
    sources = [table.sources[index] for index in used]
    counts = count_by_source(sources, [table.labels[index] for index in used])
    for name, count in list(counts.items())[:_MAX_LISTED]:
        parts = ", ".join(f"{label} {num:,}" for label, num in sorted(count.items()))
        source = f"source {printable(name)}" if name else "no source"
        info(f"{source}: {count.total():,} images: {parts}")
    if len(counts) > _MAX_LISTED:
        info(f"and {len(counts) - _MAX_LISTED:,} more sources; splits.csv has that of each image")
    splits = [SPLITS[index] for index in assignment.split_indices[used]]
    known = {source for source, split in zip(sources, splits, strict=True) if split == "train"}
    for split in ("val", "test") if counts else ():
        own = [source for source, each in zip(sources, splits, strict=True) if each == split]
        num_known = sum(source in known for source in own if source)
        info(f"{split}: {num_known:,} of {len(own):,} images are of sources that train has too")
    for problem in find_source_problems(counts):
        warn(problem)
