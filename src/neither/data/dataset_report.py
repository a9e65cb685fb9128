"""Report on a folder or manifest of images before training on it.

Every file is decoded at its full size. The report counts sizes, formats and modes, lists
unreadable, duplicate, dark, blurred and single-color images, and finds classes that are predictable
from metadata. A network learns such shortcuts first (Geirhos et al., "Shortcut learning in deep
neural networks", 2020), scores well on images of the same source, and fails on others.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from neither.config.schema import Data
from neither.data.decode import TRAITS_SIDE, extract_traits, open_upright
from neither.data.fingerprints import (
    FINGERPRINT,
    KNOWN_FORMATS,
    ImageFlag,
    compute_fingerprints,
    find_near_duplicates,
    group_exact_duplicates,
)
from neither.data.image_file import UnreadableError, read_file
from neither.data.layout import find_all_images, find_training_images
from neither.data.manifest import find_training_rows, is_manifest, read_manifest
from neither.data.scan import ImageTable
from neither.data.splits import SPLITS, assign_splits, check_class_counts
from neither.data.store import ImageStore, check_unreadable
from neither.data.workers import parallel_map
from neither.runtime.console import printable, progress_bar
from neither.runtime.errors import DataError

SCHEMA_VERSION = 2

_FULL_SIZE = 2**16  # min_side that no JPEG reaches, so that none is read at a fraction of its size
_SHARPNESS_SIDE = 256  # pixels of the longer side at which sharpness is measured
_DARK = 25  # mean luma below which little can be seen
_BLURRED = 12.0  # sharpness of photos blurred with a radius of 2 of 256 pixels
_SINGLE_COLOR = 4.0  # standard deviation of the luma, in gray levels
_PREDICTABLE = 0.9  # balanced accuracy of one trait above which there is a warning
_PORTRAIT = 0.9  # width over height below which an image is tall; its inverse likewise
_NUM_FOLDS = 5
# A trait is a shortcut if its fraction in the class and in the others differ so much:
_MIN_DIFFERENCE = 0.05
_MIN_RATIO = 2.0  # or
_LARGE_DIFFERENCE = 0.15  # with any ratio
_MIN_STANDARD_ERRORS = 4.0  # as dozens of traits are tested


def report_dataset(source: Path) -> dict[str, Any]:
    """Decode every image of a folder or manifest and report on it; nothing is written.

    Returns:
        The report that `check_data.py --json` prints. `errors` stop a training with default
        settings, `warnings` do not.

    Raises:
        UsageError: if there is no such folder or file.
        DataError: if there is no image, or the manifest is malformed.
    """
    table = read_manifest(source) if is_manifest(source) else find_all_images(source)
    inspection = inspect_images(table)
    store, spread = inspection.store, inspection.spread
    fingerprints, readable = store.fingerprints, store.is_readable
    contents = np.where(readable, group_exact_duplicates(fingerprints), -1)
    flags = fingerprints["flags"][readable]
    sizes = np.stack([fingerprints["width"], fingerprints["height"]], axis=1)[readable]
    classes = sorted({label for label in table.labels if label})
    blurred = readable & (inspection.sharpness < _BLURRED) & (spread >= _SINGLE_COLOR)
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "source": str(source),
        "num_images": len(table.paths),
        "num_unreadable": len(store.reasons),
        "classes": classes,
        "counts": _count_images(table, readable),
        "short_side": _quantiles(sizes.min(axis=1)),
        "long_side": _quantiles(sizes.max(axis=1)),
        "formats": _count(KNOWN_FORMATS[number] for number in fingerprints["format"][readable]),
        "modes": _count(filter(None, inspection.modes)),
        "exif_rotated": int(np.count_nonzero(flags & ImageFlag.ROTATED)),
        "exif_invalid": int(np.count_nonzero(flags & ImageFlag.INVALID_EXIF)),
        "animated": int(np.count_nonzero(flags & ImageFlag.ANIMATED)),
        "grayscale": int(np.count_nonzero(flags & ImageFlag.GRAYSCALE)),
        "unreadable": [
            {"path": table.paths[index], "reason": why} for index, why in store.reasons.items()
        ],
        "other_files": dict(sorted(table.listing.others.items())),
        "num_hidden": table.listing.num_hidden,
        "irregular_files": table.listing.irregular,
        "unreadable_folders": table.unreadable_folders,
        "exact_duplicates": _groups(table, contents),
        "near_duplicates": _groups(table, _near_duplicate_clusters(fingerprints), contents),
        "dark": _paths(table, readable & (fingerprints["brightness"] < _DARK)),
        "blurred": _paths(table, blurred),
        "single_color": _paths(table, readable & (spread < _SINGLE_COLOR)),
    }
    labelled = np.flatnonzero(readable & np.array([bool(label) for label in table.labels]))
    if len(classes) > 1 and len(labelled):
        modes = [inspection.modes[index] for index in labelled]
        labels = [table.labels[index] for index in labelled]
        shortcuts = find_shortcuts(fingerprints[labelled], modes, labels)
        report["shortcuts"] = [asdict(each) for each in shortcuts]
        report["macro_recall_from_metadata"] = predict_from_metadata(
            fingerprints[labelled], modes, labels
        )
    report["errors"] = _errors(table, store, classes)
    report["warnings"] = _warnings(table, report)
    return report


@dataclass(frozen=True)
class Inspection:
    """Properties of all images.

    Attributes:
        store: their fingerprints, without pixels.
        modes: (N,) as Pillow names them; empty for unreadable images.
        sharpness: (N,) variance of the Laplacian of the luma, in gray levels squared, at 256 pixels
            of the longer side or less (Pech-Pacheco et al., "Diatom autofocusing in brightfield
            microscopy", 2000).
        spread: (N,) standard deviation of the luma, in gray levels.
    """

    store: ImageStore
    modes: list[str]
    sharpness: NDArray[np.float64]
    spread: NDArray[np.float64]


class _InspectedFile(NamedTuple):
    fingerprint: NDArray[np.void]  # (1,)
    mode: str = ""
    sharpness: float = 0.0
    spread: float = 0.0
    reason: str = ""


def inspect_images(table: ImageTable) -> Inspection:
    """Decode every file at its full size, in parallel; nothing is written.

    Raises:
        OutputError: if a decoding process is killed.
        Stopped: if a signal arrives.
    """
    num = len(table.paths)
    fingerprints = np.zeros(num, FINGERPRINT)
    modes, reasons = [""] * num, {}
    sharpness, spread = np.zeros(num), np.zeros(num)
    with progress_bar("checking", num) as bar:
        paths = (table.root / path for path in table.paths)
        for index, file in enumerate(parallel_map(_inspect_file, paths)):
            fingerprints[index] = file.fingerprint[0]
            modes[index], sharpness[index], spread[index] = file.mode, file.sharpness, file.spread
            if file.reason:
                reasons[index] = file.reason
            bar.advance()
    return Inspection(ImageStore(fingerprints, reasons), modes, sharpness, spread)


def _inspect_file(path: Path) -> _InspectedFile:
    fingerprint = np.zeros(1, FINGERPRINT)
    try:
        content = read_file(path)
        digest = sha256(content).digest()
        fingerprint["sha256"] = np.frombuffer(digest, np.uint8)
        upright = open_upright(content, TRAITS_SIDE)
        traits = extract_traits(upright)
        if upright.image.size != upright.size:
            upright = open_upright(content, _FULL_SIZE)
    except UnreadableError as error:
        return _InspectedFile(fingerprint, reason=str(error))
    image = upright.image.convert("L")
    spread = float(np.asarray(image).std())
    image.thumbnail((_SHARPNESS_SIDE, _SHARPNESS_SIDE), Image.Resampling.BOX)
    fingerprint = compute_fingerprints([traits], [digest])
    return _InspectedFile(fingerprint, upright.mode, _sharpness(image), spread)


def _sharpness(image: Image.Image) -> float:
    luma = np.asarray(image, dtype=np.int16)
    if min(luma.shape) < 3:
        return 0.0
    center = luma[1:-1, 1:-1]
    laplacian = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * center
    return float(laplacian.var())


@dataclass(frozen=True)
class Shortcut:
    """A trait that one class has more often than the others.

    Attributes:
        label: the class.
        trait: in words.
        fraction: of the class's images that have it, in [0, 1].
        fraction_of_others: of all other images that have it, in [0, 1].
        balanced_accuracy: of predicting the class by this trait alone; 0.5 is chance.
    """

    label: str
    trait: str
    fraction: float
    fraction_of_others: float
    balanced_accuracy: float


def find_shortcuts(
    fingerprints: NDArray[np.void], modes: Sequence[str], labels: Sequence[str]
) -> list[Shortcut]:
    """Find traits that are much more frequent in one class than in the others.

    Args:
        fingerprints: (N,) records of readable images.
        modes: of the N images.
        labels: their classes.

    Returns:
        The significant ones, by decreasing balanced accuracy. Of the size limits only the best is
        kept for each class.
    """
    names = np.array(labels)
    shortcuts = [
        shortcut
        for trait, has_trait in _traits(fingerprints, np.array(modes))
        for label in np.unique(names)
        if (shortcut := _compare(str(label), trait, has_trait, names == label))
    ]
    shortcuts.sort(key=lambda each: -each.balanced_accuracy)
    kept, has_size_limit = [], set()
    for each in shortcuts:
        if each.trait.startswith("short side"):
            if each.label in has_size_limit:
                continue
            has_size_limit.add(each.label)
        kept.append(each)
    return kept


def predict_from_metadata(
    fingerprints: NDArray[np.void], modes: Sequence[str], labels: Sequence[str]
) -> float:
    """Return how well format, mode, size, shape and grayscale together predict the class.

    Each image is predicted by the most frequent class of the images of the other folds (5-fold)
    with the same metadata; every class has the same weight.

    Returns:
        Macro recall in [0, 1]; chance is one over the number of classes.
    """
    classes, targets = np.unique(np.array(labels), return_inverse=True)
    cells = np.stack([
        fingerprints["format"], np.unique(np.array(modes), return_inverse=True)[1],
        (fingerprints["flags"] & ImageFlag.GRAYSCALE) > 0,
        np.rint(2 * np.log2(np.maximum(_short_side(fingerprints), 1))),
        np.rint(2 * np.log2(_aspect_ratio(fingerprints))),
    ], axis=1)  # fmt: skip
    _, cells = np.unique(cells, axis=0, return_inverse=True)
    folds = fingerprints["sha256"][:, 0] % _NUM_FOLDS
    is_correct = np.zeros(len(targets), bool)
    for fold in range(_NUM_FOLDS):
        own = folds == fold
        counts = np.zeros((int(cells.max()) + 1, len(classes)))
        np.add.at(counts, (cells[~own], targets[~own]), 1)
        frequencies = counts / np.maximum(counts.sum(axis=0), 1)
        is_correct[own] = frequencies.argmax(axis=1)[cells[own]] == targets[own]
    return float(np.mean([is_correct[targets == index].mean() for index in range(len(classes))]))


def _traits(
    fingerprints: NDArray[np.void], modes: NDArray[np.str_]
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    yield "grayscale", (fingerprints["flags"] & ImageFlag.GRAYSCALE) > 0
    aspect_ratio = _aspect_ratio(fingerprints)
    yield "taller than wide", aspect_ratio < _PORTRAIT
    yield "wider than tall", aspect_ratio > 1 / _PORTRAIT
    yield "exactly square", fingerprints["width"] == fingerprints["height"]
    short = _short_side(fingerprints)
    for limit in np.unique(np.quantile(short, np.linspace(0.1, 0.9, 9), method="higher")):
        yield f"short side under {limit} pixels", short < limit
        yield f"short side of {limit} pixels or more", short >= limit
    for number in np.unique(fingerprints["format"]):
        yield KNOWN_FORMATS[number], fingerprints["format"] == number
    for mode in np.unique(modes):
        yield f"mode {mode}", modes == mode


def _aspect_ratio(fingerprints: NDArray[np.void]) -> NDArray[np.float64]:
    ratio: NDArray[np.float64] = fingerprints["width"] / np.maximum(fingerprints["height"], 1)
    return ratio


def _short_side(fingerprints: NDArray[np.void]) -> NDArray[np.uint32]:
    short: NDArray[np.uint32] = np.minimum(fingerprints["width"], fingerprints["height"])
    return short


def _compare(
    label: str, trait: str, has_trait: NDArray[np.bool_], own: NDArray[np.bool_]
) -> Shortcut | None:
    num, num_others = int(own.sum()), int((~own).sum())
    if not num or not num_others:
        return None
    fraction, of_others = float(has_trait[own].mean()), float(has_trait[~own].mean())
    pooled = float(has_trait.mean())
    standard_error = math.sqrt(pooled * (1 - pooled) * (1 / num + 1 / num_others))
    difference = fraction - of_others
    is_large = difference >= _LARGE_DIFFERENCE or fraction >= _MIN_RATIO * of_others
    if not is_large or difference < max(_MIN_DIFFERENCE, _MIN_STANDARD_ERRORS * standard_error):
        return None
    return Shortcut(label, trait, fraction, of_others, 0.5 + difference / 2)


def _errors(table: ImageTable, store: ImageStore, classes: Sequence[str]) -> list[str]:
    """Return the errors that a training with default settings would stop with."""
    errors = list(table.unreadable_folders)
    unreadable = [f"{printable(table.paths[i])}: {reason}" for i, reason in store.reasons.items()]
    settings = Data(root=".")  # for the defaults; the root is not read
    try:
        check_unreadable(unreadable, len(table.paths), settings.max_unreadable)
    except DataError as error:
        errors.append(str(error))
    if len(classes) < 2:
        got = ", ".join(classes) or "none"
        errors.append(
            f"{table.source}: want two classes or more, each a folder or a label; got {got}"
        )
        return errors
    try:
        find = find_training_rows if is_manifest(table.source) else find_training_images
        if find(table.source, classes).paths == table.paths:
            assignment = assign_splits(table, store, seed=0, settings=settings)
            check_class_counts(table, assignment, classes)
    except DataError as error:
        errors.append(str(error))
    return errors


def _warnings(table: ImageTable, report: dict[str, Any]) -> list[str]:
    warnings = list(table.notes)
    by_plain_name: dict[str, str] = {}
    for name in report["classes"]:
        other = by_plain_name.setdefault(name.strip().casefold().removesuffix("s"), name)
        if other != name:
            warnings.append(f"classes {other} and {name}: is one of them a typing error?")
    for key, kind in (("exact_duplicates", "with the same bytes"),
                      ("near_duplicates", "that are near-duplicates")):  # fmt: skip
        groups = report[key]
        if groups:
            num = sum(len(each["paths"]) for each in groups)
            warnings.append(f"{num:,} images {kind}, in {len(groups):,} groups")
        for part, problem in (
            ("splits", "splits: a duplicate of a training image measures nothing"),
            ("labels", "classes: at most one label of each is right"),
        ):
            if num := sum(len(each[part]) > 1 for each in groups):
                warnings.append(f"{num:,} groups of images {kind} are in several {problem}")
    warnings += [
        f"class {each['label']} is predictable from metadata: {100 * each['fraction']:.0f} % of it "
        f"is {each['trait']}, and {100 * each['fraction_of_others']:.0f} % of the others"
        for each in report.get("shortcuts", ())
        if each["balanced_accuracy"] > _PREDICTABLE
    ]
    return warnings


def _count_images(table: ImageTable, readable: NDArray[np.bool_]) -> dict[str, dict[str, int]]:
    counts = Counter(
        (split or "all", label or "unlabelled")
        for split, label, is_readable in zip(table.splits, table.labels, readable, strict=True)
        if is_readable
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
    quantiles = np.quantile(values, [0, 0.5, 1], method="lower").astype(int).tolist()
    return dict(zip(("min", "median", "max"), quantiles, strict=True))


def _count(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _paths(table: ImageTable, mask: NDArray[np.bool_]) -> list[str]:
    return [table.paths[index] for index in np.flatnonzero(mask)]


def _near_duplicate_clusters(fingerprints: NDArray[np.void]) -> NDArray[np.int64]:
    """Number the images by connected component of near-duplicates; -1 for flat images."""
    numbers, pairs = find_near_duplicates(fingerprints)
    parents = list(range(int(numbers.max(initial=-1)) + 1))

    def root(number: int) -> int:
        while parents[number] != number:
            parents[number] = number = parents[parents[number]]
        return number

    for one, other in pairs.tolist():
        parents[root(other)] = root(one)
    return np.array([root(each) if each >= 0 else -1 for each in numbers.tolist()], np.int64)


def _groups(
    table: ImageTable, numbers: NDArray[np.int64], contents: NDArray[np.int64] | None = None
) -> list[dict[str, list[str]]]:
    """List the groups of two or more images; given the contents, only groups of different ones."""
    groups: dict[int, list[int]] = {}
    for index, number in enumerate(numbers.tolist()):
        if number >= 0:
            groups.setdefault(number, []).append(index)
    return [
        {
            "paths": [table.paths[index] for index in indices],
            "splits": sorted({table.splits[index] for index in indices}),
            "labels": sorted({table.labels[index] for index in indices}),
        }
        for indices in groups.values()
        if len(indices) > 1 and (contents is None or len({*contents[indices].tolist()}) > 1)
    ]
