from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from neither.config.schema import Augmentation
from neither.data.augmentation import NUM_CUTMIX_UNIFORMS, NUM_UNIFORMS, augment, cutmix
from neither.data.preprocessing import Preprocessing, normalize

SIZE = 32
SIDE = 16  # of images for CutMix
PREPROCESSING = Preprocessing(SIZE)
OFF: dict[str, Any] = {
    "crop_scale": (1.0, 1.0), "horizontal_flip": False, "rotation_degrees": 0.0,
    "color_jitter": 0.0, "grayscale": 0.0, "random_erasing": 0.0,
}  # fmt: skip
MIDDLE = 0.5  # as any of an image's numbers: no change where a change goes both ways


def only(**settings: Any) -> Augmentation:  # noqa: ANN401 - any field's type
    return Augmentation(**OFF | settings)


def pictures(num: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num, SIZE, SIZE, 3), generator=generator, dtype=torch.uint8)


def smooth(num: int) -> Tensor:
    """Draw slopes, which moving and turning change by little per pixel."""
    x, y = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
    image = np.stack([4 * x, 4 * y, 255 - 3 * x - 3 * y], axis=2).astype(np.uint8)
    return torch.from_numpy(image).expand(num, SIZE, SIZE, 3).contiguous()


def numbers(num: int, seed: int = 0) -> Tensor:
    return torch.rand(num, NUM_UNIFORMS, generator=torch.Generator().manual_seed(seed))


def apply(pixels: Tensor, drawn: Tensor, settings: Augmentation) -> Tensor:
    return augment(pixels, drawn, settings, PREPROCESSING)


def close(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> bool:
    return torch.allclose(one, other, rtol=0, atol=tolerance)


def test_normalize_takes_the_mean_and_divides_by_the_deviation() -> None:
    pixels = pictures(3)
    preprocessing = Preprocessing(SIZE, mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))
    images = normalize(pixels, preprocessing)
    assert images.shape == (3, 3, SIZE, SIZE)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    plain = (pixels.numpy() / 255 - [0.1, 0.2, 0.3]) / [0.5, 1.0, 2.0]
    assert np.allclose(images.permute(0, 2, 3, 1).numpy(), plain, atol=1e-5)


def test_with_everything_off_nothing_but_normalizing_is_left() -> None:
    pixels = pictures(20)
    assert close(apply(pixels, numbers(20), only()), normalize(pixels, PREPROCESSING))


def test_the_result_has_the_networks_form() -> None:
    pixels, drawn = pictures(5), numbers(5)
    images = apply(pixels, drawn, Augmentation())
    assert torch.equal(pixels, pictures(5))
    assert torch.equal(drawn, numbers(5))
    assert images.shape == (5, 3, SIZE, SIZE)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert images.isfinite().all()


def test_half_of_the_images_are_flipped_left_to_right() -> None:
    pixels, drawn = pictures(2).repeat(50, 1, 1, 1), numbers(100)
    images, plain = (
        apply(pixels, drawn, only(horizontal_flip=True)),
        normalize(pixels, PREPROCESSING),
    )
    same = [close(*pair) for pair in zip(images, plain, strict=True)]
    mirrored = [close(*pair) for pair in zip(images, plain.flip(3), strict=True)]
    assert all(one != other for one, other in zip(same, mirrored, strict=True))
    assert 30 < sum(mirrored) < 70


def test_a_crop_is_the_share_of_the_area_that_the_settings_say() -> None:
    pixels, drawn = smooth(200), numbers(200)
    images = apply(pixels, drawn, only(crop_scale=(0.25, 0.5)))
    steps = 4 / (255 * torch.tensor(PREPROCESSING.std))
    # A slope's steepness tells how much of the width and of the height is seen; at the edge none.
    width = (images[:, 0, 16, 17] - images[:, 0, 16, 16]) / steps[0]
    height = (images[:, 1, 17, 16] - images[:, 1, 16, 16]) / steps[1]
    area = 0.25 + 0.25 * drawn[:, 0]
    assert close(width * height, area, 1e-3)
    aspect = width / height
    assert aspect.min() > 3 / 4 - 1e-3
    assert aspect.max() < 4 / 3 + 1e-3
    assert aspect.max() / aspect.min() > 1.5
    plain = normalize(pixels, PREPROCESSING)
    for channel in range(3):  # nothing from outside the picture
        assert images[:, channel].max() <= plain[:, channel].max() + 1e-4
        assert images[:, channel].min() >= plain[:, channel].min() - 1e-4


def test_crops_reach_every_corner() -> None:
    drawn = torch.full((4, NUM_UNIFORMS), MIDDLE)
    drawn[:, 0] = 0
    drawn[:, 2:4] = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    images = apply(pictures(1).repeat(4, 1, 1, 1), drawn, only(crop_scale=(0.25, 0.25)))
    plain = normalize(pictures(1), PREPROCESSING)
    half = SIZE // 2
    quarters = [plain[..., :half, :half], plain[..., :half, half:],
                plain[..., half:, :half], plain[..., half:, half:]]  # fmt: skip
    for image, quarter in zip(images, quarters, strict=True):
        # Twice as large and sampled between pixels: the mean of 2x2 is near the pixel itself.
        shrunk = torch.nn.functional.avg_pool2d(image[None], 2)
        correlation = torch.corrcoef(torch.stack([shrunk.flatten(), quarter.flatten()]))[0, 1]
        assert correlation > 0.9


def test_a_quarter_turn_turns_by_a_quarter() -> None:
    drawn = torch.full((2, NUM_UNIFORMS), MIDDLE)
    drawn[:, 5] = torch.tensor([0.0, 1.0])
    images = apply(pictures(1).repeat(2, 1, 1, 1), drawn, only(rotation_degrees=90.0))
    plain = normalize(pictures(1), PREPROCESSING)[0]
    assert close(images[0], plain.rot90(-1, (1, 2)), 1e-3) != close(
        images[0], plain.rot90(1, (1, 2)), 1e-3
    )
    assert close(images[0].rot90(2, (1, 2)), images[1], 1e-3)


def test_grey_makes_grey_of_as_many_as_the_settings_say() -> None:
    pixels, drawn = pictures(200), numbers(200)
    std, mean = (torch.tensor(each)[:, None, None] for each in (PREPROCESSING.std,
                                                                PREPROCESSING.mean))  # fmt: skip
    for share in (0.0, 0.3, 1.0):
        images = apply(pixels, drawn, only(grayscale=share, color_jitter=0.2)) * std + mean
        is_grey = (images.amax(1) - images.amin(1)).flatten(1).amax(1) < 1e-5
        assert abs(int(is_grey.sum()) - 200 * share) <= 5 * (200 * share * (1 - share)) ** 0.5


def recolored(
    pixels: NDArray[np.uint8], brightness: float, contrast: float, saturation: float
) -> NDArray[np.float64]:
    """Do what torchvision's ColorJitter does, one step after the other and in plain words."""
    luma = np.array([0.299, 0.587, 0.114])
    image = pixels / 255 * brightness
    image = contrast * image + (1 - contrast) * (image @ luma).mean()
    image = saturation * image + (1 - saturation) * (image @ luma)[..., None]
    result: NDArray[np.float64] = (image - PREPROCESSING.mean) / PREPROCESSING.std
    return result


@given(st.lists(st.floats(0, 1, exclude_max=True, width=32), min_size=3, max_size=3),
       st.floats(0, 0.9), st.integers(0, 5))  # fmt: skip
def test_colours_change_as_a_plain_reference_does(
    drawn: list[float], color: float, seed: int
) -> None:
    row = torch.full((1, NUM_UNIFORMS), MIDDLE)
    row[0, 6:9] = torch.tensor(drawn)
    pixels = pictures(1, seed)
    image = apply(pixels, row, only(color_jitter=color))[0].permute(1, 2, 0).numpy()
    change = [1 + (2 * number - 1) * color for number in drawn]
    assert np.allclose(image, recolored(pixels[0].numpy(), *change), atol=1e-4)


def test_erasing_paints_one_rectangle_and_nothing_else() -> None:
    pixels, drawn = pictures(300), numbers(300)
    images, plain = apply(pixels, drawn, only(random_erasing=1.0)), normalize(pixels, PREPROCESSING)
    differs = ((images - plain).abs() > 1e-4).any(1)
    shares = []
    for image, mask in zip(images, differs, strict=True):
        if not mask.any():
            continue
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        box = image[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        color = box[:, :1, :1]
        assert torch.equal(box, color.expand_as(box))
        assert color.abs().max() <= 1
        shares.append(box[0].numel() / SIZE**2)
    assert len(shares) > 250
    edge = 2 * SIZE * 2 / SIZE**2  # a rectangle's border falls between pixels
    assert max(shares) <= 0.25 + edge
    assert max(shares) > 0.15


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_as_many_are_erased_as_the_settings_say(share: float) -> None:
    pixels, drawn = pictures(1).repeat(400, 1, 1, 1), numbers(400)
    drawn[:, 13:15] = MIDDLE  # in the middle, so that none falls between pixels
    images, plain = (
        apply(pixels, drawn, only(random_erasing=share)),
        normalize(pixels, PREPROCESSING),
    )
    erased = int(((images - plain).abs() > 1e-4).flatten(1).any(1).sum())
    assert abs(erased - 400 * share) <= 5 * (400 * share * (1 - share)) ** 0.5


def test_each_number_changes_something() -> None:
    settings = Augmentation(grayscale=0.5, random_erasing=0.9, rotation_degrees=30.0)
    base = torch.full((1, NUM_UNIFORMS), 0.4)
    base[0, 9] = 0.6  # not grey
    image = apply(pictures(1), base, settings)
    for column in range(NUM_UNIFORMS):
        drawn = base.clone()
        drawn[0, column] = 0.95 if column != 9 else 0.05
        assert not close(apply(pictures(1), drawn, settings), image, 1e-3), column


# CutMix


def cutmix_numbers(num: int) -> Tensor:
    return torch.rand(num, NUM_CUTMIX_UNIFORMS, generator=torch.Generator().manual_seed(0))


def flat_images(num: int) -> Tensor:
    """Return images of one colour each, the image's index."""
    return torch.arange(num)[:, None, None, None].expand(num, 3, SIDE, SIDE).float()


def test_targets_are_the_fractions_of_the_area() -> None:
    num = 64
    images, targets = cutmix(flat_images(num), torch.eye(num), cutmix_numbers(num), 1.0)
    for index, image in enumerate(images[:, 0]):
        fraction = (image == index ^ 1).float().mean()
        assert ((image == index) | (image == index ^ 1)).all()
        assert targets[index, index ^ 1] == pytest.approx(fraction.item(), abs=1e-6)
        assert targets[index, index] == pytest.approx(1 - fraction.item(), abs=1e-6)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(num))


def test_the_pasted_part_is_a_square_of_the_drawn_area_cut_at_the_edges() -> None:
    numbers = torch.tensor([[0.0, 0.25, 0.5, 0.5], [0.0, 0.25, 0.0, 0.5]])
    images, targets = cutmix(flat_images(2), torch.eye(2), numbers, 1.0)
    expected = torch.zeros(SIDE, SIDE)
    expected[4:12, 4:12] = 1
    assert torch.equal(images[0, 0], expected)
    assert torch.equal(targets[0], torch.tensor([0.75, 0.25]))
    expected = torch.ones(SIDE, SIDE)
    expected[4:12, :4] = 0  # half of it lies beyond the left edge
    assert torch.equal(images[1, 0], expected)
    assert torch.equal(targets[1], torch.tensor([0.125, 0.875]))


def test_as_many_are_changed_as_the_probability_says() -> None:
    num = 2000
    images, targets = flat_images(num), torch.eye(2).repeat(num // 2, 1)
    _, changed = cutmix(images, targets, cutmix_numbers(num), 0.3)
    assert 0.25 < (changed.amax(dim=1) < 1).float().mean() < 0.35
    untouched, same = cutmix(images, targets, cutmix_numbers(num), 0.0)
    assert torch.equal(untouched, images)
    assert torch.equal(same, targets)


def test_the_last_of_an_odd_number_has_no_partner() -> None:
    images, targets = cutmix(flat_images(3), torch.eye(3), cutmix_numbers(3), 1.0)
    assert (images[2] == 2).all()
    assert torch.equal(targets[2], torch.tensor([0.0, 0.0, 1.0]))
