"""Decode an image to a square of upright 8-bit RGB pixels.

Train, evaluate, predict, serve and export all decode with this module, so an image gives the same
pixels everywhere. The steps are: open, turn upright, convert to RGB, resize to a square.

What an image becomes:
    - EXIF orientation: the image is turned upright. An invalid tag is ignored.
    - Alpha channel, or a transparent palette entry: transparent pixels show white.
    - Palette, grayscale, one bit a pixel, CMYK: converted to RGB by Pillow.
    - Embedded color profile: the resized pixels are converted to sRGB, except by decoder 2. A
      damaged profile, or one for other pixels (RGB, gray, CMYK), is ignored.
    - 16 bits a channel: the high byte is kept. 32 bits: unreadable, as the range is unknown.
    - Animated, or several pages: the first frame.
    - Large JPEG: decoded at a half, a quarter or an eighth of its size, as the format allows, but
      at no less than 1.5 times the square. On photos this changes a pixel by 1 of 255 levels on
      average; `tests/data/test_decode.py` limits it to 2 levels.
    - The limit of pixels is for what is decoded: at an eighth, a JPEG of any size has fewer.
"""

import io
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError
from PIL.JpegImagePlugin import jpeg_factory
from PIL.TiffImagePlugin import TiffImageFile

from neither.data.fingerprints import THUMBNAIL_SIDE, ImageFlag, ImageTraits
from neither.data.image_file import (
    AVIF,
    HEIC,
    PILLOW_ERRORS,
    TooManyPixelsError,
    TransientReadError,
    UnreadableError,
    describe_unidentified,
    pillow_formats,
    read_file,
    silence_pillow,
    to_unreadable,
)
from neither.data.preprocessing import Preprocessing

MAX_PIXELS = 2**26  # 67 megapixels: more than most cameras, about 200 MB while decoding
# The decoders of these hold 16 and 11 bytes for each, up to 480 MB.
MAX_PIXELS_OF = {"WEBP": 30_000_000, AVIF: 30_000_000}
TRAITS_SIDE = 96  # a JPEG is read at no less than this for its traits

_MAX_DRAFT = 8  # the largest divisor of libjpeg
_DRAFT_RATIO = 1.5  # a JPEG is read at no less than this many times the square
_REDUCING_GAP = 2.0  # the fast first step of shrinking stops at this many times the square
_RESAMPLING = Image.Resampling.BILINEAR  # antialiased when shrinking, as all of Pillow's are
_BACKGROUND = (255, 255, 255)  # behind transparent pixels
_STRIP_PIXELS = 2**17  # of transparent images, that are converted at a time
_PADDING = (128, 128, 128)  # beside a padded image
_JPEG_QUALITY = 70  # of thumbnails
_CAMERA_RAW = "camera raw, which is not read; convert it to JPEG"
_SUBFILE_TYPE, _SUB_IFDS, _DNG_VERSION = 0x00FE, 0x014A, 0xC612  # tags of a TIFF
_Flip = Image.Transpose
_UPRIGHT = {2: _Flip.FLIP_LEFT_RIGHT, 3: _Flip.ROTATE_180, 4: _Flip.FLIP_TOP_BOTTOM,
            5: _Flip.TRANSPOSE, 6: _Flip.ROTATE_270, 7: _Flip.TRANSVERSE,
            8: _Flip.ROTATE_90}  # by EXIF orientation  # fmt: skip
_MAX_PROFILE_BYTES = 2**22  # more than the largest profile of a printing press
_MAX_SRGB_LEVELS = 3  # of 255; profiles of sRGB differ from each other by no more
_CUBE_STEPS = 16
_INPUT_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # by the color space of a profile

Box = tuple[float, float, float, float]


class DecodedFile(NamedTuple):
    """The result of decoding a file: pixels, or the reason why there are none."""

    pixels: NDArray[np.uint8] | None  # (S, S, 3) uint8 RGB, or None if the file is unreadable
    traits: ImageTraits | None  # of the image, if they were asked for and the file is readable
    # of the file's bytes, 32 bytes; empty if it was not read, or if a later attempt may succeed
    sha256: bytes
    reason: str = ""  # why there are no pixels; empty if there are


def decode_file(
    path: Path, preprocessing: Preprocessing, *, with_traits: bool = False
) -> DecodedFile:
    """Read and decode a file. An unreadable file gives a reason instead of an exception."""
    digest = b""
    try:
        content = read_file(path)
        digest = sha256(content).digest()
        if with_traits:
            return DecodedFile(*decode_with_traits(content, preprocessing), digest)
        return DecodedFile(decode(content, preprocessing), None, digest)
    except TransientReadError as error:
        return DecodedFile(None, None, b"", str(error))
    except UnreadableError as error:
        return DecodedFile(None, None, digest, str(error))


def decode(
    content: bytes, preprocessing: Preprocessing, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Decode the bytes of an image file.

    Args:
        content: a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF file, or HEIC with the extra [heic].
        preprocessing: the size S of the square and how to resize to it.
        max_pixels: that are decoded, if fewer than usual.

    Returns:
        (S, S, 3) uint8 RGB, upright.

    Raises:
        TooManyPixelsError: if it is larger.
        UnreadableError: if it is none of these, damaged, or truncated.
    """
    side = round(_DRAFT_RATIO * preprocessing.image_size)
    upright = open_upright(content, side, preprocessing.applies_profiles, max_pixels)
    return _to_square(upright.image, upright.box, upright.transform, preprocessing)


def decode_with_traits(
    content: bytes, preprocessing: Preprocessing
) -> tuple[NDArray[np.uint8], ImageTraits]:
    """Decode the bytes of an image file as `decode` does, and extract its traits.

    Splits depend on the traits, so they must be the same to the bit for every size of the square.
    A JPEG of which `decode` reads another scale is therefore opened a second time.
    """
    side = round(_DRAFT_RATIO * preprocessing.image_size)
    upright = open_upright(content, side, preprocessing.applies_profiles)
    pixels = _to_square(upright.image, upright.box, upright.transform, preprocessing)
    if _is_jpeg(upright.format) and (
        _draft_scale(upright.size, side) != _draft_scale(upright.size, TRAITS_SIDE)
    ):
        upright = open_upright(content, TRAITS_SIDE, preprocessing.applies_profiles)
    return pixels, extract_traits(upright)


def make_thumbnail(path: Path, side: int) -> bytes:
    """Return a small JPEG of a file, of at most `side` pixels; empty if the file is unreadable."""
    try:
        upright = open_upright(read_file(path), side)
    except UnreadableError:
        return b""
    upright.image.thumbnail((side, side), _RESAMPLING)
    file = io.BytesIO()
    upright.transform.apply(upright.image).convert("RGB").save(file, "JPEG", quality=_JPEG_QUALITY)
    return file.getvalue()


def decode_image(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Decode a Pillow image as a file is decoded; the image itself does not change.

    The pixels are those of `decode` to the bit, except for a JPEG so large that `decode` reads it
    at a fraction of its size: here it is read at its full size.

    Args:
        image: of any mode. Its current frame is used.
        preprocessing: the size S of the square and how to resize to it.

    Returns:
        (S, S, 3) uint8 RGB, turned upright by the EXIF tag if it has one.

    Raises:
        UnreadableError: if it has no pixels or too many, is damaged, or its pixels have 32 bits.
    """
    if 0 in image.size:
        raise UnreadableError("no pixels")
    _check_size(image.size, image.format)
    try:
        image.load()  # Pillow turns a TIFF upright here and removes the tag
        orientation, _ = _exif_orientation(image)
        if orientation > 1 and image.format != HEIC:
            image = image.transpose(_UPRIGHT[orientation])
        rgb, transform, _ = _to_rgb(image, preprocessing.applies_profiles)
        return _to_square(rgb, (0, 0, *image.size), transform, preprocessing)
    except PILLOW_ERRORS as error:
        raise to_unreadable(error) from error


def decode_array(values: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Resize an (H, W, 3) uint8 RGB array to an (S, S, 3) square.

    Raises:
        TypeError: if the dtype is not uint8: the range of floats is unknown.
        ValueError: if the shape is another.
    """
    if values.dtype != np.uint8:
        raise TypeError(f"an array of {values.dtype}; want uint8, 0 to 255")
    if values.ndim != 3 or values.shape[2] != 3 or 0 in values.shape:
        raise ValueError(f"an array of shape {values.shape}; want (H, W, 3), RGB")
    return decode_image(Image.fromarray(values), preprocessing)


class ColorTransform(NamedTuple):
    """The conversion of pixels to sRGB."""

    input_mode: str  # of the pixels: RGB, L or CMYK
    # by LittleCMS; None for pixels that are sRGB already
    transform: ImageCms.ImageCmsTransform | None

    def apply(self, image: Image.Image) -> Image.Image:
        """Convert an image of the input mode, or a gray image in RGB, to sRGB."""
        if self.transform is None:
            return image
        return self.transform.apply(image.convert(self.input_mode))


SRGB = ColorTransform("RGB", None)


class UprightImage(NamedTuple):
    """An upright image and the properties of its file."""

    image: Image.Image  # of the size it was read at; RGB, or CMYK if its profile is for that
    # left, top, right and bottom of the content: the last row and column of a JPEG read at a
    # fraction of its size may be partly outside the original
    box: Box
    size: tuple[int, int]  # width and height of the original, upright
    format: str  # as Pillow names it
    mode: str  # of the original pixels, as Pillow names it
    flags: ImageFlag  # those that only the file shows
    transform: ColorTransform  # of the pixels to sRGB, which is cheaper once they are resized


def open_upright(
    content: bytes, min_side: int, applies_profile: bool = True, max_pixels: int = MAX_PIXELS
) -> UprightImage:
    """Read the first frame of an image file, upright.

    Args:
        content: of the file.
        min_side: in pixels. A JPEG may be read at a fraction of its size, but no smaller than this
            unless it has too many pixels.
        applies_profile: whether to use its color profile.
        max_pixels: that are decoded, if fewer than usual.
    """
    if not content:
        raise UnreadableError("empty file")
    try:
        with silence_pillow():
            file = io.BytesIO(content)
            with _open(file, content) as image:
                if image.format == "TIFF" and content[8:10] == b"CR":  # Canon's CR2
                    raise UnreadableError(_CAMERA_RAW)
                # Without an end marker, Pillow decodes the missing part to gray without an error.
                if _is_jpeg(image.format) and content.rfind(b"\xff\xd9", file.tell()) < 0:
                    raise UnreadableError("truncated or damaged")
                scale = 1
                if _is_jpeg(image.format) and (
                    image.width * image.height <= MAX_PIXELS or _is_decoded_by_rows(content)
                ):
                    scale = _draft_scale(image.size, min_side)
                return _load_upright(image, scale, applies_profile, max_pixels)
    except UnidentifiedImageError:
        raise UnreadableError(describe_unidentified(content)) from None
    except Image.DecompressionBombError:
        raise TooManyPixelsError(f"more than {MAX_PIXELS:,} pixels") from None
    except PILLOW_ERRORS as error:
        raise to_unreadable(error) from error


def extract_traits(upright: UprightImage) -> ImageTraits:
    """Return the traits of an image that was opened with `TRAITS_SIDE`, or at the same scale."""
    size = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    thumbnail = upright.image.resize(size, Image.Resampling.BOX, upright.box)
    thumbnail = upright.transform.apply(thumbnail)
    return ImageTraits(*upright.size, upright.format, upright.flags, thumbnail.tobytes())


def _open(file: io.BytesIO, content: bytes) -> Image.Image:
    try:
        return Image.open(file, formats=pillow_formats(content))
    except Image.DecompressionBombError:
        if not content.startswith(b"\xff\xd8"):
            raise
        file.seek(0)  # Pillow's limit is for the full size, at which it is not decoded
        return jpeg_factory(file)


def _is_decoded_by_rows(content: bytes) -> bool:
    """Return whether all colors of a JPEG are in one scan.

    Otherwise, as in progressive ones, libjpeg holds the coefficients of the full size in memory.
    """
    start, num_colors = 2, 0
    while content[start : start + 1] == b"\xff" and start + 9 < len(content):
        marker, length = content[start + 1], int.from_bytes(content[start + 2 : start + 4])
        if marker == 0xDA:  # start of scan
            return content[start + 4] == num_colors
        if marker in (0xC0, 0xC1):  # start of frame: baseline, extended sequential
            num_colors = content[start + 9]
        elif marker == 0xFF or (marker < 0xDB and marker != 0xC4):
            return False  # progressive, unusual, or not followed by a length
        start += 2 + length
    return False


def _check_size(
    size: tuple[int, int], image_format: str | None, max_pixels: int = MAX_PIXELS
) -> None:
    max_pixels = min(max_pixels, MAX_PIXELS_OF.get(image_format or "", MAX_PIXELS))
    if size[0] * size[1] > max_pixels:
        raise TooManyPixelsError(f"more than {max_pixels:,} pixels")


def _load_upright(
    image: Image.Image, scale: int, applies_profile: bool, max_pixels: int
) -> UprightImage:
    size, mode, image_format = image.size, image.mode, image.format or ""
    excess = (0.0, 0.0)  # how far the last column and row reach beyond the original
    if _is_jpeg(image_format):
        image_format = "JPEG"
        if draft := image.draft("RGB", (size[0] // scale, size[1] // scale)):
            excess = (image.width - draft[1][2], image.height - draft[1][3])
    _check_size(image.size, image_format, max_pixels)
    if isinstance(image, TiffImageFile) and _is_raw(image):
        raise UnreadableError(_CAMERA_RAW)
    # A TIFF loses its tag while it is loaded. Other formats are loaded before the tag is read:
    # reading it may load them and hide an error.
    if image_format != "TIFF":
        image.load()
    orientation, flags = _exif_orientation(image)
    image.load()
    # Pillow turns TIFF and HEIC upright itself, and gives their upright size.
    if orientation > 1 and image_format not in ("TIFF", HEIC):
        image = image.transpose(_UPRIGHT[orientation])
        size = (size[1], size[0]) if orientation >= 5 else size
    rgb, transform, color_flags = _to_rgb(image, applies_profile)
    box = _content_box(image.size, excess, orientation)
    try:  # last, as this may seek to other frames
        is_animated = image_format != "JPEG" and bool(getattr(image, "is_animated", False))
    except PILLOW_ERRORS:
        is_animated = True  # a later frame is damaged; the first one is not
    flags |= color_flags | (ImageFlag.ANIMATED if is_animated else 0)
    return UprightImage(rgb, box, size, image_format, mode, flags, transform)


def _is_raw(image: TiffImageFile) -> bool:
    """Return whether a TIFF is a raw file of a camera, whose first image is a preview."""
    tags = image.tag_v2
    return _DNG_VERSION in tags or (_SUB_IFDS in tags and tags.get(_SUBFILE_TYPE) == 1)


def _exif_orientation(image: Image.Image) -> tuple[int, ImageFlag]:
    """Return the EXIF orientation, 1 to 8; an invalid tag counts as 1."""
    try:
        orientation = image.getexif().get(0x0112, 1)
    except PILLOW_ERRORS:
        return 1, ImageFlag.INVALID_EXIF
    if orientation not in range(1, 9):
        return 1, ImageFlag.INVALID_EXIF
    return int(orientation), ImageFlag.ROTATED if orientation > 1 else ImageFlag(0)


def _content_box(size: tuple[int, int], excess: tuple[float, float], orientation: int) -> Box:
    """Map the right and lower edges of a stored image to the upright one, and cut them off."""
    across, down = excess[::-1] if orientation >= 5 else excess
    left = across if orientation in (2, 3, 6, 7) else 0.0
    top = down if orientation in (3, 4, 7, 8) else 0.0
    return left, top, left + size[0] - across, top + size[1] - down


def _to_rgb(
    image: Image.Image, applies_profile: bool
) -> tuple[Image.Image, ColorTransform, ImageFlag]:
    """Return an RGB image, or CMYK for its profile, the transform to sRGB, and a flag."""
    transform, flag = SRGB, ImageFlag(0)
    if applies_profile:
        try:
            transform = find_transform(image)
        except ValueError:
            flag = ImageFlag.INVALID_PROFILE
    return image if transform.input_mode == "CMYK" else _convert(image), transform, flag


def find_transform(image: Image.Image) -> ColorTransform:
    """Return the conversion of an image to sRGB by its embedded profile; `SRGB` if it has none.

    Raises:
        ValueError: if the profile is damaged, or for other pixels than those of the image.
    """
    profile = image.info.get("icc_profile")
    if not profile:
        return SRGB
    if not isinstance(profile, bytes) or len(profile) > _MAX_PROFILE_BYTES:
        raise ValueError("no profile, or a huge one")
    transform = _build_transform(profile)
    is_gray = image.mode in ("1", "L", "LA") or image.mode.startswith("I;16")
    own = "CMYK" if image.mode == "CMYK" else "L" if is_gray else "RGB"
    if transform.input_mode != own and (transform.input_mode, own) != ("RGB", "L"):
        raise ValueError(f"a profile for {transform.input_mode} in an image of {own}")
    return transform


@lru_cache(maxsize=16)
def _build_transform(profile: bytes) -> ColorTransform:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _INPUT_MODES[source.profile.xcolor_space]
        # Perceptual, Pillow's default: profiles of printers have no better table.
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(str(error)) from error
    result = ColorTransform(mode, transform)
    if mode != "CMYK":
        levels = np.linspace(0, 255, _CUBE_STEPS).round().astype(np.uint8)
        cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(_CUBE_STEPS, -1, 3)
        colors = Image.fromarray(cube)
        if mode == "L":
            colors = colors.convert("L").convert("RGB")
        difference = np.asarray(result.apply(colors), np.int16) - np.asarray(colors)
        if np.abs(difference).max() <= _MAX_SRGB_LEVELS:
            return ColorTransform(mode, None)
    return result


def _convert(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255, which turns 16-bit images white.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise UnreadableError("32-bit pixels, whose range is not known")
    if image.has_transparency_data:
        return _put_on_background(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _put_on_background(image: Image.Image) -> Image.Image:
    """Return an image without transparency, made in strips: at once it would take a gigabyte."""
    result = Image.new("RGB", image.size)
    num_rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, num_rows):
        box = (0, top, image.width, min(top + num_rows, image.height))
        strip = image.crop(box).convert("RGBA")
        background = Image.new("RGBA", strip.size, (*_BACKGROUND, 255))
        result.paste(Image.alpha_composite(background, strip).convert("RGB"), box)
    return result


def _to_square(
    image: Image.Image, box: Box, transform: ColorTransform, preprocessing: Preprocessing
) -> NDArray[np.uint8]:
    """Squash, pad or crop the box of an image to the square of sRGB pixels."""
    side = preprocessing.image_size
    width, height = box[2] - box[0], box[3] - box[1]
    if preprocessing.resize == "pad":
        # Not ImageOps.pad, which rounds the short side of a thin image to 0.
        longer = max(width, height)
        inner = max(1, round(width / longer * side)), max(1, round(height / longer * side))
        square = Image.new("RGB", (side, side), _PADDING)
        resized = image.resize(inner, _RESAMPLING, box, reducing_gap=_REDUCING_GAP)
        square.paste(transform.apply(resized), ((side - inner[0]) // 2, (side - inner[1]) // 2))
        return np.array(square, dtype=np.uint8)
    if preprocessing.resize == "crop":
        shorter = min(width, height)
        left, top = box[0] + (width - shorter) / 2, box[1] + (height - shorter) / 2
        box = (left, top, left + shorter, top + shorter)
    square = image.resize((side, side), _RESAMPLING, box, reducing_gap=_REDUCING_GAP)
    return np.array(transform.apply(square), dtype=np.uint8)


def _draft_scale(size: tuple[int, int], min_side: int) -> int:
    """Return the divisor at which a JPEG of this size is read."""
    scale = max((scale for scale in (2, 4, 8) if min(size) // min_side >= scale), default=1)
    while scale < _MAX_DRAFT and -(-size[0] // scale) * -(-size[1] // scale) > MAX_PIXELS:
        scale *= 2
    return scale


def _is_jpeg(image_format: str | None) -> bool:
    return image_format in ("JPEG", "MPO")  # MPO: a JPEG followed by more images, from phones
