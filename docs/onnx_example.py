"""Classify images with an exported ONNX file, without torch and without neither.

Usage: python docs/onnx_example.py MODEL.onnx IMAGE...    (pip install onnxruntime pillow numpy)
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image, ImageOps


def decode(path: str | Path, side: int, resize: str) -> NDArray[np.uint8]:
    """Return (side, side, 3) uint8 RGB: the pixels that the network was trained on."""
    with Image.open(path) as file:
        # A large JPEG is decoded at a fraction of its size, which may end in a partial pixel.
        draft = file.draft("RGB", (round(1.5 * side),) * 2)
        padding = np.subtract(file.size, draft[1][2:] if draft else file.size)
        file.load()
        orientation = file.getexif().get(0x0112, 1)
        image = ImageOps.exif_transpose(file)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    padding = padding[::-1] if orientation >= 5 else padding
    corner = padding * [orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)]
    size = image.size - padding
    if resize == "crop":
        corner, size = corner + (size - min(size)) / 2, np.repeat(min(size), 2)
    scale = size / max(size) if resize == "pad" else np.ones(2)
    width, height = (max(1, round(each * side)) for each in scale.tolist())
    box = (*corner.tolist(), *(corner + size).tolist())
    small = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR, box, 2.0)
    square = Image.new("RGB", (side, side), (128, 128, 128))
    square.paste(small, ((side - width) // 2, (side - height) // 2))
    return np.array(square)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    session = onnxruntime.InferenceSession(sys.argv[1])
    metadata = session.get_modelmeta().custom_metadata_map
    classes, threshold = json.loads(metadata["classes"]), float(metadata.get("threshold", 0))
    for name in sys.argv[2:]:
        pixels = decode(name, int(metadata["image_size"]), metadata["resize"])
        (probs,) = session.run(None, {"images": pixels[None]})[0]  # takes batches of any size
        decision = classes[probs.argmax()] if probs.max() >= threshold else "unsure"
        print(
            name,
            decision,
            *(f"{label}={prob:.6f}" for label, prob in zip(classes, probs, strict=True)),
        )
