"""Command `predict RUN_OR_CHECKPOINT PATH... [--format ...] [--sort-into DIR] [--explain DIR]`."""

import argparse
import filecmp
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import count, tee
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from neither.cli.evaluate import load_with_priors
from neither.cli.main import check_installation, discard_stdout, run_command
from neither.runtime import files
from neither.runtime.console import info, warn
from neither.runtime.errors import DataError, UsageError

if TYPE_CHECKING:
    from neither.inference.prediction import Prediction

_STANDARD_INPUT = "-"
_UNREADABLE = "unreadable"


def main() -> int:
    """Predict; return the exit code."""
    parser = argparse.ArgumentParser(
        description="Predict the class of each image: one line a file, in the order given.",
        epilog="example: predict.py runs/photos holiday/ cat.jpg --format csv > predictions.csv",
    )
    parser.add_argument("model", type=Path, help="a run's folder (its best.pt) or a checkpoint")
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="images and folders of images; - reads one path a line from standard input",
    )
    parser.add_argument(
        "--format",
        choices=("table", "csv", "jsonl"),
        default="table",
        help="table: bars for people (default); csv, jsonl: all probabilities, for programs",
    )
    parser.add_argument(
        "--priors",
        metavar="CLASS=FRACTION,...",
        help="how common each class is in these images, if not as in training, such as "
        "dog=0.1,human=0.2,neither=0.7",
    )
    parser.add_argument(
        "--sort-into",
        type=Path,
        metavar="DIR",
        help="also copy each file into DIR/<decision>/; nothing there is overwritten",
    )
    parser.add_argument(
        "--explain",
        type=Path,
        metavar="DIR",
        help="also draw a heat map of each image into DIR: what speaks for and against its class",
    )
    arguments = parser.parse_args()
    return run_command(lambda: _predict(arguments))


class _Input(NamedTuple):
    """A file to predict: its path, and its path below the folder on the command line."""

    path: Path
    below: str


def _predict(arguments: argparse.Namespace) -> int:
    check_installation()
    from neither.inference.explain import Explainer
    from neither.inference.prediction import UNSURE, csv_header

    for path in arguments.paths:
        if path != _STANDARD_INPUT and not Path(path).exists():
            raise UsageError(f"{path}: no such file or folder")
    for output in filter(None, (arguments.sort_into, arguments.explain)):
        for path in map(Path, arguments.paths):
            if path.is_dir():
                files.require_outside(output, path)
    classifier = load_with_priors(arguments.model, arguments.priors)
    if arguments.sort_into is not None:
        files.make_folder(arguments.sort_into)
    explainer = Explainer(classifier, arguments.explain) if arguments.explain else None
    info(f"images are decoded as in training: {classifier.preprocessing}")
    must_finish = arguments.sort_into is not None or explainer is not None
    if arguments.format == "csv":
        _write(csv_header(classifier.classes), must_finish)
    counts: Counter[str] = Counter()
    inputs, copies = tee(_list_inputs(arguments.paths))
    results = classifier.predict_files(each.path for each in copies)
    for (path, below), (prediction, _, _) in zip(inputs, results, strict=True):
        _write(_format(prediction, classifier.classes, arguments.format), must_finish)
        decision = prediction.decision or _UNREADABLE
        counts[decision] += 1
        if arguments.sort_into is not None:
            copy_to_decision(arguments.sort_into, path, below, decision)
        if explainer is not None and not prediction.error:
            explainer.draw(path, below, prediction)
    if not counts:
        raise DataError("no images here (looked for JPEG, PNG, WebP, GIF, BMP and TIFF)")
    order = [*classifier.classes, UNSURE, _UNREADABLE]
    summary = ", ".join(f"{name} {counts[name]:,}" for name in order if counts[name])
    info(f"{counts.total():,} images: {summary}")
    return DataError.exit_code if counts[_UNREADABLE] else 0


def _list_inputs(paths: Iterable[str]) -> Iterator[_Input]:
    """Yield the files in the order given; lazily, since standard input may be a slow program."""
    from neither.data.scan import list_images

    for path in map(Path, paths):
        if str(path) == _STANDARD_INPUT:
            for line in sys.stdin.buffer:
                if name := line.rstrip(b"\r\n").decode(errors="surrogateescape"):
                    file = Path(name)
                    is_below = not file.is_absolute() and ".." not in file.parts
                    yield _Input(file, file.as_posix() if is_below else file.name)
        elif path.is_dir():
            listing = list_images(path)
            for message in listing.unreadable_folders:
                warn(message)
            for below in listing.paths:
                yield _Input(path / below, below)
        else:
            yield _Input(path, path.name)


def _format(prediction: "Prediction", classes: tuple[str, ...], kind: str) -> bytes:
    from neither.inference.prediction import to_bars, to_csv, to_json

    if kind == "csv":
        return to_csv(prediction, classes)
    if kind == "jsonl":
        return to_json(prediction).encode()
    has_blocks = "\u2588".encode(sys.stdout.encoding or "ascii", "replace") != b"?"
    return to_bars(prediction, blocks=has_blocks).encode()


def _write(line: bytes, must_finish: bool) -> None:
    """Print a line at once; with `must_finish` go on if the reader of the output has exited."""
    try:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        if not must_finish:
            raise
        discard_stdout()


def copy_to_decision(folder: Path, source: Path, below: str, decision: str) -> None:
    """Copy a file to `folder/<decision>/<below>`, unless it was copied by an earlier call.

    Another file of that name is not overwritten: the copy gets a number. A missing file is skipped.
    """
    first = folder.joinpath(decision, *PurePosixPath(below).parts)
    first.parent.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        target = first if number == 1 else first.with_stem(f"{first.stem}-{number}")
        if not target.exists():
            break
        if filecmp.cmp(source, target, shallow=False):
            return
    try:
        content = source.open("rb")
    except FileNotFoundError:
        return
    with content, files.atomic_writer(target) as file:
        shutil.copyfileobj(content, file)
