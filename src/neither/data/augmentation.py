"""Random changes of training images, each image in its own way, computed for a whole batch at once.

`augment` has three steps: one affine warp (crop, aspect, flip, rotation), one linear map of the
colors (brightness, contrast, saturation, grayscale, and the network's normalization), one erased
rectangle. `cutmix` pastes a part of one image into another. What happens to an image depends on its
random numbers alone, so on (seed, epoch, index in the epoch's order). With a teacher the
crop is one of a few that depend on (seed, image), so that the teacher can answer them beforehand.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from neither.config.schema import Augmentation
from neither.data.preprocessing import Preprocessing

NUM_UNIFORMS = 18  # numbers that `augment` needs for an image
NUM_CROP_UNIFORMS = 4  # the first of them, which place the crop
NUM_CUTMIX_UNIFORMS = 4  # and `cutmix`

_MAX_ASPECT = 4 / 3  # of a crop's width to its height; the inverse is the smallest
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_ERASED_AREA = (0.02, 0.25)  # as a fraction (Zhong et al., "Random erasing", 2017: up to 0.4)
_MAX_ERASED_ASPECT = 3.0


def augment(
    pixels: Tensor, uniforms: Tensor, settings: Augmentation, preprocessing: Preprocessing
) -> Tensor:
    """Turn pixels into the network's input, each image changed by its own random numbers.

    The output has T pixels a side, `settings.train_scale` times S.

    Args:
        pixels: (B, S, S, 3) uint8 RGB.
        uniforms: (B, NUM_UNIFORMS) in [0, 1), on the same device.
        settings: how large the changes can be.
        preprocessing: its mean and standard deviation.

    Returns:
        (B, 3, T, T) float32, channels last in memory.
    """
    warp, color, erasing = uniforms[:, :6], uniforms[:, 6:10], uniforms[:, 10:]
    planes = _to_planes(pixels)
    mean_color = planes.mean(dim=(2, 3))
    planes = _warp(planes, warp, settings, round(settings.train_scale * pixels.shape[1]))
    planes = _recolor(planes, mean_color, color, settings, preprocessing)
    planes = _erase(planes, erasing, settings.random_erasing)
    return planes.contiguous(memory_format=torch.channels_last)


def crop(pixels: Tensor, uniforms: Tensor, settings: Augmentation) -> Tensor:
    """Crop images as `augment` does with the same uniforms, scaled to their size before.

    Args:
        pixels: (B, S, S, 3) uint8 RGB, at any size.
        uniforms: (B, NUM_CROP_UNIFORMS) in [0, 1), on the same device.
        settings: how small a crop can be.

    Returns:
        (B, S, S, 3) uint8 RGB.
    """
    upright = settings.model_copy(update={"horizontal_flip": False, "rotation_degrees": 0.0})
    planes = _to_planes(pixels)
    planes = _warp(planes, F.pad(uniforms, (0, 2)), upright, pixels.shape[1])
    return planes.round().to(torch.uint8).permute(0, 2, 3, 1)


def _to_planes(pixels: Tensor) -> Tensor:
    """Turn bytes into float planes in one pass; all later steps read memory in order."""
    return pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)


def _warp(planes: Tensor, uniforms: Tensor, settings: Augmentation, size: int) -> Tensor:
    grid = _grid(_affine_maps(uniforms, settings), size)
    return F.grid_sample(planes, grid, padding_mode="reflection", align_corners=False)


def _scale(uniforms: Tensor, low: float, high: float) -> Tensor:
    """Map [0, 1) to [low, high)."""
    return low + (high - low) * uniforms


def _affine_maps(uniforms: Tensor, settings: Augmentation) -> Tensor:
    """Return (B, 2, 3) affine maps from output to input coordinates, both in [-1, 1]."""
    area = _scale(uniforms[:, 0], *settings.crop_scale)
    stretch = torch.exp(_scale(uniforms[:, 1], -1, 1) * (math.log(_MAX_ASPECT) / 2))
    side = area.sqrt()
    stretch = stretch.clamp(min=side, max=1 / side)  # the crop is inside, area and all
    width, height = side * stretch, side / stretch
    x = _scale(uniforms[:, 2], -1, 1) * (1 - width)
    y = _scale(uniforms[:, 3], -1, 1) * (1 - height)
    if settings.horizontal_flip:
        width = torch.where(uniforms[:, 4] < 0.5, -width, width)
    angle = _scale(uniforms[:, 5], -1, 1) * math.radians(settings.rotation_degrees)
    cos, sin = angle.cos(), angle.sin()
    rows = [width * cos, -height * sin, x, width * sin, height * cos, y]
    return torch.stack(rows, dim=1).view(-1, 2, 3)


def _grid(warp: Tensor, size: int) -> Tensor:
    """Return the (B, T, T, 2) input coordinates of all pixels: `F.affine_grid` in half the time."""
    centers = (2 * torch.arange(size, device=warp.device) + 1) / size - 1
    x_axis, y_axis, shift = warp[:, None, :, :].unbind(dim=3)
    columns = centers[:, None] * x_axis + shift
    rows = centers[:, None] * y_axis
    return rows[:, :, None] + columns[:, None, :]


def _recolor(
    planes: Tensor,
    mean_color: Tensor,
    uniforms: Tensor,
    settings: Augmentation,
    preprocessing: Preprocessing,
) -> Tensor:
    """Apply brightness, contrast, saturation and normalization as one matrix and one offset.

    Planes are (B, 3, T, T), 0 to 255; `mean_color` is (B, 3), of each image before the warp.
    """
    change = 1 + _scale(uniforms[:, :3], -1, 1) * settings.color_jitter
    brightness, contrast, saturation = change[:, :, None, None].unbind(dim=1)
    saturation = torch.where(uniforms[:, 3, None, None] < settings.grayscale, 0.0, saturation)
    luma = planes.new_tensor(_LUMA)
    gray = luma.expand(3, 3)
    matrix = contrast * brightness * (saturation * torch.eye(3).to(gray) + (1 - saturation) * gray)
    # Contrast is relative to the mean gray of the image, which saturation leaves as it is.
    offset = (1 - contrast) * brightness * (mean_color @ luma)[:, None, None]
    mean = 255 * planes.new_tensor(preprocessing.mean)[:, None]
    std = 255 * planes.new_tensor(preprocessing.std)[:, None]
    recolored = torch.baddbmm((offset - mean) / std, matrix / std, planes.flatten(2))
    return recolored.view_as(planes)


def _erase(images: Tensor, uniforms: Tensor, probability: float) -> Tensor:
    """Fill one rectangle of some images with one random color."""
    if probability == 0:
        return images
    size = images.shape[-1]
    side = _scale(uniforms[:, 1], *_ERASED_AREA).sqrt()
    stretch = torch.exp(_scale(uniforms[:, 2], -1, 1) * (math.log(_MAX_ERASED_ASPECT) / 2))
    chosen = uniforms[:, 0] < probability
    mask = _rectangle_masks(size, chosen, uniforms[:, 3:5], side * stretch / 2, side / stretch / 2)
    fill = _scale(uniforms[:, 5:8], -1, 1)[:, :, None, None]
    return torch.where(mask[:, None], fill, images)


def cutmix(
    images: Tensor, targets: Tensor, uniforms: Tensor, probability: float
) -> tuple[Tensor, Tensor]:
    """Paste a square part of each image's partner into some images, and blend their targets.

    CutMix (Yun et al., "CutMix: regularization strategy to train strong classifiers with
    localizable features", 2019). Partners are neighbors in the epoch's order, so that they do not
    depend on how batches are cut.

    Args:
        images: (B, 3, T, T). The first and second are partners, the third and fourth, and so on; a
            last one without a partner is not changed.
        targets: (B, C) probabilities.
        uniforms: (B, NUM_CUTMIX_UNIFORMS) in [0, 1), on the same device.
        probability: of an image to be changed.

    Returns:
        New images, and targets weighted by the fractions of the area, of the same shapes.
    """
    num, size = len(images), images.shape[-1]
    partners = (torch.arange(num, device=images.device) ^ 1).clamp(max=num - 1)
    half = uniforms[:, 1].sqrt() / 2  # of the side, so that the fraction of the area is uniform
    pasted = _rectangle_masks(size, uniforms[:, 0] < probability, uniforms[:, 2:], half, half)
    fractions = pasted.float().mean(dim=(1, 2))[:, None]  # what is beyond the edges does not count
    return (
        torch.where(pasted[:, None], images[partners], images),
        torch.lerp(targets, targets[partners], fractions),
    )


def _rectangle_masks(
    size: int, chosen: Tensor, center: Tensor, half_width: Tensor, half_height: Tensor
) -> Tensor:
    """Return (B, S, S) bool, which pixels are in one rectangle of each chosen image.

    Its (B, 2) center, x and y, and the (B,) halves of its sides are fractions of the image's side.
    """
    centers = (torch.arange(size, device=chosen.device) + 0.5) / size
    inside_x = (centers - center[:, 0, None]).abs() < half_width[:, None]
    inside_y = (centers - center[:, 1, None]).abs() < half_height[:, None]
    return (inside_y & chosen[:, None])[:, :, None] & inside_x[:, None, :]
