"""Macro recall on val over wall-clock seconds: ours against timm and ultralytics.

    python benchmarks/time_to_accuracy.py FOLDER [--config FILE] [--epochs N ...] [--peers PYTHON]

FOLDER holds {train,val}/<class>/... . Everybody trains from random weights, at 64 pixels, on the
same cores, each in a process of its own; the clock starts with the process: imports and decoding
are included, nothing is decoded beforehand. Ours: one whole run for each number of epochs, as the
schedule belongs to the run. timm: resnet18 with the defaults of its train.py (SGD, cosine with 5
epochs of warm-up, label smoothing 0.1, its own loader and augmentation) for 10 epochs. ultralytics:
yolo11n-cls with its defaults for 15 epochs. PYTHON is one that has them installed, this one unless
named; what is not installed is skipped. Prints each curve, how long the shortest of our runs takes
that reaches a peer's last figure, and what ours reaches in the peer's time.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SIZE = 64
BATCH_SIZE = 128
TIMM_EPOCHS = 10
YOLO_EPOCHS = 15
SCRIPT = Path(__file__).parents[1] / "scripts" / "train.py"

Curve = list[tuple[float, float]]  # seconds, macro recall on val


def main() -> None:
    """Let everybody train, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--config", default="configs/photos_scratch.yaml")
    parser.add_argument("--epochs", type=int, nargs="+", default=[2, 3, 4, 8, 16])
    parser.add_argument("--peers", default=sys.executable)
    parser.add_argument("--child", choices=["timm", "ultralytics"])
    arguments = parser.parse_args()
    if arguments.child == "timm":
        train_timm(arguments.folder)
        return
    if arguments.child == "ultralytics":
        train_ultralytics(arguments.folder)
        return
    import results

    curves = {"ours": [run_ours(arguments.config, arguments.folder, each)
                       for each in arguments.epochs]}  # fmt: skip
    show("ours", curves["ours"])
    for name in ("timm", "ultralytics"):
        curve = run_peer(name, arguments.peers, arguments.folder)
        if curve:
            curves[name] = curve
            show(name, curve)
    for name, curve in curves.items():
        if name != "ours":
            compare(name, curve, curves["ours"])
    results.write("time_to_accuracy", curves)


def show(name: str, curve: Curve) -> None:
    """Print a curve."""
    print(f"{name}: " + ", ".join(f"{s:.0f} s {recall:.3f}" for s, recall in curve), flush=True)


def compare(name: str, theirs: Curve, ours: Curve) -> None:
    """Print when ours reaches a peer's last figure, and what it has when the peer ends."""
    end, last = theirs[-1]
    reached = next((seconds for seconds, recall in ours if recall >= last), None)
    by_then = max((recall for seconds, recall in ours if seconds <= end), default=0.0)
    when = f"in {reached:.0f} s, 1/{end / reached:.1f} of the time" if reached else "never"
    print(f"{name} ends with {last:.3f} after {end:.0f} s; ours reaches that {when}, and "
          f"{by_then:.3f} in as much time")  # fmt: skip


def run_ours(config: str, folder: Path, epochs: int) -> tuple[float, float]:
    """Train with our command and an empty cache; return as `run_train`."""
    with tempfile.TemporaryDirectory() as work:
        overrides = f"train.epochs={epochs}", f"train.validate_every_epochs={epochs}"
        return run_train(config, folder, Path(work), "run", *overrides)


def run_train(
    config: str, folder: Path, work: Path, name: str, *overrides: str
) -> tuple[float, float]:
    """Train `work/name` with our command; return its seconds and the figure of its last epoch.

    Features and decoded images are cached in `work`.
    """
    run = work / name
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, SCRIPT, config, f"data.root={folder}", *overrides, "--output-dir", run],
        env=os.environ | {"XDG_CACHE_HOME": str(work / "cache")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(done.stderr)
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    return seconds, last["val"]["macro_recall"]


def run_peer(name: str, python: str, folder: Path, script: Path = Path(__file__)) -> Curve:
    """Train with a peer in its own process; an empty curve where it is not installed."""
    command = [python, str(script), str(folder), "--child", name]
    started = time.time()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        print(f"{name}: skipped: {done.stderr.strip().splitlines()[-1:] or 'no figures'}")
        return []
    rows = [json.loads(line) for line in lines]
    return [(row["time"] - started, row["macro_recall"]) for row in rows]


def tell(moment: float, recall: float) -> None:
    """Report one point of a curve to the parent."""
    print(json.dumps({"time": moment, "macro_recall": recall}), flush=True)


def macro_recall(pairs: Iterator[tuple[int, int]]) -> float:
    """Average the recall of the classes over pairs of label and prediction.

    Not the project's own, as a peer's Python need not have this project installed.
    """
    right: dict[int, list[bool]] = {}
    for label, predicted in pairs:
        right.setdefault(label, []).append(label == predicted)
    return sum(sum(each) / len(each) for each in right.values()) / len(right)


def require(name: str) -> None:
    """End with a message where a peer is not installed."""
    if importlib.util.find_spec(name) is None:
        sys.exit(f"{name} is not installed; to compare with it: pip install {name}")


def train_timm(folder: Path) -> None:
    """Train resnet18 as timm's train.py does by default."""
    require("timm")
    import torch
    from timm.data import create_dataset, create_loader
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.models import create_model
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    common: dict[str, Any] = {"input_size": (3, SIZE, SIZE), "batch_size": BATCH_SIZE,
              "use_prefetcher": False, "num_workers": 2, "device": device}  # fmt: skip
    train = create_loader(create_dataset("", folder, split="train"), is_training=True,
                          scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), hflip=0.5, color_jitter=0.4,
                          interpolation="random", **common)  # fmt: skip
    val = create_loader(create_dataset("", folder, split="val"), is_training=False,
                        interpolation="bicubic", crop_pct=1.0, **common)  # fmt: skip
    num_classes = len(list((folder / "train").iterdir()))
    network = create_model("resnet18", pretrained=False, num_classes=num_classes).to(device)
    optimizer = create_optimizer_v2(network, opt="sgd", lr=0.1 * BATCH_SIZE / 256, momentum=0.9,
                                    weight_decay=2e-5)  # fmt: skip
    scheduler, _ = create_scheduler_v2(optimizer, sched="cosine", num_epochs=TIMM_EPOCHS,
                                       warmup_epochs=5, warmup_lr=1e-5, min_lr=0.0)  # fmt: skip
    loss_of = LabelSmoothingCrossEntropy(smoothing=0.1)
    for epoch in range(TIMM_EPOCHS):
        network.train()
        for images, labels in train:
            optimizer.zero_grad()
            loss_of(network(images.to(device)), labels.to(device)).backward()
            optimizer.step()
        scheduler.step(epoch + 1)
        network.eval()
        pairs: list[tuple[int, int]] = []
        with torch.inference_mode():
            for images, labels in val:
                predicted = network(images.to(device)).argmax(1)
                pairs += zip(labels.tolist(), predicted.tolist(), strict=True)
        tell(time.time(), macro_recall(iter(pairs)))


def train_ultralytics(folder: Path) -> None:
    """Train yolo11n-cls as ultralytics does by default; score its checkpoints afterwards."""
    require("ultralytics")
    from ultralytics import YOLO

    with tempfile.TemporaryDirectory() as work:
        model = YOLO("yolo11n-cls.yaml")
        model.train(
            data=str(folder.resolve()), epochs=YOLO_EPOCHS, imgsz=SIZE, batch=BATCH_SIZE, workers=2,
            pretrained=False, plots=False, save_period=1, project=work, name="run", verbose=False,
        )  # fmt: skip
        weights = sorted((Path(work) / "run" / "weights").glob("epoch*.pt"),
                         key=lambda path: path.stat().st_mtime)  # fmt: skip
        paths = sorted((folder / "val").glob("*/*"))
        for path in weights:
            saved = YOLO(path)
            numbers = {name: number for number, name in saved.names.items()}
            answers = saved.predict([str(each) for each in paths], imgsz=SIZE, stream=True,
                                    verbose=False)  # fmt: skip
            pairs = ((numbers[each.parent.name], int(answer.probs.top1))
                     for each, answer in zip(paths, answers, strict=True))  # fmt: skip
            tell(path.stat().st_mtime, macro_recall(pairs))


if __name__ == "__main__":
    main()
