"""What many rows need."""

from pathlib import Path

import pytest

from faults.tiny import TINY
from images import make_splits


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Make a folder of images in three splits."""
    return make_splits(tmp_path / "images")


@pytest.fixture
def config(images: Path, tmp_path: Path) -> Path:
    """Write a config that trains on it within a second."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.replace("ROOT", str(images)))
    return path
