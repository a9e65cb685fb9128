"""Start from an own run: seconds to the figure of a fresh run, with a class or images added.

    taskset -c 1 python benchmarks/warm_start.py PHOTOS OUTPUT_DIR [train.lr=0.005 ...]

small_cnn on part of the photos; each key is a variant of the warm runs, beside the defaults.
Seconds are of processor time, so that other programs disturb less. What is finished is kept, so the
same command goes on.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import neither

CLASSES = ["dog", "human", "neither"]
NUM_TRAIN, NUM_VAL, NUM_ADDED = 300, 200, 500  # the first two of each class, the last in all
EPOCHS, WARM_EPOCHS = 24, 8
CONFIG = """name: {name}
classes: [{classes}]
device: cpu
data: {{manifest: {manifest}, image_size: 40}}
model: {{weights: {weights}}}
train: {{epochs: {epochs}, batch_size: 64}}
"""


def write_manifest(path: Path, photos: Path, classes: list[str], num_train: int) -> None:
    """List images of each class, in the order of the hash at the end of their names."""
    lines = ["path,label,split"]
    for split, num in (("train", num_train), ("val", NUM_VAL)):
        for label in classes:
            names = sorted((photos / split / label).iterdir(), key=lambda each: each.stem[-10:])
            lines += [f"{each},{label},{split}" for each in names[:num]]
    path.write_text("\n".join(lines) + "\n")


def run(root: Path, name: str, manifest: str, classes: list[str], weights: Path | None,
        *keys: str) -> dict[str, Any]:  # fmt: skip
    """Train a run unless it is finished; return its seconds, and its metrics on val."""
    result = root / f"{name}.json"
    if not result.exists():
        epochs = WARM_EPOCHS if weights else EPOCHS
        config = root / f"{name}.yaml"
        config.write_text(CONFIG.format(
            name=name, classes=", ".join(classes), manifest=root / manifest,
            weights=weights or "none", epochs=epochs,
        ))  # fmt: skip
        start = sum(os.times()[:4])
        neither.train(config, keys, output_dir=root / name)
        seconds = sum(os.times()[:4]) - start
        with (root / name / "metrics.jsonl").open() as file:
            rows = [json.loads(line)["val"] for line in file]
        best = min(rows, key=lambda row: row["calibrated_loss"])
        curve = [(row["macro_recall"], row["calibrated_loss"]) for row in rows]
        result.write_text(json.dumps({"seconds": seconds, "curve": curve, **best}))
    values: dict[str, Any] = json.loads(result.read_text())
    print(f"{name}: {values['seconds']:.0f} s, macro recall {values['macro_recall']:.3f}, "
          f"calibrated loss {values['calibrated_loss']:.3f}", flush=True)  # fmt: skip
    return values


def main() -> None:
    """Train what is left, and print."""
    photos, root, variants = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    root.mkdir(parents=True, exist_ok=True)
    write_manifest(root / "two.csv", photos, CLASSES[:2], NUM_TRAIN)
    write_manifest(root / "three.csv", photos, CLASSES, NUM_TRAIN)
    write_manifest(root / "more.csv", photos, CLASSES, NUM_TRAIN + NUM_ADDED // 3)
    run(root, "two", "two.csv", CLASSES[:2], None)
    for name, before in (("three", "two"), ("more", "three")):
        fresh = run(root, name, f"{name}.csv", CLASSES, None)
        for number, keys in enumerate(([], *([each] for each in variants))):
            warm = run(root, f"{name}-from-{before}-{number}", f"{name}.csv", CLASSES,
                       root / before, *keys)  # fmt: skip
            for index, what in enumerate(("macro recall", "calibrated loss")):
                sign, figure = (1, -1)[index], (fresh["macro_recall"], fresh["calibrated_loss"])
                reached = [epoch for epoch, values in enumerate(warm["curve"])
                           if sign * values[index] >= sign * figure[index]]  # fmt: skip
                epoch = reached[0] if reached else None
                print(f"  {keys}: the {what} of the fresh run is reached in epoch {epoch} of "
                      f"{WARM_EPOCHS}; {warm['curve'][epoch or 0][index]:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
