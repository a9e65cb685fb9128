"""Change each training image in its own way, but compute a whole batch at once.

Three steps on the computing device: one affine warp (crop, aspect, flip, rotation), one linear map
of the colours (brightness, contrast, saturation, grey, and the network's normalisation), and one
erased rectangle. Which change an image gets depends on (seed, epoch, place) alone.

Put a part of one training image into another, and into its target the share that it takes.

CutMix (Yun et al., "CutMix: regularization strategy to train strong classifiers with localizable
features", 2019). Images are partners two by two in the epoch's order, so which image gets what
depends on (seed, epoch, place) alone, however batches are cut.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from neither.config.schema import Augmentation
from neither.data.preprocessing import Preprocessing

NUM_UNIFORMS = 18  # uniform numbers that one image needs

_ASPECT = 4 / 3  # a crop's width over its height goes from the inverse of this up to this
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_ERASED_SHARE = (0.02, 0.25)  # of the area (Zhong et al., "Random erasing", 2017, took 0.4)
_ERASED_ASPECT = 3.0


def augment(
    pixels: Tensor, numbers: Tensor, settings: Augmentation, preprocessing: Preprocessing
) -> Tensor:
    """Turn pixels into the network's input, each image changed as its own numbers say.

    The output squares have T pixels a side, S times the resolution of the settings.

    Args:
        pixels: (B, S, S, 3) uint8 RGB.
        numbers: (B, NUM_NUMBERS) uniform in [0, 1), on the same device.
        settings: how far the changes may go.
        preprocessing: its mean and standard deviation.

    Returns:
        (B, 3, T, T) float32, channels last in memory.
    """
    crop, color, erasure = numbers[:, :6], numbers[:, 6:10], numbers[:, 10:]
    # One pass from bytes to planes of floats; all that follows reads memory in order.
    planes = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    middle = planes.mean(dim=(2, 3))
    grid = _grid(_warp(crop, settings), round(settings.train_scale * pixels.shape[1]))
    planes = F.grid_sample(planes, grid, padding_mode="reflection", align_corners=False)
    planes = _recolor(planes, middle, color, settings, preprocessing)
    planes = _erase(planes, erasure, settings.random_erasing)
    return planes.contiguous(memory_format=torch.channels_last)


def _between(numbers: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * numbers


def _warp(numbers: Tensor, settings: Augmentation) -> Tensor:
    """Map places in the output square to places in the input square, both in [-1, 1]; (B, 2, 3)."""
    area = _between(numbers[:, 0], *settings.crop_scale)
    stretch = torch.exp(_between(numbers[:, 1], -1, 1) * (math.log(_ASPECT) / 2))
    side = area.sqrt()
    stretch = stretch.clamp(min=side, max=1 / side)  # so that the crop lies within, area and all
    width, height = side * stretch, side / stretch
    x = _between(numbers[:, 2], -1, 1) * (1 - width)
    y = _between(numbers[:, 3], -1, 1) * (1 - height)
    if settings.horizontal_flip:
        width = torch.where(numbers[:, 4] < 0.5, -width, width)
    angle = _between(numbers[:, 5], -1, 1) * math.radians(settings.rotation_degrees)
    cos, sin = angle.cos(), angle.sin()
    rows = [width * cos, -height * sin, x, width * sin, height * cos, y]
    return torch.stack(rows, dim=1).view(-1, 2, 3)


def _grid(warp: Tensor, size: int) -> Tensor:
    """Return where each output pixel is read, (B, T, T, 2): `F.affine_grid` in half the time."""
    along = (2 * torch.arange(size, device=warp.device) + 1) / size - 1
    across, down, shift = warp[:, None, :, :].unbind(dim=3)
    columns = along[:, None] * across + shift
    rows = along[:, None] * down
    return rows[:, :, None] + columns[:, None, :]


def _recolor(
    planes: Tensor,
    middle: Tensor,
    numbers: Tensor,
    settings: Augmentation,
    preprocessing: Preprocessing,
) -> Tensor:
    """Apply brightness, contrast, saturation and normalisation as one matrix and one offset.

    Planes are (B, 3, T, T), of 0 to 255; `middle` is (B, 3), the mean colour of each original.
    """
    change = 1 + _between(numbers[:, :3], -1, 1) * settings.color_jitter
    brightness, contrast, saturation = change[:, :, None, None].unbind(dim=1)
    saturation = torch.where(numbers[:, 3, None, None] < settings.grayscale, 0.0, saturation)
    luma = planes.new_tensor(_LUMA)
    grey = luma.expand(3, 3)
    matrix = contrast * brightness * (saturation * torch.eye(3).to(grey) + (1 - saturation) * grey)
    # Contrast turns around the mean grey of the image, which no change of saturation moves.
    offset = (1 - contrast) * brightness * (middle @ luma)[:, None, None]
    mean = 255 * planes.new_tensor(preprocessing.mean)[:, None]
    std = 255 * planes.new_tensor(preprocessing.std)[:, None]
    mixed = torch.baddbmm((offset - mean) / std, matrix / std, planes.flatten(2))
    return mixed.view_as(planes)


def _erase(images: Tensor, numbers: Tensor, probability: float) -> Tensor:
    """Paint over one rectangle of some images with one random colour."""
    if probability == 0:
        return images
    size = images.shape[-1]
    side = _between(numbers[:, 1], *_ERASED_SHARE).sqrt()
    stretch = torch.exp(_between(numbers[:, 2], -1, 1) * (math.log(_ERASED_ASPECT) / 2))
    hit = numbers[:, 0] < probability
    mask = rectangle_masks(size, hit, numbers[:, 3:5], side * stretch / 2, side / stretch / 2)
    fill = _between(numbers[:, 5:8], -1, 1)[:, :, None, None]
    return torch.where(mask[:, None], fill, images)


def rectangle_masks(
    size: int, hit: Tensor, middle: Tensor, half_width: Tensor, half_height: Tensor
) -> Tensor:
    """Say which pixels lie in one rectangle of each image.

    Args:
        size: S, pixels a side of the images.
        hit: (B,) bool; other images have no rectangle.
        middle: (B, 2), its x and y, as shares of the side.
        half_width: (B,) of the rectangle, likewise.
        half_height: (B,) likewise.

    Returns:
        (B, S, S) bool.
    """
    along = (torch.arange(size, device=hit.device) + 0.5) / size
    inside_x = (along - middle[:, 0, None]).abs() < half_width[:, None]
    inside_y = (along - middle[:, 1, None]).abs() < half_height[:, None]
    return (inside_y & hit[:, None])[:, :, None] & inside_x[:, None, :]


NUM_CUTMIX_UNIFORMS = 4  # uniform numbers that one image needs


def cutmix(
    images: Tensor, targets: Tensor, numbers: Tensor, probability: float
) -> tuple[Tensor, Tensor]:
    """Paste a square part of each image's partner over some images.

    Args:
        images: (B, 3, T, T); the first and second are partners, the third and fourth, and so on;
            a last one without a partner stays as it is.
        targets: (B, C) probabilities.
        numbers: (B, NUM_NUMBERS) uniform in [0, 1), on the same device.
        probability: of an image to be changed.

    Returns:
        New images and targets of the same shapes.
    """
    num, size = len(images), images.shape[-1]
    partners = (torch.arange(num, device=images.device) ^ 1).clamp(max=num - 1)
    half = numbers[:, 1].sqrt() / 2  # of the side, so that shares of the area are uniform
    taken = rectangle_masks(size, numbers[:, 0] < probability, numbers[:, 2:], half, half)
    shares = taken.float().mean(dim=(1, 2))[:, None]  # what lies beyond the edges does not count
    return (
        torch.where(taken[:, None], images[partners], images),
        torch.lerp(targets, targets[partners], shares),
    )
