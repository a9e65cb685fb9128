"""Which folder holds which split and class.

Two layouts are known, `root/<split>/<class>/...` and `root/<class>/...`. A class folder matches by
its exact name: a folder that is nearly right is named, never guessed.

Which images to evaluate, and what each is labelled: folders as they are, foreign ones too.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from sys import intern
from types import MappingProxyType

from neither.config.schema import SPLIT_FOLDERS
from neither.data.scan import Identity, ImageTable, count_loose_images, file_identity, list_folders
from neither.runtime.console import printable
from neither.runtime.errors import DataError, UsageError


def find_training_images(
    root: Path,
    classes: Sequence[str],
    ignored: Sequence[str] = (),
    aliases: Mapping[str, str] = MappingProxyType({}),
) -> ImageTable:
    """Find the labelled images of a root, in their splits where it has split folders.

    Args:
        root: the folder.
        classes: their names.
        ignored: names of class-level folders to leave out.
        aliases: other names of class folders, each with the class that is meant.

    Raises:
        UsageError: if the root does not exist.
        DataError: if class folders are missing, empty, extra, or not named exactly.
    """
    require_folder(root)
    found = ImageTable(root, root)
    splits = split_folders(root)
    entered = labelled_folders(root, splits.values())
    if not splits:
        _add_classes(found, "", "", classes, ignored, aliases, entered)
        return found
    if "train" not in splits:
        raise DataError(
            f"{root}: there is {', '.join(splits.values())} but no train folder; want "
            "root/train/<class>/..., or root/<class>/... without any split folder"
        )
    note_unread(found, splits)
    for split, folder in splits.items():
        _add_classes(found, split, folder, classes, ignored, aliases, entered)
    return found


def split_folders(root: Path) -> dict[str, str]:
    """Map the splits that a root has to their folders' names."""
    folders = set(list_folders(root))
    splits: dict[str, str] = {}
    for split, names in SPLIT_FOLDERS.items():
        present = [name for name in names if name in folders]
        if len(present) > 1:
            raise DataError(f"{root}: {join_names(present)} both name the {split} split; keep one")
        if present:
            splits[split] = present[0]
    return splits


def _add_classes(
    found: ImageTable,
    split: str,
    folder: str,
    classes: Sequence[str],
    ignored: Sequence[str],
    aliases: Mapping[str, str],
    entered: set[Identity],
) -> None:
    root = found.root / folder
    folders = list_folders(root)
    _note_loose(found, root, "class")
    meant = {name: aliases.get(name, name) for name in folders if name not in ignored}
    extra = [name for name, label in meant.items() if label not in classes]
    absent = [name for name in classes if name not in meant.values()]
    problems = [f"no folder for class {name}" for name in absent]
    for name in extra:
        close = near_miss(name, absent)
        hint = f"did you mean {close}?" if close else "no class has this name"
        problems.append(f"folder {printable(name)}: {hint}")
    if extra:
        everything = ", ".join(map(printable, [*ignored, *extra]))
        meanings = ", ".join(f"{printable(name)}: {near_miss(name, classes) or 'CLASS'}"
                             for name in extra)  # fmt: skip
        problems.append(
            f"rename or move such folders, or leave them out, 'data.ignored_folders=[{everything}]'"
            f", or name the class that each means, 'data.aliases={{{meanings}}}'"
        )
    for label in classes:
        names = [name for name, each in meant.items() if each == label]
        num_before = len(found.paths)
        for name in names:
            prefix = f"{folder}/{name}/" if folder else f"{name}/"
            found.add(found.scan(root / name, entered, prefix), label, split)
        if names and len(found.paths) == num_before:
            problems.append(f"the folder of class {label} holds no images")
    if problems:
        lines = "\n       ".join(problems)
        raise DataError(f"{root}: want one folder for each of {', '.join(classes)}\n       {lines}")


def note_unread(found: ImageTable, splits: Mapping[str, str]) -> None:
    """Note what lies beside the split folders and is not read."""
    _note_loose(found, found.root, "split")
    beside = [name for name in list_folders(found.root) if name not in splits.values()]
    absent = [name for split, names in SPLIT_FOLDERS.items() if split not in splits
              for name in names]  # fmt: skip
    if beside:
        close = filter(None, [near_miss(name, absent) for name in beside])
        meant = ", ".join(dict.fromkeys(close))
        hint = f"; did you mean {meant}?" if meant else ""
        found.notes.append(
            f"{found.root}: not read, as no split has this name: {join_names(beside)}{hint}"
        )


def _note_loose(found: ImageTable, folder: Path, kind: str) -> None:
    if num_loose := count_loose_images(folder):
        found.notes.append(f"{folder}: {num_loose:,} images beside the {kind} folders are not read")


def labelled_folders(root: Path, split_names: Iterable[str]) -> set[Identity]:
    """Return the folders that no link may lead to: splits and classes, which would get two labels.

    Args:
        root: that holds them.
        split_names: of its split folders, if it has any.
    """
    roots = [root, *(root / name for name in split_names)]
    entered = {file_identity(each) for each in roots}
    return entered | {file_identity(each / name) for each in roots for name in list_folders(each)}


def near_miss(name: str, classes: Sequence[str]) -> str | None:
    """Find the class that a folder's name was meant to be: case, plural, space, small slip."""
    plain = {each.casefold(): each for each in classes}
    wanted = name.strip().casefold()
    close = difflib.get_close_matches(wanted, plain, n=1, cutoff=0.75)
    return plain[close[0]] if close else None


def require_folder(path: Path) -> None:
    """Raise a UsageError, with a hint where one helps, unless this is a folder."""
    if path.is_dir():
        return
    siblings = list_folders(path.parent) if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, siblings, n=1)
    hint = f"; did you mean {path.parent / close[0]}?" if close else ""
    what = "not a folder" if path.exists() else "no such file or folder"
    raise UsageError(f"{path}: {what}{hint}")


def join_names(names: Sequence[str]) -> str:
    """List names for a message."""
    return ", ".join(map(printable, names))


def find_evaluation_images(
    path: Path,
    classes: Sequence[str],
    split: str | None,
    aliases: Mapping[str, str] = MappingProxyType({}),
) -> ImageTable:
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
        return ImageTable(path.parent, path, [path.name], [""], [""])
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
    found = ImageTable(path, path)
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


def find_all_images(root: Path) -> ImageTable:
    """Find every image of a folder, with the labels and splits that the folders' names say.

    Raises:
        UsageError: if the root does not exist.
        DataError: if there is no image.
    """
    require_folder(root)
    found = ImageTable(root, root)
    splits = split_folders(root)
    entered = labelled_folders(root, splits.values())
    if splits:
        note_unread(found, splits)
    for split, folder in (splits or {"": ""}).items():
        above = f"{folder}/" if folder else ""
        for name in list_folders(root / folder):
            prefix = f"{above}{name}/"
            found.add(found.scan(root / prefix, entered, prefix), name, split)
        if num_loose := count_loose_images(root / folder):
            found.notes.append(
                f"{root / folder}: {num_loose:,} images beside the class folders are not read"
            )
    if not found.paths:  # without class folders they can still be looked at
        found.add(found.scan(root), "")
    if not found.paths:
        raise DataError(f"{root}: no images here (looked for JPEG, PNG, WebP, GIF, BMP and TIFF)")
    return found


def find_unseen_images(root: Path, classes: Sequence[str]) -> ImageTable:
    """Find images of kinds that no class contains: one foreign folder each, or the root itself.

    Raises:
        UsageError: if the root does not exist.
        DataError: if a folder bears the name of a class, or there is no image.
    """
    require_folder(root)
    found = ImageTable(root, root)
    for folder in (root, *(root / split for split in split_folders(root).values())):
        if known := sorted(set(list_folders(folder)) & set(classes)):
            raise DataError(
                f"{folder}: --unseen is for other kinds, but {join_names(known)} is a class"
            )
    own_name = root.resolve().name
    if own_name in classes and count_loose_images(root):
        raise DataError(f"{root}: --unseen is for other kinds, but {own_name} is a class")
    _add_by_first_folder(found, {}, None, own_name)
    if not found.paths:
        raise DataError(f"{root}: no images here for --unseen")
    return found


def _add_by_first_folder(
    found: ImageTable, aliases: Mapping[str, str], label: str | None, loose: str = ""
) -> None:
    """Add all images below the root, labelled by the first folder unless a label is given.

    Args:
        found: gets the images.
        aliases: of the folders' names.
        label: of all images, or None.
        loose: the label of images directly in the root.
    """
    paths = found.scan(found.root)
    found.paths = paths
    found.splits = [""] * len(paths)
    for path in paths:
        first, slash, _ = path.partition("/")
        name = intern(aliases.get(first, first)) if slash else loose
        found.labels.append(name if label is None else label)
