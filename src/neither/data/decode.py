"""From the bytes of an image file to a square of RGB pixels: one way for everybody.

Train, evaluate, predict and export decode with the same function, so an image means the same
everywhere: turned upright by its EXIF tag, any mode brought to 8-bit RGB, first frame only.
Embedded colour profiles are not applied.
"""

import io
import struct
import warnings
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_BYTES = 50_000_000
MAX_PIXELS = 2**26  # 67 megapixels: more than most cameras, about 200 MB while decoding

_GROUND = (255, 255, 255)  # what shows behind transparent pixels
_PADDING = (128, 128, 128)  # what fills the square beside a padded image
_RESAMPLING = Image.Resampling.BICUBIC  # antialiased when shrinking

# Everything that Pillow's readers were seen to raise on damaged files.
_READER_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, AttributeError,
    NotImplementedError, OverflowError, MemoryError, ZeroDivisionError, struct.error,
    Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip


class UnreadableError(Exception):
    """This file gives no image; the message is the reason, in a few words."""


@dataclass(frozen=True)
class Preprocessing:
    """All that stands between a file and the network's input; stored in every checkpoint.

    Attributes:
        image_size: pixels a side of the square that the network sees.
        resize: how an image becomes a square: squash it, pad it, or crop its centre.
        mean: what is subtracted from each of red, green, blue, in units of full brightness.
        std: what the difference is divided by.
    """

    image_size: int
    resize: Literal["squash", "pad", "crop"] = "squash"
    # ImageNet's, the field's standard, so that networks trained elsewhere fit too.
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Decoded:
    """What a file gave: its pixels, or the reason why it gave none.

    Attributes:
        pixels: (S, S, 3) uint8 RGB, or None if the file is unreadable.
        sha256: of the file's bytes, hexadecimal; empty if they could not be read.
        reason: why there are no pixels; empty if there are.
    """

    pixels: NDArray[np.uint8] | None
    sha256: str
    reason: str = ""


def decode_file(path: Path, preprocessing: Preprocessing) -> Decoded:
    """Read and decode a file; a bad one is an answer, not an exception."""
    digest = ""
    try:
        content = read_file(path)
        digest = sha256(content).hexdigest()
        return Decoded(decode(content, preprocessing), digest)
    except UnreadableError as error:
        return Decoded(None, digest, str(error))


def hash_file(path: Path) -> Decoded:
    """Read a file for its hash alone."""
    try:
        return Decoded(None, sha256(read_file(path)).hexdigest())
    except UnreadableError as error:
        return Decoded(None, "", str(error))


def read_file(path: Path) -> bytes:
    """Read a file of at most 50 MB.

    Raises:
        UnreadableError: if it is larger, gone, or may not be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UnreadableError((error.strerror or "cannot be read").lower()) from error
    if len(content) > MAX_BYTES:
        raise UnreadableError(f"larger than {MAX_BYTES:,} bytes")
    return content


def decode(content: bytes, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Decode the bytes of an image file.

    Args:
        content: a JPEG, PNG, WebP, GIF, BMP or TIFF file.
        preprocessing: the size S of the square and how to make one.

    Returns:
        (S, S, 3) uint8 RGB, upright.

    Raises:
        UnreadableError: if it is none of these, damaged, cut short, or too large.
    """
    if not content:
        raise UnreadableError("empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd metadata, which changes no pixel
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UnreadableError(f"more than {MAX_PIXELS:,} pixels")
                image.load()
                square = _to_square(_to_rgb(_upright(image)), preprocessing)
                return np.array(square, dtype=np.uint8)
    except UnidentifiedImageError:
        raise UnreadableError(_what_it_is(content)) from None
    except Image.DecompressionBombError:
        raise UnreadableError(f"more than {MAX_PIXELS:,} pixels") from None
    except _READER_ERRORS as error:
        raise UnreadableError(_why(error)) from error


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF orientation says; a tag that makes no sense is ignored."""
    try:
        return ImageOps.exif_transpose(image)
    except _READER_ERRORS:
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255, which turns 16-bit scans white.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise UnreadableError("32-bit pixels, whose range is not known")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (*_GROUND, 255))
        return Image.alpha_composite(ground, image).convert("RGB")
    return image.convert("RGB")


def _to_square(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    size = (preprocessing.image_size, preprocessing.image_size)
    if preprocessing.resize == "pad":
        # Not ImageOps.pad, where the short side of a thin image is rounded to nothing.
        width, height = (max(1, round(side / max(image.size) * size[0])) for side in image.size)
        square = Image.new("RGB", size, _PADDING)
        corner = (size[0] - width) // 2, (size[1] - height) // 2
        square.paste(image.resize((width, height), _RESAMPLING), corner)
        return square
    if preprocessing.resize == "crop":
        return ImageOps.fit(image, size, _RESAMPLING)
    return image.resize(size, _RESAMPLING)


def _what_it_is(content: bytes) -> str:
    """Name what an unidentified file holds, where that helps to mend it."""
    if content.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the image; run: git lfs pull"
    if content[4:8] == b"ftyp" and content[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"hevc"):
        return "HEIC is not read; convert it to JPEG first"
    if content.lstrip()[:1] == b"<":
        return "not an image but a page of HTML or XML"
    return "not a JPEG, PNG, WebP, GIF, BMP or TIFF image, or its start is damaged"


def _why(error: BaseException) -> str:
    text = str(error).lower()
    if isinstance(error, MemoryError):
        return "too large for the memory"
    cut = ("truncated", "not enough", "unexpected end", "broken data stream", "incomplete")
    return "truncated or damaged" if any(word in text for word in cut) else "damaged"
