"""Find images in a folder, deterministic and safe whatever else lies there.

Found means every regular file, not hidden, that has an image suffix, or image content if it has no
suffix at all. Links are followed, each folder is entered once, and nothing is opened but files
without a suffix. Order is by name, never by what a file system happens to answer.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from neither import stopping
from neither.errors import DataError
from neither.terminal import printable

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff",
            ".heic", ".heif")  # fmt: skip
Identity = tuple[int, int]  # device and inode

_LITTER = frozenset({"__macosx", "thumbs.db", "desktop.ini"})
_MAGIC = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|RIFF....WEBP|GIF8|BM....\0\0\0\0|II\*\0|MM\0\*", re.DOTALL
)


@dataclass
class Listing:
    """The images below one folder.

    Attributes:
        root: the folder.
        paths: below `root`, with / between parts, sorted.
        num_other: regular files that are no images, and things that are no files.
        refused: folders that could not be read, with the reason.
    """

    root: Path
    paths: list[str] = field(default_factory=list)
    num_other: int = 0
    refused: list[str] = field(default_factory=list)


def list_images(root: Path, entered: set[Identity] | None = None) -> Listing:
    """Find all images below a folder.

    Args:
        root: the folder.
        entered: the folders that no link may lead to, to which those found here are added; so one
            folder is not read as two, although several listings make up one scan.

    Raises:
        DataError: if the folder itself cannot be read.
    """
    listing = Listing(root)
    entered = set() if entered is None else entered
    try:
        entered.add(identify(root))
    except OSError as error:
        raise DataError(f"{root}: this folder cannot be read: {error.strerror}") from error
    links: list[str] = []
    _walk(root, "", listing, entered, links)
    # Real folders first, so that which of two ways to a folder is taken hangs on no link's name.
    for link in links:
        target = identify(root / link)
        if target not in entered:
            entered.add(target)
            _walk(root / link, f"{link}/", listing, entered, links)
    listing.paths.sort()
    return listing


def identify(path: str | Path) -> Identity:
    """Return what tells a folder from all others, by whatever name it is reached."""
    status = os.stat(path)  # noqa: PTH116 - not the entry's own, which knows no inode on Windows
    return status.st_dev, status.st_ino


def list_folders(root: Path) -> list[str]:
    """Name the folders directly below a folder, hidden ones and litter left out, sorted.

    Raises:
        DataError: if the folder cannot be read.
    """
    return sorted(entry.name for entry in _entries(root) if _is_folder(entry))


def count_loose_images(root: Path) -> int:
    """Count the images directly in a folder.

    Raises:
        DataError: if the folder cannot be read.
    """
    return sum(_is_image(entry) for entry in _entries(root))


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.name.lower() not in _LITTER:
                    yield entry
    except OSError as error:
        raise DataError(
            f"{printable(folder)}: this folder cannot be read: {error.strerror}"
        ) from error


def _walk(
    folder: Path, prefix: str, listing: Listing, entered: set[Identity], links: list[str]
) -> None:
    """Walk with a stack, not by recursion: a deep tree must not end in a traceback."""
    waiting = [(folder, prefix)]
    while waiting:
        stopping.poll()
        folder, prefix = waiting.pop()
        try:
            entries = sorted(_entries(folder), key=lambda entry: entry.name)
        except DataError as error:
            if folder == listing.root:
                raise
            listing.refused.append(str(error))
            continue
        for entry in entries:
            if _is_folder(entry):
                if entry.is_symlink():
                    links.append(prefix + entry.name)
                    continue
                try:
                    identity = identify(entry.path)
                except OSError as error:
                    listing.refused.append(f"{printable(entry.path)}: {error.strerror}")
                    continue
                if identity not in entered:
                    entered.add(identity)
                    waiting.append((folder / entry.name, f"{prefix}{entry.name}/"))
            elif _is_image(entry):
                listing.paths.append(prefix + entry.name)
            else:
                listing.num_other += 1


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle
        return False


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Tell by name alone where there is a suffix; only a regular file is ever opened."""
    suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 - a million names
    try:
        if suffix or not entry.is_file():
            return suffix in SUFFIXES and entry.is_file()
        with open(entry.path, "rb") as file:  # noqa: PTH123
            return _MAGIC.match(file.read(12)) is not None
    except OSError:
        return False
