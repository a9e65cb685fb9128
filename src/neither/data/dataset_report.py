"""Report on a folder or manifest of images before training on it.

Every file is decoded at its full size. The report counts sizes, formats and modes, lists
unreadable, duplicate, dark, blurred and single-color images, and finds classes that are predictable
from metadata. A network learns such shortcuts first (Geirhos et al., "Shortcut learning in deep
neural networks", 2020), scores well on images of the same source, and fails on others.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from neither.config.schema import Data
from neither.data.corrections import apply_answers, read_answers
from neither.data.decode import TRAITS_SIDE, extract_traits, open_upright
from neither.data.fingerprints import (
    FINGERPRINT,
    KNOWN_FORMATS,
    ImageFlag,
    compute_fingerprints,
    connect,
    find_near_duplicates,
    group_exact_duplicates,
)
from neither.data.image_file import UnreadableError, read_file
from neither.data.layout import find_all_images, find_training_images
from neither.data.manifest import find_training_rows, is_manifest, read_manifest
from neither.data.scan import ImageTable
from neither.data.sources import count_by_source, find_source_problems, name_sources
from neither.data.splits import SPLITS, assign_splits, check_class_counts
from neither.data.store import ImageStore, check_unreadable
from neither.data.workers import parallel_map
from neither.runtime.console import progress_bar
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


def report_dataset(
    source: Path, sources: str | None = None, corrections: Path | None = None
) -> dict[str, Any]:
    """Decode every image of a folder or manifest and report on it; nothing is written.

    `sources` and `corrections` are those of the section `data`; images that a review dropped are
    reported as such alone.

    Returns:
        The report that `check_data.py --json` prints. `errors` stop a training with default
        settings, `warnings` do not.
    """
    table = read_manifest(source) if is_manifest(source) else find_all_images(source)
    name_sources(table, sources)
    classes = sorted({label for label in table.labels if label})
    answers = read_answers(corrections, classes, {})
    files = inspect_images(table)
    fingerprints = np.concatenate([file.fingerprint for file in files])
    reasons = {index: file.reason for index, file in enumerate(files) if file.reason}
    store = ImageStore(fingerprints, reasons)
    dropped = apply_answers(table, store.hashes, table.splits, answers)
    readable = store.is_readable
    readable[dropped] = False
    labels, modes = np.array(table.labels), np.array([file.mode for file in files])
    spread = np.array([file.spread for file in files])
    sharpness = np.array([file.sharpness for file in files])
    contents = np.where(readable, group_exact_duplicates(fingerprints), -1)
    flags = fingerprints["flags"][readable]
    formats = [KNOWN_FORMATS[number] for number in fingerprints["format"][readable]]
    sizes = np.stack([fingerprints["width"], fingerprints["height"]], axis=1)[readable]

    def select(mask: NDArray[np.bool_]) -> list[str]:
        return [table.paths[index] for index in np.flatnonzero(mask)]

    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "source": str(source),
        "num_images": len(table.paths),
        "num_unreadable": len(store.reasons),
        "classes": classes,
        "counts": _count_images(table, readable),
        "sources": count_by_source(
            np.array(table.sources)[readable].tolist(), labels[readable].tolist()
        ),
        "short_side": _quantiles(sizes.min(axis=1)),
        "long_side": _quantiles(sizes.max(axis=1)),
        "formats": dict(Counter(formats).most_common()),
        "modes": dict(Counter(modes[readable].tolist()).most_common()),
        "exif_rotated": int(np.count_nonzero(flags & ImageFlag.ROTATED)),
        "exif_invalid": int(np.count_nonzero(flags & ImageFlag.INVALID_EXIF)),
        "profile_invalid": int(np.count_nonzero(flags & ImageFlag.INVALID_PROFILE)),
        "animated": int(np.count_nonzero(flags & ImageFlag.ANIMATED)),
        "grayscale": int(np.count_nonzero(flags & ImageFlag.GRAYSCALE)),
        "unreadable": [
            {"path": table.paths[index], "reason": why} for index, why in store.reasons.items()
        ],
        "other_files": dict(sorted(table.listing.others.items())),
        "num_hidden": table.listing.num_hidden,
        "irregular_files": table.listing.irregular,
        "dropped_in_review": [table.paths[index] for index in dropped],
        "unreadable_folders": table.unreadable_folders,
        "exact_duplicates": _groups(table, contents),
        "near_duplicates": _groups(
            table, np.where(readable, _near_duplicate_clusters(fingerprints), -1), contents
        ),
        "dark": select(readable & (fingerprints["brightness"] < _DARK)),
        "blurred": select(readable & (sharpness < _BLURRED) & (spread >= _SINGLE_COLOR)),
        "single_color": select(readable & (spread < _SINGLE_COLOR)),
    }
    labelled = readable & (labels != "")
    if len(classes) > 1 and labelled.any():
        known = fingerprints[labelled], modes[labelled], labels[labelled]
        report["shortcuts"] = [each._asdict() for each in find_shortcuts(*known)]
        report["macro_recall_from_metadata"] = predict_from_metadata(*known)
    report["errors"] = _errors(table, store, classes, dropped)
    report["warnings"] = _warnings(table, report)
    return report


class InspectedFile(NamedTuple):
    """Properties of one file."""

    fingerprint: NDArray[np.void]  # (1,) record of `FINGERPRINT`; zero where nothing is known
    mode: str = ""  # as Pillow names it; empty if the file is unreadable
    # variance of the Laplacian of the luma, in gray levels squared, at 256 pixels of the longer
    # side or less (Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", 2000)
    sharpness: float = 0.0
    spread: float = 0.0  # standard deviation of the luma, in gray levels
    reason: str = ""  # why the file is unreadable; empty if it is readable


def inspect_images(table: ImageTable) -> list[InspectedFile]:
    """Decode every file at its full size, in parallel; nothing is written."""
    files = []
    with progress_bar("checking", len(table.paths)) as bar:
        for file in parallel_map(_inspect_file, (table.root / path for path in table.paths)):
            files.append(file)
            bar.advance()
    return files


def _inspect_file(path: Path) -> InspectedFile:
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
        return InspectedFile(fingerprint, reason=str(error))
    fingerprint = compute_fingerprints([traits], [digest])
    image = upright.image.convert("L")
    spread, sharpness = float(np.asarray(image).std()), 0.0
    image.thumbnail((_SHARPNESS_SIDE, _SHARPNESS_SIDE), Image.Resampling.BOX)
    luma = np.asarray(image, dtype=np.int16)
    if min(luma.shape) >= 3:
        neighbors = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
        sharpness = float((neighbors - 4 * luma[1:-1, 1:-1]).var())
    return InspectedFile(fingerprint, upright.mode, sharpness, spread)


class Shortcut(NamedTuple):
    """A trait that one class has more often than the others."""

    label: str
    trait: str  # in words
    fraction: float  # of the class's images that have it, in [0, 1]
    fraction_of_others: float  # of all other images that have it, in [0, 1]
    balanced_accuracy: float  # of predicting the class by this trait alone; 0.5 is chance


def find_shortcuts(
    fingerprints: NDArray[np.void], modes: NDArray[np.str_], labels: NDArray[np.str_]
) -> list[Shortcut]:
    """Find traits that are much more frequent in one class than in the others.

    Given are (N,) records of readable images, their modes and their classes, two or more.

    Returns:
        The significant ones, by decreasing balanced accuracy. Of the size limits only the best is
        kept for each class.
    """
    shortcuts = []
    for trait, has_trait in _traits(fingerprints, modes):
        pooled = float(has_trait.mean())
        for label in np.unique(labels).tolist():
            own = labels == label
            if own.all():
                continue
            fraction, of_others = float(has_trait[own].mean()), float(has_trait[~own].mean())
            difference = fraction - of_others
            variance = pooled * (1 - pooled) * (1 / int(own.sum()) + 1 / int((~own).sum()))
            significant = max(_MIN_DIFFERENCE, _MIN_STANDARD_ERRORS * math.sqrt(variance))
            is_large = difference >= _LARGE_DIFFERENCE or fraction >= _MIN_RATIO * of_others
            if is_large and difference >= significant:
                accuracy = 0.5 + difference / 2
                shortcuts.append(Shortcut(label, trait, fraction, of_others, accuracy))
    best: dict[tuple[str, str], Shortcut] = {}
    for each in sorted(shortcuts, key=lambda each: -each.balanced_accuracy):
        kind = "short side" if each.trait.startswith("short side") else each.trait
        best.setdefault((each.label, kind), each)
    return list(best.values())


def predict_from_metadata(
    fingerprints: NDArray[np.void], modes: NDArray[np.str_], labels: NDArray[np.str_]
) -> float:
    """Return how well format, mode, size, shape and grayscale together predict the class.

    Each image is predicted by the most frequent class of the images of the other folds (5-fold)
    with the same metadata; every class has the same weight. The arguments are those of
    `find_shortcuts`.

    Returns:
        Macro recall in [0, 1]; chance is one over the number of classes.
    """
    classes, targets = np.unique(labels, return_inverse=True)
    short_side, aspect_ratio = _shape(fingerprints)
    cells = np.stack([
        fingerprints["format"], np.unique(modes, return_inverse=True)[1],
        (fingerprints["flags"] & ImageFlag.GRAYSCALE) > 0,
        np.rint(2 * np.log2(np.maximum(short_side, 1))), np.rint(2 * np.log2(aspect_ratio)),
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
    short_side, aspect_ratio = _shape(fingerprints)
    yield "taller than wide", aspect_ratio < _PORTRAIT
    yield "wider than tall", aspect_ratio > 1 / _PORTRAIT
    yield "exactly square", fingerprints["width"] == fingerprints["height"]
    for limit in np.unique(np.quantile(short_side, np.linspace(0.1, 0.9, 9), method="higher")):
        yield f"short side under {limit} pixels", short_side < limit
        yield f"short side of {limit} pixels or more", short_side >= limit
    for number in np.unique(fingerprints["format"]):
        yield KNOWN_FORMATS[number], fingerprints["format"] == number
    for mode in np.unique(modes):
        yield f"mode {mode}", modes == mode


def _shape(fingerprints: NDArray[np.void]) -> tuple[NDArray[np.uint32], NDArray[np.float64]]:
    """Return the short side, and width over height, of each image."""
    width, height = fingerprints["width"], fingerprints["height"]
    return np.minimum(width, height), width / np.maximum(height, 1)


def _errors(
    table: ImageTable, store: ImageStore, classes: Sequence[str], dropped: Sequence[int]
) -> list[str]:
    """Return the errors that a training with default settings would stop with."""
    errors = list(table.unreadable_folders)
    settings = Data(root=".")  # for the defaults; the root is not read
    try:
        check_unreadable(table, store.reasons, settings.max_unreadable)
    except DataError as error:
        errors.append(str(error))
    if len(classes) < 2:
        got = ", ".join(classes) or "none"
        wanted = "want two classes or more, each a folder or a label"
        return [*errors, f"{table.source}: {wanted}; got {got}"]
    try:
        find = find_training_rows if is_manifest(table.source) else find_training_images
        if find(table.source, classes).paths == table.paths:
            assignment = assign_splits(table, store, seed=0, settings=settings)
            assignment.split_indices[dropped] = 0
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
    return warnings + find_source_problems(report["sources"])


def _count_images(table: ImageTable, readable: NDArray[np.bool_]) -> dict[str, dict[str, int]]:
    counts = {}
    for split in SPLITS:
        labels = Counter(
            label or "unlabelled"
            for each, label, usable in zip(table.splits, table.labels, readable, strict=True)
            if usable and each == split
        )
        if labels:
            counts[split or "all"] = dict(sorted(labels.items()))
    return counts


def _quantiles(values: NDArray[np.uint32]) -> dict[str, int]:
    if not len(values):
        return {}
    quantiles = np.quantile(values, [0, 0.5, 1], method="lower").astype(int).tolist()
    return dict(zip(("min", "median", "max"), quantiles, strict=True))


def _near_duplicate_clusters(fingerprints: NDArray[np.void]) -> NDArray[np.int64]:
    """Number the images by connected component of near-duplicates; -1 for flat images."""
    numbers, pairs = find_near_duplicates(fingerprints)
    root = connect(pairs.tolist())
    return np.array([root(each) if each >= 0 else -1 for each in numbers.tolist()], np.int64)


def _groups(
    table: ImageTable, numbers: NDArray[np.int64], contents: NDArray[np.int64] | None = None
) -> list[dict[str, list[str]]]:
    """List the groups of two or more images; given the contents, only groups of different ones."""
    groups: dict[int, list[int]] = {}
    for index in np.flatnonzero(numbers >= 0).tolist():
        groups.setdefault(int(numbers[index]), []).append(index)
    return [
        {
            "paths": [table.paths[index] for index in indices],
            "splits": sorted({table.splits[index] for index in indices}),
            "labels": sorted({table.labels[index] for index in indices}),
        }
        for indices in groups.values()
        if len(indices) > 1 and (contents is None or len({*contents[indices].tolist()}) > 1)
    ]
