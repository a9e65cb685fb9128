"""Heat maps: class activation maps, and images that show what speaks for and against a class."""

from pathlib import Path, PurePosixPath

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from neither.data.decode import decode_file
from neither.data.preprocessing import normalize
from neither.inference.classifier import Classifier
from neither.inference.prediction import Prediction
from neither.models.networks import BackboneNetwork, FlipTTA, SmallCNN, SoftmaxRegression
from neither.runtime import files
from neither.runtime.errors import DataError, UsageError

_CAPTION_HEIGHT = 24  # pixels
_SIDE = 256  # pixels of each of the two images that are drawn side by side
_FOR, _AGAINST = (220, 40, 30), (30, 80, 220)  # red and blue, RGB
_MAX_OPACITY = 0.65


def class_activation_maps(network: nn.Module, images: Tensor) -> Tensor:
    """Compute the class activation maps of images (CAM; Zhou et al., 2016).

    The head is linear in the pooled features, so the contribution of each position to a logit is
    exact. A network of torchvision or timm has maps if its head gets the average of a feature map,
    as in ResNets, or its maximum: then only the position of the maximum contributes.

    Args:
        network: one of this project's, in evaluation mode.
        images: (B, 3, H, W) float32, normalised.

    Returns:
        (B, C, h, w) float32. The sum over positions is the logits less the bias of the head.

    Raises:
        UsageError: if the head of such a network gets neither.
    """
    if isinstance(network, FlipTTA):
        flipped = class_activation_maps(network.network, images.flip(3)).flip(3)
        return (class_activation_maps(network.network, images) + flipped) / 2
    if isinstance(network, SoftmaxRegression):
        weights = network.head.weight.reshape(-1, *images.shape[1:])
        return torch.einsum("bkhw,ckhw->bchw", images, weights)
    if isinstance(network, SmallCNN):
        parts = _split_average(network.stages(network.stem(images)))
    elif isinstance(network, BackboneNetwork):
        parts = _split_features(network.backbone, images)
    else:
        raise TypeError(f"{type(network).__name__} has no class activation maps")
    maps: Tensor = torch.einsum("bkhw,ck->bchw", parts, network.head.weight)
    return maps


def class_contrast_cam(network: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Compute the class-contrast CAM: the map of a class less the mean of all maps.

    Softmax depends on differences of logits only, so this is what decides. There is one of the (B,)
    classes for each image; the result is (B, h, w) float32. Else as `class_activation_maps`.
    """
    maps = class_activation_maps(network, images)
    return maps[torch.arange(len(classes)), classes] - maps.mean(dim=1)


def _split_average(feature_map: Tensor) -> Tensor:
    """Return what each position adds to the average over a (B, K, h, w) feature map."""
    return feature_map / feature_map.shape[2:].numel()


def _split_maximum(feature_map: Tensor) -> Tensor:
    """Return what each position adds to the maximum: equal positions add equal parts of it."""
    is_largest = feature_map == feature_map.amax(dim=(2, 3), keepdim=True)
    return feature_map * is_largest / is_largest.sum(dim=(2, 3), keepdim=True)


def _split_features(backbone: nn.Module, images: Tensor) -> Tensor:
    """Return what each position adds to the features, (B, K, h, w).

    The feature map is the one whose average or maximum the features are.
    """
    if isinstance(backbone, FlipTTA):
        flipped = _split_features(backbone.network, images.flip(3)).flip(3)
        return (_split_features(backbone.network, images) + flipped) / 2
    candidates: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2:].numel() > 1:
            candidates.append(output)

    handles = [module.register_forward_hook(keep) for module in backbone.modules()]
    try:
        features = backbone(images)
    finally:
        for handle in handles:
            handle.remove()
    atol = 1e-5 * float(features.abs().max())
    # Some networks of timm have the channels last: (B, h, w, K).
    for candidate in candidates + [each.movedim(3, 1) for each in candidates]:
        if candidate.shape[:2] != features.shape:
            continue
        for split in (_split_average, _split_maximum):
            parts = split(candidate)
            if parts.sum(dim=(2, 3)).allclose(features, rtol=1e-4, atol=atol):
                return parts
    raise UsageError(
        f"--explain: with images of {images.shape[2]} pixels the head of this network does not get "
        "the average or maximum of a feature map, so it has no class activation maps"
    )


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
