"""Which folder holds which split and class.

Two layouts are known, `root/<split>/<class>/...` and `root/<class>/...`. A class folder matches by
its exact name: a folder that is nearly right is named, never guessed.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from neither.config import SPLIT_FOLDERS
from neither.data.folder import (
    Identity,
    Listing,
    count_loose_images,
    identify,
    list_folders,
    list_images,
)
from neither.errors import DataError, UsageError
from neither.terminal import printable


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image that was found.

    Attributes:
        path: below the root it was found under, with / between parts.
        label: the folder it lies in: a class name, a foreign folder's name, or empty.
        split: train, val, test, or empty where none is known.
    """

    path: str
    label: str
    split: str = ""


@dataclass
class Found:
    """The images of one root and what a user should know about how they were found."""

    root: Path
    images: list[ImageFile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # folders that could not be read


def find_training_images(root: Path, classes: Sequence[str], ignored: Sequence[str]) -> Found:
    """Find the labelled images of a root, in their splits where it has split folders.

    Raises:
        UsageError: if the root does not exist.
        DataError: if class folders are missing, empty, extra, or not named exactly.
    """
    _require_folder(root)
    found = Found(root)
    splits = _split_folders(root)
    # No link in a class folder may lead to another class or split, which would give it two labels.
    roots = [root, *(root / folder for folder in splits.values())]
    entered = {identify(each) for each in roots}
    entered |= {identify(each / name) for each in roots for name in list_folders(each)}
    if not splits:
        _add_classes(found, "", "", classes, ignored, entered)
        return found
    if "train" not in splits:
        raise DataError(
            f"{root}: there is {', '.join(splits.values())} but no train folder; want "
            "root/train/<class>/..., or root/<class>/... without any split folder"
        )
    beside = [name for name in list_folders(root) if name not in splits.values()]
    if beside:
        found.notes.append(f"{root}: not read, as no split has this name: {_names(beside)}")
    for split, folder in splits.items():
        _add_classes(found, split, folder, classes, ignored, entered)
    return found


def find_scored_images(path: Path, classes: Sequence[str], split: str | None) -> Found:
    """Find what to evaluate: the split of a root with splits, a folder as it is, or one file.

    Args:
        path: a folder or an image file.
        classes: of the checkpoint.
        split: train, val or test; None means test where the folder has splits.

    Returns:
        Each image with its label: empty in a folder without class-named subfolders, else the name
        of the subfolder, be it a class or foreign.

    Raises:
        UsageError: if the path does not exist or has no such split.
        DataError: if there is no image.
    """
    if path.is_file():
        if split is not None:
            raise UsageError(f"{path}: --split {split}: one image has no splits")
        return Found(path.parent, [ImageFile(path.name, "")])
    _require_folder(path)
    splits = _split_folders(path)
    if not splits and split is not None:
        raise UsageError(f"{path}: --split {split}: this folder has no split folders")
    if splits:
        wanted = split or "test"
        if wanted not in splits:
            known = ", ".join(splits)
            raise UsageError(f"{path}: no {wanted} split here; name another: --split {known}")
        path = path / splits[wanted]
    found = Found(path)
    folders = list_folders(path)
    labelled = bool(set(folders) & set(classes))
    absent = [name for name in classes if name not in folders]
    for name in folders:
        if name not in classes and (close := _near_miss(name, absent)):
            found.notes.append(
                f"{printable(path / name)}: not read as {close}: the name must be the same"
            )
    listing = _list(path, found)
    for image in listing.paths:
        first, slash, _ = image.partition("/")
        found.images.append(ImageFile(image, first if labelled and slash else ""))
    if not found.images:
        raise DataError(f"{path}: no images here (looked for JPEG, PNG, WebP, GIF, BMP and TIFF)")
    return found


def find_unseen_images(root: Path, classes: Sequence[str]) -> Found:
    """Find images of kinds that no class contains: one foreign folder each, or the root itself.

    Raises:
        UsageError: if the root does not exist.
        DataError: if a folder bears the name of a class, or there is no image.
    """
    _require_folder(root)
    found = Found(root)
    if known := sorted(set(list_folders(root)) & set(classes)):
        raise DataError(f"{root}: --unseen is for other kinds, but {_names(known)} is a class")
    own_name = root.resolve().name
    for image in _list(root, found).paths:
        first, slash, _ = image.partition("/")
        if not slash and own_name in classes:
            raise DataError(f"{root}: --unseen is for other kinds, but {own_name} is a class")
        found.images.append(ImageFile(image, first if slash else own_name))
    if not found.images:
        raise DataError(f"{root}: no images here for --unseen")
    return found


def _split_folders(root: Path) -> dict[str, str]:
    """Map the splits that a root has to their folders' names."""
    folders = set(list_folders(root))
    splits: dict[str, str] = {}
    for split, names in SPLIT_FOLDERS.items():
        present = [name for name in names if name in folders]
        if len(present) > 1:
            raise DataError(f"{root}: {_names(present)} both name the {split} split; keep one")
        if present:
            splits[split] = present[0]
    return splits


def _add_classes(
    found: Found,
    split: str,
    folder: str,
    classes: Sequence[str],
    ignored: Sequence[str],
    entered: set[Identity],
) -> None:
    root = found.root / folder
    folders = list_folders(root)
    if num_loose := count_loose_images(root):
        found.notes.append(f"{root}: {num_loose:,} images beside the class folders are not read")
    extra = [name for name in folders if name not in classes and name not in ignored]
    absent = [name for name in classes if name not in folders]
    problems = [f"no folder for class {name}" for name in absent]
    for name in extra:
        close = _near_miss(name, absent)
        hint = f"did you mean {close}?" if close else "no class has this name"
        problems.append(f"folder {printable(name)}: {hint}")
    if extra:
        everything = ", ".join(map(printable, [*ignored, *extra]))
        problems.append(f"rename or move such folders, or: 'data.ignored_folders=[{everything}]'")
    for name in classes:
        if name in folders:
            paths = _list(root / name, found, entered).paths
            if not paths:
                problems.append(f"the folder of class {name} holds no images")
            prefix = f"{folder}/{name}/" if folder else f"{name}/"
            found.images += [ImageFile(prefix + path, name, split) for path in paths]
    if problems:
        lines = "\n       ".join(problems)
        raise DataError(f"{root}: want one folder for each of {', '.join(classes)}\n       {lines}")


def _list(folder: Path, found: Found, entered: set[Identity] | None = None) -> Listing:
    listing = list_images(folder, entered)
    found.refused += listing.refused
    if listing.num_other:
        found.notes.append(f"{printable(folder)}: {listing.num_other:,} other files are not read")
    return listing


def _near_miss(name: str, classes: Sequence[str]) -> str | None:
    """Find the class that a folder's name was meant to be: case, plural, space, small slip."""
    plain = {each.casefold(): each for each in classes}
    wanted = name.strip().casefold()
    close = difflib.get_close_matches(wanted, plain, n=1, cutoff=0.75)
    return plain[close[0]] if close else None


def _require_folder(path: Path) -> None:
    if path.is_dir():
        return
    siblings = list_folders(path.parent) if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, siblings, n=1)
    hint = f"; did you mean {path.parent / close[0]}?" if close else ""
    what = "not a folder" if path.exists() else "no such file or folder"
    raise UsageError(f"{path}: {what}{hint}")


def _names(names: Sequence[str]) -> str:
    return ", ".join(map(printable, names))
