"""Pictures of several kinds, made by code, and the files they are written to."""

import io
from typing import Any

import numpy as np
from PIL import Image

SIZE = 32

# How a camera stores a picture that was taken so: EXIF 2.3, table 4.6.5.
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
    """Draw a picture whose corners, channels and axes all differ, and which JPEG keeps well."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    rgb = np.stack([40 + 180 * x, 30 + 200 * y, 230 - 150 * x * y], axis=2)
    return Image.fromarray(rgb.round().astype(np.uint8))


def noise(width: int = SIZE, height: int = SIZE) -> Image.Image:
    """Draw a picture of which no two pixels are alike."""
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def photo(seed: int, width: int, height: int) -> Image.Image:
    """Draw a picture whose detail falls off with frequency as that of photos does.

    Its amplitudes fall by 1/f (Field, "Relations between the statistics of natural images", 1987),
    and its colours lie near grey.
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
    """Return the bytes of a picture's file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def oriented(image: Image.Image, kind: str, orientation: int, **options: Any) -> bytes:  # noqa: ANN401
    """Store a picture turned, with the EXIF tag that turns it back."""
    turn = STORED[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = image.copy() if turn is None else image.transpose(turn)
    return encode(stored, kind, exif=exif, **options)
