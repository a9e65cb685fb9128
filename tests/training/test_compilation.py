"""Compiling: the same network, and no compiler is no obstacle."""

import pytest
import torch
from torch import nn

from neither.training.fast_conv import compile_network

CPU = torch.device("cpu")


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())


def test_compiled_is_the_same_network(caplog: pytest.LogCaptureFixture) -> None:
    network, images = build(), torch.randn(2, 3, 5, 5)
    expected = build()(images)
    caplog.set_level("INFO")
    compile_network(network, CPU)
    assert caplog.messages[-1].startswith("compile: ")
    torch.testing.assert_close(network(images), expected)
    assert list(network.state_dict()) == list(build().state_dict())


def test_without_a_compiler_it_says_so_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("No working C++ compiler found\nand a long explanation")

    monkeypatch.setattr(torch, "compile", fail)
    network, images = build(), torch.randn(2, 3, 5, 5)
    caplog.set_level("INFO")
    compile_network(network, CPU)
    assert caplog.messages == [
        "compile: no compiler works here, so training goes on without (No working C++ compiler "
        "found)"
    ]
    assert torch.equal(network(images), build()(images))
