"""Start from an own run: seconds to the figure of a fresh run, with a class or images added.

    taskset -c 1 python benchmarks/warm_start.py PHOTOS OUTPUT_DIR [model.backbone_lr_factor=1 ...]

On part of the photos, with small_cnn. Finished runs are kept, so the same command goes on. Runs of
other keys go into a folder of their own: OUTPUT_DIR/KEYS.
"""

import json
import sys
import time
from pathlib import Path

import neither

CLASSES = ["dog", "human", "neither"]
NUM_TRAIN, NUM_VAL, NUM_ADDED = 300, 200, 500
EPOCHS, WARM_EPOCHS = 24, 8
CONFIG = """name: {name}
classes: [{classes}]
device: cpu
data: {{manifest: {manifest}, image_size: 64}}
model: {{weights: {weights}}}
train: {{epochs: {epochs}, batch_size: 64}}
"""


def write_manifest(path: Path, photos: Path, classes: list[str], num_train: int) -> None:
    """List the first images of each class by name, which is random within a source."""
    lines = ["path,label,split"]
    for split, num in (("train", num_train), ("val", NUM_VAL)):
        for label in classes:
            names = sorted((photos / split / label).iterdir(), key=lambda each: each.stem[-10:])
            lines += [f"{each},{label},{split}" for each in names[:num]]
    path.write_text("\n".join(lines) + "\n")


def run(folder: Path, name: str, manifest: Path, classes: list[str], epochs: int,
        weights: Path | str, keys: list[str]) -> dict[str, float]:  # fmt: skip
    """Train a run unless it is finished; return its seconds and metrics on val."""
    result = folder / f"{name}.json"
    if not result.exists():
        text = CONFIG.format(name=name, classes=", ".join(classes), manifest=manifest,
                             weights=weights, epochs=epochs)  # fmt: skip
        config = folder / f"{name}.yaml"
        config.write_text(text)
        start = time.monotonic()
        neither.train(config, keys, output_dir=folder / name)
        rows = [json.loads(line) for line in (folder / name / "metrics.jsonl").open()]
        seconds = time.monotonic() - start
        best = min((row["val"] for row in rows), key=lambda row: row["calibrated_loss"])
        curve = [round(row["val"]["macro_recall"], 3) for row in rows]
        values = {"seconds": seconds, "curve": curve, **best}
        result.write_text(json.dumps(values))
    return json.loads(result.read_text())  # type: ignore[no-any-return]


def main() -> None:
    """Train what is left, and print."""
    photos, root, *keys = sys.argv[1:]
    shared = Path(root)
    folder = shared / ("-".join(keys) or "default")
    folder.mkdir(parents=True, exist_ok=True)
    few, many = NUM_TRAIN, NUM_TRAIN + NUM_ADDED // 3
    manifests = {}
    for name, classes, num in (("two", CLASSES[:2], few), ("three", CLASSES, few),
                               ("more", CLASSES, many)):  # fmt: skip
        manifests[name] = shared / f"{name}.csv"
        write_manifest(manifests[name], Path(photos), classes, num)
    two = run(shared, "two", manifests["two"], CLASSES[:2], EPOCHS, "none", [])
    fresh = {name: run(shared, name, manifests[name], CLASSES, EPOCHS, "none", [])
             for name in ("three", "more")}  # fmt: skip
    warm = {
        "three": run(folder, "three-from-two", manifests["three"], CLASSES, WARM_EPOCHS,
                     shared / "two", keys),
        "more": run(folder, "more-from-three", manifests["more"], CLASSES, WARM_EPOCHS,
                    shared / "three", keys),
    }  # fmt: skip
    print(f"two classes: {two['seconds']:.0f} s, {two['macro_recall']:.3f}")
    for name in fresh:
        for kind, values in (("fresh", fresh[name]), ("warm", warm[name])):
            print(f"{name} {kind}: {values['seconds']:.0f} s, macro recall "
                  f"{values['macro_recall']:.3f}, loss {values['calibrated_loss']:.3f}, "
                  f"{values['curve']}")  # fmt: skip


if __name__ == "__main__":
    main()
