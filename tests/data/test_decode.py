import io
import struct
import warnings
import zlib
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFile

from neither.data.decode import (
    MAX_BYTES,
    MAX_PIXELS,
    Decoded,
    Preprocessing,
    UnreadableError,
    decode,
    decode_file,
    hash_file,
    read_file,
)

SIZE = 32
SQUASH = Preprocessing(SIZE)
Pixels = NDArray[np.uint8]


def smooth(width: int = SIZE, height: int = SIZE) -> Image.Image:
    """Draw a picture whose corners, channels and axes all differ, and which JPEG keeps well."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    rgb = np.stack([40 + 180 * x, 30 + 200 * y, 230 - 150 * x * y], axis=2)
    return Image.fromarray(rgb.round().astype(np.uint8))


def noise(width: int = SIZE, height: int = SIZE) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:  # noqa: ANN401 - Pillow's
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def reason(content: bytes, preprocessing: Preprocessing = SQUASH) -> str:
    with pytest.raises(UnreadableError) as caught:
        decode(content, preprocessing)
    return str(caught.value)


def plain(image: Image.Image) -> Pixels:
    """Show what an 8-bit RGB picture of the wanted size must come out as: itself."""
    assert (image.mode, image.size) == ("RGB", (SIZE, SIZE))
    return np.asarray(image)


def distance(one: Pixels, other: Pixels) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def mean(pixels: Pixels) -> list[float]:
    means: list[float] = pixels.mean(axis=(0, 1)).tolist()
    return means


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(width: int, height: int, *, depth: int = 8, color: int = 0, rows: bytes = b"") -> bytes:
    """Write a PNG by hand, also one whose size is a lie."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


# What each format and mode comes out as


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "GIF"])
def test_a_lossless_picture_of_the_right_size_comes_out_as_it_is(kind: str) -> None:
    image = noise() if kind != "GIF" else noise().quantize(64).convert("RGB")
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = decode(encode(image, kind, **options), SQUASH)
    assert (pixels.dtype, pixels.shape) == (np.dtype(np.uint8), (SIZE, SIZE, 3))
    assert np.array_equal(pixels, plain(image))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_jpeg_comes_out_nearly_as_it_was(options: dict[str, Any]) -> None:
    pixels = decode(encode(smooth(), "JPEG", quality=95, **options), SQUASH)
    assert distance(pixels, plain(smooth())) <= 12
    assert np.allclose(mean(pixels), mean(plain(smooth())), atol=1)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiff_is_read(compression: str) -> None:
    content = encode(noise(), "TIFF", compression=compression)
    assert np.array_equal(decode(content, SQUASH), plain(noise()))


GREY = np.linspace(0, 255, SIZE * SIZE).round().astype(np.uint8).reshape(SIZE, SIZE)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("factor", [257, 256])
def test_16_bit_grey_is_scaled_and_never_white(kind: str, factor: int) -> None:
    image = Image.fromarray(GREY.astype(np.uint16) * factor)
    assert image.mode == "I;16"
    pixels = decode(encode(image, kind), SQUASH)
    assert np.allclose(mean(pixels), GREY.mean(), atol=1)
    assert distance(pixels, np.repeat(GREY[:, :, None], 3, axis=2)) <= 1


def test_16_bit_grey_in_big_endian_tiff_is_scaled() -> None:
    values = GREY.astype(">u2") * np.array(257, ">u2")
    content = encode(Image.frombytes("I;16B", (SIZE, SIZE), values.tobytes()), "TIFF")
    assert np.allclose(mean(decode(content, SQUASH)), GREY.mean(), atol=1)


def test_a_dark_16_bit_scan_stays_dark() -> None:
    image = Image.fromarray(np.full((SIZE, SIZE), 3000, np.uint16))
    assert mean(decode(encode(image, "PNG"), SQUASH)) == [11, 11, 11]


def test_16_bit_colour_is_scaled() -> None:
    values = np.asarray(noise()).astype(">u2") * np.array(257, ">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    pixels = decode(png(SIZE, SIZE, depth=16, color=2, rows=rows), SQUASH)
    assert distance(pixels, plain(noise())) <= 1


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_unknown_range_are_refused(mode: str) -> None:
    values = np.full((SIZE, SIZE), 100_000, np.int32 if mode == "I" else np.float32)
    assert "whose range is not known" in reason(encode(Image.fromarray(values), "TIFF"))
    values[0, 0] = -1
    assert "whose range is not known" in reason(encode(Image.fromarray(values), "TIFF"))


def test_grey_becomes_three_equal_channels() -> None:
    pixels = decode(encode(Image.fromarray(GREY), "PNG"), SQUASH)
    assert all(np.array_equal(pixels[:, :, channel], GREY) for channel in range(3))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF"])
def test_black_and_white_is_0_and_255(kind: str) -> None:
    bits = np.arange(SIZE * SIZE).reshape(SIZE, SIZE) % 3 == 0
    pixels = decode(encode(Image.fromarray(bits), kind), SQUASH)
    assert np.array_equal(pixels, np.where(bits, 255, 0)[:, :, None].repeat(3, axis=2))


def over_white(color: tuple[int, int, int], alpha: int) -> list[float]:
    return [round((value * alpha + 255 * (255 - alpha)) / 255) for value in color]


@pytest.mark.parametrize("alpha", [0, 64, 128, 255])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_alpha_lies_on_white(alpha: int, kind: str) -> None:
    options: dict[str, Any] = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    content = encode(Image.new("RGBA", (9, 9), (200, 10, 30, alpha)), kind, **options)
    assert np.allclose(mean(decode(content, SQUASH)), over_white((200, 10, 30), alpha), atol=1)


def test_grey_with_alpha_lies_on_white() -> None:
    image = Image.new("LA", (SIZE, SIZE), (40, 0))
    image.paste((40, 255), (0, 0, 16, SIZE))
    pixels = decode(encode(image, "PNG"), SQUASH)
    assert (pixels[:, :16] == 40).all()
    assert (pixels[:, 16:] == 255).all()


def palette_image() -> Image.Image:
    image = Image.new("P", (SIZE, SIZE), 0)
    image.putpalette([200, 10, 30, 0, 0, 255])
    image.paste(1, (16, 0, SIZE, SIZE))
    return image


def test_a_palette_image_comes_out_in_its_colours() -> None:
    pixels = decode(encode(palette_image(), "PNG"), SQUASH)
    assert pixels[0, 0].tolist() == [200, 10, 30]
    assert pixels[0, -1].tolist() == [0, 0, 255]


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_palette_image_with_a_transparent_index_lies_on_white(kind: str) -> None:
    pixels = decode(encode(palette_image(), kind, transparency=0), SQUASH)
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, -1].tolist() == [0, 0, 255]


def test_a_palette_image_with_a_transparency_for_each_index_lies_on_white() -> None:
    pixels = decode(encode(palette_image(), "PNG", transparency=b"\x80\x40"), SQUASH)
    assert np.allclose(pixels[0, 0], over_white((200, 10, 30), 0x80), atol=1)
    assert np.allclose(pixels[0, -1], over_white((0, 0, 255), 0x40), atol=1)


def test_one_transparent_colour_of_an_rgb_image_lies_on_white() -> None:
    image = Image.new("RGB", (SIZE, SIZE), (200, 10, 30))
    image.paste((1, 2, 3), (16, 0, SIZE, SIZE))
    pixels = decode(encode(image, "PNG", transparency=(1, 2, 3)), SQUASH)
    assert pixels[0, 0].tolist() == [200, 10, 30]
    assert pixels[0, -1].tolist() == [255, 255, 255]


def test_one_transparent_grey_lies_on_white() -> None:
    image = Image.new("L", (SIZE, SIZE), 9)
    image.paste(7, (16, 0, SIZE, SIZE))
    pixels = decode(encode(image, "PNG", transparency=7), SQUASH)
    assert pixels[0, 0].tolist() == [9, 9, 9]
    assert pixels[0, -1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_comes_out_in_its_colours_and_not_inverted(kind: str) -> None:
    image = Image.new("CMYK", (SIZE, SIZE), (0, 200, 100, 50))
    content = encode(image, kind)
    if kind == "JPEG":
        assert b"Adobe" in content  # so Pillow stored the values inverted, as Photoshop does
    ink = [255 * (1 - c / 255) * (1 - 50 / 255) for c in (0, 200, 100)]
    assert np.allclose(mean(decode(content, SQUASH)), ink, atol=3)


def test_ycbcr_becomes_rgb() -> None:
    content = encode(smooth().convert("YCbCr"), "TIFF")
    assert distance(decode(content, SQUASH), plain(smooth())) <= 4


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (SIZE, SIZE), color) for color in ("red", "lime", "blue")]
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    content = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(content)) as image:
        assert getattr(image, "n_frames", 1) == 3
    assert mean(decode(content, SQUASH)) == [255, 0, 0]


# Upright


def turn_back(image: Image.Image, orientation: int) -> Image.Image:
    """Store a picture as a camera does that was held so: EXIF 2.3, table 4.6.5."""
    turn = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,  # shown by a quarter turn clockwise
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    return image.copy() if turn is None else image.transpose(turn)


def oriented(image: Image.Image, kind: str, orientation: int, **options: Any) -> bytes:  # noqa: ANN401
    exif = Image.Exif()
    exif[274] = orientation
    return encode(turn_back(image, orientation), kind, exif=exif, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_an_exif_turned_picture_equals_its_upright_twin(kind: str, orientation: int) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    image = noise(48, 30)
    turned = decode(oriented(image, kind, orientation, **options), SQUASH)
    assert np.array_equal(turned, decode(encode(image, "PNG"), SQUASH))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_turned_jpeg_is_nearly_its_upright_twin(orientation: int) -> None:
    image = smooth(48, 32)
    turned = decode(oriented(image, "JPEG", orientation, quality=95, subsampling=0), SQUASH)
    assert distance(turned, decode(encode(image, "PNG"), SQUASH)) <= 8


def test_a_turned_palette_image_keeps_its_transparency() -> None:
    exif = Image.Exif()
    exif[274] = 3
    pixels = decode(encode(palette_image(), "PNG", transparency=0, exif=exif), SQUASH)
    assert pixels[0, 0].tolist() == [0, 0, 255]
    assert pixels[0, -1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_an_orientation_that_does_not_exist_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    assert np.array_equal(decode(encode(noise(), "PNG", exif=exif), SQUASH), plain(noise()))


@pytest.mark.parametrize(
    "exif",
    [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
     b"Exif\0\0garbage garbage", b"\xff" * 50],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_corrupt_exif_is_ignored(exif: bytes, kind: str) -> None:
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    without = decode(encode(smooth(), kind, **options), SQUASH)
    assert np.array_equal(decode(encode(smooth(), kind, exif=exif, **options), SQUASH), without)


# Refused


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty file"),
        (b"just some text, no picture\n", "not a JPEG, PNG, WebP, GIF, BMP or TIFF image"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC is not read; convert it"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC is not read; convert it"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "a page of HTML or XML"),
        (b"\n <!DOCTYPE html><title>404</title>", "a page of HTML or XML"),
        (b"%PDF-1.4\n%%EOF", "not a JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a JPEG"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "not a JPEG"),
        (b"\xff\xd8\xff", ""),
        (b"\x89PNG\r\n\x1a\n", ""),
        (b"GIF89a", ""),
        (b"BM", ""),
        (b"II*\0", ""),
        (b"RIFF\0\0\0\0WEBP", ""),
    ],
)
def test_what_is_no_picture_is_refused_with_a_reason(content: bytes, said: str) -> None:
    assert said in reason(content)
    assert reason(content)


@pytest.mark.parametrize("kind", ["EPS", "PDF", "JPEG2000", "PPM", "TGA", "ICO", "PCX", "SGI"])
def test_formats_that_are_not_on_the_list_are_refused(kind: str) -> None:
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
def test_a_picture_that_is_cut_short_is_unreadable_and_never_half_grey(kind: str) -> None:
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


def test_zeros_in_place_of_a_pngs_pixels_are_unreadable() -> None:
    content = CUT["PNG"]
    for keep in (60, 300, len(content) // 2):
        assert reason(content[:keep] + b"\0" * (len(content) - keep))


@pytest.mark.parametrize(
    ("width", "height"), [(2**26 + 1, 1), (1, 2**26 + 1), (8193, 8192), (100_000, 100_000)]
)
def test_too_many_pixels_are_refused_before_any_is_read(width: int, height: int) -> None:
    assert reason(png(width, height)) == f"more than {MAX_PIXELS:,} pixels"


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    assert decode_file(path, SQUASH) == Decoded(None, "", "larger than 50,000,000 bytes")
    with path.open("wb") as file:
        file.truncate(MAX_BYTES)
    assert len(read_file(path)) == MAX_BYTES


# Squares


@pytest.mark.parametrize("resize", ["squash", "pad", "crop"])
@pytest.mark.parametrize("size", [(1, 1), (3000, 10), (10, 3000), (1, 500), (31, 33)])
def test_any_shape_becomes_a_square(
    resize: Literal["squash", "pad", "crop"], size: tuple[int, int]
) -> None:
    content = encode(Image.new("RGB", size, (200, 10, 30)), "PNG")
    pixels = decode(content, Preprocessing(SIZE, resize))
    assert pixels.shape == (SIZE, SIZE, 3)
    assert (200, 10, 30) in map(tuple, pixels.reshape(-1, 3).tolist())


def thirds(*colors: str) -> bytes:
    """Draw a wide picture of three squares."""
    image = Image.new("RGB", (96, 32))
    for number, color in enumerate(colors):
        image.paste(color, (32 * number, 0, 32 * number + 32, 32))
    return encode(image, "PNG")


def test_squash_keeps_all_of_the_picture() -> None:
    pixels = decode(thirds("red", "lime", "blue"), Preprocessing(30))
    assert pixels[15, [3, 15, 27]].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def test_crop_keeps_the_centre_alone() -> None:
    pixels = decode(thirds("red", "lime", "blue"), Preprocessing(32, "crop"))
    assert mean(pixels[2:-2, 2:-2]) == [0, 255, 0]


def test_pad_keeps_the_shape_and_fills_with_grey() -> None:
    pixels = decode(thirds("red", "lime", "blue"), Preprocessing(96, "pad"))
    assert pixels[48, [10, 48, 86]].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    assert (pixels[:32] == 128).all()
    assert (pixels[64:] == 128).all()
    assert (pixels[32:64] != 128).any(axis=2).all()


def test_shrinking_is_antialiased() -> None:
    stripes = np.zeros((256, 256), np.uint8)
    stripes[:, ::2] = 255
    pixels = decode(encode(Image.fromarray(stripes), "PNG"), SQUASH)
    assert np.abs(pixels[4:-4, 4:-4].astype(int) - 128).max() <= 3


def test_the_picture_is_turned_before_it_is_padded() -> None:
    exif = Image.Exif()
    exif[274] = 6
    content = encode(Image.new("RGB", (90, 30), "red"), "PNG", exif=exif)
    pixels = decode(content, Preprocessing(SIZE, "pad"))
    assert (pixels[:, 0] == 128).all()
    assert (pixels[0, SIZE // 2] == [255, 0, 0]).all()


# Everything else


SEEDS = [
    *CUT.values(),
    encode(noise().convert("CMYK"), "JPEG"),
    encode(palette_image(), "PNG", transparency=b"\x80"),
    oriented(smooth(), "JPEG", 6),
    oriented(smooth(), "WEBP", 5),
    encode(noise(), "GIF", save_all=True, append_images=[smooth()]),
]


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_damaged_bytes_give_pixels_or_a_reason_and_nothing_else(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 6))):
        end = data.draw(st.sampled_from([16, 64, 256, len(content)]))
        place = data.draw(st.integers(0, min(end, len(content)) - 1))
        content[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        start = data.draw(st.integers(0, len(content) - 1))
        del content[start : start + data.draw(st.integers(0, 40))]
    try:
        pixels = decode(bytes(content), SQUASH)
    except UnreadableError as error:
        said = str(error)
    else:
        said = "pixels"
        assert pixels.shape == (SIZE, SIZE, 3)
    assert said
    assert said.isprintable()


def test_odd_metadata_warns_nobody_and_the_filters_stay() -> None:
    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        inside = list(warnings.filters)
        for content in SEEDS:
            decode(content, SQUASH)
            with pytest.raises(UnreadableError):
                decode(content[:30], SQUASH)
        assert list(warnings.filters) == inside
    assert caught == []
    assert list(warnings.filters) == before


def test_the_state_of_pillow_is_left_alone() -> None:
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    decode(CUT["JPEG"], SQUASH)
    reason(png(100_000, 100_000))
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


def test_the_same_bytes_give_the_same_pixels_which_are_the_callers_own() -> None:
    one, other = (decode(CUT["JPEG"], SQUASH) for _ in range(2))
    assert np.array_equal(one, other)
    assert not np.shares_memory(one, other)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".gif", ".bmp", ".tif", "", ".heic"])
def test_the_content_counts_and_not_the_suffix(tmp_path: Path, suffix: str) -> None:
    for kind in ("PNG", "BMP", "TIFF"):
        path = tmp_path / f"{kind}{suffix}"
        content = encode(noise(), kind)
        path.write_bytes(content)
        decoded = decode_file(path, SQUASH)
        assert decoded.pixels is not None
        assert np.array_equal(decoded.pixels, plain(noise()))
        assert (decoded.sha256, decoded.reason) == (sha256(content).hexdigest(), "")


def test_a_bad_file_is_an_answer_with_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "bad.jpg"
    path.write_bytes(b"no picture")
    decoded = decode_file(path, SQUASH)
    assert decoded.pixels is None
    assert decoded.sha256 == sha256(b"no picture").hexdigest()
    assert decoded.reason.startswith("not a JPEG")


@pytest.mark.parametrize(
    ("name", "said"), [("gone.jpg", "no such file or directory"), ("folder", "is a directory")]
)
def test_a_file_that_cannot_be_opened_is_an_answer_too(
    tmp_path: Path, name: str, said: str
) -> None:
    (tmp_path / "folder").mkdir()
    assert decode_file(tmp_path / name, SQUASH) == Decoded(None, "", said)
    assert hash_file(tmp_path / name) == Decoded(None, "", said)


def test_a_file_is_hashed_without_being_decoded(tmp_path: Path) -> None:
    path = tmp_path / "any"
    path.write_bytes(b"no picture")
    assert hash_file(path) == Decoded(None, sha256(b"no picture").hexdigest())
