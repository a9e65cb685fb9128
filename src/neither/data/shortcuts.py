"""Can a class be told from what has nothing to do with it: format, size, shape, greyness?

A network finds such shortcuts first (Geirhos et al., "Shortcut learning in deep neural networks",
2020), looks excellent on the same source, and fails on every other.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neither.data.facts import KNOWN_FORMATS, Flag

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
    facts: NDArray[np.void], modes: Sequence[str], labels: Sequence[str]
) -> list[Shortcut]:
    """Find traits that a much larger share of one class has than of the others.

    Args:
        facts: (N,) records of readable images.
        modes: their modes.
        labels: their classes.

    Returns:
        The most telling first; those that chance explains are left out.
    """
    names = np.array(labels)
    found = []
    for trait, has in _traits(facts, np.array(modes)):
        for label in np.unique(names):
            own = names == label
            if shortcut := _compare(str(label), trait, has, own):
                found.append(shortcut)
    found.sort(key=lambda each: -each.balanced_accuracy)
    return _drop_repeats(found)


def guess_classes(facts: NDArray[np.void], modes: Sequence[str], labels: Sequence[str]) -> float:
    """Return how well classes are guessed from format, mode, size, shape and greyness together.

    Each image's class is guessed from the other images (5-fold) with the same traits; every class
    counts the same.

    Returns:
        Macro recall in [0, 1]; chance is one over the number of classes.
    """
    classes, numbers = np.unique(np.array(labels), return_inverse=True)
    cells = np.stack([
        facts["format"], np.unique(np.array(modes), return_inverse=True)[1],
        (facts["flags"] & Flag.GREY) > 0,
        np.rint(2 * np.log2(np.maximum(_short_side(facts), 1))),
        np.rint(2 * np.log2(_shape(facts))),
    ], axis=1)  # fmt: skip
    _, cells = np.unique(cells, axis=0, return_inverse=True)
    folds = facts["sha256"][:, 0] % _FOLDS
    hits = np.zeros(len(numbers), bool)
    for fold in range(_FOLDS):
        own = folds == fold
        counts = np.zeros((int(cells.max()) + 1, len(classes)))
        np.add.at(counts, (cells[~own], numbers[~own]), 1)
        shares = counts / np.maximum(counts.sum(axis=0), 1)
        hits[own] = shares.argmax(axis=1)[cells[own]] == numbers[own]
    return float(np.mean([hits[numbers == number].mean() for number in range(len(classes))]))


def _traits(
    facts: NDArray[np.void], modes: NDArray[np.str_]
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    yield "grey", (facts["flags"] & Flag.GREY) > 0
    shape = _shape(facts)
    yield "taller than wide", shape < _PORTRAIT
    yield "wider than tall", shape > 1 / _PORTRAIT
    yield "exactly square", facts["width"] == facts["height"]
    short = _short_side(facts)
    for limit in np.unique(np.quantile(short, np.linspace(0.1, 0.9, 9), method="higher")):
        yield f"short side under {limit} pixels", short < limit
        yield f"short side of {limit} pixels or more", short >= limit
    for number in np.unique(facts["format"]):
        yield KNOWN_FORMATS[number], facts["format"] == number
    for mode in np.unique(modes):
        yield f"mode {mode}", modes == mode


def _shape(facts: NDArray[np.void]) -> NDArray[np.float64]:
    shape: NDArray[np.float64] = facts["width"] / np.maximum(facts["height"], 1)
    return shape


def _short_side(facts: NDArray[np.void]) -> NDArray[np.uint32]:
    short: NDArray[np.uint32] = np.minimum(facts["width"], facts["height"])
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
