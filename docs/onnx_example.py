"""Classify images with an exported ONNX file, without torch and without neither.

Usage: python docs/onnx_example.py MODEL.onnx IMAGE...    (pip install onnxruntime pillow numpy)
"""

import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
MAX_PIXELS = {"WEBP": 30_000_000, "AVIF": 30_000_000}  # of others 2**26
Image.MAX_IMAGE_PIXELS = None  # replaced by these limits, which are for what is decoded


def decode(path: str | Path, side: int, resize: str, decoder: int = 3) -> NDArray[np.uint8]:
    """Return (side, side, 3) uint8 RGB: the pixels that the network was trained on."""
    content = Path(path).read_bytes()
    stream = io.BytesIO(content)
    with Image.open(stream, formats=FORMATS) as file:
        is_jpeg = file.format in ("JPEG", "MPO")
        if is_jpeg and content.rfind(b"\xff\xd9", stream.tell()) < 0:
            raise OSError(f"{path}: the end of this JPEG is missing")
        # A large JPEG is decoded at a fraction of its size, which may end in a partial pixel.
        least, divisor = round(1.5 * side), 1
        limit = MAX_PIXELS.get(file.format or "", 2**26)
        if is_jpeg and "progressive" not in file.info:  # all of a progressive one is decoded
            while divisor < 8 and file.width * file.height > limit * divisor**2:
                divisor *= 2
        if file.width * file.height > limit * divisor**2:
            raise OSError(f"{path}: more than {limit:,} pixels")
        least = min(least, min(file.size) // divisor)
        draft = file.draft("RGB", (least, least))
        padding = np.subtract(file.size, draft[1][2:] if draft else file.size)
        file.load()
        orientation = file.getexif().get(0x0112, 1)
        image = ImageOps.exif_transpose(file)
    profile = image.info.get("icc_profile") if decoder > 2 else None
    mode = "CMYK" if image.mode == "CMYK" else "L" if image.mode[0] in "1LI" else "RGB"
    if image.mode in ("I", "F"):
        raise OSError(f"{path}: 32-bit pixels, whose range is not known")
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    convert = color_transform(profile, mode) if profile else None
    padding = padding[::-1] if orientation >= 5 else padding
    corner = padding * [orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)]
    size = image.size - padding
    if resize == "crop":
        corner, size = corner + (size - min(size)) / 2, np.repeat(min(size), 2)
    scale = size / max(size) if resize == "pad" else np.ones(2)
    width, height = (max(1, round(each * side)) for each in scale.tolist())
    box = (*corner.tolist(), *(corner + size).tolist())
    image = image if convert and convert.input_mode == "CMYK" else image.convert("RGB")
    small = image.resize((width, height), Image.Resampling.BILINEAR, box, 2.0)
    if convert:
        small = convert.apply(small.convert(convert.input_mode))
    square = Image.new("RGB", (side, side), (128, 128, 128))
    square.paste(small, ((side - width) // 2, (side - height) // 2))
    return np.array(square)


def color_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the conversion to sRGB; None for sRGB itself, and for an unsuitable profile."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        own = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}[source.profile.xcolor_space]
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), own, "RGB")
    except (ImageCms.PyCMSError, OSError, KeyError):
        return None
    if mode != own and (mode, own) != ("L", "RGB"):
        return None
    levels = np.linspace(0, 255, 16).round().astype(np.uint8)
    colors = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(16, -1, 3)
    image = Image.fromarray(colors).convert(own)
    difference = np.asarray(transform.apply(image), int) - np.asarray(image.convert("RGB"))
    is_srgb = own != "CMYK" and np.abs(difference).max() <= 3
    return None if is_srgb else transform


def decide(probs: NDArray[np.float32], metadata: Mapping[str, str]) -> str:
    """Return the most probable class, or "unsure" below its threshold."""
    predicted: str = json.loads(metadata["classes"])[probs.argmax()]
    # Files of earlier versions have one threshold for all classes.
    has_two = "certified" in metadata and predicted == metadata.get("reject_class")
    threshold = float(metadata.get("reject_threshold" if has_two else "threshold", 0))
    return predicted if probs.max() >= threshold else "unsure"


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    session = onnxruntime.InferenceSession(sys.argv[1])
    metadata = session.get_modelmeta().custom_metadata_map
    side, decoder = int(metadata["image_size"]), int(metadata.get("decoder", 2))
    classes = json.loads(metadata["classes"])
    if metadata.get("certified") == "false":
        print("the target precision of these decisions is not certified", file=sys.stderr)
    for name in sys.argv[2:]:
        pixels = decode(name, side, metadata["resize"], decoder)
        (probs,) = session.run(None, {"images": pixels[None]})[0]  # takes batches of any size
        print(
            name,
            decide(probs, metadata),
            *(f"{label}={prob:.6f}" for label, prob in zip(classes, probs, strict=True)),
        )
