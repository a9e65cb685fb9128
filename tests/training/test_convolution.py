"""The weight gradient as a matrix product: the same gradient, the same network."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from neither.runtime.devices import Compute
from neither.training.fast_conv import im2col, use_gemm_weight_gradients

BFLOAT16 = Compute(torch.device("cpu"), "bfloat16")
FLOAT32 = Compute(torch.device("cpu"), "float32")


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 7), (8, 3)])
def test_neighbourhoods_times_the_kernel_is_the_convolution(
    stride: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 3, *size).to(memory_format=torch.channels_last)
    kernel = torch.randn(5, 3, 3, 3)
    columns = kernel.permute(0, 2, 3, 1).flatten(1)
    expected = F.conv2d(features, kernel, None, stride, 1).permute(0, 2, 3, 1).reshape(-1, 5)
    torch.testing.assert_close(im2col(features, stride) @ columns.mT, expected)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [2, 3, 4, 7, 20])  # at 1, stride 2, oneDNN's own reads garbage
def test_forward_is_the_same_and_gradients_differ_by_rounding(stride: int, size: int) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(6, 10, 3, stride, padding=1, bias=False)
    plain = plain.to(memory_format=torch.channels_last)
    features = torch.randn(8, 6, size, size).to(memory_format=torch.channels_last)
    answers = {}
    for name in ("plain", "swapped"):
        if name == "swapped":
            use_gemm_weight_gradients(plain, BFLOAT16)
        plain.zero_grad()
        inputs = features.clone().requires_grad_()
        with BFLOAT16.autocast():
            result = plain(inputs)
        torch.manual_seed(1)
        result.backward(torch.randn_like(result))
        assert inputs.grad is not None
        assert plain.weight.grad is not None
        assert plain.weight.grad.dtype == torch.float32
        answers[name] = (result.detach(), inputs.grad, plain.weight.grad.clone())
    if -(-size // stride) > 2:  # smaller ones are products all the way
        assert torch.equal(answers["plain"][0], answers["swapped"][0])
        assert torch.equal(answers["plain"][1], answers["swapped"][1])
    torch.testing.assert_close(answers["plain"][0], answers["swapped"][0], rtol=0.02, atol=0.02)
    torch.testing.assert_close(answers["plain"][1], answers["swapped"][1], rtol=0.02, atol=0.02)
    torch.testing.assert_close(answers["plain"][2], answers["swapped"][2], rtol=0.02, atol=0.1)


@pytest.mark.parametrize("stride", [1, 2])
def test_one_place_has_the_gradient_of_float32(stride: int) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(6, 10, 3, stride, padding=1, bias=False)
    features, wanted = torch.randn(8, 6, 1, 1), torch.randn(8, 10, 1, 1)
    plain(features).backward(wanted)
    assert plain.weight.grad is not None
    expected = plain.weight.grad.clone()
    plain.zero_grad()
    use_gemm_weight_gradients(plain, BFLOAT16)
    with BFLOAT16.autocast():
        result = plain(features)
    result.backward(wanted.to(result.dtype))
    torch.testing.assert_close(plain.weight.grad, expected, rtol=0.02, atol=0.05)


def test_the_gradient_really_comes_another_way() -> None:
    """Else the comparison above would compare a thing with itself."""
    small = nn.Conv2d(4, 4, 3, padding=1, bias=False)
    use_gemm_weight_gradients(small, BFLOAT16)
    with BFLOAT16.autocast():
        few, many = small(torch.randn(1, 4, 8, 8)), small(torch.randn(1, 4, 9, 8))
    assert "Convolution" not in few.grad_fn.name()
    assert "Convolution" in many.grad_fn.name()


def test_what_it_is_not_made_for_stays() -> None:
    network = nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 1, bias=False),
        nn.Conv2d(4, 4, 3, bias=False), nn.Conv2d(4, 4, 3, padding=1),
        nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, bias=False),
        nn.Conv2d(4, 4, 3, padding=1, bias=False, padding_mode="reflect"),
    )  # fmt: skip
    use_gemm_weight_gradients(network, FLOAT32)
    assert all(type(each) is nn.Conv2d for each in network)
    names = list(network.state_dict())
    use_gemm_weight_gradients(network, BFLOAT16)
    assert [type(each) is nn.Conv2d for each in network] == [False] + 6 * [True]
    assert list(network.state_dict()) == names
