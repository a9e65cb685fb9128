"""Folders of small images that a network can learn, made by code."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("dog", "human", "neither")


def draw_shape(label: str, seed: int, size: int = 40) -> Image.Image:
    """Dogs are discs, humans are bars, everything else is a cross, in any colour, with grain."""
    random = np.random.default_rng([seed, sum(label.encode())])
    image = Image.new("RGB", (size, size), tuple(random.integers(0, 256, 3).tolist()))
    colour = tuple(random.integers(0, 256, 3).tolist())
    draw = ImageDraw.Draw(image)
    x, y = random.integers(size // 3, 2 * size // 3, 2).tolist()
    r = size // 4
    if label == "dog":
        draw.ellipse((x - r, y - r, x + r, y + r), colour)
    elif label == "human":
        draw.rectangle((x - r // 3, y - r, x + r // 3, y + r), colour)
    else:
        draw.line((x - r, y - r, x + r, y + r), colour, 3)
        draw.line((x - r, y + r, x + r, y - r), colour, 3)
    # Grain, without which two discs in the same place would pass for copies of one picture.
    grain = random.integers(-24, 25, (size, size, 3))
    return Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))


def make_splits(
    root: Path, train: int = 8, val: int = 4, test: int = 3, classes: Sequence[str] = CLASSES
) -> Path:
    """Make `root/<split>/<class>/NNN.png` with so many images of each class."""
    for split, num in (("train", train), ("val", val), ("test", test)):
        for label in classes:
            folder = root / split / label
            folder.mkdir(parents=True)
            for number in range(num):
                draw_shape(label, number + 1000 * len(split)).save(folder / f"{number:03}.png")
    return root
