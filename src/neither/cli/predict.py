"""Copies of images in one folder for each decision, so that a person can look through them.

`predict.py RUN_OR_CHECKPOINT PATH... [--format ...] [--sort-into DIR] [--explain DIR]`.
"""

import argparse
import filecmp
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import count, tee
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from neither.cli.evaluate import read_priors
from neither.cli.main import check_installation, discard_stdout, run_command
from neither.runtime import files
from neither.runtime.console import info, warn
from neither.runtime.errors import DataError, UsageError

if TYPE_CHECKING:
    from neither.inference.prediction import Prediction


UNREADABLE = "unreadable"


class DecisionFolders:
    """Copies files into `root/<decision>/<path>`; what lies there is never overwritten."""

    def __init__(self, root: Path) -> None:
        """Make the folder.

        Raises:
            OutputError: if it cannot be made or written.
        """
        files.make_folder(root)
        self._root = root

    def copy(self, source: Path, below: str, decision: str) -> None:
        """Copy a file, unless the same one was copied by an earlier call.

        Args:
            source: the file; one that is gone by now is passed over.
            below: its path below the folder that was given, with / between parts.
            decision: names the folder it goes to.

        Raises:
            OSError: if the disk is full or the folder cannot be written.
        """
        wanted = self._root.joinpath(decision, *PurePosixPath(below).parts)
        wanted.parent.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            target = wanted if number == 1 else wanted.with_stem(f"{wanted.stem}-{number}")
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


_STANDARD_INPUT = "-"


def main() -> int:
    """Predict; return the exit code."""
    parser = argparse.ArgumentParser(
        description="Say of each image what it shows: one line a file, in the order given.",
        epilog="example: predict.py runs/photos holiday/ cat.jpg --format csv > answers.csv",
    )
    parser.add_argument("model", type=Path, help="the folder of a run, or one checkpoint file")
    parser.add_argument(
        "paths", nargs="+", metavar="PATH",
        help="images and folders of images; - reads one path a line from standard input",
    )  # fmt: skip
    parser.add_argument(
        "--format", choices=("table", "csv", "jsonl"), default="table",
        help="table: bars for people (default); csv, jsonl: all probabilities, for programs",
    )  # fmt: skip
    parser.add_argument(
        "--priors", metavar="CLASS=SHARE,...",
        help="how common each class is here, if it is not as in training, such as "
        "dog=0.1,human=0.2,neither=0.7",
    )  # fmt: skip
    parser.add_argument(
        "--sort-into", type=Path, metavar="DIR",
        help="also copy each file into DIR/<decision>/; nothing there is overwritten",
    )  # fmt: skip
    parser.add_argument(
        "--explain", type=Path, metavar="DIR",
        help="also draw into DIR which parts of each image spoke for and against its class",
    )  # fmt: skip
    arguments = parser.parse_args()
    return run_command(lambda: _predict(arguments))


class _Given(NamedTuple):
    """A file to predict: where it is, and its path below the folder that was given."""

    path: Path
    below: str


def _predict(arguments: argparse.Namespace) -> int:
    check_installation()
    from neither.cli.predict import UNREADABLE, DecisionFolders
    from neither.inference.classifier import load_classifier
    from neither.inference.explain import Explainer
    from neither.inference.prediction import UNSURE, csv_header, encode
    from neither.runtime import files
    from neither.runtime.devices import choose_compute

    for path in arguments.paths:
        if path != _STANDARD_INPUT and not Path(path).exists():
            raise UsageError(f"{path}: no such file or folder")
    for output in (arguments.sort_into, arguments.explain):
        for path in arguments.paths:
            if output is not None and Path(path).is_dir():
                files.require_outside(output, Path(path))
    classifier = load_classifier(arguments.model, choose_compute("auto", "float32").device)
    if arguments.priors is not None:
        classifier = classifier.with_priors(read_priors(arguments.priors))
    sorter = DecisionFolders(arguments.sort_into) if arguments.sort_into else None
    explainer = Explainer(classifier, arguments.explain) if arguments.explain else None
    info(f"images are decoded as in training: {classifier.preprocessing}")
    goes_on = sorter is not None or explainer is not None
    if arguments.format == "csv":
        _write(encode(csv_header(classifier.classes)), goes_on)
    counts: Counter[str] = Counter()
    asked, shown = tee(_find(arguments.paths))
    results = classifier.predict_files(given.path for given in asked)
    for given, (prediction, _, _) in zip(shown, results, strict=True):
        _write(encode(_line(prediction, classifier.classes, arguments.format)), goes_on)
        decision = prediction.decision or UNREADABLE
        counts[decision] += 1
        if sorter is not None:
            sorter.copy(given.path, given.below, decision)
        if explainer is not None and not prediction.error:
            explainer.draw(given.path, given.below, prediction)
    if not counts:
        raise DataError("no images here (looked for JPEG, PNG, WebP, GIF, BMP and TIFF)")
    order = [*classifier.classes, UNSURE, UNREADABLE]
    told = ", ".join(f"{name} {counts[name]:,}" for name in order if counts[name])
    info(f"{counts.total():,} images: {told}")
    return DataError.exit_code if counts[UNREADABLE] else 0


def _find(paths: Iterable[str]) -> Iterator[_Given]:
    """Yield what was asked for, in order, as it is needed."""
    from neither.data.scan import list_images

    for path in paths:
        if path == _STANDARD_INPUT:
            for line in sys.stdin.buffer:
                if name := line.rstrip(b"\r\n").decode(errors="surrogateescape"):
                    yield _Given(Path(name), _below(Path(name)))
        elif Path(path).is_dir():
            listing = list_images(Path(path))
            for refusal in listing.unreadable_folders:
                warn(refusal)
            for below in listing.paths:
                yield _Given(Path(path) / below, below)
        else:
            yield _Given(Path(path), Path(path).name)


def _write(line: bytes, goes_on: bool) -> None:
    """Print a line at once; where more is to be done, a reader who leaves does not end it."""
    try:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        if not goes_on:
            raise
        discard_stdout()


def _below(path: Path) -> str:
    """Keep the folders of a path that leads downwards; of any other only its name."""
    leads_down = not path.is_absolute() and ".." not in path.parts
    return path.as_posix() if leads_down else path.name


def _line(prediction: "Prediction", classes: tuple[str, ...], kind: str) -> str:
    from neither.inference.prediction import to_bars, to_csv, to_json

    if kind == "csv":
        return to_csv(prediction, classes)
    if kind == "jsonl":
        return to_json(prediction)
    return to_bars(prediction, blocks=_has_blocks())


def _has_blocks() -> bool:
    try:
        "\u2588".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
