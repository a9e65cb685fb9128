"""A hundred thousand small files: how long and how much memory from the scan to the first batch.

    python benchmarks/many_files.py [number of files]

Makes the files in a temporary folder, then loads them twice, each time in a new process: first
without anything decoded, then with all of it in the cache. Memory is what the process holds of its
own (RssAnon), beyond what 300 files take; so the pixels, mapped from disk, are not in it.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("dog", "human", "neither")


def main() -> None:
    """Make the files and measure in two new processes."""
    if len(sys.argv) > 2:
        load(Path(sys.argv[1]), Path(sys.argv[2]))
        return
    num = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as folder:
        root, run = Path(folder) / "images", Path(folder) / "run"
        started = time.perf_counter()
        make(root, num)
        make(root.with_name("few"), 300)
        run.mkdir()
        print(f"{num:,} files made in {time.perf_counter() - started:.0f} s", flush=True)
        for title in ("nothing decoded yet", "everything in the cache"):
            print(f"\n{title}:", flush=True)
            (run / "splits.csv").unlink(missing_ok=True)
            cache = {"XDG_CACHE_HOME": str(Path(folder) / "cache")}
            subprocess.run(
                [sys.executable, __file__, root, run], check=True, env=os.environ | cache
            )


def make(root: Path, num: int) -> None:
    """Write small images of noise, every one different."""
    random = np.random.default_rng(0)
    for label in CLASSES:
        (root / label).mkdir(parents=True)
    for number in range(num):
        values = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(values).save(root / CLASSES[number % 3] / f"{number:06}.jpg")


def load(root: Path, run: Path) -> None:
    """Load the dataset, step by step, and go through the batch indices of an epoch."""
    import torch

    from neither.config.schema import Augmentation, Data
    from neither.data.batches import Batches
    from neither.data.dataset import load_dataset
    from neither.data.layout import find_training_images
    from neither.data.preprocessing import Preprocessing

    preprocessing = Preprocessing(32)
    settings = Data(root=str(root), store="disk")
    few = settings.model_copy(update={"root": str(root.with_name("few"))})
    load_dataset(few, CLASSES, 0, preprocessing, run)
    (run / "splits.csv").unlink()
    before = anonymous()
    started = time.perf_counter()
    found = find_training_images(root, CLASSES)
    num, scanned = len(found.paths), anonymous()
    print(f"scan alone: {time.perf_counter() - started:.1f} s, "
          f"{(scanned - before) / num:.0f} bytes a file", flush=True)  # fmt: skip
    del found
    before = anonymous()
    started = time.perf_counter()
    with Peak() as peak:
        data = load_dataset(settings, CLASSES, 0, preprocessing, run)
    batches = Batches(data, Augmentation(), 128, 0, torch.device("cpu"))
    epoch = batches.iterate_epoch(0)
    next(epoch)
    print(f"scan, split, index, first batch: {time.perf_counter() - started:.1f} s; held "
          f"{(anonymous() - before) / num:.0f} bytes a file, at the peak "
          f"{(peak.most - before) / num:.0f}", flush=True)  # fmt: skip
    before = anonymous()
    for _ in epoch:
        pass
    print(f"an epoch more: {(anonymous() - before) / 2**20:+.1f} MB")


def anonymous() -> int:
    """Return the bytes of memory that are this process's own."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("RssAnon:")[1].split()[0])


class Peak:
    """Looks at the memory every few milliseconds and keeps the most that was held."""

    def __enter__(self) -> "Peak":
        self.most, self._ended = anonymous(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.005):
            self.most = max(self.most, anonymous())


if __name__ == "__main__":
    main()
