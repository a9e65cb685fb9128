"""Map folders to splits and classes, for training, evaluation and the data report.

Two layouts are known: `root/<split>/<class>/...` and `root/<class>/...`. A class folder matches by
its exact name, or by an alias from the config. A near miss is reported, never guessed.
"""

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from sys import intern
from types import MappingProxyType

from neither.config.schema import SPLIT_FOLDERS
from neither.data.image_file import describe_no_images
from neither.data.scan import (
    Identity,
    ImageTable,
    count_loose_images,
    file_identity,
    list_folders,
    nfc,
)
from neither.runtime.console import printable
from neither.runtime.errors import DataError, UsageError

NO_ALIASES: Mapping[str, str] = MappingProxyType({})
_NO_SPLITS = {"": ""}


def labels_by_name(classes: Sequence[str], aliases: Mapping[str, str]) -> dict[str, str]:
    """Map each class name and each alias, in NFC, to the class as `classes` spells it."""
    labels = {nfc(name): name for name in classes}
    return {nfc(alias): labels.get(nfc(name), name) for alias, name in aliases.items()} | labels


def find_training_images(
    root: Path,
    classes: Sequence[str],
    ignored: Sequence[str] = (),
    aliases: Mapping[str, str] = NO_ALIASES,
) -> ImageTable:
    """Find the labelled images of a folder, with their splits if it has split folders.

    Ignored folders beside the class folders are not read; `aliases` are other names of class
    folders, each with its class.

    Raises:
        UsageError: if the root does not exist.
        DataError: if class folders are missing, empty, extra, or not named exactly.
    """
    require_folder(root)
    labels, skipped = labels_by_name(classes, aliases), {nfc(name) for name in ignored}
    splits = split_folders(root, labels)
    if not splits and not any(nfc(name) in labels for name in list_folders(root)):
        splits = _one_folder_each(root, _named_splits(root))  # their class folders are misnamed
    if splits and "train" not in splits:
        raise DataError(
            f"{root}: there is {', '.join(splits.values())} but no train folder; want "
            "root/train/<class>/..., or root/<class>/... without any split folder"
        )
    table, visited = ImageTable(root, root), _labelled_folders(root, splits)
    _note_unread(table, splits)
    for split, folder in (splits or _NO_SPLITS).items():
        names = [name for name in list_folders(root / folder) if nfc(name) not in skipped]
        labelled = {name: labels.get(nfc(name), name) for name in names}
        problems = _find_class_problems(labelled, classes, ignored)
        for label in classes:
            num_before = len(table.paths)
            own = [name for name in names if labelled[name] == label]
            for name in own:
                _add_folder(table, folder, name, label, split, visited)
            if own and len(table.paths) == num_before:
                problems.append(f"the folder of class {label} holds no images")
        if problems:
            wanted = f"{root / folder}: want one folder for each of {', '.join(classes)}"
            raise DataError(wanted, *problems, *table.notes)
    return table


def find_evaluation_images(
    path: Path, classes: Sequence[str], split: str | None, aliases: Mapping[str, str] = NO_ALIASES
) -> ImageTable:
    """Find the images to evaluate: one split of a folder with splits, a whole folder, or one file.

    No split means test if the folder has splits. Without any class folder all labels are empty.
    Otherwise the label is the class that the first folder names, or the folder's own name if it is
    out of distribution.

    Raises:
        UsageError: if the path does not exist or has no such split.
        DataError: if there is no image.
    """
    if path.is_file():
        if split is not None:
            raise UsageError(f"{path}: --split {split}: one image has no splits")
        return ImageTable(path.parent, path, [path.name], [""], [""], [""])
    require_folder(path)
    labels, named = labels_by_name(classes, aliases), _named_splits(path)
    notes: list[str] = []
    # Who names a split says that there are splits, whatever is in them.
    splits = split_folders(path, labels) if split is None else _one_folder_each(path, named)
    if not splits and split is not None:
        raise UsageError(
            f"{path}: --split {split}: this folder has no split folders, and is not known to hold "
            f"the images that a run has in {split}"
        )
    if splits:
        wanted, known = split or "test", ", ".join(splits)
        if wanted not in splits:
            raise UsageError(f"{path}: no {wanted} split here; name another: --split {known}")
        others = [name for name in list_folders(path) if name != splits[wanted]]
        beside = [*map(printable, others), *_count_loose(path)]
        if beside:
            notes.append(f"{path}: only its {wanted} split is read, not {', '.join(beside)}")
        path = path / splits[wanted]
    elif named:
        notes.append(
            f"{path}: read as one folder, as no class folder is in "
            f"{_join_names(named)}; --split reads one alone"
        )
    table = ImageTable(path, path, notes=notes)
    folders = list_folders(path)
    others = [name for name in folders if nfc(name) not in labels]
    absent = [name for name in classes if nfc(name) not in {*map(nfc, folders)}]
    note_near_misses(table, {printable(path / name): name for name in others}, absent)
    is_labelled = len(others) < len(folders)
    for image in table.scan(path):
        folder, slash, _ = image.partition("/")
        label = labels.get(nfc(folder), folder) if slash and is_labelled else ""
        table.add([image], intern(label))
    if not table.paths:
        raise DataError(f"{path}: {describe_no_images(table.listing.others)}")
    return table


def find_unseen_images(root: Path, classes: Sequence[str]) -> ImageTable:
    """Find images of kinds that no class contains: one folder for each kind, or the root itself.

    Raises:
        UsageError: if the root does not exist.
        DataError: if a folder has the name of a class, or there is no image.
    """
    require_folder(root)
    table = ImageTable(root, root)
    known_names = {*map(nfc, classes)}
    for folder in (root, *(root / name for name in _named_splits(root))):
        if known := [name for name in list_folders(folder) if nfc(name) in known_names]:
            names = _join_names(known)
            raise DataError(f"{folder}: --unseen is for other kinds, but {names} is a class")
    own_name = root.resolve().name
    if nfc(own_name) in known_names and count_loose_images(root):
        raise DataError(f"{root}: --unseen is for other kinds, but {own_name} is a class")
    for image in table.scan(root):
        folder_name, slash, _ = image.partition("/")
        table.add([image], intern(folder_name) if slash else own_name)
    if not table.paths:
        raise DataError(f"{root}: --unseen: {describe_no_images(table.listing.others)}")
    return table


def find_all_images(root: Path) -> ImageTable:
    """Find every image of a folder, with the labels and splits that the folder names give.

    Raises:
        UsageError: if the root does not exist.
        DataError: if there is no image.
    """
    require_folder(root)
    splits = split_folders(root)
    table, visited = ImageTable(root, root), _labelled_folders(root, splits)
    for split, folder in (splits or _NO_SPLITS).items():
        for name in list_folders(root / folder):
            _add_folder(table, folder, name, nfc(name), split, visited)
    if table.paths:
        _note_unread(table, splits)
    else:  # without class folders there are only loose images, and all are read
        table = ImageTable(root, root)
        table.add(table.scan(root), "")
    if not table.paths:
        raise DataError(f"{root}: {describe_no_images(table.listing.others)}")
    return table


def split_folders(root: Path, labels: Collection[str] | None = None) -> dict[str, str]:
    """Map each split to its folder; empty if the folder is not laid out in splits.

    A folder that is only named like a split, such as `holiday/test`, is none: one of the splits has
    a folder of a class, whose names in NFC are `labels`. If they are unknown, `train` has folders,
    or there is nothing but splits.

    Raises:
        DataError: if two folders name one split.
    """
    named = _named_splits(root)
    below = [name for folder in named for name in _list_below(root / folder)]
    if labels is None:
        is_split = ("train" in named and bool(_list_below(root / "train"))) or (
            bool(below) and len(named) == len(list_folders(root))
        )
    else:
        is_split = any(nfc(name) in labels or near_miss(name, labels) for name in below)
    return _one_folder_each(root, named) if is_split else {}


def require_folder(path: Path) -> None:
    """Raise `UsageError` if the path is not a folder, with a similar name if there is one."""
    if path.is_dir():
        return
    siblings = list_folders(path.parent) if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, siblings, n=1)
    hint = f"; did you mean {path.parent / close[0]}?" if close else ""
    reason = "not a folder" if path.exists() else "no such file or folder"
    raise UsageError(f"{path}: {reason}{hint}")


def near_miss(name: str, classes: Iterable[str]) -> str | None:
    """Return the class that a name probably means: other case, plural, space, typing error."""
    by_casefold = {nfc(each).casefold(): each for each in classes}
    close = difflib.get_close_matches(nfc(name).strip().casefold(), by_casefold, n=1, cutoff=0.75)
    return by_casefold[close[0]] if close else None


def note_near_misses(table: ImageTable, names: Mapping[str, str], absent: Sequence[str]) -> None:
    """Note names that probably mean an absent class; each is the value of its description."""
    for description, name in names.items():
        if close := near_miss(name, absent):
            table.notes.append(
                f"{description}: not read as {close}: the name must be the same, or one of the "
                "run's data.aliases"
            )


def describe_mismatches(kind: str, absent: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """Describe absent classes, and names that no class has, the values of their descriptions."""
    problems = [f"no {kind} for class {name}" for name in absent]
    for description, name in names.items():
        close = near_miss(name, absent)
        hint = f"did you mean {close}?" if close else "no class has this name"
        problems.append(f"{description}: {hint}")
    return problems


def _named_splits(root: Path) -> list[str]:
    """Return the folders that are named like a split, in the order of the splits."""
    folders = {*list_folders(root)}
    return [name for names in SPLIT_FOLDERS.values() for name in names if name in folders]


def _one_folder_each(root: Path, named: Sequence[str]) -> dict[str, str]:
    splits: dict[str, str] = {}
    for name in named:
        (split,) = [split for split, names in SPLIT_FOLDERS.items() if name in names]
        if split in splits:
            both = _join_names([splits[split], name])
            raise DataError(f"{root}: {both} both name the {split} split; keep one")
        splits[split] = name
    return splits


def _list_below(folder: Path) -> list[str]:
    """List the folders in a split folder; none if it cannot be read, as another may be wanted."""
    try:
        return list_folders(folder)
    except DataError:
        return []


def _labelled_folders(root: Path, splits: Mapping[str, str]) -> set[Identity]:
    """Return the split and class folders: a link to one would give images two labels."""
    roots = {root, *(root / folder for folder in splits.values())}
    folders = [each / name for each in roots for name in list_folders(each)]
    return {file_identity(each) for each in (*roots, *folders)}


def _add_folder(
    table: ImageTable, parent: str, name: str, label: str, split: str, visited: set[Identity]
) -> None:
    prefix = f"{parent}/{name}/" if parent else f"{name}/"
    table.add(table.scan(table.root / prefix, visited, prefix), label, split)


def _find_class_problems(
    labels: Mapping[str, str], classes: Sequence[str], ignored: Sequence[str]
) -> list[str]:
    """Describe missing and extra class folders, given the label of each folder."""
    extra = [name for name, label in labels.items() if label not in classes]
    absent = [name for name in classes if name not in labels.values()]
    described = {f"folder {printable(name)}": name for name in extra}
    problems = describe_mismatches("folder", absent, described)
    if extra:
        meant = [f"{printable(name)}: {near_miss(name, classes) or 'CLASS'}" for name in extra]
        suggestion = ", ".join(meant)
        problems.append(
            "rename or move such folders, or leave them out, "
            f"'data.ignored_folders=[{_join_names([*ignored, *extra])}]'"
            f", or name the class that each means, 'data.aliases={{{suggestion}}}'"
        )
    return problems


def _join_names(names: Sequence[str]) -> str:
    return ", ".join(map(printable, names))


def _note_unread(table: ImageTable, splits: Mapping[str, str]) -> None:
    """Note what is beside the split and class folders, which are all that is read."""
    kinds = {table.root: "split" if splits else "class"}
    kinds |= dict.fromkeys((table.root / folder for folder in splits.values()), "class")
    for folder, kind in kinds.items():
        for loose in _count_loose(folder):
            table.notes.append(f"{folder}: {loose} beside the {kind} folders are not read")
    unread = [name for name in list_folders(table.root) if name not in splits.values()]
    absent = [name for split, names in SPLIT_FOLDERS.items() if split not in splits
              for name in names]  # fmt: skip
    if splits and unread:
        close = filter(None, [near_miss(name, absent) for name in unread])
        suggestion = ", ".join(dict.fromkeys(close))
        hint = f"; did you mean {suggestion}?" if suggestion else ""
        names = _join_names(unread)
        table.notes.append(f"{table.root}: not read, as no split has this name: {names}{hint}")


def _count_loose(folder: Path) -> list[str]:
    """Describe the images directly in a folder; nothing if there are none."""
    num = count_loose_images(folder)
    return [f"{num:,} images"] if num else []
