import io
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, get_args
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from hostile import chunk, exif, png, readable
from images import SIZE, STORED, encode, noise, oriented, photo, smooth
from neither.data import decode as module
from neither.data.decode import (
    MAX_PIXELS,
    MAX_PIXELS_OF,
    decode,
    decode_array,
    decode_file,
    decode_image,
    decode_with_traits,
    open_upright,
)
from neither.data.fingerprints import ImageFlag
from neither.data.image_file import MAX_BYTES, UnreadableError
from neither.data.preprocessing import Preprocessing

Resize = Literal["squash", "pad", "crop"]
SQUASH = Preprocessing(SIZE, "squash")
Pixels = NDArray[np.uint8]


def reason(content: bytes, preprocessing: Preprocessing = SQUASH) -> str:
    with pytest.raises(UnreadableError) as caught:
        decode(content, preprocessing)
    return str(caught.value)


def plain(image: Image.Image) -> Pixels:
    """Return the pixels that an RGB image of this size must give."""
    assert (image.mode, image.size) == ("RGB", (SIZE, SIZE))
    return np.asarray(image)


def distance(one: Pixels, other: Pixels) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def mean_distance(one: Pixels, other: Pixels) -> float:
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def mean(pixels: Pixels) -> list[float]:
    means: list[float] = pixels.mean(axis=(0, 1)).tolist()
    return means


# Formats and modes


@pytest.mark.parametrize(("kind", "options"), [
    ("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("GIF", {}),
    ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"compression": "tiff_adobe_deflate"}),
])  # fmt: skip
def test_a_lossless_image_of_the_same_size_keeps_its_pixels(
    kind: str, options: dict[str, Any]
) -> None:
    image = noise() if kind != "GIF" else noise().quantize(64).convert("RGB")
    pixels = decode(encode(image, kind, **options), SQUASH)
    assert (pixels.dtype, pixels.shape) == (np.dtype(np.uint8), (SIZE, SIZE, 3))
    assert np.array_equal(pixels, plain(image))


GRADIENT = np.linspace(0, 255, SIZE * SIZE).round().astype(np.uint8).reshape(SIZE, SIZE)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("factor", [257, 256])
def test_16_bit_gray_is_scaled(kind: str, factor: int) -> None:
    image = Image.fromarray(GRADIENT.astype(np.uint16) * factor)
    assert image.mode == "I;16"
    pixels = decode(encode(image, kind), SQUASH)
    assert distance(pixels, np.repeat(GRADIENT[:, :, None], 3, axis=2)) <= 1


def over_white(color: tuple[int, int, int], alpha: int) -> list[float]:
    return [round((value * alpha + 255 * (255 - alpha)) / 255) for value in color]


@pytest.mark.parametrize("alpha", [0, 64, 128, 255])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_composited_on_white(alpha: int, kind: str) -> None:
    options: dict[str, Any] = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    content = encode(Image.new("RGBA", (9, 9), (200, 10, 30, alpha)), kind, **options)
    assert np.allclose(mean(decode(content, SQUASH)), over_white((200, 10, 30), alpha), atol=1)


def palette_image() -> Image.Image:
    image = Image.new("P", (SIZE, SIZE), 0)
    image.putpalette([200, 10, 30, 0, 0, 255])
    image.paste(1, (16, 0, SIZE, SIZE))
    return image


WHITE, BLUE, RED = (255, 255, 255), (0, 0, 255), (200, 10, 30)


@pytest.mark.parametrize(("mode", "kind", "transparency", "left", "right"), [
    ("P", "PNG", None, RED, BLUE),
    ("P", "PNG", 0, WHITE, BLUE),
    ("P", "GIF", 0, WHITE, BLUE),
    ("P", "PNG", b"\x80\x40", over_white(RED, 0x80), over_white(BLUE, 0x40)),
    ("RGB", "PNG", BLUE, RED, WHITE),
    ("L", "PNG", 29, (68, 68, 68), WHITE),  # the luma of blue
    ("LA", "PNG", None, (68, 68, 68), (29, 29, 29)),
])  # fmt: skip
def test_transparent_colors_are_composited_on_white(
    mode: str,
    kind: str,
    transparency: int | bytes | tuple[int, ...] | None,
    left: Sequence[int],
    right: Sequence[int],
) -> None:
    options = {} if transparency is None else {"transparency": transparency}
    image = palette_image() if mode == "P" else palette_image().convert("RGB").convert(mode)
    pixels = decode(encode(image, kind, **options), SQUASH)
    assert np.allclose(pixels[0, 0], left, atol=1)
    assert np.allclose(pixels[0, -1], right, atol=1)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_converted_and_not_inverted(kind: str) -> None:
    image = Image.new("CMYK", (SIZE, SIZE), (0, 200, 100, 50))
    content = encode(image, kind)
    if kind == "JPEG":
        assert b"Adobe" in content  # so Pillow stored the values inverted, as Photoshop does
    ink = [255 * (1 - c / 255) * (1 - 50 / 255) for c in (0, 200, 100)]
    assert np.allclose(mean(decode(content, SQUASH)), ink, atol=3)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_is_used(kind: str) -> None:
    frames = [Image.new("RGB", (SIZE, SIZE), color) for color in ("red", "lime", "blue")]
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    content = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(content)) as image:
        assert getattr(image, "n_frames", 1) == 3
    pixels, traits = decode_with_traits(content, SQUASH)
    assert mean(pixels) == [255, 0, 0]
    assert traits.flags == ImageFlag.ANIMATED
    assert decode_with_traits(encode(frames[0], kind, **options), SQUASH)[1].flags == ImageFlag(0)


def test_a_jpeg_followed_by_another_is_not_animated() -> None:
    images = [smooth(400, 300), noise(400, 300)]
    content = encode(images[0], "MPO", save_all=True, append_images=images[1:])
    with Image.open(io.BytesIO(content)) as image:
        assert (image.format, getattr(image, "n_frames", 1)) == ("MPO", 2)
    pixels, traits = decode_with_traits(content, SQUASH)
    assert (traits.format, traits.flags) == ("JPEG", ImageFlag(0))
    assert distance(pixels, decode(encode(images[0], "PNG"), SQUASH)) <= 8


# Upright


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_an_image_is_turned_upright_by_its_exif_orientation(kind: str, orientation: int) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    image = noise(48, 30)
    turned, traits = decode_with_traits(oriented(image, kind, orientation, **options), SQUASH)
    assert np.array_equal(turned, decode(encode(image, "PNG"), SQUASH))
    assert (traits.width, traits.height, traits.format) == (48, 30, kind)
    assert traits.flags == (ImageFlag.ROTATED if orientation > 1 else ImageFlag(0))


@pytest.mark.parametrize("orientation", [0, 9, 99, 65535])
def test_an_invalid_orientation_is_ignored(orientation: int) -> None:
    pixels, traits = decode_with_traits(encode(noise(), "PNG", exif=exif(orientation)), SQUASH)
    assert np.array_equal(pixels, plain(noise()))
    assert traits.flags == ImageFlag.INVALID_EXIF


@pytest.mark.parametrize(
    "exif",
    [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
     b"Exif\0\0garbage garbage", b"\xff" * 50],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_corrupt_exif_is_ignored(exif: bytes, kind: str) -> None:
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    without = decode(encode(smooth(), kind, **options), SQUASH)
    pixels, traits = decode_with_traits(encode(smooth(), kind, exif=exif, **options), SQUASH)
    assert np.array_equal(pixels, without)
    if kind != "JPEG" and b"garbage" in exif:
        assert traits.flags == ImageFlag.INVALID_EXIF


def tags_with_a_date(kind: int) -> bytes:
    """Return EXIF data with a quarter turn, and a date of an invalid type."""
    orientation = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    date = struct.pack("<HHII", 0x0132, kind, 1, 38)
    end = struct.pack("<I8x", 0)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + orientation + date + end


@pytest.mark.parametrize("kind", [5, 10, 11, 12])  # rational, signed rational, float, double
def test_an_invalid_tag_beside_the_orientation_is_ignored(kind: int) -> None:
    image = smooth(48, 30)
    stored = image.transpose(Image.Transpose.ROTATE_90)
    turned, traits = decode_with_traits(encode(stored, "PNG", exif=tags_with_a_date(kind)), SQUASH)
    assert np.array_equal(turned, decode(encode(image, "PNG"), SQUASH))
    assert (traits.width, traits.height, traits.flags) == (48, 30, ImageFlag.ROTATED)


# Unreadable files


def make_gif_bomb() -> bytes:
    """Return a small GIF of a huge screen."""
    content = encode(Image.new("P", (1, 1)), "GIF")
    return content[:6] + struct.pack("<HH", 65_535, 65_535) + content[10:]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"just some text, no image\n", "not a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF image"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "a page of HTML or XML"),
        (b"\n <!DOCTYPE html><title>404</title>", "a page of HTML or XML"),
        (png(0, 9), ""),
        (png(2**31 - 1, 2**31 - 1), ""),
        (make_gif_bomb(), f"more than {MAX_PIXELS:,} pixels"),
        (b"\xff\xd8\xff", ""), (b"\x89PNG\r\n\x1a\n", ""), (b"GIF89a", ""), (b"BM", ""),
        (b"II*\0", ""), (b"RIFF\0\0\0\0WEBP", ""),
    ],
)  # fmt: skip
def test_unreadable_content_has_a_reason(content: bytes, message: str) -> None:
    assert message in reason(content)
    assert reason(content)


@pytest.mark.parametrize("kind", ["PPM", "TGA", "ICO", "PCX", "SGI"])
def test_other_formats_are_unreadable(kind: str) -> None:
    assert "not a JPEG" in reason(encode(smooth(), kind))


CUT = {
    "JPEG": encode(noise(), "JPEG", quality=90),
    "progressive JPEG": encode(noise(), "JPEG", quality=90, progressive=True),
    "PNG": encode(noise(), "PNG"),
    "WEBP": encode(noise(), "WEBP", lossless=True),
    "BMP": encode(noise(), "BMP"),
    "TIFF": encode(noise(), "TIFF"),
    "LZW TIFF": encode(noise(), "TIFF", compression="tiff_lzw"),
    "GIF": encode(noise().quantize(), "GIF"),
}


@pytest.mark.parametrize("kind", CUT)
def test_a_truncated_image_is_unreadable(kind: str) -> None:
    content = CUT[kind]
    whole = decode(content, SQUASH)
    for length in [*range(0, len(content), 37), *range(len(content) - 12, len(content))]:
        try:
            pixels = decode(content[:length], SQUASH)
        except UnreadableError:
            continue
        # Only what comes after the pixels may be missing.
        assert length > 0.9 * len(content), (kind, length)
        assert np.array_equal(pixels, whole), (kind, length)


LARGE = {
    "JPEG": encode(noise(500, 400), "JPEG", quality=90),
    "progressive JPEG": encode(noise(500, 400), "JPEG", quality=90, progressive=True),
    "photo JPEG": encode(photo(0, 500, 400), "JPEG"),
    "PNG": encode(noise(250, 200), "PNG"),
}


@pytest.mark.parametrize("kind", LARGE)
@pytest.mark.parametrize("filling", [b"", b"\0", b"A"])
def test_a_large_image_without_its_end_is_unreadable(kind: str, filling: bytes) -> None:
    content = LARGE[kind]
    for behind in (b"\0" * 5000, b"\xff\xda" * 9):  # phones write more behind an image
        assert np.array_equal(decode(content + behind, SQUASH), decode(content, SQUASH))
    for percent in (1, 10, 30, 60, 90, 99):
        kept = content[: len(content) * percent // 100]
        assert reason(kept + filling * (len(content) - len(kept))), percent


@pytest.mark.parametrize(
    ("width", "height"),
    [(2**26 + 1, 1), (1, 2**26 + 1), (8193, 8192), (20_000, 20_000), (100_000, 100_000)],
)
def test_too_many_pixels_are_unreadable(width: int, height: int) -> None:
    assert reason(png(width, height)) == f"more than {MAX_PIXELS:,} pixels"


def test_the_limit_of_pixels_is_lower_for_webp() -> None:
    file = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:])
    content = bytearray(file.getvalue())
    assert content[12:16] == b"VP8X"
    content[24:27], content[27:30] = (39).to_bytes(3, "little"), (1_048_605).to_bytes(3, "little")
    assert reason(bytes(content)) == f"more than {MAX_PIXELS_OF['WEBP']:,} pixels"


def resized(content: bytes, width: int, height: int) -> bytes:
    """Change the size that a JPEG states; libjpeg fills what is missing with gray."""
    start = content.index(b"\xff\xc0") + 5
    return content[:start] + struct.pack(">HH", height, width) + content[start + 4 :]


@pytest.mark.parametrize("size", [(12_000, 9000), (16_320, 12_240)])  # phones: 108, 200 megapixels
def test_a_jpeg_of_more_pixels_is_read_at_a_fraction_of_its_size(size: tuple[int, int]) -> None:
    content = resized(encode(smooth(), "JPEG"), *size)
    pixels, traits = decode_with_traits(content, SQUASH)
    assert pixels.shape == (SIZE, SIZE, 3)
    assert (traits.width, traits.height) == size
    full = open_upright(content, 2**16)  # as check_data reads it
    assert full.image.size == (size[0] // 2, size[1] // 2)
    with Image.open(io.BytesIO(encode(noise(), "PNG"))) as image:
        image._size = size  # as large as a Pillow image: nothing reads it at a fraction
        with pytest.raises(UnreadableError, match="more than"):
            decode_image(image, SQUASH)


SMALL_LIMIT = 20_000  # pixels: less than 400 x 300, more than a half of it


def without_interleaving(content: bytes) -> bytes:
    """Let the first scan of a JPEG state one color: libjpeg then expects a scan for each."""
    start = content.index(b"\xff\xda")
    return content[:start] + b"\xff\xda\0\x08\1\1\0\0\x3f\0" + content[start + 14 :]


def hidden(content: bytes, marker: bytes) -> bytes:
    """Put what looks like a frame of a baseline JPEG where libjpeg does not see it."""
    frame = b"\xff\xc0\0\x11\x08\0\1\0\1\3" + bytes(9)
    return content[:2] + marker + frame + content[2:]


@pytest.mark.parametrize("prepare", [
    lambda image: encode(image, "JPEG", progressive=True),
    lambda image: without_interleaving(encode(image, "JPEG")),
    lambda image: hidden(encode(image, "JPEG", progressive=True), b"\xff"),
    lambda image: hidden(encode(image, "JPEG", progressive=True), b"\xff\xd0"),
], ids=["progressive", "a scan for each color", "fill byte", "marker without length"])  # fmt: skip
def test_the_limit_counts_the_full_size_where_libjpeg_holds_all_of_it(
    prepare: Callable[[Image.Image], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", SMALL_LIMIT)
    baseline = encode(photo(0, 400, 300), "JPEG")
    assert decode(baseline, SQUASH).shape == (SIZE, SIZE, 3)
    assert open_upright(baseline, 2**16).image.size == (100, 75)
    assert "more than 20,000 pixels" in reason(prepare(photo(0, 400, 300)))
    with Image.open(io.BytesIO(baseline)) as image, pytest.raises(UnreadableError, match="20,000"):
        decode_image(image, SQUASH)


@pytest.mark.parametrize("kind", ["WEBP", "AVIF"])
def test_the_limit_of_a_format_is_the_same_for_a_pillow_image(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module.MAX_PIXELS_OF, kind, 1000)
    content = encode(noise(), kind)
    assert "more than 1,000 pixels" in reason(content)
    with Image.open(io.BytesIO(content)) as image, pytest.raises(UnreadableError, match="1,000"):
        decode_image(image, SQUASH)


@pytest.mark.parametrize("tags", [
    {0xC612: b"\1\4\0\0"}, {0x00FE: 1, 0x014A: 8},
], ids=["DNG", "a preview before the raw image"])  # fmt: skip
def test_camera_raw_that_pillow_takes_for_a_tiff_is_named(tags: dict[int, Any]) -> None:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        info[tag] = value
    assert "camera raw" in reason(encode(noise(), "TIFF", tiffinfo=info))


def test_the_preview_of_a_cr2_file_is_not_read() -> None:
    """A gray image of 8 x 8 pixels behind the header of Canon's raw files, as Pillow reads it."""
    tags = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 200, 277: 1, 278: 8, 279: 64}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    for mark, is_raw in ((b"CR\2\0", True), (bytes(4), False)):
        content = (b"II*\0\x10\0\0\0" + mark + bytes(4) + directory).ljust(200, b"\0") + bytes(64)
        if is_raw:
            assert "camera raw" in reason(content)
        else:
            assert decode(content, SQUASH).shape == (SQUASH.image_size, SQUASH.image_size, 3)


def test_text_that_decompresses_to_200_megabytes_is_unreadable() -> None:
    content = encode(noise(), "PNG")
    packer = zlib.compressobj(9)
    text = b"".join([packer.compress(bytes(1_000_000)) for _ in range(200)]) + packer.flush()
    bomb = content[:33] + chunk(b"zTXt", b"note\0\0" + text) + content[33:]
    assert reason(bomb) == "damaged"


# Resizing to a square


@pytest.mark.parametrize("resize", ["squash", "pad", "crop"])
@pytest.mark.parametrize("size", [(1, 1), (3000, 10), (10, 3000), (1, 500), (31, 33)])
def test_any_shape_becomes_a_square(resize: Resize, size: tuple[int, int]) -> None:
    content = encode(Image.new("RGB", size, (200, 10, 30)), "PNG")
    pixels = decode(content, Preprocessing(SIZE, resize))
    assert pixels.shape == (SIZE, SIZE, 3)
    assert (200, 10, 30) in map(tuple, pixels.reshape(-1, 3).tolist())


def thirds(*colors: str) -> bytes:
    """Draw a wide image of three squares."""
    image = Image.new("RGB", (96, 32))
    for number, color in enumerate(colors):
        image.paste(color, (32 * number, 0, 32 * number + 32, 32))
    return encode(image, "PNG")


def test_resize() -> None:
    content = thirds("red", "lime", "blue")
    bands = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    squash = decode(content, Preprocessing(30, "squash"))
    assert squash[15, [3, 15, 27]].tolist() == bands
    crop = decode(content, Preprocessing(32, "crop"))
    assert mean(crop[2:-2, 2:-2]) == bands[1]
    pad = decode(content, Preprocessing(96, "pad"))
    assert pad[48, [10, 48, 86]].tolist() == bands
    assert (pad[[*range(32), *range(64, 96)]] == 128).all()
    assert (pad[32:64] != 128).any(axis=2).all()


def test_shrinking_is_antialiased() -> None:
    stripes = np.zeros((256, 256), np.uint8)
    stripes[:, ::2] = 255
    pixels = decode(encode(Image.fromarray(stripes), "PNG"), SQUASH)
    assert np.abs(pixels[4:-4, 4:-4].astype(int) - 128).max() <= 3


# Large JPEGs


def without_draft(content: bytes) -> bytes:
    """Convert a JPEG to PNG, which is always decoded at full size."""
    with Image.open(io.BytesIO(content)) as image:
        exif = image.getexif()
        return encode(image, "PNG", compress_level=1, exif=exif)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_a_draft_of_any_mode_is_within_2_levels_of_a_full_decode(mode: str) -> None:
    content = encode(photo(1, 640, 480).convert(mode), "JPEG", quality=90, progressive=True)
    assert open_upright(content, 48).image.size == (80, 60)
    with Image.open(io.BytesIO(content)) as image:
        full = encode(image.convert("RGB"), "PNG")
    assert mean_distance(decode(content, SQUASH), decode(full, SQUASH)) <= 2


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("resize", get_args(Resize))
@pytest.mark.parametrize("size", [(401, 416), (416, 401)])
def test_a_draft_is_not_shifted(size: tuple[int, int], resize: Resize, orientation: int) -> None:
    # 401 pixels, read at an eighth, make 51, of which 50.1 count; 416 make 52, which all count.
    content = oriented(photo(3, *size), "JPEG", orientation, quality=95)
    preprocessing = Preprocessing(33, resize)
    drafts = decode_with_traits(content, preprocessing)
    full = decode_with_traits(without_draft(content), preprocessing)
    assert mean_distance(drafts[0], full[0]) <= 2
    assert (drafts[1].width, drafts[1].height) == size
    assert drafts[1].flags == (ImageFlag.ROTATED if orientation > 1 else ImageFlag(0))
    thumbnails = [np.frombuffer(each[1].thumbnail, np.uint8) for each in (drafts, full)]
    assert mean_distance(*thumbnails) <= 1


@given(st.integers(1, 900), st.integers(1, 900), st.integers(8, 224))
def test_a_draft_is_the_smallest_of_at_least_one_and_a_half_squares(
    width: int, height: int, size: int
) -> None:
    content = encode(Image.new("RGB", (width, height)), "JPEG")
    with pytest.MonkeyPatch.context() as patch:
        read: list[tuple[int, int]] = []

        def spy(content: bytes, *arguments: Any) -> module.UprightImage:  # noqa: ANN401
            upright = open_upright(content, *arguments)
            read.append(upright.image.size)
            return upright

        patch.setattr(module, "open_upright", spy)
        decode(content, Preprocessing(size))
    wanted = round(1.5 * size)
    short = min(width, height)
    divisors = [s for s in (8, 4, 2) if short // s >= wanted]
    divisor = divisors[0] if divisors else 1
    assert read[0] == (-(-width // divisor), -(-height // divisor))
    assert min(read[0]) >= min(wanted, short)


@pytest.mark.parametrize("size", [(1000, 750), (401, 409), (150, 200), (30, 500)])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": 6}, {"mode": "L"}])
def test_the_traits_are_the_same_for_every_square(
    size: tuple[int, int], options: dict[str, Any]
) -> None:
    image = photo(5, *size).convert(options.pop("mode", "RGB"))
    content = oriented(image, "JPEG", options.pop("exif", 1), **options)
    traits = {
        decode_with_traits(content, Preprocessing(side, resize))[1]
        for side in (8, 24, 64, 65, 128, 500)
        for resize in get_args(Resize)
    }
    assert len(traits) == 1


# All files


SEEDS = [
    *CUT.values(),
    encode(noise().convert("CMYK"), "JPEG"),
    encode(palette_image(), "PNG", transparency=b"\x80"),
    oriented(smooth(), "JPEG", 6),
    oriented(smooth(), "WEBP", 5),
    encode(noise(), "GIF", save_all=True, append_images=[smooth()]),
]


@given(st.data())
def test_damaged_bytes_give_pixels_or_a_reason_and_nothing_else(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 6))):
        end = data.draw(st.sampled_from([16, 64, 256, len(content)]))
        index = data.draw(st.integers(0, min(end, len(content)) - 1))
        content[index] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        start = data.draw(st.integers(0, len(content) - 1))
        del content[start : start + data.draw(st.integers(0, 40))]
    try:
        pixels = decode(bytes(content), SQUASH)
    except UnreadableError as error:
        message = str(error)
    else:
        message = "pixels"
        assert pixels.shape == (SIZE, SIZE, 3)
    assert message
    assert message.isprintable()


@pytest.mark.parametrize(("content", "has_hash", "message"), [
    (None, False, "no such file or directory"),
    (b"no image", True, "not a JPEG"),
    (b"large", False, "larger than"),
])  # fmt: skip
def test_an_unreadable_file_has_a_reason(
    tmp_path: Path, content: bytes | None, has_hash: bool, message: str
) -> None:
    path = tmp_path / "bad.jpg"
    if content is not None:
        path.write_bytes(content)
    if content == b"large":
        os.truncate(path, MAX_BYTES + 1)
    decoded = decode_file(path, SQUASH, with_traits=True)
    assert (decoded.pixels, decoded.traits) == (None, None)
    assert decoded.sha256 == (sha256(content or b"").digest() if has_hash else b"")
    assert decoded.reason.startswith(message)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("resize", get_args(Resize))
def test_an_image_gives_the_pixels_of_its_file(resize: Resize) -> None:
    preprocessing = Preprocessing(96, resize)  # so large that no JPEG is read at a fraction
    for name, content in readable().items():
        with Image.open(io.BytesIO(content)) as image:
            pixels = decode_image(image, preprocessing)
        assert np.array_equal(pixels, decode(content, preprocessing)), name


def test_an_array_gives_the_pixels_of_its_file() -> None:
    image = photo(0, 61, 43)
    pixels = decode(encode(image, "PNG"), SQUASH)
    assert np.array_equal(decode_array(np.asarray(image), SQUASH), pixels)


def test_decode_image_does_not_change_the_image() -> None:
    with Image.open(io.BytesIO(oriented(photo(0, 640, 400), "JPEG", 6))) as image:
        decode_image(image, SQUASH)
        assert image.size == (400, 640)  # neither turned nor a draft
        assert image.getexif()[0x0112] == 6


def test_a_damaged_or_32_bit_image_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(encode(photo(0, 61, 43), "PNG")[:900])
    with Image.open(tmp_path / "cut.png") as image, pytest.raises(UnreadableError, match="damaged"):
        decode_image(image, SQUASH)
    for mode in ("I", "F"):
        with pytest.raises(UnreadableError, match="32-bit"):
            decode_image(Image.new(mode, (8, 8)), SQUASH)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        (np.zeros((8, 8, 3)), TypeError),
        (np.zeros((8, 8), np.uint8), ValueError),
        (np.zeros((8, 8, 4), np.uint8), ValueError),
        (np.zeros((0, 8, 3), np.uint8), ValueError),
    ],
)
def test_an_invalid_array_is_an_error(values: np.ndarray, error: type[Exception]) -> None:
    with pytest.raises(error, match="want"):
        decode_array(values, SQUASH)


@pytest.mark.parametrize(("size", "num_opens"), [(32, 2), (64, 1), (224, 2)])
def test_only_the_traits_may_need_a_jpeg_opened_twice(
    monkeypatch: pytest.MonkeyPatch, size: int, num_opens: int
) -> None:
    content = encode(photo(0, 500, 400), "JPEG")
    spy = Mock(wraps=Image.open)
    monkeypatch.setattr(Image, "open", spy)
    decode(content, Preprocessing(size))
    assert spy.call_count == 1
    decode_with_traits(content, Preprocessing(size))
    assert spy.call_count == 1 + num_opens


@pytest.mark.parametrize("name", ["rgba", "la", "palette seen through"])
def test_strips_of_a_transparent_image_give_the_pixels_of_the_whole(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = readable()[f"d06 {name}.png"]
    whole = decode(content, Preprocessing(100))
    assert len(np.unique(whole)) > 100
    monkeypatch.setattr(module, "_STRIP_PIXELS", 1000)
    assert np.array_equal(decode(content, Preprocessing(100)), whole)
