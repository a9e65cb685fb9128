"""How fast a training step is, and how near to what the machine can do.

    python benchmarks/step.py FOLDER [rounds]

FOLDER holds train/<class>/... . Trains the project's network and torchvision's resnet18 in the
project's loop (store, augmentation, channels last, bfloat16 where it is native), and resnet18 in
the plain loop of most tutorials (ImageFolder, DataLoader with 2 workers, contiguous float32, SGD).
Prints images per second, the median of some rounds (default 5) of ten steps, and for the project's
loop the arithmetic per second against that of a plain matrix product measured beside it.
"""

import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import results
import torch
import torch.nn.functional as F
from data_path import CLASSES, build, cached_in
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18
from torchvision.transforms import v2

from neither.config.schema import Augmentation, Config, Data, Train
from neither.data.batches import Batch, Batches
from neither.data.preprocessing import Preprocessing
from neither.runtime.devices import DeviceConfig, choose_device_config
from neither.training.fast_conv import use_fast_convolutions
from neither.training.optimizers import build_optimizer
from neither.training.state import EMA, TrainState, build_state
from neither.training.step import train_step

SIZE = 64
BATCH_SIZE = 128
STEPS = 10  # a round
PREPROCESSING = Preprocessing(SIZE)
CONFIG = Config(name="step", classes=CLASSES, data=Data(root="x"), train=Train(epochs=100))


def main() -> None:
    """Measure, print and write."""
    root = Path(sys.argv[1])
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    device_config = choose_device_config("auto", "auto")
    print(f"{results.describe_machine()}, {device_config.precision}, {SIZE} pixels, batches of "
          f"{BATCH_SIZE}, {rounds} rounds of {STEPS} steps")  # fmt: skip
    rows = []
    with tempfile.TemporaryDirectory() as folder, cached_in(Path(folder) / "cache"):
        data = build(root, Path(folder) / "run")
        for name, state in (("small_cnn", build_state(CONFIG, PREPROCESSING, device_config)),
                            ("resnet18", resnet_state(device_config))):  # fmt: skip
            state.set_training_labels(data.train.labels)
            coming = forever(Batches(data, Augmentation(), BATCH_SIZE, 0, device_config.device))
            row = measure(
                f"{name}, project's loop", ours(state, coming, device_config), rounds, device_config
            )
            flops = count_flops(state, next(coming), device_config)
            product = measure_product(device_config)
            row |= {"teraflops": flops * row["images_per_second"] / BATCH_SIZE / 1e12,
                    "product_teraflops": product}  # fmt: skip
            share = row["teraflops"] / product
            print(f"  {row['teraflops']:.2f} TFLOP/s, {100 * share:.0f} % of the {product:.2f} of "
                  "a matrix product in the same precision", flush=True)  # fmt: skip
            rows.append(row)
    rows.append(measure("resnet18, plain loop", plain(root, device_config), rounds, device_config))
    ratio = rows[1]["images_per_second"] / rows[2]["images_per_second"]
    print(f"resnet18: {ratio:.1f} times the plain loop")
    results.write("step", rows)


def measure(
    name: str, steps: Iterator[None], rounds: int, device_config: DeviceConfig
) -> dict[str, float]:
    """Print and return images per second."""
    for _ in itertools.islice(steps, STEPS):  # caches fill, kernels are chosen
        pass
    speeds = []
    for _ in range(rounds):
        wait(device_config)
        started = time.perf_counter()
        for _ in itertools.islice(steps, STEPS):
            pass
        wait(device_config)
        speeds.append(STEPS * BATCH_SIZE / (time.perf_counter() - started))
    median = statistics.median(speeds)
    print(f"{name}: {median:,.0f} images/s ({min(speeds):,.0f} - {max(speeds):,.0f})", flush=True)
    return {"name": name, "images_per_second": median, "least": min(speeds), "most": max(speeds)}  # type: ignore[dict-item]


def forever(batches: Batches) -> Iterator[Batch]:
    """Yield the batches of one epoch after the other."""
    for epoch in itertools.count():
        yield from batches.iterate_epoch(epoch)


def ours(
    state: TrainState, batches: Iterator[Batch], device_config: DeviceConfig
) -> Iterator[None]:
    """Take the project's steps."""
    for batch in batches:
        train_step(state, batch, 0.1, device_config)
        yield


def plain(root: Path, device_config: DeviceConfig) -> Iterator[None]:
    """Take the steps of most tutorials."""
    transform = v2.Compose([
        v2.RandomResizedCrop(SIZE), v2.RandomHorizontalFlip(), v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(PREPROCESSING.mean, PREPROCESSING.std),
    ])  # fmt: skip
    loader = DataLoader(ImageFolder(root / "train", transform), BATCH_SIZE, shuffle=True,
                        num_workers=2, drop_last=True, persistent_workers=True)  # fmt: skip
    network = resnet18(num_classes=len(CLASSES)).to(device_config.device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    while True:
        for images, labels in loader:
            optimizer.zero_grad()
            logits = network(images.to(device_config.device))
            loss = F.cross_entropy(logits, labels.to(device_config.device))
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            yield


def resnet_state(device_config: DeviceConfig) -> TrainState:
    """Put torchvision's network in the place of the project's, with the plain loop's optimizer."""
    state = build_state(CONFIG, PREPROCESSING, device_config)
    settings = Train(epochs=100, optimizer="sgd")
    network: nn.Module = resnet18(num_classes=len(CLASSES))
    network = network.to(device_config.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    use_fast_convolutions(network, device_config)
    state.network = network
    state.ema = EMA(network, CONFIG.train.ema_decay)
    state.optimizer = build_optimizer(network, settings)
    return state


def count_flops(state: TrainState, batch: Batch, device_config: DeviceConfig) -> float:
    """Count the arithmetic of a step on a full batch."""
    with FlopCounterMode(display=False) as counter:
        train_step(state, batch, 0.1, device_config)
    total: int = counter.get_total_flops()
    return total * BATCH_SIZE / len(batch.labels)


def measure_product(device_config: DeviceConfig, size: int = 2048, times: int = 10) -> float:
    """Measure a square matrix product in the precision of the step, in TFLOP/s."""
    left = torch.randn(size, size, device=device_config.device, dtype=device_config.dtype)
    best = 0.0
    for _ in range(times):
        wait(device_config)
        started = time.perf_counter()
        left @ left
        wait(device_config)
        best = max(best, 2 * size**3 / (time.perf_counter() - started) / 1e12)
    return best


def wait(device_config: DeviceConfig) -> None:
    """Wait until a GPU has done what it was given."""
    if device_config.device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
