"""docs/onnx_example.py decodes the same pixels as training, with Pillow and numpy alone."""

import ast
from pathlib import Path
from typing import get_args

import numpy as np
import onnx_example
import pytest
from PIL import Image

from images import encode, oriented, photo
from neither.data.decode import decode
from neither.data.preprocessing import Preprocessing
from scripts import ROOT

EXAMPLE = ROOT / "docs" / "onnx_example.py"


def test_it_imports_neither_torch_nor_this_project() -> None:
    tree = ast.parse(EXAMPLE.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
             for alias in node.names}  # fmt: skip
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} == {
        "PIL", "json", "numpy", "onnxruntime", "pathlib", "sys",
    }  # fmt: skip


def files() -> dict[str, bytes]:
    """Return files of all formats, orientations and modes, some decoded at a reduced size."""
    image = photo(1, 403, 307)
    depth = Image.fromarray(np.random.default_rng(0).integers(0, 2**16, (40, 61), dtype=np.uint16))
    alpha = image.convert("RGBA")
    alpha.putalpha(photo(2, 403, 307).convert("L"))
    oriented_files = {f"{kind} {turn}": oriented(image, kind, turn)
              for kind in ("JPEG", "PNG", "TIFF") for turn in range(1, 9)}  # fmt: skip
    return oriented_files | {
        "cmyk": oriented(image.convert("CMYK"), "JPEG", 6),
        "grey": encode(image.convert("L"), "JPEG", progressive=True),
        "16 bit png": encode(depth, "PNG"),
        "16 bit tiff": encode(depth, "TIFF"),
        "palette": encode(image.convert("P"), "PNG", transparency=3),
        "alpha": encode(alpha, "PNG"),
        "webp": encode(alpha, "WEBP"),
        "gif": encode(image, "GIF"),
        "one bit": encode(image.convert("1"), "BMP"),
        "thin": encode(photo(3, 500, 3), "PNG"),
    }


@pytest.mark.parametrize("resize", get_args(Preprocessing.__annotations__["resize"]))
def test_every_pixel_equals_that_of_training(resize: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    for name, content in files().items():
        path.write_bytes(content)
        for side in (32, 65):
            found = onnx_example.decode(path, side, resize)
            wanted = decode(content, Preprocessing(side, resize))  # type: ignore[arg-type]
            assert np.array_equal(found, wanted), (name, side)
