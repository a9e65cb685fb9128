"""Everything worth knowing of a folder of images before training on it."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neither.config import Data
from neither.data.duplicates import group_alike, group_equal
from neither.data.facts import KNOWN_FORMATS, Flag
from neither.data.found import Found
from neither.data.inspection import Inspection, inspect_images
from neither.data.layout import find_training_images
from neither.data.manifest import find_training_rows, is_manifest, read_manifest
from neither.data.scored import find_all_images
from neither.data.separation import SPLITS
from neither.data.shortcuts import find_shortcuts, guess_classes
from neither.data.splits import assign, check_counts
from neither.data.store import Limit
from neither.errors import DataError
from neither.terminal import printable

SCHEMA_VERSION = 1
_DARK = 25  # mean luma below which little can be seen
_BLURRED = 12.0  # sharpness that photos reach when blurred with a radius of 2 of 256 pixels
_ONE_COLOUR = 4.0  # spread in grey levels
_TELLING = 0.9  # balanced accuracy above which a trait gives a class away


def check_images(source: Path) -> dict[str, Any]:
    """Decode every image of a folder or manifest and report on it; nothing is written anywhere.

    Returns:
        What `check_data.py --json` prints. `errors` stop a training with default settings,
        `warnings` do not.

    Raises:
        UsageError: if there is no such folder or file.
        DataError: if there is no image, or the manifest is not of its form.
    """
    found = read_manifest(source) if is_manifest(source) else find_all_images(source)
    seen = inspect_images(found)
    facts, good = seen.store.facts, seen.store.rows >= 0
    contents = np.where(good, group_equal(facts), -1)
    classes = sorted({label for label in found.labels if label})
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "source": str(source),
        "num_images": len(found.paths),
        "num_unreadable": len(seen.store.reasons),
        "classes": classes,
        "counts": _count(found, good),
        "short_side": _quantiles(np.minimum(facts["width"], facts["height"])[good]),
        "long_side": _quantiles(np.maximum(facts["width"], facts["height"])[good]),
        "formats": _tally(KNOWN_FORMATS[number] for number in facts["format"][good]),
        "modes": _tally(filter(None, seen.modes)),
        "exif_rotated": _flagged(facts, Flag.ROTATED),
        "exif_odd": _flagged(facts, Flag.ODD_EXIF),
        "animated": _flagged(facts, Flag.ANIMATED),
        "grey": _flagged(facts[good], Flag.GREY),
        "unreadable": [
            {"path": found.paths[place], "reason": why} for place, why in seen.store.reasons.items()
        ],
        "other_files": dict(sorted(found.listing.others.items())),
        "num_hidden": found.listing.num_hidden,
        "odd": found.listing.odd,
        "refused": found.refused,
        "exact_duplicates": _groups(found, contents),
        "near_duplicates": _groups(found, _clusters(facts), differing=contents),
        "dark": _paths(found, good & (facts["brightness"] < _DARK)),
        "blurred": _paths(found, good & (seen.sharpness < _BLURRED) & (seen.spread >= _ONE_COLOUR)),
        "one_coloured": _paths(found, good & (seen.spread < _ONE_COLOUR)),
    }
    labelled = np.flatnonzero(good & np.array([bool(label) for label in found.labels]))
    if len(classes) > 1 and len(labelled):
        modes = [seen.modes[place] for place in labelled]
        labels = [found.labels[place] for place in labelled]
        shortcuts = find_shortcuts(facts[labelled], modes, labels)
        report["shortcuts"] = [asdict(each) for each in shortcuts]
        report["guessed_without_looking"] = guess_classes(facts[labelled], modes, labels)
    report["errors"] = _errors(found, seen, classes)
    report["warnings"] = _warnings(found, report)
    return report


def _errors(found: Found, seen: Inspection, classes: Sequence[str]) -> list[str]:
    """Go through what training would do first, with default settings, and note what stops it."""
    errors = list(found.refused)
    unreadable = [
        f"{printable(found.paths[place])}: {why}" for place, why in seen.store.reasons.items()
    ]
    settings = Data(root=".")  # for the defaults; a folder may have a name that no config can
    try:
        Limit(settings.max_unreadable, len(found.paths)).check(unreadable)
    except DataError as error:
        errors.append(str(error))
    if len(classes) < 2:
        errors.append(f"{found.source}: want two classes or more, each a folder or a label; got "
                      f"{', '.join(classes) or 'none'}")  # fmt: skip
        return errors
    try:
        find = find_training_rows if is_manifest(found.source) else find_training_images
        trained = find(found.source, classes)
    except DataError as error:
        errors.append(str(error))
        return errors
    if trained.paths == found.paths:
        try:
            assignment = assign(found, seen.store, seed=0, settings=settings)
            check_counts(found, assignment, classes)
        except DataError as error:
            errors.append(str(error))
    return errors


def _warnings(found: Found, report: dict[str, Any]) -> list[str]:
    warnings = list(found.notes)
    classes = report["classes"]
    plain: dict[str, str] = {}
    for name in classes:
        other = plain.setdefault(name.strip().casefold().removesuffix("s"), name)
        if other != name:
            warnings.append(f"classes {other} and {name}: is one of them a slip of the other?")
    for key, what in (("exact_duplicates", "with the same bytes"), ("near_duplicates", "alike")):
        groups = report[key]
        if groups:
            warnings.append(f"{sum(len(each['paths']) for each in groups):,} images {what}, in "
                            f"{len(groups):,} groups")  # fmt: skip
        for part, more in (("splits", "splits: a copy of what was learned proves nothing"),
                           ("labels", "classes: at most one label of each is right")):  # fmt: skip
            if num := sum(len(each[part]) > 1 for each in groups):
                warnings.append(f"{num:,} groups of images {what} go across {more}")
    warnings += [
        f"class {each['label']} is given away: {100 * each['share']:.0f} % of it is "
        f"{each['trait']}, and {100 * each['share_of_others']:.0f} % of the others"
        for each in report.get("shortcuts", ())
        if each["balanced_accuracy"] > _TELLING
    ]
    return warnings


def _count(found: Found, good: NDArray[np.bool_]) -> dict[str, dict[str, int]]:
    counts = Counter(
        (split or "all", label or "unlabelled")
        for split, label, is_good in zip(found.splits, found.labels, good, strict=True)
        if is_good
    )
    order = [split or "all" for split in SPLITS]
    splits = sorted({split for split, _ in counts}, key=order.index)
    return {
        split: {label: num for (each, label), num in sorted(counts.items()) if each == split}
        for split in splits
    }


def _quantiles(values: NDArray[np.uint32]) -> dict[str, int]:
    if not len(values):
        return {}
    return dict(zip(("min", "median", "max"), np.quantile(values, [0, 0.5, 1], method="lower")
                    .astype(int).tolist(), strict=True))  # fmt: skip


def _tally(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _flagged(facts: NDArray[np.void], flag: Flag) -> int:
    return int(np.count_nonzero(facts["flags"] & flag))


def _paths(found: Found, which: NDArray[np.bool_]) -> list[str]:
    return [found.paths[place] for place in np.flatnonzero(which)]


def _clusters(facts: NDArray[np.void]) -> NDArray[np.int64]:
    """Number the images by connected likeness; -1 for images without a look."""
    looks, pairs = group_alike(facts)
    above = list(range(int(looks.max(initial=-1)) + 1))

    def top(number: int) -> int:
        while above[number] != number:
            above[number] = number = above[above[number]]
        return number

    for one, other in pairs.tolist():
        above[top(other)] = top(one)
    return np.array([top(look) if look >= 0 else -1 for look in looks.tolist()], np.int64)


def _groups(
    found: Found, numbers: NDArray[np.int64], differing: NDArray[np.int64] | None = None
) -> list[dict[str, list[str]]]:
    """List the groups of two images and more; if so asked, only those of different contents."""
    groups: dict[int, list[int]] = {}
    for place, number in enumerate(numbers.tolist()):
        if number >= 0:
            groups.setdefault(number, []).append(place)
    return [
        {
            "paths": [found.paths[place] for place in places],
            "splits": sorted({found.splits[place] for place in places}),
            "labels": sorted({found.labels[place] for place in places}),
        }
        for places in groups.values()
        if len(places) > 1 and (differing is None or len({*differing[places].tolist()}) > 1)
    ]
