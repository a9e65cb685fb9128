"""Map folders to splits and classes, for training, evaluation and the data report.

Two layouts are known: `root/<split>/<class>/...` and `root/<class>/...`. A class folder matches by
its exact name, or by an alias from the config. A near miss is reported, never guessed.
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

_NO_ALIASES: Mapping[str, str] = MappingProxyType({})
_LOOKED_FOR = "no images here (looked for JPEG, PNG, WebP, GIF, BMP and TIFF)"


def find_training_images(
    root: Path,
    classes: Sequence[str],
    ignored: Sequence[str] = (),
    aliases: Mapping[str, str] = _NO_ALIASES,
) -> ImageTable:
    """Find the labelled images of a folder, with their splits if it has split folders.

    Args:
        root: the folder.
        classes: the class names.
        ignored: names of folders beside the class folders that are not read.
        aliases: other names of class folders, each with its class.

    Raises:
        UsageError: if the root does not exist.
        DataError: if class folders are missing, empty, extra, or not named exactly.
    """
    require_folder(root)
    table = ImageTable(root, root)
    splits = split_folders(root)
    visited = _labelled_folders(root, splits.values())
    if not splits:
        _add_classes(table, "", "", classes, ignored, aliases, visited)
        return table
    if "train" not in splits:
        raise DataError(
            f"{root}: there is {', '.join(splits.values())} but no train folder; want "
            "root/train/<class>/..., or root/<class>/... without any split folder"
        )
    _note_unread_folders(table, splits)
    for split, folder in splits.items():
        _add_classes(table, split, folder, classes, ignored, aliases, visited)
    return table


def find_evaluation_images(
    path: Path,
    classes: Sequence[str],
    split: str | None,
    aliases: Mapping[str, str] = _NO_ALIASES,
) -> ImageTable:
    """Find the images to evaluate: one split of a folder with splits, a whole folder, or one file.

    Args:
        path: a folder or an image file.
        classes: of the checkpoint.
        split: train, val or test; None means test if the folder has splits.
        aliases: other names of class folders, each with its class.

    Returns:
        The images. Without any class folder all labels are empty. Otherwise the label is the class
        that the first folder names, or the folder's own name if it is out of distribution.

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
    table = ImageTable(path, path)
    folders = list_folders(path)
    absent = [name for name in classes if name not in folders]
    for name in folders:
        if aliases.get(name, name) not in classes and (close := near_miss(name, absent)):
            table.notes.append(
                f"{printable(path / name)}: not read as {close}: the name must be the same, or one "
                "of the run's data.aliases"
            )
    is_labelled = any(aliases.get(name, name) in classes for name in folders)
    for image in table.scan(path):
        folder, slash, _ = image.partition("/")
        label = aliases.get(folder, folder) if slash and is_labelled else ""
        table.add([image], intern(label))
    if not table.paths:
        raise DataError(f"{path}: {_LOOKED_FOR}")
    return table


def find_unseen_images(root: Path, classes: Sequence[str]) -> ImageTable:
    """Find images of kinds that no class contains: one folder for each kind, or the root itself.

    Raises:
        UsageError: if the root does not exist.
        DataError: if a folder has the name of a class, or there is no image.
    """
    require_folder(root)
    table = ImageTable(root, root)
    for folder in (root, *(root / split for split in split_folders(root).values())):
        if known := sorted(set(list_folders(folder)) & set(classes)):
            raise DataError(
                f"{folder}: --unseen is for other kinds, but {join_names(known)} is a class"
            )
    own_name = root.resolve().name
    if own_name in classes and count_loose_images(root):
        raise DataError(f"{root}: --unseen is for other kinds, but {own_name} is a class")
    for image in table.scan(root):
        folder_name, slash, _ = image.partition("/")
        table.add([image], intern(folder_name) if slash else own_name)
    if not table.paths:
        raise DataError(f"{root}: no images here for --unseen")
    return table


def find_all_images(root: Path) -> ImageTable:
    """Find every image of a folder, with the labels and splits that the folder names give.

    Raises:
        UsageError: if the root does not exist.
        DataError: if there is no image.
    """
    require_folder(root)
    table = ImageTable(root, root)
    splits = split_folders(root)
    visited = _labelled_folders(root, splits.values())
    if splits:
        _note_unread_folders(table, splits)
    for split, folder in (splits or {"": ""}).items():
        for name in list_folders(root / folder):
            prefix = f"{folder}/{name}/" if folder else f"{name}/"
            table.add(table.scan(root / prefix, visited, prefix), name, split)
        _note_loose_images(table, root / folder, "class")
    if not table.paths:  # without class folders there are only loose images
        table.add(table.scan(root), "")
    if not table.paths:
        raise DataError(f"{root}: {_LOOKED_FOR}")
    return table


def split_folders(root: Path) -> dict[str, str]:
    """Map each split that a folder has to the name of its folder.

    Raises:
        DataError: if two folders name the same split.
    """
    folders = set(list_folders(root))
    splits: dict[str, str] = {}
    for split, names in SPLIT_FOLDERS.items():
        present = [name for name in names if name in folders]
        if len(present) > 1:
            raise DataError(f"{root}: {join_names(present)} both name the {split} split; keep one")
        if present:
            splits[split] = present[0]
    return splits


def require_folder(path: Path) -> None:
    """Raise `UsageError` if the path is not a folder, with a similar name if there is one."""
    if path.is_dir():
        return
    siblings = list_folders(path.parent) if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, siblings, n=1)
    hint = f"; did you mean {path.parent / close[0]}?" if close else ""
    reason = "not a folder" if path.exists() else "no such file or folder"
    raise UsageError(f"{path}: {reason}{hint}")


def near_miss(name: str, classes: Sequence[str]) -> str | None:
    """Return the class that a name probably means: other case, plural, space, typing error."""
    by_casefold = {each.casefold(): each for each in classes}
    close = difflib.get_close_matches(name.strip().casefold(), by_casefold, n=1, cutoff=0.75)
    return by_casefold[close[0]] if close else None


def suggest_class(name: str, classes: Sequence[str]) -> str:
    """Return a hint for a name that no class has."""
    close = near_miss(name, classes)
    return f"did you mean {close}?" if close else "no class has this name"


def join_names(names: Sequence[str]) -> str:
    """List names in a message."""
    return ", ".join(map(printable, names))


def _labelled_folders(root: Path, split_names: Iterable[str]) -> set[Identity]:
    """Return the split and class folders: a link to one of them would give images two labels."""
    roots = [root, *(root / name for name in split_names)]
    visited = {file_identity(each) for each in roots}
    return visited | {file_identity(each / name) for each in roots for name in list_folders(each)}


def _add_classes(
    table: ImageTable,
    split: str,
    folder: str,
    classes: Sequence[str],
    ignored: Sequence[str],
    aliases: Mapping[str, str],
    visited: set[Identity],
) -> None:
    root = table.root / folder
    folders = list_folders(root)
    _note_loose_images(table, root, "class")
    labels = {name: aliases.get(name, name) for name in folders if name not in ignored}
    extra = [name for name, label in labels.items() if label not in classes]
    absent = [name for name in classes if name not in labels.values()]
    problems = [f"no folder for class {name}" for name in absent]
    problems += [f"folder {printable(name)}: {suggest_class(name, absent)}" for name in extra]
    if extra:
        suggestion = ", ".join(
            f"{printable(name)}: {near_miss(name, classes) or 'CLASS'}" for name in extra
        )
        problems.append(
            "rename or move such folders, or leave them out, "
            f"'data.ignored_folders=[{join_names([*ignored, *extra])}]'"
            f", or name the class that each means, 'data.aliases={{{suggestion}}}'"
        )
    for label in classes:
        names = [name for name, each in labels.items() if each == label]
        num_before = len(table.paths)
        for name in names:
            prefix = f"{folder}/{name}/" if folder else f"{name}/"
            table.add(table.scan(root / name, visited, prefix), label, split)
        if names and len(table.paths) == num_before:
            problems.append(f"the folder of class {label} holds no images")
    if problems:
        lines = "\n       ".join(problems)
        raise DataError(f"{root}: want one folder for each of {', '.join(classes)}\n       {lines}")


def _note_unread_folders(table: ImageTable, splits: Mapping[str, str]) -> None:
    _note_loose_images(table, table.root, "split")
    unread = [name for name in list_folders(table.root) if name not in splits.values()]
    absent = [name for split, names in SPLIT_FOLDERS.items() if split not in splits
              for name in names]  # fmt: skip
    if unread:
        close = filter(None, [near_miss(name, absent) for name in unread])
        suggestion = ", ".join(dict.fromkeys(close))
        hint = f"; did you mean {suggestion}?" if suggestion else ""
        table.notes.append(
            f"{table.root}: not read, as no split has this name: {join_names(unread)}{hint}"
        )


def _note_loose_images(table: ImageTable, folder: Path, kind: str) -> None:
    if num_loose := count_loose_images(folder):
        table.notes.append(f"{folder}: {num_loose:,} images beside the {kind} folders are not read")
