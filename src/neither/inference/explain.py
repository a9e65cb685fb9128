"""Heat maps: which parts of an image speak for its predicted class, and which against it."""

from pathlib import Path, PurePosixPath

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from neither.data.decode import decode_file
from neither.data.preprocessing import normalize
from neither.inference.classifier import Classifier
from neither.inference.prediction import Prediction
from neither.models.cam import class_contrast_cam
from neither.runtime import files
from neither.runtime.errors import DataError

_CAPTION_HEIGHT = 24  # pixels
_SIDE = 256  # pixels of each of the two images that are drawn side by side
_FOR, _AGAINST = (220, 40, 30), (30, 80, 220)  # red and blue, RGB
_MAX_OPACITY = 0.65


class Explainer:
    """Writes each image beside its class-contrast CAM, one PNG file an image."""

    def __init__(self, classifier: Classifier, folder: Path) -> None:
        """Check that the network has class activation maps, and make the folder.

        Raises:
            OutputError: if the folder cannot be made or written.
            UsageError: if the network has no class activation maps.
        """
        size = classifier.preprocessing.image_size
        compute_heat_map(classifier, np.zeros((size, size, 3), np.uint8), 0)
        files.make_folder(folder)
        self._classifier, self._folder = classifier, folder

    def draw(self, path: Path, relative_path: str, prediction: Prediction) -> None:
        """Write `folder/<relative_path>.png`, whose parts / separates.

        Raises:
            DataError: if the image has become unreadable.
        """
        decoded = decode_file(path, self._classifier.preprocessing)
        if (pixels := decoded.pixels) is None:
            raise DataError(decoded.reason)
        label = self._classifier.classes.index(prediction.predicted)
        cam = compute_heat_map(self._classifier, pixels, label)
        image = _add_caption(draw_heat_map(pixels, cam), prediction)
        target = self._folder.joinpath(*PurePosixPath(f"{relative_path}.png").parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_writer(target) as file:
            image.save(file, "PNG")


@torch.inference_mode()
def compute_heat_map(classifier: Classifier, pixels: NDArray[np.uint8], label: int) -> Tensor:
    """Compute the class-contrast CAM of one image for the class of index `label`.

    Pixels are (S, S, 3) uint8 RGB; the result is (h, w) float32 on the CPU.
    """
    batch = torch.from_numpy(pixels[None]).to(classifier.device)
    images = normalize(batch, classifier.preprocessing)
    return class_contrast_cam(classifier.network, images, torch.tensor([label]))[0].float().cpu()


def draw_heat_map(pixels: NDArray[np.uint8], cam: Tensor, side: int = _SIDE) -> NDArray[np.uint8]:
    """Draw an image, and beside it the same in grey under its CAM: red for positive, blue negative.

    The strongest position has the full colour, so colours of two images cannot be compared. Pixels
    are (S, S, 3) uint8 RGB, the CAM (h, w) float, the result (A, 2A, 3) uint8 RGB for a side of A.
    """
    image = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
    cam = F.interpolate(cam[None, None], size=(side, side), mode="bilinear",
                        align_corners=False)[0, 0]  # fmt: skip
    strength = (cam / cam.abs().max().clamp(min=1e-12)).numpy()[..., None]
    grey = np.asarray(image.convert("L").convert("RGB"), dtype=np.float32)
    colour = np.where(strength > 0, np.array(_FOR, np.float32), np.array(_AGAINST, np.float32))
    opacity = _MAX_OPACITY * np.abs(strength)
    blended = ((1 - opacity) * grey + opacity * colour).round().astype(np.uint8)
    return np.concatenate([np.asarray(image), blended], axis=1)


def _add_caption(pixels: NDArray[np.uint8], prediction: Prediction) -> Image.Image:
    height, width, _ = pixels.shape
    image = Image.new("RGB", (width, height + _CAPTION_HEIGHT), "white")
    image.paste(Image.fromarray(pixels))
    text = f"{prediction.predicted} {prediction.confidence:.2f}: red is for it, blue against it"
    ImageDraw.Draw(image).text((6, height + 3), text, "black", ImageFont.load_default(14))
    return image
