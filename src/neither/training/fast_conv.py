"""Faster training of convolutions on a CPU, and torch.compile.

- Small feature maps: weight gradients by matrix products.
- `ConvBN` with fixed statistics: batch norm folded into the kernel, ReLU6 in the same pass, and
  gradients of depthwise convolutions by those of oneDNN's operators that are fast.
"""

from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neither.models.efficientnet_lite import ConvBN, conv_relu6, has_onednn, pad_same
from neither.runtime.console import info
from neither.runtime.devices import DeviceConfig
from neither.runtime.limits import num_cores

# oneDNN's weight gradient is slow for few output positions: for 4 x 4 it reaches a sixth of the
# rate of its forward pass, for 2 x 2 a twentieth. One matrix product is faster up to 8 x 8; for
# 2 x 2 it is three times as fast in the forward pass too.
_MAX_POSITIONS = 64
_MAX_FORWARD_POSITIONS = 4


def use_fast_convolutions(network: nn.Module, device_config: DeviceConfig) -> None:
    """Let convolutions compute in ways that are faster on a CPU; for training only.

    Weights and their names stay the same; outputs and gradients differ by rounding. Batch norms
    must be in the mode of training.
    """
    if device_config.device.type != "cpu" or not has_onednn():
        return
    for module in network.modules():
        is_small_conv = type(module) is nn.Conv2d and _is_supported(module)
        if is_small_conv and device_config.dtype == torch.bfloat16:  # in float32 it is slower
            module.__class__ = _GemmConv2d
        if type(module) is ConvBN and not module.norm.training:
            module.__class__ = _FoldedConvBN


def _is_supported(module: nn.Conv2d) -> bool:
    return (
        module.kernel_size == (3, 3)
        and module.padding == (1, 1)
        and module.dilation == (1, 1)
        and module.stride in {(1, 1), (2, 2)}
        and module.groups == 1
        and module.bias is None
        and module.padding_mode == "zeros"
    )


class _GemmConv2d(nn.Conv2d):
    def forward(self, features: Tensor) -> Tensor:
        stride = self.stride[0]
        is_small = _num_positions(features, stride) <= _MAX_POSITIONS
        if not is_small or not torch.is_autocast_enabled("cpu"):
            return super().forward(features)
        # Autocast does not apply inside a custom autograd function.
        dtype = torch.get_autocast_dtype("cpu")
        result: Tensor = _Conv3x3.apply(features.to(dtype), self.weight.to(dtype), stride)
        return result


class _Conv3x3(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, features: Tensor, weight: Tensor, stride: int) -> Tensor:  # noqa: ANN401
        context.save_for_backward(features, weight)
        context.stride = stride
        if _num_positions(features, stride) <= _MAX_FORWARD_POSITIONS:
            return _conv_by_gemm(features, weight, stride)
        return torch.conv2d(features, weight, None, stride, 1)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:  # noqa: ANN401
        features, weight = context.saved_tensors
        stride, gradient = context.stride, gradients[0]
        if stride == 1 and _num_positions(features, stride) <= _MAX_FORWARD_POSITIONS:
            input_gradient = _conv_by_gemm(gradient, weight.flip(2, 3).transpose(0, 1), stride)
        else:
            input_gradient = torch.ops.aten.convolution_backward(
                gradient, features, weight, None, (stride, stride), (1, 1), (1, 1), False, (0, 0),
                1, (True, False, False),
            )[0]  # fmt: skip
        num_out, num_in = weight.shape[:2]
        rows = gradient.permute(0, 2, 3, 1).reshape(-1, num_out)
        weight_gradient = rows.mT.contiguous() @ im2col(features, stride)
        return input_gradient, weight_gradient.view(num_out, 3, 3, num_in).permute(0, 3, 1, 2), None


def _num_positions(features: Tensor, stride: int) -> int:
    return -(-features.shape[2] // stride) * -(-features.shape[3] // stride)


def _conv_by_gemm(features: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Compute the convolution as one matrix product: (B, O, H', W'), channels last."""
    rows = im2col(features, stride) @ weight.permute(0, 2, 3, 1).flatten(1).mT
    height, width = (-(-side // stride) for side in features.shape[2:])
    return rows.view(len(features), height, width, len(weight)).permute(0, 3, 1, 2)


def im2col(features: Tensor, stride: int) -> Tensor:
    """Gather the 3x3 neighborhood of each output position, for a padding of 1.

    Features are (B, I, H, W), channels last in memory.

    Returns:
        (B * ceil(H / stride) * ceil(W / stride), 9 * I); columns by kernel row, kernel column,
        channel.
    """
    padded = F.pad(features.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    batch, channels, height, width = features.shape
    steps = padded.stride()
    # The three columns of a neighborhood are adjacent in memory: one long piece to copy.
    windows = padded.as_strided(
        (batch, -(-height // stride), -(-width // stride), 3, 3 * channels),
        (steps[0], stride * steps[1], stride * steps[2], steps[1], 1),
    )
    return windows.reshape(-1, 9 * channels)


class _FoldedConvBN(ConvBN):
    """A `ConvBN` with fixed statistics, which is folded anew in each step.

    The gradients of batch norm's weights follow from that of the folded kernel, so they need no
    pass over the features.
    """

    def forward(self, features: Tensor) -> Tensor:
        weight, bias = self.fold()
        is_autocast = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if is_autocast else weight.dtype
        (size, _), (stride, _) = self.conv.kernel_size, self.conv.stride
        features, padding = pad_same(features.to(dtype), size, stride)
        result: Tensor = _ConvReLU6.apply(
            features, weight.to(dtype), bias.to(dtype), stride, padding, self.conv.groups,
            self.relu6,
        )  # fmt: skip
        return result


class _ConvReLU6(torch.autograd.Function):
    """`conv_relu6` of a dense or a depthwise kernel, and its gradients."""

    @staticmethod
    def forward(context: Any, *arguments: Any) -> Tensor:  # noqa: ANN401
        features, weight, _, *context.settings = arguments
        result = conv_relu6(*arguments)
        context.save_for_backward(features, weight, result)
        return result

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        features, weight, result = context.saved_tensors
        stride, padding, groups, relu6 = context.settings
        gradient, needs_input = gradients[0], context.needs_input_grad[0]
        if relu6:
            gradient = torch.ops.aten.hardtanh_backward(gradient, result, 0.0, 6.0)
        if groups == 1:
            grads = torch.ops.aten.convolution_backward(
                gradient, features, weight, [len(weight)], (stride, stride), padding, (1, 1), False,
                (0, 0), 1, (needs_input, True, True),
            )  # fmt: skip
            return *grads, None, None, None, None
        return (
            _depthwise_input_gradient(gradient, features, weight, stride, padding)
            if needs_input
            else None,
            _depthwise_weight_gradient(gradient, features, weight, stride, padding),
            gradient.sum(dim=(0, 2, 3)), None, None, None, None,
        )  # fmt: skip


def _depthwise_input_gradient(
    gradient: Tensor, features: Tensor, weight: Tensor, stride: int, padding: tuple[int, int]
) -> Tensor:
    """Compute it as a convolution with the flipped kernel.

    oneDNN's own takes ten times as long in bfloat16 for a stride of 2.
    """
    size = weight.shape[2]
    if stride > 1:  # zeros between the positions
        batch, channels, height, width = features.shape
        rows, columns = height + 2 * padding[0] - size + 1, width + 2 * padding[1] - size + 1
        dilated = gradient.new_zeros(batch, rows, columns, channels).permute(0, 3, 1, 2)
        dilated[:, :, ::stride, ::stride] = gradient
        gradient = dilated
    padding = (size - 1 - padding[0], size - 1 - padding[1])
    return torch.conv2d(gradient, weight.flip(2, 3), None, 1, padding, 1, len(weight))


def _depthwise_weight_gradient(
    gradient: Tensor, features: Tensor, weight: Tensor, stride: int, padding: tuple[int, int]
) -> Tensor:
    """Compute it in parts of 3 x 3: oneDNN's is fast for no larger kernel, in no precision."""
    features = F.pad(features, (padding[1], padding[1], padding[0], padding[0]))
    result, part = torch.empty_like(weight), weight[:, :, :3, :3].contiguous()
    height, width = (stride * (side - 1) + 3 for side in gradient.shape[2:])
    for row, column in product({0, weight.shape[2] - 3}, repeat=2):
        window = features[:, :, row : row + height, column : column + width]
        result[:, :, row : row + 3, column : column + 3] = torch.ops.aten.convolution_backward(
            gradient, window.contiguous(memory_format=torch.channels_last), part, None,
            (stride, stride), (0, 0), (1, 1), False, (0, 0), len(weight), (False, True, False),
        )[1]  # fmt: skip
    return result


def compile_network(network: nn.Module, device: torch.device) -> None:
    """Compile a network with torch.compile, which fuses what is between the convolutions.

    Its first steps then take half a minute longer. Without a working compiler, a message says so
    and training continues uncompiled. Compiled results differ by rounding: a run is compiled from
    its first to its last step or not at all.
    """
    try:
        from torch._inductor import config  # takes two seconds

        config.compile_threads = min(config.compile_threads or 1, num_cores())
        torch.compile(_double, dynamic=False)(torch.ones(1, device=device))
    except Exception as error:  # a missing compiler, header or writable folder
        reason = str(error).strip().partition("\n")[0]
        info(f"compile: no compiler works here, so training continues without ({reason})")
        return
    # Batches have two or three sizes; one graph for each keeps the bits the same after a resume.
    network.compile(dynamic=False)
    info("compile: compiling in the first steps, half a minute on two cores")


def _double(values: Tensor) -> Tensor:
    return 2 * values
