"""From an image of any mode, lying or standing, to an upright square of RGB pixels."""

import numpy as np
from PIL import Image

from neither.data.content import READER_ERRORS, UnreadableError
from neither.data.facts import Flag
from neither.data.preprocessing import Preprocessing

Box = tuple[float, float, float, float]

_GROUND = (255, 255, 255)  # what shows behind transparent pixels
_PADDING = (128, 128, 128)  # what fills the square beside a padded image
_RESAMPLING = Image.Resampling.BILINEAR  # antialiased when shrinking, as Pillow's all are
_GAP_OF_REDUCE = 2.0  # the fast first step of shrinking stops at this many times the square
_ORIENTATION = 0x0112  # the EXIF tag, and how the image is to be turned for each of its values
_TO = Image.Transpose
TURNS = {2: _TO.FLIP_LEFT_RIGHT, 3: _TO.ROTATE_180, 4: _TO.FLIP_TOP_BOTTOM, 5: _TO.TRANSPOSE,
         6: _TO.ROTATE_270, 7: _TO.TRANSVERSE, 8: _TO.ROTATE_90}  # fmt: skip


def find_orientation(image: Image.Image) -> tuple[int, Flag]:
    """Return the EXIF orientation, 1 to 8; a tag that makes no sense is ignored."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except READER_ERRORS:
        return 1, Flag.ODD_EXIF
    if orientation not in range(1, 9):
        return 1, Flag.ODD_EXIF
    return int(orientation), Flag.ROTATED if orientation > 1 else Flag(0)


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
        ground = Image.new("RGBA", image.size, (*_GROUND, 255))
        return Image.alpha_composite(ground, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def to_square(image: Image.Image, box: Box, preprocessing: Preprocessing) -> Image.Image:
    """Resize what lies in the box of an RGB image to a square, as the preprocessing says."""
    side = preprocessing.image_size
    size = (box[2] - box[0], box[3] - box[1])
    if preprocessing.resize == "pad":
        # Not ImageOps.pad, where the short side of a thin image is rounded to nothing.
        width, height = (max(1, round(each / max(size) * side)) for each in size)
        square = Image.new("RGB", (side, side), _PADDING)
        small = image.resize((width, height), _RESAMPLING, box, reducing_gap=_GAP_OF_REDUCE)
        square.paste(small, ((side - width) // 2, (side - height) // 2))
        return square
    if preprocessing.resize == "crop":
        short = min(size)
        left, top = (start + (each - short) / 2 for start, each in zip(box, size, strict=False))
        box = (left, top, left + short, top + short)
    return image.resize((side, side), _RESAMPLING, box, reducing_gap=_GAP_OF_REDUCE)
