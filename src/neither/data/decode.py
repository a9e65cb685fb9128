"""From an image of any mode, lying or standing, to an upright square of RGB pixels.

From the bytes of an image file to a square of RGB pixels: one way for everybody.

Train, evaluate, predict and export decode with the same function, so an image means the same
everywhere: turned upright by its EXIF tag, any mode brought to 8-bit RGB, first frame only.
Embedded colour profiles are not applied.

A large JPEG is read at a half, a quarter or an eighth of its size, as its format allows, but never
below one and a half times the square. On photos that changes a pixel by 1 of 255 levels on average;
`tests/data/test_decode.py` holds it to 2 levels.

A picture that is no file but already in memory: a Pillow image, or an array.
"""

import io
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from neither.data.fingerprints import THUMBNAIL_SIDE, ImageFlag, ImageTraits
from neither.data.image_file import (
    PILLOW_ERRORS,
    TransientReadError,
    UnreadableError,
    describe_unidentified,
    pillow_formats,
    read_file,
    silence_pillow,
    to_unreadable,
)
from neither.data.preprocessing import HEIC, Preprocessing

Box = tuple[float, float, float, float]

_BACKGROUND = (255, 255, 255)  # what shows behind transparent pixels
_PADDING = (128, 128, 128)  # what fills the square beside a padded image
_RESAMPLING = Image.Resampling.BILINEAR  # antialiased when shrinking, as Pillow's all are
_REDUCING_GAP = 2.0  # the fast first step of shrinking stops at this many times the square
_ORIENTATION = 0x0112  # the EXIF tag, and how the image is to be turned for each of its values
_TO = Image.Transpose
TURNS = {2: _TO.FLIP_LEFT_RIGHT, 3: _TO.ROTATE_180, 4: _TO.FLIP_TOP_BOTTOM, 5: _TO.TRANSPOSE,
         6: _TO.ROTATE_270, 7: _TO.TRANSVERSE, 8: _TO.ROTATE_90}  # fmt: skip


def exif_orientation(image: Image.Image) -> tuple[int, ImageFlag]:
    """Return the EXIF orientation, 1 to 8; a tag that makes no sense is ignored."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except PILLOW_ERRORS:
        return 1, ImageFlag.ODD_EXIF
    if orientation not in range(1, 9):
        return 1, ImageFlag.ODD_EXIF
    return int(orientation), ImageFlag.ROTATED if orientation > 1 else ImageFlag(0)


def to_rgb(image: Image.Image) -> Image.Image:
    """Bring any mode to 8-bit RGB; transparent pixels show white.

    Raises:
        UnreadableError: if the range of its numbers is not known.
    """
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255, which turns 16-bit scans white.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise UnreadableError("32-bit pixels, whose range is not known")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (*_BACKGROUND, 255))
        return Image.alpha_composite(ground, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def resize_to_square(image: Image.Image, box: Box, preprocessing: Preprocessing) -> Image.Image:
    """Resize what lies in the box of an RGB image to a square, as the preprocessing says."""
    side = preprocessing.image_size
    size = (box[2] - box[0], box[3] - box[1])
    if preprocessing.resize == "pad":
        # Not ImageOps.pad, where the short side of a thin image is rounded to nothing.
        width, height = (max(1, round(each / max(size) * side)) for each in size)
        square = Image.new("RGB", (side, side), _PADDING)
        small = image.resize((width, height), _RESAMPLING, box, reducing_gap=_REDUCING_GAP)
        square.paste(small, ((side - width) // 2, (side - height) // 2))
        return square
    if preprocessing.resize == "crop":
        short = min(size)
        left, top = (start + (each - short) / 2 for start, each in zip(box, size, strict=False))
        box = (left, top, left + short, top + short)
    return image.resize((side, side), _RESAMPLING, box, reducing_gap=_REDUCING_GAP)


MAX_PIXELS = 2**26  # 67 megapixels: more than most cameras, about 200 MB while decoding
MAX_WEBP_PIXELS = 30_000_000  # its decoder holds 16 bytes for each

_GAP = 1.5  # a JPEG is read at no less than this many times the square
_LOOKED_AT = 96  # pixels a side that the traits are taken from: not to depend on the square


class DecodedFile(NamedTuple):
    """What a file gave: its pixels and traits, or the reason why it gave none.

    Attributes:
        pixels: (S, S, 3) uint8 RGB, or None if the file is unreadable.
        traits: of the image, or None if the file is unreadable.
        sha256: of the file's bytes, 32 bytes; empty where another try may end otherwise.
        reason: why there are no pixels; empty if there are.
    """

    pixels: NDArray[np.uint8] | None
    traits: ImageTraits | None
    sha256: bytes
    reason: str = ""


class UprightImage(NamedTuple):
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
    flags: ImageFlag


def decode_file(path: Path, preprocessing: Preprocessing) -> DecodedFile:
    """Read and decode a file; a bad one is an answer, not an exception."""
    digest = b""
    try:
        content = read_file(path)
        digest = sha256(content).digest()
        return DecodedFile(*decode_with_traits(content, preprocessing), digest)
    except UnreadableError as error:
        lasting = not isinstance(error, TransientReadError)
        return DecodedFile(None, None, digest if lasting else b"", str(error))


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
    return decode_with_traits(content, preprocessing)[0]


def decode_with_traits(
    content: bytes, preprocessing: Preprocessing
) -> tuple[NDArray[np.uint8], ImageTraits]:
    """Decode the bytes of an image file as `decode` does, and tell its traits."""
    wanted = round(_GAP * preprocessing.image_size)
    read = open_upright(content, wanted)
    pixels = np.array(resize_to_square(read.image, read.box, preprocessing), dtype=np.uint8)
    # Traits must be the same for every size of the square, to the bit: the split hangs on them.
    seen = read
    if _is_jpeg(read.format) and _scale(read.size, wanted) != _scale(read.size, _LOOKED_AT):
        seen = open_upright(content, _LOOKED_AT)
    thumbnail = seen.image.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX, seen.box)
    return pixels, ImageTraits(*read.size, read.format, read.flags, thumbnail.tobytes())


def open_upright(content: bytes, least: int) -> UprightImage:
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
        with silence_pillow():
            file = io.BytesIO(content)
            with Image.open(file, formats=pillow_formats(content)) as image:
                # Zeros in place of the rest would be decoded to grey without complaint.
                if _is_jpeg(image.format) and content.rfind(b"\xff\xd9", file.tell()) < 0:
                    raise UnreadableError("truncated or damaged")
                return _read(image, least)
    except UnidentifiedImageError:
        raise UnreadableError(describe_unidentified(content)) from None
    except Image.DecompressionBombError:
        raise UnreadableError(f"more than {MAX_PIXELS:,} pixels") from None
    except PILLOW_ERRORS as error:
        raise to_unreadable(error) from error


def _read(image: Image.Image, least: int) -> UprightImage:
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
    orientation, flags = exif_orientation(image)
    image.load()
    # Pillow turns a TIFF while it loads, and tells its upright size before.
    if orientation > 1 and image_format not in ("TIFF", HEIC):
        image = image.transpose(TURNS[orientation])
        size = (size[1], size[0]) if orientation >= 5 else size
    upright, box = to_rgb(image), _box(image.size, beyond, orientation)
    if image_format != "JPEG" and _has_more(image):
        flags |= ImageFlag.ANIMATED
    return UprightImage(upright, box, size, image_format, mode, flags)


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
    except PILLOW_ERRORS:
        return True  # a second frame that is damaged; the first, which counts, is not


def decode_image(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Decode a Pillow image as a file is decoded; the image itself stays as it is.

    The pixels are those that `decode` gives, to the bit, except of a JPEG so large that `decode`
    reads it at a part of its size: this image was, or is here, read at its full size.

    Args:
        image: of any mode, of its current frame; a file that it has yet to read is read now.
        preprocessing: the size S of the square and how to make one.

    Returns:
        (S, S, 3) uint8 RGB, turned upright by the EXIF tag if it has one.

    Raises:
        UnreadableError: if it has no pixels, its file is damaged, or the range of its numbers is
            not known.
    """
    if 0 in image.size:
        raise UnreadableError("no pixels")
    try:
        image.load()  # Pillow turns a TIFF upright here, and forgets the tag
        orientation, _ = exif_orientation(image)
        if orientation > 1 and image.format != HEIC:
            image = image.transpose(TURNS[orientation])
        image = to_rgb(image)
        return np.array(resize_to_square(image, (0, 0, *image.size), preprocessing), dtype=np.uint8)
    except PILLOW_ERRORS as error:
        raise to_unreadable(error) from error


def decode_array(values: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Make the square of an array.

    Args:
        values: (H, W, 3) uint8 RGB, upright.
        preprocessing: the size S of the square and how to make one.

    Returns:
        (S, S, 3) uint8 RGB.

    Raises:
        TypeError: if the numbers are no uint8: those of floats may mean anything.
        ValueError: if the shape is another.
    """
    if values.dtype != np.uint8:
        raise TypeError(f"an array of {values.dtype}; a picture is uint8, 0 to 255")
    if values.ndim != 3 or values.shape[2] != 3 or 0 in values.shape:
        raise ValueError(f"an array of shape {values.shape}; a picture is (H, W, 3), RGB")
    return decode_image(Image.fromarray(values), preprocessing)
