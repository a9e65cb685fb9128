"""Find the image files below a folder, in a deterministic order.

An image is a regular, non-hidden file with an image suffix, or with image content if it has no
suffix. Symbolic links are followed, and each folder is entered once. Only files without a suffix
are opened. Paths are sorted by name, so the order does not depend on the file system.
"""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from neither.data.image_file import SUFFIXES, describe_others, is_image_start
from neither.runtime import signals
from neither.runtime.console import printable
from neither.runtime.errors import DataError

Identity = tuple[int, int]  # device and inode

_SYSTEM_FILES = frozenset({"__macosx", "thumbs.db", "desktop.ini"})


@dataclass
class Listing:
    """The images below one folder, and what else is there."""

    # of the images, each with the prefix, with / between parts, sorted
    paths: list[str] = field(default_factory=list)
    # number of regular files that are not images, by suffix
    others: Counter[str] = field(default_factory=Counter)
    num_hidden: int = 0  # number of hidden files and folders, and of files that other systems leave
    # entries with an image suffix that are not regular files, each with the reason
    irregular: list[str] = field(default_factory=list)
    # folders that cannot be read, each with the reason
    unreadable_folders: list[str] = field(default_factory=list)


@dataclass
class ImageTable:
    """Images with their labels and splits, in columns, and what was noticed while scanning."""

    root: Path  # the folder that the paths are relative to
    source: Path  # the folder or manifest that names the images
    paths: list[str] = field(default_factory=list)  # of the images, with / between parts
    # of each image: a class, the name of an out-of-distribution folder, or empty
    labels: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)  # of each image: train, val, test, or empty
    # where each image comes from, such as a camera; empty if that is not known
    sources: list[str] = field(default_factory=list)
    # the SHA-256 that each image had in a run, in hex; empty if no run lists them
    hashes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # messages for the user
    # folders that cannot be read, each with the reason
    unreadable_folders: list[str] = field(default_factory=list)
    # counts of the other files, summed over all scanned folders
    listing: Listing = field(default_factory=Listing)

    def add(self, paths: list[str], label: str, split: str = "", source: str = "") -> None:
        """Add images that have the same label, split and source."""
        self.paths += paths
        self.labels += [label] * len(paths)
        self.splits += [split] * len(paths)
        self.sources += [source] * len(paths)

    def exclude(self, folder: Path) -> None:
        """Remove the images below a folder inside the root."""
        root, excluded = self.root.resolve(), folder.resolve()
        if root not in excluded.parents:
            return
        prefix = f"{excluded.relative_to(root).as_posix()}/"
        self.remove({i for i, path in enumerate(self.paths) if path.startswith(prefix)})

    def remove(self, indices: Collection[int]) -> None:
        """Remove the images of these indices."""
        for column in (self.paths, self.labels, self.splits, self.sources, self.hashes):
            column[:] = [value for index, value in enumerate(column) if index not in indices]

    def scan(
        self, folder: Path, visited: set[Identity] | None = None, prefix: str = ""
    ) -> list[str]:
        """List the images below a folder, and note what else is there; see `list_images`."""
        listing = list_images(folder, visited, prefix)
        self.unreadable_folders += listing.unreadable_folders
        self.listing.others += listing.others
        self.listing.num_hidden += listing.num_hidden
        self.listing.irregular += listing.irregular
        if num_others := listing.others.total():
            self.notes.append(
                f"{printable(folder)}: {num_others:,} other files are not read"
                f"{describe_others(listing.others)}"
            )
        if listing.irregular:
            self.notes.append(
                f"{printable(folder)}: {len(listing.irregular):,} entries with an image suffix are "
                f"not image files, such as {listing.irregular[0]}"
            )
        return listing.paths


def list_images(root: Path, visited: set[Identity] | None = None, prefix: str = "") -> Listing:
    """Find all images below a folder; each path begins with `prefix`, such as "train/dog/".

    Links must not lead to `visited` folders. Those entered here are added, so that several listings
    of one scan read no folder twice.

    Raises:
        DataError: if the folder itself cannot be read.
    """
    listing = Listing()
    visited = set() if visited is None else visited
    try:
        # A link to a parent would bring in what is beside the root.
        visited |= {file_identity(folder) for folder in (root, *root.resolve().parents)}
    except OSError as error:
        raise DataError(f"{root}: this folder cannot be read: {error.strerror}") from error
    links: list[str] = []
    _walk(root, "", prefix, listing, visited, links)
    # Links come last, so that the path of a folder does not depend on the names of links to it.
    for link in links:
        identity = file_identity(root / link)
        if identity not in visited:
            visited.add(identity)
            _walk(root, f"{link}/", prefix, listing, visited, links)
    listing.paths.sort()
    return listing


def nfc(name: str) -> str:
    """Return a name in Unicode form NFC, to compare it: macOS may write ä as two characters."""
    return unicodedata.normalize("NFC", name)


def search_paths(pattern: str, paths: Sequence[str]) -> list[str]:
    """Return what a regular expression finds in each path, in any Unicode form of the two.

    That is what its groups match, joined by /, or its whole match if it has none; empty if nothing.
    """
    found = []
    for path in paths:
        match = re.search(pattern, path) or re.search(nfc(pattern), nfc(path))
        parts = [part or "" for part in match.groups() or (match.group(),)] if match else []
        found.append("/".join(parts) if any(parts) else "")
    return found


def spelled_on_disk(root: Path, path: str, listings: dict[Path, dict[str, str]]) -> str:
    """Return a path below a folder as the disk spells it, or unchanged if there is no such file.

    A file whose path has backslashes between its parts, or parts in another Unicode form, is found.
    `listings` holds the names in each folder by their NFC, and is kept between calls.
    """
    if (path.isascii() and "\\" not in path) or os.path.lexists(root / path):
        return path
    parts = path.replace("\\", "/").split("/")
    for index, part in enumerate(parts):
        folder = root.joinpath("/".join([*parts[:index], ""]))
        if not part or os.path.lexists(folder / part):
            continue
        if folder not in listings:
            try:
                listings[folder] = {nfc(name): name for name in os.listdir(folder)}  # noqa: PTH208
            except OSError:
                return path
        if nfc(part) not in listings[folder]:
            return path
        parts[index] = listings[folder][nfc(part)]
    return "/".join(parts)


def file_identity(path: str | Path) -> Identity:
    """Return what identifies a file or folder under any name."""
    status = os.stat(path)  # noqa: PTH116 - not DirEntry.stat, which has no inode on Windows
    return status.st_dev, status.st_ino


def list_folders(root: Path) -> list[str]:
    """Return the sorted names of the non-hidden folders directly below a folder."""
    return sorted(entry.name for entry in _entries(root, Listing()) if _is_folder(entry))


def count_loose_images(root: Path) -> int:
    """Count the images directly in a folder."""
    listing = Listing()
    return sum(_is_image(entry, listing) for entry in _entries(root, listing))


def _walk(
    root: Path, start: str, prefix: str, listing: Listing, visited: set[Identity], links: list[str]
) -> None:
    """Walk with a stack instead of recursion: a tree may be deeper than Python's limit."""
    pending = [start]
    while pending:
        signals.poll()
        below = pending.pop()
        folders = []
        try:
            for entry in _entries(root / below, listing):
                if _is_folder(entry):
                    folders.append((entry.name, entry.is_symlink()))
                elif _is_image(entry, listing):
                    listing.paths.append(f"{prefix}{below}{entry.name}")
        except DataError as error:
            if not below:
                raise
            listing.unreadable_folders.append(str(error))
        for name, is_link in sorted(folders):
            path = below + name
            if is_link:
                links.append(path)
                continue
            try:
                identity = file_identity(root / path)
            except OSError as error:
                listing.unreadable_folders.append(f"{printable(root / path)}: {error.strerror}")
                continue
            if identity not in visited:
                visited.add(identity)
                pending.append(f"{path}/")


def _entries(folder: Path, listing: Listing) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name.lower() in _SYSTEM_FILES:
                    listing.num_hidden += 1
                else:
                    yield entry
    except OSError as error:
        where = printable(folder)
        raise DataError(f"{where}: this folder cannot be read: {error.strerror}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _is_image(entry: os.DirEntry[str], listing: Listing) -> bool:
    """Decide by the suffix if there is one; open only regular files without a suffix."""
    suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 - faster for a million names
    try:
        if not entry.is_file():
            if suffix in SUFFIXES:
                exists = os.path.exists(entry.path)  # noqa: PTH110
                reason = "not a regular file" if exists else "a broken link"
                listing.irregular.append(f"{printable(entry.path)}: {reason}")
            return False
        if suffix in SUFFIXES:
            return True
        if not suffix:
            with open(entry.path, "rb") as file:  # noqa: PTH123
                if is_image_start(file.read(12)):
                    return True
    except OSError as error:
        listing.irregular.append(f"{printable(entry.path)}: {error.strerror}")
        return False
    listing.others[suffix] += 1
    return False
