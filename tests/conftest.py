"""What many tests need."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from images import make_splits


@pytest.fixture
def make_images(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that makes a folder of images in three splits."""
    return partial(make_splits, tmp_path / "images")
