"""docs/onnx_example.py decodes the same pixels as training, with Pillow and numpy alone."""

import ast
import struct
from pathlib import Path
from typing import get_args

import numpy as np
import onnx_example
import pytest

from hostile import readable
from images import encode, noise, oriented, photo
from neither.data.decode import decode
from neither.data.image_file import UnreadableError
from neither.data.preprocessing import Preprocessing
from profiles import SRGB, cmyk_profile, gray_profile, rgb_profile
from scripts import ROOT

EXAMPLE = ROOT / "docs" / "onnx_example.py"


def test_it_imports_neither_torch_nor_this_project() -> None:
    tree = ast.parse(EXAMPLE.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
             for alias in node.names}  # fmt: skip
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} == {
        "PIL", "collections", "io", "json", "numpy", "onnxruntime", "pathlib", "sys",
    }  # fmt: skip


@pytest.mark.parametrize(("probs", "other", "decision"), [
    ([0.7, 0.2, 0.1], {}, "dog"), ([0.6, 0.2, 0.2], {}, "unsure"), ([0.2, 0.2, 0.6], {}, "neither"),
    ([0.3, 0.3, 0.4], {}, "unsure"), ([0.2, 0.2, 0.6], {"certified": ""}, "unsure"),
])  # fmt: skip
def test_the_reject_class_has_a_threshold_of_its_own(
    probs: list[float], other: dict[str, str], decision: str
) -> None:
    """A file of an earlier version, which knows nothing of certificates, has one for all."""
    metadata = {
        "classes": '["dog", "human", "neither"]', "reject_class": "neither", "threshold": "0.65",
        "reject_threshold": "0.5", "certified": "false",
    } | other  # fmt: skip
    metadata = {key: value for key, value in metadata.items() if value}
    assert onnx_example.decide(np.array(probs, np.float32), metadata) == decision


def with_size(content: bytes, frame: bytes) -> bytes:
    """Let a JPEG state 12,000 x 9,000 pixels; libjpeg fills what is missing."""
    start = content.index(frame) + 5
    return content[:start] + struct.pack(">HH", 9000, 12_000) + content[start + 4 :]


def files() -> dict[str, bytes]:
    """Return files of all formats and modes, upright or not, some decoded at a reduced size."""
    image = photo(1, 403, 307)
    return readable() | {
        "turned png": oriented(image, "PNG", 5),
        "turned tiff": oriented(image, "TIFF", 8),
        "turned inks": oriented(image.convert("CMYK"), "JPEG", 6, icc_profile=cmyk_profile()),
        "progressive": encode(image.convert("L"), "JPEG", progressive=True),
        "one bit": encode(image.convert("1"), "BMP"),
        "avif": encode(image, "AVIF"),
        "wide gamut": encode(image, "JPEG", icc_profile=rgb_profile()),
        "srgb": encode(image, "PNG", icc_profile=rgb_profile(SRGB)),
        "gray": encode(image.convert("L"), "PNG", icc_profile=gray_profile(1.0)),
        "gray in rgb": encode(image.convert("L"), "PNG", icc_profile=rgb_profile(gamma=1.0)),
        "damaged profile": encode(image, "PNG", icc_profile=rgb_profile()[:300]),
        "profile for other pixels": encode(image, "PNG", icc_profile=cmyk_profile()),
    }


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("resize", get_args(Preprocessing.__annotations__["resize"]))
def test_every_pixel_equals_that_of_training(resize: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    for name, content in files().items():
        path.write_bytes(content)
        for side in (32, 65):
            found = onnx_example.decode(path, side, resize)
            preprocessing = Preprocessing(side, resize)  # type: ignore[arg-type]
            assert np.array_equal(found, decode(content, preprocessing)), (name, side)
        found = onnx_example.decode(path, 32, resize, decoder=2)
        preprocessing = Preprocessing(32, resize, decoder=2)  # type: ignore[arg-type]
        assert np.array_equal(found, decode(content, preprocessing)), name


def refused() -> dict[str, bytes]:
    jpeg, image = encode(photo(1, 403, 307), "JPEG"), noise()
    progressive = encode(image, "JPEG", progressive=True)
    return {
        "half a JPEG": jpeg[: len(jpeg) // 2],
        "half a PNG": encode(image, "PNG")[:900],
        "JPEG 2000": encode(image, "JPEG2000"),
        "32 bits": encode(image.convert("F"), "TIFF"),
        "108 megapixels, progressive": with_size(progressive, b"\xff\xc2"),
    }


@pytest.mark.parametrize("kind", refused())
def test_it_refuses_what_the_product_refuses(kind: str, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(refused()[kind])
    with pytest.raises(UnreadableError):
        decode(refused()[kind], Preprocessing(32))
    with pytest.raises(OSError, match=r"image|truncated|pixels"):
        onnx_example.decode(tmp_path / "image", 32, "crop")


@pytest.mark.parametrize("side", [32, 1500])
def test_a_jpeg_of_108_megapixels_is_read_as_in_training(side: int, tmp_path: Path) -> None:
    content = with_size(encode(photo(1, 403, 307), "JPEG"), b"\xff\xc0")
    (tmp_path / "image").write_bytes(content)
    found = onnx_example.decode(tmp_path / "image", side, "crop")
    assert np.array_equal(found, decode(content, Preprocessing(side)))
