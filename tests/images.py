"""Images made by code, their files, and folders of them."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("dog", "human", "neither")


def draw_shape(label: str, seed: int, size: int = 40) -> Image.Image:
    """Draw a disc for a dog, a bar for a human, a cross for anything else, in any color."""
    random = np.random.default_rng([seed, sum(label.encode())])
    image = Image.new("RGB", (size, size), tuple(random.integers(0, 256, 3).tolist()))
    color = tuple(random.integers(0, 256, 3).tolist())
    draw = ImageDraw.Draw(image)
    x, y = random.integers(size // 3, 2 * size // 3, 2).tolist()
    r = size // 4
    if label == "dog":
        draw.ellipse((x - r, y - r, x + r, y + r), color)
    elif label == "human":
        draw.rectangle((x - r // 3, y - r, x + r // 3, y + r), color)
    else:
        draw.line((x - r, y - r, x + r, y + r), color, 3)
        draw.line((x - r, y + r, x + r, y - r), color, 3)
    # Without grain two discs at the same position would be near-duplicates.
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


def touch(root: Path, *names: str) -> Path:
    """Make empty files, and empty folders where a name ends in a slash."""
    for name in names:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return root


SIZE = 32

# How a camera stores an image of each EXIF orientation: EXIF 2.3, table 4.6.5.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,  # shown by a quarter turn clockwise
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def smooth(width: int = SIZE, height: int = SIZE) -> Image.Image:
    """Draw an image whose corners, channels and axes all differ, and which JPEG keeps well."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    rgb = np.stack([40 + 180 * x, 30 + 200 * y, 230 - 150 * x * y], axis=2)
    return Image.fromarray(rgb.round().astype(np.uint8))


def noise(width: int = SIZE, height: int = SIZE) -> Image.Image:
    """Draw an image of random pixels."""
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def photo(seed: int, width: int, height: int) -> Image.Image:
    """Draw an image whose detail falls off with frequency as that of photos does.

    Its amplitudes fall by 1/f (Field, "Relations between the statistics of natural images", 1987),
    and its colors are near gray.
    """
    random = np.random.default_rng(seed)
    down, across = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    frequency = np.maximum(np.hypot(down, across), 1 / max(width, height))
    planes = [
        np.fft.irfft2(
            (random.normal(size=frequency.shape) + 1j * random.normal(size=frequency.shape))
            / frequency,
            s=(height, width),
        )
        for _ in range(3)
    ]
    mixed = np.stack(planes, axis=2) @ np.array([[0.6, 0.6, 0.6], [0.3, -0.3, 0], [0.2, 0.2, -0.4]])
    values = 128 + 50 * (mixed - mixed.mean()) / mixed.std()
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:  # noqa: ANN401 - Pillow's
    """Return the bytes of an image file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def oriented(image: Image.Image, kind: str, orientation: int, **options: Any) -> bytes:  # noqa: ANN401
    """Store an image turned, with the EXIF tag that turns it back."""
    turn = STORED[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = image.copy() if turn is None else image.transpose(turn)
    return encode(stored, kind, exif=exif, **options)
