"""Prove that a change of the source changes no number: old code against new code.

    python benchmarks/golden.py OLD_CHECKOUT [--only CASE ...] [--keep DIR]

Runs the commands of OLD_CHECKOUT, such as a worktree of an earlier commit, and those of this
checkout on the same small inputs, which are drawn from fixed seeds: on the CPU, in one thread, each
side with a cache of its own that is cold at first. Then compares, bit for bit, every tensor and
value of the checkpoints, splits, predictions, metrics, curves and exports. The sides may call a
thing differently where `RENAMES` says so. Each case is one line: `equal` with what was compared, or
the first differences. The exit code is 0 if all cases are equal, else 1.

Bits depend on the processor and on the versions of the packages, so that nothing is stored: both
sides run here and now, in the Python environment that runs this file. Takes about four minutes on
two idle cores.
"""

import argparse
import csv
import re
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from golden_cases import CASES, CLASSES, Case, CaseError, Inputs, Side, Value, Values
from PIL import Image, ImageDraw
from torch import Tensor

ROOT = Path(__file__).parents[1]  # the checkout of the new side

# What version 1 says, and what version 2 says instead. Keys of the config: written and compared.
CONFIG_RENAMES = {
    "augmentation.resolution": "augmentation.train_scale",
    "augmentation.flip": "augmentation.horizontal_flip",
    "augmentation.rotate_degrees": "augmentation.rotation_degrees",
    "augmentation.color": "augmentation.color_jitter",
    "augmentation.grey": "augmentation.grayscale",
    "augmentation.erase": "augmentation.random_erasing",
    "augmentation.mix": "augmentation.cutmix",
    "data.groups": "data.group_pattern",
    "train.clip_norm": "train.max_grad_norm",
    "train.val_every_epochs": "train.validate_every_epochs",
}
# Parts of the names of values: whole words of `file:key.key[row].key`, on either side.
RENAMES = CONFIG_RENAMES | {
    "suspects.csv": "label_issues.csv",
    "metrics.json:foreign": "metrics.json:out_of_distribution",
    "metrics.json:chance": "metrics.json:expected_if_calibrated",
    "scalars/final": "scalars/best",
    "tensors/card": "tensors/summary",
    "check_data.json:guessed_without_looking": "check_data.json:macro_recall_from_metadata",
    "check_data.json:one_coloured": "check_data.json:single_color",
    "check_data.json:exif_odd": "check_data.json:exif_invalid",
    "check_data.json:grey": "check_data.json:grayscale",
    "check_data.json:odd": "check_data.json:irregular_files",
    "check_data.json:refused": "check_data.json:unreadable_folders",
    "share": "fraction",
    "share_of_others": "fraction_of_others",
    "pt:mirrored": "pt:flip_tta",
    "pt:shares": "pt:class_frequencies",
    "looks_like": "predicted",
    "doubted": "disagreement",
    "training.tally.loss": "training.epoch_metrics.loss_sum",
    "training.tally.norm": "training.epoch_metrics.grad_norm_sum",
    "training.tally": "training.epoch_metrics",
    "training.doubts.named": "training.label_stats.epoch_predicted",
    "training.doubts.loss": "training.label_stats.epoch_loss",
    "training.doubts.num_doubted": "training.label_stats.num_disagreements",
    "training.doubts.confidences": "training.label_stats.confidence_sum",
    "training.doubts.losses": "training.label_stats.loss_sum",
    "training.doubts.rivals": "training.label_stats.majority_class",
    "training.doubts.leads": "training.label_stats.majority_lead",
    "training.doubts": "training.label_stats",
    "epoch_metrics.loss": "epoch_metrics.loss_sum",
    "epoch_metrics.norm": "epoch_metrics.grad_norm_sum",
    "label_stats.named": "label_stats.epoch_predicted",
    "label_stats.losses": "label_stats.loss_sum",
    "label_stats.loss": "label_stats.epoch_loss",
    "label_stats.num_doubted": "label_stats.num_disagreements",
    "label_stats.confidences": "label_stats.confidence_sum",
    "label_stats.rivals": "label_stats.majority_class",
    "label_stats.leads": "label_stats.majority_lead",
    "training.best": "training.best_metrics",
}
# Values that version 2 adds to checkpoints: version 1 had them in the config alone.
ADDED = re.compile(r"(best|last|previous)\.pt:(target_precision|source|aliases\b.*)")
_PATTERNS = {
    (old, new): re.compile(rf"(?<!\w){re.escape(old)}(?!\w)") for old, new in RENAMES.items()
}

_EXIF_ORIENTATION = 0x0112
_MAX_DIFFERENCES = 12  # printed for each case


def main() -> int:
    """Run the cases on both sides; return 0 if all are equal."""
    names = [case.__name__ for case in CASES]
    parser = argparse.ArgumentParser(
        description="Compare the numbers of another checkout's code with those of this one's.",
        epilog="example: golden.py ../old --only softmax_regression hash_splits",
    )
    parser.add_argument("old", type=Path, metavar="OLD_CHECKOUT", help="of the old code")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="CASE",
                        help=f"of: {', '.join(names)}")  # fmt: skip
    parser.add_argument("--keep", type=Path, metavar="DIR", help="a new folder for all outputs")
    arguments = parser.parse_args()
    if not (arguments.old / "src" / "neither").is_dir():
        parser.error(f"{arguments.old}: not a checkout of this project")
    if arguments.keep:
        arguments.keep.mkdir(parents=True)
    torch.set_num_threads(1)
    home = nullcontext(arguments.keep) if arguments.keep else tempfile.TemporaryDirectory()
    with home as folder:
        return compare_checkouts(arguments.old, ROOT, Path(folder).resolve(), arguments.only)


def compare_checkouts(old_root: Path, new_root: Path, folder: Path, names: list[str]) -> int:
    """Run the named cases on both checkouts and print the outcome; return the exit code."""
    old, new = open_side(old_root, folder / "old"), open_side(new_root, folder / "new")
    make_inputs(folder / "inputs")
    inputs = Inputs(folder / "inputs", old)
    print(f"old: version {old.version}, new: version {new.version}", flush=True)
    renamed: Counter[tuple[str, str]] = Counter()
    num_unequal = 0
    for case in CASES:
        if case.__name__ not in names:
            continue
        started = time.monotonic()
        outcome, differences = compare_sides(case, old, new, inputs, renamed)
        num_unequal += bool(differences)
        seconds = time.monotonic() - started
        print(f"{case.__name__:25} {outcome}, {seconds:.0f} s", flush=True)
        for difference in differences[:_MAX_DIFFERENCES]:
            print(f"    {difference}")
        if len(differences) > _MAX_DIFFERENCES:
            print(f"    and {len(differences) - _MAX_DIFFERENCES:,} more")
    print("renames that were applied:" if renamed else "renames that were applied: none")
    for (before, after), num in renamed.items():
        print(f"    {before:28} -> {after:32} {num:,} values")
    print("all equal" if not num_unequal else f"{num_unequal} of {len(names)} cases differ")
    return 1 if num_unequal else 0


def open_side(root: Path, folder: Path) -> Side:
    """Read a checkout's version, which decides its words, and make the folder of its outputs."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version = str(project["version"])
    words = {new: old for old, new in CONFIG_RENAMES.items()} if version[:2] == "1." else {}
    folder.mkdir()
    side = Side(root.resolve(), version, words, folder)
    program = "from importlib.util import find_spec; print(find_spec('neither').origin)"
    source = Path(side.run([sys.executable, "-c", program]).strip())
    if not source.is_relative_to(side.root / "src"):
        sys.exit(f"{root}: its commands would run the source in {source.parent}")
    return side


def compare_sides(
    case: Case, old: Side, new: Side, inputs: Inputs, renamed: Counter[tuple[str, str]]
) -> tuple[str, list[str]]:
    """Run a case on both sides and compare all repeats with the first of the old side.

    Args:
        case: to run.
        old: side to compare with.
        new: side to compare.
        inputs: of both.
        renamed: gets the number of values that each rename was applied to.

    Returns:
        The outcome in a few words, and the differences.
    """
    repeats: dict[str, Values] = {}
    errors = []
    with ThreadPoolExecutor(2) as pool:  # both at once: each is one thread
        futures = {
            name: pool.submit(case, side, inputs) for name, side in (("old", old), ("new", new))
        }
    for side_name, future in futures.items():
        try:
            for name, values in future.result().items():
                repeats[f"{side_name}, {name}"] = values
        except CaseError as error:
            errors.append(f"{side_name}: {error}")
    if errors:
        return "failed", errors
    used: dict[str, Counter[tuple[str, str]]] = {}
    renamed_repeats = {}
    for name, values in repeats.items():
        used[name] = Counter()
        renamed_repeats[name] = rename(values, used[name])
    (first, expected), *others = renamed_repeats.items()
    differences = [
        f"{name}: {difference}"
        for name, values in others
        for difference in compare(expected, values)
    ]
    # What the new side still calls by the old name has not been renamed.
    renamed.update(used[first] - used[others[-1][0]])
    return ("differs" if differences else f"equal: {count(expected)}"), differences


def rename(values: Mapping[str, Value], used: Counter[tuple[str, str]]) -> Values:
    """Translate the names of values into those of version 2, and count the renames."""
    renamed: Values = {}
    for key, value in values.items():
        for pair, pattern in _PATTERNS.items():
            key, num = pattern.subn(pair[1], key)
            used[pair] += num
        renamed[key] = value
    return renamed


def compare(old: Values, new: Values) -> list[str]:
    """Return a line for each value that is missing on a side or not the same to the bit."""
    missing = [key for key in old if key not in new]
    extra = [key for key in new if key not in old and not ADDED.fullmatch(key)]
    lines = [f"only old: {key}{_hint(key, old[key], extra, new)}" for key in missing]
    lines += [f"only new: {key}" for key in extra]
    lines += [
        f"{key}: {describe(old[key], new[key])}"
        for key in old
        if key in new and not is_same(old[key], new[key])
    ]
    return lines


def is_same(one: Value, other: Value) -> bool:
    """Tell whether two values have the same type and bits."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return (
            one.dtype == other.dtype
            and one.shape == other.shape
            and one.contiguous().flatten().view(torch.uint8).equal(
                other.contiguous().flatten().view(torch.uint8))
        )  # fmt: skip
    return type(one) is type(other) and repr(one) == repr(other)


def describe(one: Value, other: Value) -> str:
    """Say how two values differ."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.dtype != other.dtype or one.shape != other.shape:
            return (f"{one.dtype} {tuple(one.shape)} became {other.dtype} "
                    f"{tuple(other.shape)}")  # fmt: skip
        apart = (one.double() - other.double()).abs()
        return (f"{int((apart != 0).sum()):,} of {one.numel():,} numbers differ, by at most "
                f"{float(apart.max()):.3g}")  # fmt: skip
    return f"{one!r} became {other!r}"


def _hint(key: str, value: Value, extra: list[str], new: Values) -> str:
    """Name a value that only the new side has and that may be the same by another name."""
    same = [other for other in extra if is_same(value, new[other])]
    same.sort(key=lambda other: other.rpartition(".")[2] != key.rpartition(".")[2])
    return f" (a rename? the new side has the same value as {same[0]})" if same else ""


def count(values: Values) -> str:
    """Say how many tensors, rows of tables and other values there are."""
    num_tensors = sum(isinstance(value, Tensor) for value in values.values())
    rows = {found[0] for key in values if (found := re.match(r".*\.(csv|jsonl)\[\d+\]", key))}
    return f"{num_tensors:,} tensors, {len(rows):,} rows, {len(values) - num_tensors:,} values"


def make_inputs(folder: Path) -> None:
    """Draw all images, and write the manifest and the weights file."""
    folder.mkdir()
    for split, num in (("train", 14), ("val", 8), ("test", 6)):
        for label in CLASSES:
            _save_photos(folder / "photos" / split / label, label, num)
    for root, labels in (("unseen", ("teapot", "chair")), ("mixed", (*CLASSES, "lamp"))):
        for label in labels:
            _save_photos(folder / root / label, label, 5)
    _make_kinds(folder / "kinds")
    _make_unsplit(folder / "unsplit")
    _write_manifest(folder)
    _write_weights(folder / "weights.pt")


def draw_photo(seed: int, label: str, width: int = 48, height: int = 40) -> Image.Image:
    """Draw random smooth areas and grain in colours that depend on the label in part."""
    random = np.random.default_rng([seed, *label.encode()])
    areas = random.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    image = Image.fromarray(areas).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    tint = np.random.default_rng([*label.encode()]).integers(0, 256, 3)
    tint = (tint + random.integers(-60, 61, 3)).clip(0, 255)
    left, top = random.integers(0, (width // 2, height // 2)).tolist()
    draw.ellipse((left, top, left + width // 2, top + height // 2), fill=tuple(tint.tolist()))
    grain = random.integers(-12, 13, (height, width, 3))
    return Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))


def _save_photos(folder: Path, label: str, num: int) -> None:
    folder.mkdir(parents=True)
    for number in range(num):
        suffix = "jpg" if number % 3 == 0 else "png"
        seed = number + 100 * sum(folder.parent.name.encode())
        draw_photo(seed, label).save(folder / f"{number:02}.{suffix}")


def _make_kinds(folder: Path) -> None:
    """Write one image file of each kind that a decoder treats in a way of its own."""
    folder.mkdir()
    photo = draw_photo(1, "kinds", 90, 70)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[_EXIF_ORIENTATION] = orientation
        photo.save(folder / f"exif{orientation}.jpg", exif=exif)
        photo.save(folder / f"exif{orientation}.png", exif=exif)
        photo.save(folder / f"exif{orientation}.tiff", exif=exif)
        large = draw_photo(orientation, "large", 1203, 901)
        large.save(folder / f"large{orientation}.jpg", exif=exif, quality=90)
    draw_photo(2, "large", 2048, 1536).save(folder / "large.jpg", progressive=True)
    photo.convert("CMYK").save(folder / "cmyk.jpg")
    for mode in ("1", "L", "LA", "P", "RGBA"):
        photo.convert(mode).save(folder / f"mode_{mode}.png")
    depth = np.linspace(0, 65535, 90 * 70).reshape(70, 90).astype(np.uint16)
    Image.fromarray(depth).save(folder / "depth16.png")
    Image.fromarray(depth).save(folder / "depth16.tiff")
    alpha = Image.fromarray(np.linspace(0, 255, 90 * 70).reshape(70, 90).astype(np.uint8))
    for name in ("alpha.png", "alpha.webp"):
        Image.merge("RGBA", (*photo.split(), alpha)).save(folder / name)
    photo.convert("P").save(folder / "palette_transparent.png", transparency=3)
    photo.convert("P").save(folder / "palette.gif", transparency=5)
    photo.save(folder / "plain.bmp")
    for name in ("animated.gif", "animated.webp", "animated.png"):
        others = [draw_photo(seed, "kinds", 90, 70) for seed in (3, 4)]
        photo.save(folder / name, save_all=True, append_images=others, duration=100)
    content = (folder / "large1.jpg").read_bytes()
    (folder / "bad_truncated.jpg").write_bytes(content[: len(content) // 2])
    (folder / "bad_text.png").write_text("not an image", encoding="utf-8")


def _make_unsplit(folder: Path) -> None:
    """Write class folders without splits: groups by name, duplicates of both kinds, a bad file."""
    for label in ("dog", "person", "neither"):  # person: an alias of human
        _save_photos(folder / label, label, 24)
        for number in range(12):
            photo = draw_photo(1000 + number, label)
            photo.save(folder / label / f"person{number % 4}_{number:02}.png")
        for number in range(4):
            original = folder / label / f"{number:02}.{'jpg' if number % 3 == 0 else 'png'}"
            (folder / label / f"exact{number}{original.suffix}").write_bytes(original.read_bytes())
            with Image.open(original) as image:
                image.resize((96, 80)).save(folder / label / f"near{number}.jpg", quality=80)
    _save_photos(folder / "junk", "junk", 2)
    (folder / "dog" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0")


def _write_manifest(folder: Path) -> None:
    """List the photos with their splits, and a near-duplicate of a test image as a train image."""
    duplicate = folder / "duplicate.jpg"
    with Image.open(folder / "photos" / "test" / "dog" / "01.png") as image:
        image.save(duplicate, quality=85)
    rows = [("path", "label", "split"), (duplicate.name, "dog", "train")]
    rows += [
        (path.relative_to(folder).as_posix(), path.parent.name, path.parent.parent.name)
        for path in sorted((folder / "photos").rglob("*.*"))
    ]
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def _write_weights(path: Path) -> None:
    """Write random weights of the network that a case begins with."""
    from torchvision import models

    torch.manual_seed(5)
    torch.save(models.mobilenet_v3_small().state_dict(), path)


if __name__ == "__main__":
    sys.exit(main())
