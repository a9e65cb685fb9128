"""Seconds and memory of training against the number of images, their size, and threads.

    python benchmarks/scaling.py [most images]

Images are random and synthetic, mapped from a file as training maps its cache. Each line is a
process of its own that takes 30 steps of an epoch: seconds from the first call to the first batch,
milliseconds an image after that, and the most memory of its own that the process held (RssAnon);
pages of the mapped file are the system's to take back and are not in it.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import results
from many_files import Peak, anonymous

from neither.runtime.limits import num_cores

CLASSES = ("dog", "human", "neither")
STEPS = 30
BATCH_SIZE = 128
MOST = 1_000_000  # images
SIZE = 64


def main() -> None:
    """Run each line in its own process, print and write."""
    if len(sys.argv) > 2:
        take_steps(Path(sys.argv[1]), *map(int, sys.argv[2:5]))
        return
    most = int(sys.argv[1]) if len(sys.argv) > 1 else MOST
    print("   images  size threads  first batch s  ms an image  memory MB")
    rows = [run(num, SIZE, 0) for num in (1_000, 10_000, 100_000, 1_000_000) if num <= most]
    rows += [run(2_000, size, 0) for size in (32, 64, 96, 128)]
    rows += [run(2_000, SIZE, threads) for threads in (1, 2, 4) if threads <= num_cores()]
    results.write("scaling", rows)


def run(num: int, size: int, threads: int) -> dict[str, float]:
    """Measure one line in a new process; no threads means as many as torch likes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pixels.u8"
        make(path, num, size)
        done = subprocess.run(
            [sys.executable, __file__, path, str(num), str(size), str(threads)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr)
    row: dict[str, float] = json.loads(done.stdout)
    print(f"{num:9,} {size:5} {row['threads']:7} {row['first_batch_seconds']:14.2f} "
          f"{row['ms_an_image']:12.2f} {row['memory_mb']:10.0f}", flush=True)  # fmt: skip
    return row


def make(path: Path, num: int, size: int) -> None:
    """Write a file of random images; every thousandth is the same."""
    block = np.random.default_rng(0).integers(0, 256, (1000, size, size, 3), np.uint8).tobytes()
    row = size * size * 3
    with path.open("wb") as file:
        for start in range(0, num, 1000):
            file.write(block[: row * min(1000, num - start)])


def take_steps(path: Path, num: int, size: int, threads: int) -> None:
    """Take some steps as training does and print the figures as JSON."""
    import torch

    from neither.config.schema import Augmentation, Config, Data, Train
    from neither.data.batches import Batches
    from neither.data.dataset import Dataset, Split
    from neither.data.preprocessing import Preprocessing
    from neither.runtime.devices import choose_device_config
    from neither.training.state import build_state
    from neither.training.step import train_step

    if threads:
        torch.set_num_threads(threads)
    started = time.perf_counter()
    with Peak() as peak:
        preprocessing = Preprocessing(size)
        data = Data(root="x", image_size=size)
        config = Config(name="x", classes=CLASSES, data=data, train=Train(epochs=9))
        device_config = choose_device_config("auto", "auto")
        pixels = torch.from_numpy(np.memmap(path, np.uint8, "c", shape=(num, size, size, 3)))
        split = Split([], torch.arange(num), torch.arange(num) % len(CLASSES))
        dataset = Dataset(pixels, split, split, CLASSES, preprocessing, "")
        batches = Batches(dataset, Augmentation(), BATCH_SIZE, 0, device_config.device)
        state = build_state(config, preprocessing, device_config)
        state.set_training_labels(split.labels)
        coming = (batch for epoch in range(STEPS) for batch in batches.iterate_epoch(epoch))
        first = next(coming)
        first_batch = time.perf_counter() - started
        train_step(state, first, 0.1, device_config)
        times = []
        for _ in range(STEPS):
            begun = time.perf_counter()
            batch = next(coming)
            train_step(state, batch, 0.1, device_config)
            times.append((time.perf_counter() - begun) / len(batch.labels))
    print(json.dumps({
        "num_images": num, "size": size, "threads": torch.get_num_threads(),
        "first_batch_seconds": first_batch, "ms_an_image": 1000 * sorted(times)[STEPS // 2],
        "memory_mb": max(peak.most, anonymous()) / 2**20,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
