import torch

from neither.config.schema import Model
from neither.models.networks import FlipTTA, build_network


def test_p18_an_image_and_its_mirror_image_get_the_same_answer() -> None:
    torch.manual_seed(0)
    images = torch.randn(4, 3, 32, 32)
    network = build_network(Model(width=8), 3, 32, seed=0).eval()
    mirrored = FlipTTA(network).eval()
    torch.testing.assert_close(mirrored(images.flip(3)), mirrored(images))
    assert not torch.allclose(network(images.flip(3)), network(images))
    expected = (network(images) + network(images.flip(3))) / 2
    torch.testing.assert_close(mirrored(images), expected)
