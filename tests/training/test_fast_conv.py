"""Faster convolutions and torch.compile: the same network, the same gradient."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from neither.models.efficientnet_lite import ConvBN
from neither.runtime.devices import DeviceConfig
from neither.training import fast_conv
from neither.training.fast_conv import compile_network, im2col, use_fast_convolutions

BFLOAT16 = DeviceConfig(torch.device("cpu"), "bfloat16")
FLOAT32 = DeviceConfig(torch.device("cpu"), "float32")


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 7), (8, 3)])
def test_im2col_times_the_kernel_is_the_convolution(stride: int, size: tuple[int, int]) -> None:
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
    results = {}
    for name in ("plain", "gemm"):
        if name == "gemm":
            use_fast_convolutions(plain, BFLOAT16)
        plain.zero_grad()
        inputs = features.clone().requires_grad_()
        with BFLOAT16.autocast():
            result = plain(inputs)
        torch.manual_seed(1)
        result.backward(torch.randn_like(result))
        assert inputs.grad is not None
        assert plain.weight.grad is not None
        assert plain.weight.grad.dtype == torch.float32
        results[name] = (result.detach(), inputs.grad, plain.weight.grad.clone())
    if -(-size // stride) > 2:  # smaller ones are products all the way
        assert torch.equal(results["plain"][0], results["gemm"][0])
        assert torch.equal(results["plain"][1], results["gemm"][1])
    torch.testing.assert_close(results["plain"][0], results["gemm"][0], rtol=0.02, atol=0.02)
    torch.testing.assert_close(results["plain"][1], results["gemm"][1], rtol=0.02, atol=0.02)
    torch.testing.assert_close(results["plain"][2], results["gemm"][2], rtol=0.02, atol=0.1)


def test_only_small_feature_maps_use_the_matrix_product() -> None:
    """Otherwise the test above would compare a convolution with itself."""
    small = nn.Conv2d(4, 4, 3, padding=1, bias=False)
    use_fast_convolutions(small, BFLOAT16)
    with BFLOAT16.autocast():
        few, many = small(torch.randn(1, 4, 8, 8)), small(torch.randn(1, 4, 9, 8))
    assert "Convolution" not in few.grad_fn.name()
    assert "Convolution" in many.grad_fn.name()


def test_other_convolutions_are_unchanged() -> None:
    network = nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 1, bias=False),
        nn.Conv2d(4, 4, 3, bias=False), nn.Conv2d(4, 4, 3, padding=1),
        nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, bias=False),
        nn.Conv2d(4, 4, 3, padding=1, bias=False, padding_mode="reflect"),
    )  # fmt: skip
    use_fast_convolutions(network, FLOAT32)
    assert all(type(each) is nn.Conv2d for each in network)
    names = list(network.state_dict())
    use_fast_convolutions(network, BFLOAT16)
    assert [type(each) is nn.Conv2d for each in network] == [False] + 6 * [True]
    assert list(network.state_dict()) == names


@pytest.mark.parametrize(("kernel", "stride", "depthwise"), [
    (1, 1, False), (3, 2, False), (3, 1, True), (3, 2, True), (5, 1, True), (5, 2, True),
])  # fmt: skip
@pytest.mark.parametrize("size", [(12, 12), (13, 8)])
@pytest.mark.parametrize("relu6", [True, False])
def test_a_folded_batch_norm_has_the_gradients_of_autograd(
    kernel: int, stride: int, depthwise: bool, size: tuple[int, int], relu6: bool
) -> None:
    torch.manual_seed(0)
    layer = ConvBN(6, 6, kernel, stride, groups=6 if depthwise else 1, relu6=relu6)
    for name in ("weight", "bias", "running_mean"):
        nn.init.normal_(layer.norm.state_dict()[name], mean=1.0)
    layer = layer.to(memory_format=torch.channels_last)
    layer.norm.eval()
    images = torch.randn(4, 6, *size).to(memory_format=torch.channels_last)
    results: dict[str, list[torch.Tensor]] = {}
    for name in ("plain", "float32", "bfloat16"):
        if name == "float32":
            use_fast_convolutions(layer, FLOAT32)
            assert type(layer) is not ConvBN
        layer.zero_grad()
        inputs = images.clone().requires_grad_()
        with (BFLOAT16 if name == "bfloat16" else FLOAT32).autocast():
            result = layer(inputs)
        torch.manual_seed(1)
        result.backward(torch.randn(result.shape).to(result.dtype))
        results[name] = [result.detach().float()]
        for weights in (inputs, *layer.parameters()):
            assert weights.grad is not None
            assert weights.grad.dtype == torch.float32
            results[name].append(weights.grad.clone())
    for plain, exact, rounded in zip(*results.values(), strict=True):
        torch.testing.assert_close(exact, plain, rtol=1e-4, atol=1e-4)
        assert (rounded - plain).norm() < 0.2 * plain.norm()  # ReLU6 cuts some others


def test_statistics_that_are_not_fixed_are_not_folded() -> None:
    layers = [ConvBN(3, 4, 1), ConvBN(4, 4, 1)]
    layers[1].norm.eval()
    use_fast_convolutions(nn.Sequential(*layers), FLOAT32)
    assert [type(each) is ConvBN for each in layers] == [True, False]


def build_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())


def test_compiled_is_the_same_network(caplog: pytest.LogCaptureFixture) -> None:
    network, images = build_network(), torch.randn(2, 3, 5, 5)
    expected = build_network()(images)
    caplog.set_level("INFO")
    compile_network(network, torch.device("cpu"))
    assert caplog.messages[-1].startswith("compile: ")
    torch.testing.assert_close(network(images), expected)
    assert list(network.state_dict()) == list(build_network().state_dict())


def test_without_a_compiler_the_network_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from torch._inductor import config  # takes seconds

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("No working C++ compiler found\nand a long explanation")

    monkeypatch.setattr(torch, "compile", fail)
    monkeypatch.setattr(config, "compile_threads", 32)
    monkeypatch.setattr(fast_conv, "num_cores", lambda: 3)
    network, images = build_network(), torch.randn(2, 3, 5, 5)
    caplog.set_level("INFO")
    compile_network(network, torch.device("cpu"))
    assert config.compile_threads == 3
    (message,) = caplog.messages
    assert "(No working C++ compiler found)" in message
    assert torch.equal(network(images), build_network()(images))
