"""Which parts of an image spoke for its class, and which against it."""

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

_CAPTION = 24  # pixels below the two
_SIDE = 256  # pixels of each of the two pictures that are drawn side by side
_FOR, _AGAINST = (220, 40, 30), (30, 80, 220)
_STRONGEST = 0.65  # of the colour over the picture


class Explainer:
    """Draws the class-activation map (Zhou et al., 2016) of each image beside it.

    The last layer averages its features over all places, so each place's share of a logit is known
    exactly: the shares sum to the logit, less its bias. As only differences of logits count for
    softmax, what is drawn is the share of the predicted class less the mean of all classes.
    """

    def __init__(self, classifier: Classifier, folder: Path) -> None:
        """Try the network, and make the folder.

        Raises:
            OutputError: if it cannot be made or written.
            UsageError: if nothing is known of places in this network.
        """
        size = classifier.preprocessing.image_size
        contrast_map(classifier, np.zeros((size, size, 3), np.uint8), 0)
        files.make_folder(folder)
        self._classifier, self._folder = classifier, folder

    def draw(self, path: Path, below: str, prediction: Prediction) -> None:
        """Write `folder/<below>.png`: the image as the network saw it, and under its evidence.

        Args:
            path: of the image.
            below: its path below the folder that was given.
            prediction: of this image.
        """
        decoded = decode_file(path, self._classifier.preprocessing)
        if decoded.pixels is None:  # gone since it was predicted
            return
        number = self._classifier.classes.index(prediction.predicted)
        evidence = draw_heat_map(
            decoded.pixels, contrast_map(self._classifier, decoded.pixels, number)
        )
        picture = _with_caption(evidence, prediction)
        target = self._folder.joinpath(*PurePosixPath(f"{below}.png").parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_writer(target) as file:
            picture.save(file, "PNG")


def _with_caption(picture: NDArray[np.uint8], prediction: Prediction) -> Image.Image:
    """Say below a picture which class its colours are about."""
    height, width, _ = picture.shape
    page = Image.new("RGB", (width, height + _CAPTION), "white")
    page.paste(Image.fromarray(picture))
    text = f"{prediction.predicted} {prediction.confidence:.2f}: red spoke for it, blue against it"
    ImageDraw.Draw(page).text((6, height + 3), text, "black", ImageFont.load_default(14))
    return page


@torch.inference_mode()
def contrast_map(classifier: Classifier, pixels: NDArray[np.uint8], number: int) -> Tensor:
    """Return the share of each place in the lead of a class over the mean of all.

    Args:
        classifier: whose network is asked.
        pixels: (S, S, 3) uint8 RGB, as `decode` returns them.
        number: of the class.

    Returns:
        (h, w) float32 on the CPU.
    """
    images = normalize(torch.from_numpy(pixels[None]).to(classifier.device),
                       classifier.preprocessing)  # fmt: skip
    return class_contrast_cam(classifier.network, images, torch.tensor([number]))[0].float().cpu()


def draw_heat_map(
    pixels: NDArray[np.uint8], evidence: Tensor, side: int = _SIDE
) -> NDArray[np.uint8]:
    """Draw an image, and beside it the same under its evidence: red for the class, blue against it.

    The strongest place of the map has the full colour, so colours of two images cannot be compared.

    Args:
        pixels: (S, S, 3) uint8 RGB.
        evidence: (h, w) float.
        side: pixels a side of each of the two, A.

    Returns:
        (A, 2A, 3) uint8 RGB.
    """
    plain = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
    fine = F.interpolate(evidence[None, None], size=(side, side), mode="bilinear",
                         align_corners=False)[0, 0]  # fmt: skip
    strength = (fine / fine.abs().max().clamp(min=1e-12)).numpy()[..., None]
    grey = np.asarray(plain.convert("L").convert("RGB"), dtype=np.float32)
    colour = np.where(strength > 0, np.array(_FOR, np.float32), np.array(_AGAINST, np.float32))
    share = _STRONGEST * np.abs(strength)
    drawn = ((1 - share) * grey + share * colour).round().astype(np.uint8)
    return np.concatenate([np.asarray(plain), drawn], axis=1)
