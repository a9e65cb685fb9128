"""A picture that is no file but already in memory: a Pillow image, or an array."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from neither.data.content import READER_ERRORS, UnreadableError, explain
from neither.data.preprocessing import HEIC, Preprocessing
from neither.data.square import TURNS, find_orientation, to_rgb, to_square


def square_of_image(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
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
        orientation, _ = find_orientation(image)
        if orientation > 1 and image.format != HEIC:
            image = image.transpose(TURNS[orientation])
        image = to_rgb(image)
        return np.array(to_square(image, (0, 0, *image.size), preprocessing), dtype=np.uint8)
    except READER_ERRORS as error:
        raise explain(error) from error


def square_of_array(values: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
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
    return square_of_image(Image.fromarray(values), preprocessing)
