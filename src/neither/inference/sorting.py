"""Copies of images in one folder for each decision, so that a person can look through them."""

import filecmp
import shutil
from itertools import count
from pathlib import Path, PurePosixPath

from neither import files

UNREADABLE = "unreadable"


class Sorter:
    """Copies files into `root/<decision>/<path>`; what lies there is never overwritten."""

    def __init__(self, root: Path) -> None:
        """Make the folder.

        Raises:
            OutputError: if it cannot be made or written.
        """
        files.make_folder(root)
        self._root = root

    def copy(self, source: Path, below: str, decision: str) -> None:
        """Copy a file, unless the same one was copied by an earlier call.

        Args:
            source: the file; one that is gone by now is passed over.
            below: its path below the folder that was given, with / between parts.
            decision: names the folder it goes to.

        Raises:
            OSError: if the disk is full or the folder cannot be written.
        """
        wanted = self._root.joinpath(decision, *PurePosixPath(below).parts)
        wanted.parent.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            target = wanted if number == 1 else wanted.with_stem(f"{wanted.stem}-{number}")
            if not target.exists():
                break
            if filecmp.cmp(source, target, shallow=False):
                return
        try:
            content = source.open("rb")
        except FileNotFoundError:
            return
        with content, files.replacing(target) as file:
            shutil.copyfileobj(content, file)
