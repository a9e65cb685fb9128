"""Command `predict RUN_OR_CHECKPOINT PATH... [--output FILE.csv] [--sort-into DIR] ...`."""

import argparse
import filecmp
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from hashlib import file_digest
from itertools import count, tee
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from neither.cli.command import check_installation, discard_stdout, run_command
from neither.cli.evaluate import load_with_priors
from neither.runtime import files
from neither.runtime.console import STANDARD_OUTPUT, info, printable, warn
from neither.runtime.errors import DataError, UsageError, named

if TYPE_CHECKING:
    from neither.inference.classifier import Classifier
    from neither.inference.explain import Explainer
    from neither.inference.prediction import Prediction, PredictionFile

_STANDARD_INPUT = "-"
_UNREADABLE = "unreadable"
_CHUNK_BYTES = 1 << 20


def main() -> int:
    """Predict; return the exit code."""
    parser = argparse.ArgumentParser(
        description="Predict the class of each image: one line a file, in the order given.",
        epilog="example: predict.py runs/photos holiday/ cat.jpg --format csv > predictions.csv",
    )
    parser.add_argument("model", type=Path, help="a run's folder (its best.pt) or a checkpoint")
    parser.add_argument("paths", nargs="+", metavar="PATH",
                        help="images and folders of images; - reads one path a line from standard "
                        "input")  # fmt: skip
    parser.add_argument("--format", choices=("table", "csv", "jsonl"), default="table",
                        help="table: bars for people (default); csv, jsonl: all probabilities, for "
                        "programs")  # fmt: skip
    parser.add_argument("--priors", metavar="CLASS=FRACTION,...",
                        help="how common each class is in these images, if not as in training, "
                        "such as dog=0.1,human=0.2,neither=0.7")  # fmt: skip
    parser.add_argument("--sort-into", type=Path, metavar="DIR",
                        help="also copy each file into DIR/<decision>/; nothing there is "
                        "overwritten")  # fmt: skip
    parser.add_argument("--explain", type=Path, metavar="DIR",
                        help="also draw a heat map of each image into DIR: what speaks for and "
                        "against its class")  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="FILE.csv",
                        help="write the rows there instead; the same command goes on with what it "
                        "holds already")  # fmt: skip
    arguments = parser.parse_args()
    return run_command(lambda: _predict(arguments))


class _Input(NamedTuple):
    """A file to predict: its path, and its path below the folder on the command line."""

    path: Path
    below: str


def _predict(arguments: argparse.Namespace) -> int:
    for path in arguments.paths:
        if path != _STANDARD_INPUT and _is_missing(path):
            raise UsageError(f"{path}: no such file or folder")
    if arguments.output is not None and arguments.format == "jsonl":
        raise UsageError("--output writes CSV; leave out --format jsonl")
    for output in filter(None, (arguments.sort_into, arguments.explain, arguments.output)):
        for path in filter(os.path.isdir, arguments.paths):
            files.require_outside(output, Path(path))
    check_installation()
    from neither.inference.prediction import open_predictions
    from neither.models.checkpoint import find_checkpoint
    from neither.reporting.text import describe_decisions

    classifier = load_with_priors(arguments)
    if arguments.sort_into is not None:
        files.make_folder(arguments.sort_into)
    explainer = None
    if arguments.explain is not None:
        from neither.inference.explain import Explainer

        explainer = Explainer(classifier, arguments.explain)
    info(f"images are decoded as in training: {classifier.preprocessing}")
    for line in describe_decisions(classifier):
        info(line)
    with ExitStack() as stack:
        output = None
        if arguments.output is not None:
            with find_checkpoint(arguments.model).open("rb") as file:
                digest = file_digest(file, "sha256").hexdigest()
            made_by = {"model": digest, "priors": list(classifier.priors)}
            opened = open_predictions(arguments.output, classifier.classes, made_by)
            output = stack.enter_context(opened)
        return _predict_all(arguments, classifier, explainer, output)


def _predict_all(
    arguments: argparse.Namespace,
    classifier: "Classifier",
    explainer: "Explainer | None",
    output: "PredictionFile | None",
) -> int:
    """Predict the images that the output has no row of; return the exit code."""
    from neither.data.image_file import FORMAT_NAMES
    from neither.inference.prediction import UNSURE, csv_header

    must_finish = arguments.sort_into is not None or explainer is not None
    if arguments.format == "csv" and output is None:
        _write(csv_header(classifier.classes), must_finish)
    counts: Counter[str] = Counter()
    done: Counter[str] = Counter()  # rows by path
    for (cell, decision), num in output.counts.items() if output else ():
        counts[decision or _UNREADABLE] += num
        done[cell] += num
    num_failed = 0
    unreadable_folders: list[str] = []
    inputs, copies = tee(_without(done, _list_inputs(arguments.paths, unreadable_folders)))
    results = classifier.predict_files(each.path for each in copies)
    for (path, below), (prediction, _, _) in zip(inputs, results, strict=True):
        decision = prediction.decision or _UNREADABLE
        counts[decision] += 1
        if arguments.sort_into is not None:
            copy = partial(copy_to_decision, arguments.sort_into, path, below, decision)
            num_failed += not _attempt(copy, "copied", path, arguments.sort_into)
        if explainer is not None and not prediction.error:
            draw = partial(explainer.draw, path, below, prediction)
            num_failed += not _attempt(draw, "explained", path, arguments.explain)
        if output is not None:
            output.add(prediction)
        else:
            _write(_format(prediction, classifier.classes, arguments.format), must_finish)
    if not counts:
        raise DataError(f"no images here (looked for {FORMAT_NAMES})")
    order = [*classifier.classes, UNSURE, _UNREADABLE]
    summary = ", ".join(f"{name} {counts[name]:,}" for name in order if counts[name])
    failed = f"; {num_failed:,} files could not be copied or explained" if num_failed else ""
    info(f"{counts.total():,} images: {summary}{failed}")
    return DataError.exit_code if counts[_UNREADABLE] or num_failed or unreadable_folders else 0


def _without(done: Counter[str], inputs: Iterable[_Input]) -> Iterator[_Input]:
    """Yield the files but for as many of each path as are done."""
    from neither.data.split_file import safe_cell

    for each in inputs:
        cell = safe_cell(str(each.path))
        if done[cell] > 0:
            done[cell] -= 1
        else:
            yield each


def _is_missing(path: str) -> bool:
    """Return whether there is no such file; one that cannot be read gets a row that says why."""
    try:
        os.stat(path)  # noqa: PTH116 - as os.path.isdir below: pathlib's raises some errors
    except OSError as error:
        return isinstance(error, FileNotFoundError | NotADirectoryError)
    return False


def _list_inputs(paths: Iterable[str], unreadable_folders: list[str]) -> Iterator[_Input]:
    """Yield the files in the order given; lazily, since standard input may be a slow program.

    A message about each folder that cannot be read is added to `unreadable_folders`.
    """
    from neither.data.scan import ImageTable

    for path in map(Path, paths):
        if str(path) == _STANDARD_INPUT:
            for line in sys.stdin.buffer:
                if name := line.rstrip(b"\r\n").decode(errors="surrogateescape"):
                    file = Path(name)
                    is_below = not file.is_absolute() and ".." not in file.parts
                    yield _Input(file, file.as_posix() if is_below else file.name)
        elif os.path.isdir(path):  # noqa: PTH112
            table = ImageTable(path, path)
            try:
                names = table.scan(path)
            except DataError as error:
                names, table.unreadable_folders = [], [str(error)]
            for message in table.unreadable_folders:
                warn(message)
            unreadable_folders += table.unreadable_folders
            for note in table.notes:
                info(note)
            for below in names:
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
        with named(STANDARD_OUTPUT):
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
    except BrokenPipeError:
        if not must_finish:
            raise
        discard_stdout()


def _attempt(write: Callable[[], None], done: str, source: Path, folder: Path) -> bool:
    """Write into `folder` what belongs to `source`; return False, with a warning, if it fails.

    The warning says that the image is not `done`, such as copied.

    Raises:
        OutputError: if the folder is full or takes no file at all.
    """
    try:
        write()
    except OSError as error:
        files.require_usable(folder, error)
        is_other = error.filename and Path(error.filename) != source
        where = f"{error.filename}: " if is_other else ""
        warn(printable(f"{source}: not {done}: {where}{error.strerror or error}"))
        return False
    except DataError as error:
        warn(printable(f"{source}: not {done}: {error}"))
        return False
    return True


def copy_to_decision(folder: Path, source: Path, below: str, decision: str) -> None:
    """Copy a file to `folder/<decision>/<below>`, with a number if there is another, but only once.

    Raises:
        DataError: if the source is not a regular file; opening a pipe or a device might never end.
        OSError: if the source cannot be read or the copy cannot be written.
    """
    if not os.path.isfile(source):  # noqa: PTH113
        raise DataError("missing, or not a regular file")
    first = folder.joinpath(decision, *PurePosixPath(below).parts)
    first.parent.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        target = first if number == 1 else first.with_stem(f"{first.stem}-{number}")
        if not target.exists():
            break
        if filecmp.cmp(source, target, shallow=False):
            return
    with files.atomic_writer(target) as file:
        file.writelines(_read_chunks(source))


def _read_chunks(path: Path) -> Iterator[bytes]:
    with named(path), path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
