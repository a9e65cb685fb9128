"""Generated images, and the log of the console."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neither.runtime import console

Draw = Callable[..., Path]


@pytest.fixture
def draw() -> Draw:
    """Return a function that writes one small image, whose pixels depend on `number` alone."""

    def write(path: Path, number: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(number).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(values).save(path, "PNG")
        return path

    return write


@pytest.fixture
def messages(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """Return a function that returns the messages logged since it was last called."""
    log = logging.getLogger("neither")
    before, level = list(log.handlers), log.level
    console.setup_console()
    yield lambda: capsys.readouterr().err
    log.handlers[:] = before
    log.setLevel(level)
