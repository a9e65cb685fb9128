"""Images per second of EfficientNet-Lite0 on a CPU, against the rate of matrix products.

    python benchmarks/embedding.py [--threads N] [--sizes 112,160,224] [--batches 8,16,32,64]

For each image size: eager PyTorch, fused convolutions by batch size, and ONNX Runtime (where it is
installed) at the best of these. The matrix rate is that of a float32 product of 2,048 x 2,048; a
network that reached it would take its multiply-adds divided by that rate. Median of 5 rounds,
which alternate between the candidates; weights are random, as they do not matter for speed. The
last rows are forward and backward passes of fine-tuning in batches of 32, in float32 and bfloat16:
by autograd, and with folded batch norm (`training/fast_conv.py`).
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import results
import torch
from torch import Tensor, nn

from neither.models.efficientnet_lite import ConvBN, EfficientNetLite0, fused
from neither.runtime.devices import choose_device_config
from neither.training.fast_conv import use_fast_convolutions

ROUNDS = 5
IMAGES_PER_ROUND = 128
TRAIN_BATCH = 32

Candidate = tuple[Callable[[Tensor], object], int]  # a network, and the images of a batch


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--sizes", default="112,160,224")
    parser.add_argument("--batches", default="8,16,32,64")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sizes = [int(each) for each in arguments.sizes.split(",")]
    batches = [int(each) for each in arguments.batches.split(",")]
    gflops = matrix_gflops()
    print(f"{arguments.threads} threads, matrix products: {gflops:.0f} GFLOP/s")
    figures: dict[str, Any] = {"gflops": gflops, "sizes": {}}
    eager = EfficientNetLite0().eval().to(memory_format=torch.channels_last)
    fast = fused(eager)
    for size in sizes:
        candidates: dict[str, Candidate] = {"eager, 64": (eager, 64)}
        candidates |= {f"fused, {batch}": (fast, batch) for batch in batches}
        if find_spec("onnxruntime") is not None:
            for batch in (1, 8):
                candidates[f"onnxruntime, {batch}"] = (onnx_runtime(eager, size, batch), batch)
        rates = measure(candidates, size) | measure_training(size)
        bound = gflops * 1e9 / (2 * multiply_adds(eager, size))
        figures["sizes"][size] = {"matrix_bound": bound} | rates
        print(f"{size} pixels: at the matrix rate {bound:.0f} images/s")
        for name, rate in rates.items():
            print(f"  {name:25} {rate:6.0f} images/s, {rate / bound:.0%} of it")
    results.write("embedding", figures)


def matrix_gflops() -> float:
    """Return the rate of a float32 matrix product."""
    one = torch.randn(2048, 2048)
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        one @ one
        seconds.append(time.perf_counter() - start)
    return 2 * 2048**3 / statistics.median(seconds) / 1e9


@torch.inference_mode()
def multiply_adds(network: EfficientNetLite0, size: int) -> int:
    """Count the multiply-adds of all convolutions for one image."""
    total = 0

    def count(layer: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, ConvBN):
            total += layer.conv.weight[0].numel() * output[0].numel()

    handles = [layer.register_forward_hook(count) for layer in network.modules()
               if isinstance(layer, ConvBN)]  # fmt: skip
    network(torch.zeros(1, 3, size, size))
    for handle in handles:
        handle.remove()
    return total


@torch.inference_mode()
def measure(candidates: dict[str, Candidate], size: int) -> dict[str, float]:
    """Return images per second of each (network, batch size)."""
    rates: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(ROUNDS + 1):  # the first warms up
        for name, (network, batch) in candidates.items():
            images = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
            num = max(1, IMAGES_PER_ROUND // batch)
            start = time.perf_counter()
            for _ in range(num):
                network(images)
            rates[name].append(num * batch / (time.perf_counter() - start))
    return {name: statistics.median(each[1:]) for name, each in rates.items()}


def measure_training(size: int) -> dict[str, float]:
    """Return images per second of fine-tuning, without augmentation and optimizer."""
    images = torch.randn(TRAIN_BATCH, 3, size, size).to(memory_format=torch.channels_last)
    rates: dict[str, float] = {}
    for precision in ("float32", "bfloat16"):
        device_config = choose_device_config("cpu", precision)
        for name in ("autograd", "folded"):
            network = EfficientNetLite0().eval().to(memory_format=torch.channels_last)
            if name == "folded":
                use_fast_convolutions(network, device_config)
            seconds = []
            for _ in range(ROUNDS):
                start = time.perf_counter()
                with device_config.autocast():
                    logits = network(images)
                logits.float().square().mean().backward()
                seconds.append(time.perf_counter() - start)
            rates[f"train, {name}, {precision}"] = TRAIN_BATCH / statistics.median(seconds)
    return rates


def onnx_runtime(network: nn.Module, size: int, batch: int) -> Callable[[Tensor], object]:
    """Return ONNX Runtime's version of a network for one batch size."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        example = torch.zeros(batch, 3, size, size)
        torch.onnx.export(network, (example,), path, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path, options)
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images.numpy()})


if __name__ == "__main__":
    main()
