import pytest
import torch
from torch import Tensor

from neither.data.augmentation import NUM_CUTMIX_UNIFORMS, cutmix

SIZE = 16


def numbers_of(num: int) -> Tensor:
    return torch.rand(num, NUM_CUTMIX_UNIFORMS, generator=torch.Generator().manual_seed(0))


def flat_images(num: int) -> Tensor:
    """Images of which each has its own number for a colour."""
    return torch.arange(num)[:, None, None, None].expand(num, 3, SIZE, SIZE).float()


def test_targets_tell_the_shares_of_the_area() -> None:
    num = 64
    images, targets = cutmix(flat_images(num), torch.eye(num), numbers_of(num), 1.0)
    for place, image in enumerate(images[:, 0]):
        share = (image == place ^ 1).float().mean()
        assert ((image == place) | (image == place ^ 1)).all()
        assert targets[place, place ^ 1] == pytest.approx(share.item(), abs=1e-6)
        assert targets[place, place] == pytest.approx(1 - share.item(), abs=1e-6)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(num))


def test_what_is_taken_is_a_rectangle_of_the_drawn_area_where_the_edges_allow() -> None:
    numbers = torch.tensor([[0.0, 0.25, 0.5, 0.5], [0.0, 0.25, 0.0, 0.5]])
    images, targets = cutmix(flat_images(2), torch.eye(2), numbers, 1.0)
    expected = torch.zeros(SIZE, SIZE)
    expected[4:12, 4:12] = 1
    assert torch.equal(images[0, 0], expected)
    assert torch.equal(targets[0], torch.tensor([0.75, 0.25]))
    expected = torch.ones(SIZE, SIZE)
    expected[4:12, :4] = 0  # half of it lies beyond the left edge
    assert torch.equal(images[1, 0], expected)
    assert torch.equal(targets[1], torch.tensor([0.125, 0.875]))


def test_as_many_are_mixed_as_the_probability_says() -> None:
    num = 2000
    images, targets = flat_images(num), torch.eye(2).repeat(num // 2, 1)
    _, changed = cutmix(images, targets, numbers_of(num), 0.3)
    assert 0.25 < (changed.amax(dim=1) < 1).float().mean() < 0.35
    untouched, same = cutmix(images, targets, numbers_of(num), 0.0)
    assert torch.equal(untouched, images)
    assert torch.equal(same, targets)


def test_the_last_of_an_odd_number_has_no_partner() -> None:
    images, targets = cutmix(flat_images(3), torch.eye(3), numbers_of(3), 1.0)
    assert (images[2] == 2).all()
    assert torch.equal(targets[2], torch.tensor([0.0, 0.0, 1.0]))
