"""The card of a run in words: its images and its network, as Markdown."""

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from neither.data.separation import SPLITS
from neither.data.split_file import read_splits
from neither.terminal import printable

_MOST_NAMED = 20


def describe_images(splits_file: Path, classes: Sequence[str]) -> str:
    """Count the images of each class and split, and name some that are left out.

    Args:
        splits_file: `splits.csv` of the run.
        classes: names.

    Raises:
        DataError: if the file cannot be read back.
    """
    counts = Counter((split, label) for _, label, split, _, _ in read_splits(splits_file))
    rows = [
        [split or "left out", *(f"{counts[split, name]:,}" for name in classes),
         f"{sum(counts[split, name] for name in classes):,}"]
        for split in (*filter(None, SPLITS), "")
    ]  # fmt: skip
    text = _table(["images", *map(_code, classes), "all"], rows)
    left_out = (row for row in read_splits(splits_file) if not row[2])
    lines = [f"    {printable(path)}: {printable(why)}\n" for path, _, _, _, why in
             islice(left_out, _MOST_NAMED)]  # fmt: skip
    if lines:
        text += f"\nLeft out, the first {len(lines)}; `splits.csv` lists each:\n\n{''.join(lines)}"
    return text


@torch.no_grad()
def describe_network(network: nn.Module, image_size: int) -> str:
    """List the layers in the order in which one image passes them.

    Args:
        network: in evaluation mode.
        image_size: pixels a side of the image.
    """
    rows: list[list[str]] = []

    def note(name: str, layer: nn.Module, result: object) -> None:
        num = sum(weights.numel() for weights in layer.parameters())
        shape = " x ".join(map(str, result.shape[1:])) if isinstance(result, Tensor) else "several"
        rows.append([_code(name), type(layer).__name__, shape, f"{num:,}"])

    handles = [
        layer.register_forward_hook(lambda layer, _, result, name=name: note(name, layer, result))
        for name, layer in network.named_modules()
        if name and not list(layer.children()) and not isinstance(layer, nn.Sequential)
    ]
    device = next(network.parameters()).device
    try:
        network(torch.zeros(1, 3, image_size, image_size, device=device))
    finally:
        for handle in handles:
            handle.remove()
    total = sum(weights.numel() for weights in network.parameters())
    text = _table(["layer", "kind", "output", "parameters"], rows)
    return f"{text}\n{total:,} parameters; shapes are of one image of {image_size} pixels a side\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _code(name: str) -> str:
    return f"`{name}`"
