"""Which images to evaluate, and what each is labelled: folders as they are, foreign ones too."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from sys import intern
from types import MappingProxyType

from neither.data.folder import count_loose_images, list_folders
from neither.data.found import Found
from neither.data.layout import (
    enter,
    name_all,
    near_miss,
    note_beside,
    require_folder,
    split_folders,
)
from neither.data.manifest import is_manifest, read_manifest
from neither.errors import DataError, UsageError
from neither.terminal import printable


def find_scored_images(
    path: Path,
    classes: Sequence[str],
    split: str | None,
    aliases: Mapping[str, str] = MappingProxyType({}),
) -> Found:
    """Find what to evaluate: the split of a root with splits, a folder as it is, or one file.

    Args:
        path: a folder or an image file.
        classes: of the checkpoint.
        split: train, val or test; None means test where the folder has splits.
        aliases: other names of class folders.

    Returns:
        Each image with its label: empty in a folder without class-named subfolders, else the class
        that the subfolder names, or its own name if it is foreign.

    Raises:
        UsageError: if the path does not exist or has no such split.
        DataError: if there is no image.
    """
    if path.is_file():
        if split is not None:
            raise UsageError(f"{path}: --split {split}: one image has no splits")
        return Found(path.parent, path, [path.name], [""], [""])
    require_folder(path)
    splits = split_folders(path)
    if not splits and split is not None:
        raise UsageError(
            f"{path}: --split {split}: this folder has no split folders, and is not known to be "
            "what a run was trained on"
        )
    if splits:
        wanted = split or "test"
        if wanted not in splits:
            known = ", ".join(splits)
            raise UsageError(f"{path}: no {wanted} split here; name another: --split {known}")
        path = path / splits[wanted]
    found = Found(path, path)
    folders = list_folders(path)
    labelled = any(aliases.get(name, name) in classes for name in folders)
    absent = [name for name in classes if name not in folders]
    for name in folders:
        if aliases.get(name, name) not in classes and (close := near_miss(name, absent)):
            found.notes.append(
                f"{printable(path / name)}: not read as {close}: the name must be the same, or one "
                "of the run's data.aliases"
            )
    _add_by_first_folder(found, aliases, "" if not labelled else None)
    if not found.paths:
        raise DataError(f"{path}: no images here (looked for JPEG, PNG, WebP, GIF, BMP and TIFF)")
    return found


def given_splits(source: Path) -> set[str]:
    """Name the splits that a folder or manifest itself tells; a run makes those it lacks."""
    known = read_manifest(source).splits if is_manifest(source) else split_folders(source)
    return {*known} - {""}


def find_all_images(root: Path) -> Found:
    """Find every image of a folder, with the labels and splits that the folders' names say.

    Raises:
        UsageError: if the root does not exist.
        DataError: if there is no image.
    """
    require_folder(root)
    found = Found(root, root)
    splits = split_folders(root)
    entered = enter(root, splits.values())
    if splits:
        note_beside(found, splits)
    for split, folder in (splits or {"": ""}).items():
        above = f"{folder}/" if folder else ""
        for name in list_folders(root / folder):
            prefix = f"{above}{name}/"
            found.add(found.search(root / prefix, entered, prefix), name, split)
        if num_loose := count_loose_images(root / folder):
            found.notes.append(
                f"{root / folder}: {num_loose:,} images beside the class folders are not read"
            )
    if not found.paths:  # without class folders they can still be looked at
        found.add(found.search(root), "")
    if not found.paths:
        raise DataError(f"{root}: no images here (looked for JPEG, PNG, WebP, GIF, BMP and TIFF)")
    return found


def find_unseen_images(root: Path, classes: Sequence[str]) -> Found:
    """Find images of kinds that no class contains: one foreign folder each, or the root itself.

    Raises:
        UsageError: if the root does not exist.
        DataError: if a folder bears the name of a class, or there is no image.
    """
    require_folder(root)
    found = Found(root, root)
    for folder in (root, *(root / split for split in split_folders(root).values())):
        if known := sorted(set(list_folders(folder)) & set(classes)):
            raise DataError(
                f"{folder}: --unseen is for other kinds, but {name_all(known)} is a class"
            )
    own_name = root.resolve().name
    if own_name in classes and count_loose_images(root):
        raise DataError(f"{root}: --unseen is for other kinds, but {own_name} is a class")
    _add_by_first_folder(found, {}, None, own_name)
    if not found.paths:
        raise DataError(f"{root}: no images here for --unseen")
    return found


def _add_by_first_folder(
    found: Found, aliases: Mapping[str, str], label: str | None, loose: str = ""
) -> None:
    """Add all images below the root, labelled by the first folder unless a label is given.

    Args:
        found: gets the images.
        aliases: of the folders' names.
        label: of all images, or None.
        loose: the label of images directly in the root.
    """
    paths = found.search(found.root)
    found.paths = paths
    found.splits = [""] * len(paths)
    for path in paths:
        first, slash, _ = path.partition("/")
        name = intern(aliases.get(first, first)) if slash else loose
        found.labels.append(name if label is None else label)
