"""Folders of empty files: finding images does not open what has a suffix."""

from pathlib import Path


def lay_out(root: Path, *names: str) -> Path:
    """Make empty files, and empty folders where a name ends in a slash."""
    for name in names:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return root
