"""A closer look at every file than training takes: full decoding, sharpness, mode.

Can a class be told from what has nothing to do with it: format, size, shape, greyness?

A network finds such shortcuts first (Geirhos et al., "Shortcut learning in deep neural networks",
2020), looks excellent on the same source, and fails on every other.

Everything worth knowing of a folder of images before training on it.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from neither.config.schema import Data
from neither.data.decode import decode_with_traits, open_upright
from neither.data.fingerprints import (
    FINGERPRINT,
    KNOWN_FORMATS,
    ImageFlag,
    ImageTraits,
    compute_fingerprints,
    find_near_duplicates,
    group_exact_duplicates,
)
from neither.data.image_file import UnreadableError, read_file
from neither.data.layout import find_all_images, find_training_images
from neither.data.manifest import find_training_rows, is_manifest, read_manifest
from neither.data.preprocessing import Preprocessing
from neither.data.scan import ImageTable
from neither.data.splits import SPLITS, assign_splits, check_class_counts
from neither.data.store import ImageStore, UnreadableLimit
from neither.data.workers import parallel_map
from neither.runtime.console import printable, progress_bar
from neither.runtime.errors import DataError

_FULL_SIZE = 2**16  # never read a JPEG at less than its size
_SHARPNESS_SIDE = 256  # pixels of the longer side that sharpness is measured at
_AT_ONCE = 256


@dataclass(frozen=True)
class Inspection:
    """What was seen of all images.

    Attributes:
        store: their fingerprints, without pixels.
        modes: (N,) as Pillow names them; empty for the unreadable.
        sharpness: (N,) variance of the Laplacian of the luma, in grey levels squared, at 256 pixels
            of the longer side or less (Pech-Pacheco et al., "Diatom autofocusing in brightfield
            microscopy", 2000).
        spread: (N,) standard deviation of the luma, in grey levels.
    """

    store: ImageStore
    modes: list[str]
    sharpness: NDArray[np.float64]
    spread: NDArray[np.float64]


@dataclass(frozen=True)
class _Seen:
    sha256: bytes
    traits: ImageTraits | None = None
    mode: str = ""
    sharpness: float = 0.0
    spread: float = 0.0
    reason: str = ""


def inspect_images(found: ImageTable) -> Inspection:
    """Decode every file fully, in parallel; nothing is written anywhere.

    Raises:
        OutputError: if a decoding process was killed.
        Stopped: if a signal asks for an end.
    """
    num = len(found.paths)
    fingerprints = np.zeros(num, FINGERPRINT)
    modes, reasons = [""] * num, {}
    sharpness, spread = np.zeros(num), np.zeros(num)
    waiting: list[tuple[int, _Seen]] = []
    with progress_bar("checking", num) as bar:
        paths = (found.root / path for path in found.paths)
        for place, seen in enumerate(parallel_map(_inspect, paths)):
            modes[place], sharpness[place], spread[place] = seen.mode, seen.sharpness, seen.spread
            if seen.reason:
                reasons[place] = seen.reason
                fingerprints["sha256"][place] = np.frombuffer(seen.sha256 or bytes(32), np.uint8)
            else:
                waiting.append((place, seen))
            if len(waiting) == _AT_ONCE:
                _describe(fingerprints, waiting)
                waiting = []
            bar.advance()
    _describe(fingerprints, waiting)
    return Inspection(ImageStore(fingerprints, reasons), modes, sharpness, spread)


def _describe(fingerprints: NDArray[np.void], seen: Sequence[tuple[int, _Seen]]) -> None:
    places = [place for place, _ in seen]
    traits = [each.traits for _, each in seen if each.traits is not None]
    fingerprints[places] = compute_fingerprints(traits, [each.sha256 for _, each in seen])


def _inspect(path: Path) -> _Seen:
    digest = b""
    try:
        content = read_file(path)
        digest = sha256(content).digest()
        _, traits = decode_with_traits(content, Preprocessing(64))
        full = open_upright(content, _FULL_SIZE)
    except UnreadableError as error:
        return _Seen(digest, reason=str(error))
    image = full.image.convert("L")
    spread = float(np.asarray(image).std())
    image.thumbnail((_SHARPNESS_SIDE, _SHARPNESS_SIDE), Image.Resampling.BOX)
    return _Seen(digest, traits, full.mode, _sharpness(image), spread)


def _sharpness(image: Image.Image) -> float:
    luma = np.asarray(image, dtype=np.int16)
    if min(luma.shape) < 3:
        return 0.0
    middle = luma[1:-1, 1:-1]
    laplacian = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * middle
    return float(laplacian.var())


_MIN_DIFFERENCE = 0.05  # between the shares in the class and in the others, if also
_MIN_RATIO = 2.0  # one is so many times the other; or
_LARGE_DIFFERENCE = 0.15  # whatever the ratio
_MIN_SIGNIFICANCE = 4.0  # standard errors, as dozens of cues are tried
_FOLDS = 5
_PORTRAIT = 0.9  # width over height below which an image is tall; its inverse likewise


@dataclass(frozen=True)
class Shortcut:
    """A trait that one class has more often than the others.

    Attributes:
        label: the class.
        trait: in words.
        share: of the class's images that have it, in [0, 1].
        share_of_others: of all other images.
        balanced_accuracy: of telling the class from the rest by this trait alone; 0.5 is chance.
    """

    label: str
    trait: str
    share: float
    share_of_others: float
    balanced_accuracy: float


def find_shortcuts(
    fingerprints: NDArray[np.void], modes: Sequence[str], labels: Sequence[str]
) -> list[Shortcut]:
    """Find traits that a much larger share of one class has than of the others.

    Args:
        fingerprints: (N,) records of readable images.
        modes: their modes.
        labels: their classes.

    Returns:
        The most telling first; those that chance explains are left out.
    """
    names = np.array(labels)
    found = []
    for trait, has in _traits(fingerprints, np.array(modes)):
        for label in np.unique(names):
            own = names == label
            if shortcut := _compare(str(label), trait, has, own):
                found.append(shortcut)
    found.sort(key=lambda each: -each.balanced_accuracy)
    return _drop_repeats(found)


def guess_classes(
    fingerprints: NDArray[np.void], modes: Sequence[str], labels: Sequence[str]
) -> float:
    """Return how well classes are guessed from format, mode, size, shape and greyness together.

    Each image's class is guessed from the other images (5-fold) with the same traits; every class
    counts the same.

    Returns:
        Macro recall in [0, 1]; chance is one over the number of classes.
    """
    classes, numbers = np.unique(np.array(labels), return_inverse=True)
    cells = np.stack([
        fingerprints["format"], np.unique(np.array(modes), return_inverse=True)[1],
        (fingerprints["flags"] & ImageFlag.GRAYSCALE) > 0,
        np.rint(2 * np.log2(np.maximum(_short_side(fingerprints), 1))),
        np.rint(2 * np.log2(_shape(fingerprints))),
    ], axis=1)  # fmt: skip
    _, cells = np.unique(cells, axis=0, return_inverse=True)
    folds = fingerprints["sha256"][:, 0] % _FOLDS
    hits = np.zeros(len(numbers), bool)
    for fold in range(_FOLDS):
        own = folds == fold
        counts = np.zeros((int(cells.max()) + 1, len(classes)))
        np.add.at(counts, (cells[~own], numbers[~own]), 1)
        shares = counts / np.maximum(counts.sum(axis=0), 1)
        hits[own] = shares.argmax(axis=1)[cells[own]] == numbers[own]
    return float(np.mean([hits[numbers == number].mean() for number in range(len(classes))]))


def _traits(
    fingerprints: NDArray[np.void], modes: NDArray[np.str_]
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    yield "grey", (fingerprints["flags"] & ImageFlag.GRAYSCALE) > 0
    shape = _shape(fingerprints)
    yield "taller than wide", shape < _PORTRAIT
    yield "wider than tall", shape > 1 / _PORTRAIT
    yield "exactly square", fingerprints["width"] == fingerprints["height"]
    short = _short_side(fingerprints)
    for limit in np.unique(np.quantile(short, np.linspace(0.1, 0.9, 9), method="higher")):
        yield f"short side under {limit} pixels", short < limit
        yield f"short side of {limit} pixels or more", short >= limit
    for number in np.unique(fingerprints["format"]):
        yield KNOWN_FORMATS[number], fingerprints["format"] == number
    for mode in np.unique(modes):
        yield f"mode {mode}", modes == mode


def _shape(fingerprints: NDArray[np.void]) -> NDArray[np.float64]:
    shape: NDArray[np.float64] = fingerprints["width"] / np.maximum(fingerprints["height"], 1)
    return shape


def _short_side(fingerprints: NDArray[np.void]) -> NDArray[np.uint32]:
    short: NDArray[np.uint32] = np.minimum(fingerprints["width"], fingerprints["height"])
    return short


def _compare(
    label: str, trait: str, has: NDArray[np.bool_], own: NDArray[np.bool_]
) -> Shortcut | None:
    num, others = int(own.sum()), int((~own).sum())
    if not num or not others:
        return None
    share, rest = float(has[own].mean()), float(has[~own].mean())
    pooled = float(has.mean())
    error = math.sqrt(pooled * (1 - pooled) * (1 / num + 1 / others))
    difference = share - rest
    telling = difference >= _LARGE_DIFFERENCE or share >= _MIN_RATIO * rest
    if not telling or difference < max(_MIN_DIFFERENCE, _MIN_SIGNIFICANCE * error):
        return None
    return Shortcut(label, trait, share, rest, 0.5 + difference / 2)


def _drop_repeats(found: Sequence[Shortcut]) -> list[Shortcut]:
    """Keep for each class only the most telling of several limits of size."""
    kept, sizes = [], set()
    for each in found:
        if each.trait.startswith("short side"):
            if each.label in sizes:
                continue
            sizes.add(each.label)
        kept.append(each)
    return kept


SCHEMA_VERSION = 1
_DARK = 25  # mean luma below which little can be seen
_BLURRED = 12.0  # sharpness that photos reach when blurred with a radius of 2 of 256 pixels
_ONE_COLOUR = 4.0  # spread in grey levels
_TELLING = 0.9  # balanced accuracy above which a trait gives a class away


def report_dataset(source: Path) -> dict[str, Any]:
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
    fingerprints, good = seen.store.fingerprints, seen.store.is_readable
    contents = np.where(good, group_exact_duplicates(fingerprints), -1)
    classes = sorted({label for label in found.labels if label})
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "source": str(source),
        "num_images": len(found.paths),
        "num_unreadable": len(seen.store.reasons),
        "classes": classes,
        "counts": _count(found, good),
        "short_side": _quantiles(np.minimum(fingerprints["width"], fingerprints["height"])[good]),
        "long_side": _quantiles(np.maximum(fingerprints["width"], fingerprints["height"])[good]),
        "formats": _tally(KNOWN_FORMATS[number] for number in fingerprints["format"][good]),
        "modes": _tally(filter(None, seen.modes)),
        "exif_rotated": _flagged(fingerprints, ImageFlag.ROTATED),
        "exif_odd": _flagged(fingerprints, ImageFlag.INVALID_EXIF),
        "animated": _flagged(fingerprints, ImageFlag.ANIMATED),
        "grey": _flagged(fingerprints[good], ImageFlag.GRAYSCALE),
        "unreadable": [
            {"path": found.paths[place], "reason": why} for place, why in seen.store.reasons.items()
        ],
        "other_files": dict(sorted(found.listing.others.items())),
        "num_hidden": found.listing.num_hidden,
        "odd": found.listing.odd,
        "refused": found.unreadable_folders,
        "exact_duplicates": _groups(found, contents),
        "near_duplicates": _groups(found, _clusters(fingerprints), differing=contents),
        "dark": _paths(found, good & (fingerprints["brightness"] < _DARK)),
        "blurred": _paths(found, good & (seen.sharpness < _BLURRED) & (seen.spread >= _ONE_COLOUR)),
        "one_coloured": _paths(found, good & (seen.spread < _ONE_COLOUR)),
    }
    labelled = np.flatnonzero(good & np.array([bool(label) for label in found.labels]))
    if len(classes) > 1 and len(labelled):
        modes = [seen.modes[place] for place in labelled]
        labels = [found.labels[place] for place in labelled]
        shortcuts = find_shortcuts(fingerprints[labelled], modes, labels)
        report["shortcuts"] = [asdict(each) for each in shortcuts]
        report["guessed_without_looking"] = guess_classes(fingerprints[labelled], modes, labels)
    report["errors"] = _errors(found, seen, classes)
    report["warnings"] = _warnings(found, report)
    return report


def _errors(found: ImageTable, seen: Inspection, classes: Sequence[str]) -> list[str]:
    """Go through what training would do first, with default settings, and note what stops it."""
    errors = list(found.unreadable_folders)
    unreadable = [
        f"{printable(found.paths[place])}: {why}" for place, why in seen.store.reasons.items()
    ]
    settings = Data(root=".")  # for the defaults; a folder may have a name that no config can
    try:
        UnreadableLimit(settings.max_unreadable, len(found.paths)).check(unreadable)
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
            assignment = assign_splits(found, seen.store, seed=0, settings=settings)
            check_class_counts(found, assignment, classes)
        except DataError as error:
            errors.append(str(error))
    return errors


def _warnings(found: ImageTable, report: dict[str, Any]) -> list[str]:
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


def _count(found: ImageTable, good: NDArray[np.bool_]) -> dict[str, dict[str, int]]:
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


def _flagged(fingerprints: NDArray[np.void], flag: ImageFlag) -> int:
    return int(np.count_nonzero(fingerprints["flags"] & flag))


def _paths(found: ImageTable, which: NDArray[np.bool_]) -> list[str]:
    return [found.paths[place] for place in np.flatnonzero(which)]


def _clusters(fingerprints: NDArray[np.void]) -> NDArray[np.int64]:
    """Number the images by connected likeness; -1 for images without a look."""
    looks, pairs = find_near_duplicates(fingerprints)
    above = list(range(int(looks.max(initial=-1)) + 1))

    def top(number: int) -> int:
        while above[number] != number:
            above[number] = number = above[above[number]]
        return number

    for one, other in pairs.tolist():
        above[top(other)] = top(one)
    return np.array([top(look) if look >= 0 else -1 for look in looks.tolist()], np.int64)


def _groups(
    found: ImageTable, numbers: NDArray[np.int64], differing: NDArray[np.int64] | None = None
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
