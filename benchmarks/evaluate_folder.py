"""How fast a folder of large JPEGs is evaluated, against Pillow's decoding alone.

    python benchmarks/evaluate_folder.py RUN_OR_CHECKPOINT FOLDER [rounds]

Enlarges pictures of FOLDER to 640 pixels on the longer side, in a temporary folder, and measures
images per second of `evaluate` (decoding, both passes of the network, predictions.csv), of Pillow's
open and load in as many processes, and of the network alone.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import results
from data_path import load
from PIL import Image

from neither.data.workers import parallel_map
from neither.runtime.limits import num_cores

LONGER_SIDE = 640
NUM_IMAGES = 2000


def main() -> None:
    """Measure, print and write."""
    import torch

    from neither.data.layout import find_evaluation_images
    from neither.evaluation.evaluation import evaluate
    from neither.inference.classifier import load_classifier
    from neither.runtime.devices import choose_device_config

    model, folder = Path(sys.argv[1]), Path(sys.argv[2])
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 3
    device_config = choose_device_config("auto", "float32")
    classifier = load_classifier(model, device_config.device)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "out").mkdir()
        paths = enlarge(sorted(folder.rglob("*.jpg")), work / "images")
        side = classifier.preprocessing.image_size
        print(f"{num_cores()} cores, {device_config.device}, {len(paths):,} JPEGs of {LONGER_SIDE} "
              f"pixels, network at {side} pixels, {rounds} rounds")  # fmt: skip
        found = find_evaluation_images(
            work / "images", classifier.classes, None, classifier.aliases
        )
        pixels = torch.zeros((len(paths), side, side, 3), dtype=torch.uint8)
        works: dict[str, Callable[[], object]] = {
            "Pillow alone: open, load": lambda: list(parallel_map(load, paths)),
            "the network alone": lambda: classifier.logits(pixels),
            "evaluate": lambda: evaluate(classifier, found, work / "out"),
        }
        rows = {
            what: results.measure(what, len(paths), rounds, each) for what, each in works.items()
        }
    share = rows["evaluate"]["median"] / rows["Pillow alone: open, load"]["median"]
    print(f"evaluate: {share:.2f} of the rate of Pillow's decoding alone")
    results.write("evaluate_folder", rows)


def enlarge(paths: list[Path], folder: Path) -> list[Path]:
    """Write pictures with a longer side of 640 pixels, in one folder without labels."""
    folder.mkdir()
    chosen = [paths[place * len(paths) // NUM_IMAGES] for place in range(NUM_IMAGES)]
    targets = [folder / f"{number:05}.jpg" for number in range(len(chosen))]
    list(parallel_map(_enlarge, zip(chosen, targets, strict=True)))
    return targets


def _enlarge(paths: tuple[Path, Path]) -> None:
    source, target = paths
    with Image.open(source) as image:
        scale = LONGER_SIDE / max(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        image.resize(size, Image.Resampling.BICUBIC).save(target, quality=88)


if __name__ == "__main__":
    main()
