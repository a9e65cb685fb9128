"""Pictures made by code, and folders of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Draw = Callable[..., Path]


@pytest.fixture
def draw() -> Draw:
    """Return a function that writes one small picture, whose pixels depend on `number` alone."""

    def write(path: Path, number: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(number).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(values).save(path, "PNG")
        return path

    return write
