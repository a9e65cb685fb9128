"""Convolutions of small features as matrix products.

Translating the network into code for this machine.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neither.runtime.console import info
from neither.runtime.devices import Compute

# oneDNN's own weight gradient needs many places: on 4 x 4 of them it runs at a sixth of the rate of
# its forward pass, on 2 x 2 at a twentieth. One matrix product is faster up to 8 x 8; on 2 x 2 it
# is three times as fast forwards too.
_MOST_PLACES = 64
_FEW_PLACES = 4


def use_gemm_weight_gradients(network: nn.Module, compute: Compute) -> None:
    """Let the 3x3 convolutions of a network compute the gradient of their weights the faster way.

    It pays on processors that multiply bfloat16, where the features are small; all else stays as it
    is. Weights and their names are the same; gradients, and from features of at most 2 x 2 places
    results too, differ by rounding.

    Args:
        network: changed in place, for training alone.
        compute: what training runs on.
    """
    if compute.device.type != "cpu" or compute.dtype != torch.bfloat16:
        return
    for module in network.modules():
        if type(module) is nn.Conv2d and _is_suited(module):
            module.__class__ = _Convolution


def _is_suited(module: nn.Conv2d) -> bool:
    return (
        module.kernel_size == (3, 3) and module.padding == (1, 1) and module.dilation == (1, 1)
        and module.stride in {(1, 1), (2, 2)} and module.groups == 1 and module.bias is None
        and module.padding_mode == "zeros"
    )  # fmt: skip


class _Convolution(nn.Conv2d):
    def forward(self, features: Tensor) -> Tensor:
        stride = self.stride[0]
        if _count_places(features, stride) > _MOST_PLACES or not torch.is_autocast_enabled("cpu"):
            return super().forward(features)
        # Autocast does not look into functions with a gradient of their own.
        dtype = torch.get_autocast_dtype("cpu")
        result: Tensor = _Function.apply(features.to(dtype), self.weight.to(dtype), stride)
        return result


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, features: Tensor, weight: Tensor, stride: int) -> Tensor:  # noqa: ANN401
        context.save_for_backward(features, weight)
        context.stride = stride
        if _count_places(features, stride) <= _FEW_PLACES:
            return _multiply(features, weight, stride)
        return torch.conv2d(features, weight, None, stride, 1)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:  # noqa: ANN401
        features, weight = context.saved_tensors
        stride, gradient = context.stride, gradients[0]
        if stride == 1 and _count_places(features, stride) <= _FEW_PLACES:
            by_features = _multiply(gradient, weight.flip(2, 3).transpose(0, 1), stride)
        else:
            by_features = torch.ops.aten.convolution_backward(
                gradient, features, weight, None, (stride, stride), (1, 1), (1, 1), False, (0, 0),
                1, (True, False, False),
            )[0]  # fmt: skip
        outer, inner = weight.shape[:2]
        rows = gradient.permute(0, 2, 3, 1).reshape(-1, outer)
        product = rows.mT.contiguous() @ im2col(features, stride)
        return by_features, product.view(outer, 3, 3, inner).permute(0, 3, 1, 2), None


def _count_places(features: Tensor, stride: int) -> int:
    return -(-features.shape[2] // stride) * -(-features.shape[3] // stride)


def _multiply(features: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Return the convolution as one product: (B, O, H', W'), channels last."""
    rows = im2col(features, stride) @ weight.permute(0, 2, 3, 1).flatten(1).mT
    height, width = (-(-side // stride) for side in features.shape[2:])
    return rows.view(len(features), height, width, len(weight)).permute(0, 3, 1, 2)


def im2col(features: Tensor, stride: int) -> Tensor:
    """Gather what a 3x3 convolution sees at each place.

    Args:
        features: (B, I, H, W), channels last in memory.
        stride: of the convolution, whose padding is 1.

    Returns:
        (B * ceil(H / stride) * ceil(W / stride), 9 * I), row by row, column by column, by channel.
    """
    padded = F.pad(features.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    batch, channels, height, width = features.shape
    steps = padded.stride()
    # The three columns of a neighbourhood lie side by side in memory: one long piece to copy.
    windows = padded.as_strided(
        (batch, -(-height // stride), -(-width // stride), 3, 3 * channels),
        (steps[0], stride * steps[1], stride * steps[2], steps[1], 1),
    )
    return windows.reshape(-1, 9 * channels)


def compile_network(network: nn.Module, device: torch.device) -> None:
    """Let torch.compile fuse what lies between the convolutions, where a compiler is.

    Where none is, or it lacks its headers, a message says so and training goes on without. The sums
    are the same, rounded elsewhere: a run is compiled from its beginning to its end or not at all.

    Args:
        network: changed in place; its first steps then take half a minute longer.
        device: that it trains on.
    """
    try:
        torch.compile(_double, dynamic=False)(torch.ones(1, device=device))
    except Exception as error:  # a compiler, a header or a writable folder that is not there
        reason = str(error).strip().partition("\n")[0]
        info(f"compile: no compiler works here, so training goes on without ({reason})")
        return
    # Batches come in two or three sizes; code for each keeps the bits the same after a resume.
    network.compile(dynamic=False)
    info("compile: the first steps take longer, half a minute on two cores")


def _double(values: Tensor) -> Tensor:
    return 2 * values
