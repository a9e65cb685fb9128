"""From the bytes of an image file to a square of RGB pixels: one way for everybody.

Train, evaluate, predict and export decode with the same function, so an image means the same
everywhere: turned upright by its EXIF tag, any mode brought to 8-bit RGB, first frame only.
Embedded colour profiles are not applied.

A large JPEG is read at a half, a quarter or an eighth of its size, as its format allows, but never
below one and a half times the square. On photos that changes a pixel by 1 of 255 levels on average;
`tests/data/test_decode.py` holds it to 2 levels.
"""

import io
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from neither.data.content import (
    READER_ERRORS,
    NotNowError,
    UnreadableError,
    explain,
    formats_of,
    read_file,
    what_it_is,
)
from neither.data.facts import THUMBNAIL, Flag, Traits
from neither.data.hush import hushed
from neither.data.preprocessing import HEIC, Preprocessing
from neither.data.square import TURNS, Box, find_orientation, to_rgb, to_square

MAX_PIXELS = 2**26  # 67 megapixels: more than most cameras, about 200 MB while decoding
MAX_WEBP_PIXELS = 30_000_000  # its decoder holds 16 bytes for each

_GAP = 1.5  # a JPEG is read at no less than this many times the square
_LOOKED_AT = 96  # pixels a side that the traits are taken from: not to depend on the square


class Decoded(NamedTuple):
    """What a file gave: its pixels and traits, or the reason why it gave none.

    Attributes:
        pixels: (S, S, 3) uint8 RGB, or None if the file is unreadable.
        traits: of the image, or None if the file is unreadable.
        sha256: of the file's bytes, 32 bytes; empty where another try may end otherwise.
        reason: why there are no pixels; empty if there are.
    """

    pixels: NDArray[np.uint8] | None
    traits: Traits | None
    sha256: bytes
    reason: str = ""


class Upright(NamedTuple):
    """An upright RGB image, and what only the file told.

    Attributes:
        image: of the size it was read at.
        box: left, top, right and bottom of what counts of it: a draft's last pixels may lie partly
            outside the original.
        size: width and height of the original, upright.
        format: as Pillow names it.
        mode: of its pixels before they were RGB, as Pillow names it.
        flags: those that only the file tells.
    """

    image: Image.Image
    box: Box
    size: tuple[int, int]
    format: str
    mode: str
    flags: Flag


def decode_file(path: Path, preprocessing: Preprocessing) -> Decoded:
    """Read and decode a file; a bad one is an answer, not an exception."""
    digest = b""
    try:
        content = read_file(path)
        digest = sha256(content).digest()
        return Decoded(*examine(content, preprocessing), digest)
    except UnreadableError as error:
        lasting = not isinstance(error, NotNowError)
        return Decoded(None, None, digest if lasting else b"", str(error))


def decode(content: bytes, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Decode the bytes of an image file.

    Args:
        content: a JPEG, PNG, WebP, GIF, BMP or TIFF file; or HEIC with the extra [heic].
        preprocessing: the size S of the square and how to make one.

    Returns:
        (S, S, 3) uint8 RGB, upright.

    Raises:
        UnreadableError: if it is none of these, damaged, cut short, or too large.
    """
    return examine(content, preprocessing)[0]


def examine(content: bytes, preprocessing: Preprocessing) -> tuple[NDArray[np.uint8], Traits]:
    """Decode the bytes of an image file as `decode` does, and tell its traits."""
    wanted = round(_GAP * preprocessing.image_size)
    read = open_upright(content, wanted)
    pixels = np.array(to_square(read.image, read.box, preprocessing), dtype=np.uint8)
    # Traits must be the same for every size of the square, to the bit: the split hangs on them.
    seen = read
    if _is_jpeg(read.format) and _scale(read.size, wanted) != _scale(read.size, _LOOKED_AT):
        seen = open_upright(content, _LOOKED_AT)
    thumbnail = seen.image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX, seen.box)
    return pixels, Traits(*read.size, read.format, read.flags, thumbnail.tobytes())


def open_upright(content: bytes, least: int) -> Upright:
    """Read the first frame of an image file, upright and RGB.

    Args:
        content: of the file.
        least: pixels a side that the result must have where the original has them.

    Raises:
        UnreadableError: if it gives no image.
    """
    if not content:
        raise UnreadableError("empty file")
    try:
        with hushed():
            file = io.BytesIO(content)
            with Image.open(file, formats=formats_of(content)) as image:
                # Zeros in place of the rest would be decoded to grey without complaint.
                if _is_jpeg(image.format) and content.rfind(b"\xff\xd9", file.tell()) < 0:
                    raise UnreadableError("truncated or damaged")
                return _read(image, least)
    except UnidentifiedImageError:
        raise UnreadableError(what_it_is(content)) from None
    except Image.DecompressionBombError:
        raise UnreadableError(f"more than {MAX_PIXELS:,} pixels") from None
    except READER_ERRORS as error:
        raise explain(error) from error


def _read(image: Image.Image, least: int) -> Upright:
    most = MAX_WEBP_PIXELS if image.format == "WEBP" else MAX_PIXELS
    if image.width * image.height > most:
        raise UnreadableError(f"more than {most:,} pixels")
    size, mode, image_format = image.size, image.mode, image.format or ""
    beyond = (0.0, 0.0)
    if _is_jpeg(image_format):
        image_format = "JPEG"
        draft = image.draft("RGB", (least, least))  # which never goes below that
        if draft is not None:
            beyond = (image.width - draft[1][2], image.height - draft[1][3])
    # A TIFF loses its tag as it is loaded; others may be loaded for it, and damage go unnoticed.
    if image_format != "TIFF":
        image.load()
    orientation, flags = find_orientation(image)
    image.load()
    # Pillow turns a TIFF while it loads, and tells its upright size before.
    if orientation > 1 and image_format not in ("TIFF", HEIC):
        image = image.transpose(TURNS[orientation])
        size = (size[1], size[0]) if orientation >= 5 else size
    upright, box = to_rgb(image), _box(image.size, beyond, orientation)
    if image_format != "JPEG" and _has_more(image):
        flags |= Flag.ANIMATED
    return Upright(upright, box, size, image_format, mode, flags)


def _box(size: tuple[int, int], beyond: tuple[float, float], orientation: int) -> Box:
    """Cut off what was beyond the right and lower edges before the image was turned upright."""
    across, down = beyond[::-1] if orientation >= 5 else beyond
    left = across if orientation in (2, 3, 6, 7) else 0.0
    top = down if orientation in (3, 4, 7, 8) else 0.0
    return left, top, left + size[0] - across, top + size[1] - down


def _is_jpeg(image_format: str | None) -> bool:
    return image_format in ("JPEG", "MPO")  # MPO: a JPEG with more pictures behind it, from phones


def _scale(size: tuple[int, int], least: int) -> int:
    """Return the divisor that `draft` reads a JPEG of this size with."""
    return max((s for s in (2, 4, 8) if min(size) // least >= s), default=1)


def _has_more(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except READER_ERRORS:
        return True  # a second frame that is damaged; the first, which counts, is not
