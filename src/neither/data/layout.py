"""Which folder holds which split and class.

Two layouts are known, `root/<split>/<class>/...` and `root/<class>/...`. A class folder matches by
its exact name: a folder that is nearly right is named, never guessed.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from neither.data.folder import (
    Identity,
    count_loose_images,
    identify,
    list_folders,
)
from neither.data.found import Found
from neither.errors import DataError, UsageError
from neither.terminal import printable
from neither.texts import SPLIT_FOLDERS


def find_training_images(
    root: Path,
    classes: Sequence[str],
    ignored: Sequence[str] = (),
    aliases: Mapping[str, str] = MappingProxyType({}),
) -> Found:
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
    found = Found(root, root)
    splits = split_folders(root)
    entered = enter(root, splits.values())
    if not splits:
        _add_classes(found, "", "", classes, ignored, aliases, entered)
        return found
    if "train" not in splits:
        raise DataError(
            f"{root}: there is {', '.join(splits.values())} but no train folder; want "
            "root/train/<class>/..., or root/<class>/... without any split folder"
        )
    note_beside(found, splits)
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
            raise DataError(f"{root}: {name_all(present)} both name the {split} split; keep one")
        if present:
            splits[split] = present[0]
    return splits


def _add_classes(
    found: Found,
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
            found.add(found.search(root / name, entered, prefix), label, split)
        if names and len(found.paths) == num_before:
            problems.append(f"the folder of class {label} holds no images")
    if problems:
        lines = "\n       ".join(problems)
        raise DataError(f"{root}: want one folder for each of {', '.join(classes)}\n       {lines}")


def note_beside(found: Found, splits: Mapping[str, str]) -> None:
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
            f"{found.root}: not read, as no split has this name: {name_all(beside)}{hint}"
        )


def _note_loose(found: Found, folder: Path, kind: str) -> None:
    if num_loose := count_loose_images(folder):
        found.notes.append(f"{folder}: {num_loose:,} images beside the {kind} folders are not read")


def enter(root: Path, split_names: Iterable[str]) -> set[Identity]:
    """Return the folders that no link may lead to: splits and classes, which would get two labels.

    Args:
        root: that holds them.
        split_names: of its split folders, if it has any.
    """
    roots = [root, *(root / name for name in split_names)]
    entered = {identify(each) for each in roots}
    return entered | {identify(each / name) for each in roots for name in list_folders(each)}


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


def name_all(names: Sequence[str]) -> str:
    """List names for a message."""
    return ", ".join(map(printable, names))
