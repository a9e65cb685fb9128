"""Find images in a folder, deterministic and safe whatever else lies there.

Found means every regular file, not hidden, that has an image suffix, or image content if it has no
suffix at all. Links are followed, each folder is entered once, and nothing is opened but files
without a suffix. Order is by name, never by what a file system happens to answer.

The images that were found, in columns, and what a user should know of how they were found.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from neither.runtime import signals
from neither.runtime.console import printable
from neither.runtime.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff",
            ".heic", ".heif")  # fmt: skip
Identity = tuple[int, int]  # device and inode

_SYSTEM_FILES = frozenset({"__macosx", "thumbs.db", "desktop.ini"})
_MAGIC = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|RIFF....WEBP|GIF8|BM....\0\0\0\0|II\*\0|MM\0\*", re.DOTALL
)


@dataclass
class Listing:
    """The images below one folder, and what else lies there.

    Attributes:
        paths: of the images, each behind the prefix, with / between parts, sorted.
        others: how many regular files that are no images there are of each suffix.
        num_hidden: files and folders passed over: hidden ones and litter of other systems.
        odd: things with an image's suffix that are no regular files, each with what it is.
        unreadable_folders: folders that could not be read, with the reason.
    """

    paths: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    num_hidden: int = 0
    odd: list[str] = field(default_factory=list)
    unreadable_folders: list[str] = field(default_factory=list)

    def add(self, other: "Listing") -> None:
        """Count what another listing found besides images."""
        self.others += other.others
        self.num_hidden += other.num_hidden
        self.odd += other.odd

    @property
    def num_other(self) -> int:
        """Count the files that are no images."""
        return self.others.total()


def list_images(root: Path, entered: set[Identity] | None = None, prefix: str = "") -> Listing:
    """Find all images below a folder.

    Args:
        root: the folder.
        entered: the folders that no link may lead to, to which those found here are added; so one
            folder is not read as two, although several listings make up one scan.
        prefix: what each path begins with, such as "train/dog/".

    Raises:
        DataError: if the folder itself cannot be read.
    """
    listing = Listing()
    entered = set() if entered is None else entered
    try:
        # Nor may a link lead to where the folder itself lies, and bring in what is beside it.
        entered |= {file_identity(folder) for folder in (root, *root.resolve().parents)}
    except OSError as error:
        raise DataError(f"{root}: this folder cannot be read: {error.strerror}") from error
    links: list[str] = []
    _walk(root, "", prefix, listing, entered, links)
    # Real folders first, so that which of two ways to a folder is taken hangs on no link's name.
    for link in links:
        target = file_identity(root / link)
        if target not in entered:
            entered.add(target)
            _walk(root, f"{link}/", prefix, listing, entered, links)
    listing.paths.sort()
    return listing


def file_identity(path: str | Path) -> Identity:
    """Return what tells a folder from all others, by whatever name it is reached."""
    status = os.stat(path)  # noqa: PTH116 - not the entry's own, which knows no inode on Windows
    return status.st_dev, status.st_ino


def list_folders(root: Path) -> list[str]:
    """Name the folders directly below a folder, hidden ones and litter left out, sorted.

    Raises:
        DataError: if the folder cannot be read.
    """
    return sorted(entry.name for entry in _entries(root, Listing()) if _is_folder(entry))


def count_loose_images(root: Path) -> int:
    """Count the images directly in a folder.

    Raises:
        DataError: if the folder cannot be read.
    """
    listing = Listing()
    return sum(_is_image(entry, listing) for entry in _entries(root, listing))


def _entries(folder: Path, listing: Listing) -> Iterator[os.DirEntry[str]]:
    """Yield what lies in a folder, one by one: there may be a hundred thousand."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name.lower() in _SYSTEM_FILES:
                    listing.num_hidden += 1
                else:
                    yield entry
    except OSError as error:
        raise DataError(
            f"{printable(folder)}: this folder cannot be read: {error.strerror}"
        ) from error


def _walk(
    root: Path, start: str, prefix: str, listing: Listing, entered: set[Identity], links: list[str]
) -> None:
    """Walk with a stack, not by recursion: a deep tree must not end in a traceback."""
    waiting = [start]
    while waiting:
        signals.poll()
        below = waiting.pop()
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
            if identity not in entered:
                entered.add(identity)
                waiting.append(f"{path}/")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle
        return False


def _is_image(entry: os.DirEntry[str], listing: Listing) -> bool:
    """Tell by name alone where there is a suffix; only a regular file is ever opened."""
    suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 - a million names
    try:
        if not entry.is_file():
            if suffix in SUFFIXES:
                exists = os.path.exists(entry.path)  # noqa: PTH110
                what = "not a regular file" if exists else "a link to nothing"
                listing.odd.append(f"{printable(entry.path)}: {what}")
            return False
        if suffix in SUFFIXES:
            return True
        if not suffix:
            with open(entry.path, "rb") as file:  # noqa: PTH123
                if _MAGIC.match(file.read(12)):
                    return True
    except OSError as error:
        listing.odd.append(f"{printable(entry.path)}: {error.strerror}")
        return False
    listing.others[suffix] += 1
    return False


@dataclass(frozen=True, slots=True)
class ImageRow:
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
class ImageTable:
    """Images and what a user should know about how they were found.

    In columns, as there may be a hundred thousand: the strings of labels and splits are shared.

    Attributes:
        root: what the paths lie below.
        source: the folder or manifest that names the images.
        paths: of the images, with / between parts.
        labels: the class, or the name of a foreign folder, or empty, of each.
        splits: train, val, test, or empty, of each.
        notes: what is worth telling.
        unreadable_folders: folders that could not be read.
        listing: what else lies there, all folders together.
    """

    root: Path
    source: Path
    paths: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unreadable_folders: list[str] = field(default_factory=list)
    listing: Listing = field(default_factory=Listing)

    def add(self, paths: list[str], label: str, split: str = "") -> None:
        """Add images that share a label and a split."""
        self.paths += paths
        self.labels += [label] * len(paths)
        self.splits += [split] * len(paths)

    def exclude(self, folder: Path) -> None:
        """Leave out the images below a folder inside the root."""
        root, below = self.root.resolve(), folder.resolve()
        if root not in below.parents:
            return
        prefix = f"{below.relative_to(root).as_posix()}/"
        kept = [place for place, path in enumerate(self.paths) if not path.startswith(prefix)]
        for column in (self.paths, self.labels, self.splits):
            column[:] = [column[place] for place in kept]

    def scan(
        self, folder: Path, entered: set[Identity] | None = None, prefix: str = ""
    ) -> list[str]:
        """List the images below a folder, and note what else lies there.

        Args:
            folder: where to look.
            entered: see `list_images`.
            prefix: what each path begins with.

        Raises:
            DataError: if the folder cannot be read.
        """
        listing = list_images(folder, entered, prefix)
        self.unreadable_folders += listing.unreadable_folders
        self.listing.add(listing)
        if listing.num_other:
            self.notes.append(
                f"{printable(folder)}: {listing.num_other:,} other files are not read"
            )
        if listing.odd:
            self.notes.append(
                f"{printable(folder)}: {len(listing.odd):,} things named like images are none, "
                f"among them {listing.odd[0]}"
            )
        return listing.paths

    @property
    def images(self) -> list[ImageRow]:
        """The images one by one."""
        return list(map(ImageRow, self.paths, self.labels, self.splits))
