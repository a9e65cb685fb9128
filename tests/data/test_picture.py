"""A Pillow image and an array give the pixels of their file."""

import io
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from images import encode, oriented, photo
from neither.data.decode import decode, decode_array, decode_image
from neither.data.image_file import UnreadableError
from neither.data.preprocessing import Preprocessing

SQUASH = Preprocessing(24, "squash")


def files() -> dict[str, bytes]:
    """Return lossless files of many kinds, and JPEGs too small to be read at a part."""
    image = photo(0, 61, 43)
    depth = np.random.default_rng(0).integers(0, 2**16, (43, 61), dtype=np.uint16)
    kinds = {f"{kind} turned {turn}": oriented(image, kind, turn)
             for kind in ("PNG", "TIFF", "JPEG") for turn in (1, 3, 6, 7)}  # fmt: skip
    return kinds | {
        "16 bit": encode(Image.fromarray(depth), "PNG"),
        "CMYK": encode(image.convert("CMYK"), "TIFF"),
        "palette": encode(image.convert("P"), "PNG", transparency=3),
        "alpha": encode(image.convert("LA"), "PNG"),
    }


@pytest.mark.parametrize("resize", get_args(Preprocessing.__annotations__["resize"]))
@pytest.mark.parametrize("kind", files())
def test_an_image_gives_the_pixels_of_its_file(kind: str, resize: str) -> None:
    content, preprocessing = files()[kind], Preprocessing(32, resize)  # type: ignore[arg-type]
    with Image.open(io.BytesIO(content)) as image:
        assert np.array_equal(decode_image(image, preprocessing), decode(content, preprocessing))


def test_an_array_gives_the_pixels_of_its_file() -> None:
    image = photo(0, 61, 43)
    assert np.array_equal(decode_array(np.asarray(image), SQUASH),
                          decode(encode(image, "PNG"), SQUASH))  # fmt: skip


def test_the_image_stays_as_it_is() -> None:
    with Image.open(io.BytesIO(oriented(photo(0, 640, 400), "JPEG", 6))) as image:
        decode_image(image, SQUASH)
        assert image.size == (400, 640)  # neither turned nor read at a part of its size
        assert image.getexif()[0x0112] == 6


def test_a_damaged_file_and_numbers_of_unknown_range_are_unreadable(tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(encode(photo(0, 61, 43), "PNG")[:900])
    with Image.open(tmp_path / "cut.png") as image, pytest.raises(UnreadableError, match="damaged"):
        decode_image(image, SQUASH)
    with pytest.raises(UnreadableError, match="32-bit"):
        decode_image(Image.new("F", (8, 8)), SQUASH)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        (np.zeros((8, 8, 3)), TypeError),
        (np.zeros((8, 8), np.uint8), ValueError),
        (np.zeros((8, 8, 4), np.uint8), ValueError),
        (np.zeros((0, 8, 3), np.uint8), ValueError),
    ],
)
def test_what_is_no_picture_is_refused(values: np.ndarray, error: type[Exception]) -> None:
    with pytest.raises(error, match="want"):
        decode_array(values, SQUASH)
