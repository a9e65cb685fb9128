"""`export.py RUN_OR_CHECKPOINT --format onnx|pt2 --output FILE`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from neither.commands.door import check_installation, pass_through
from neither.errors import UsageError, UserError
from neither.terminal import say, show

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from neither.inference.classifier import Classifier

_NUM_PICTURES = 64


def main() -> int:
    """Export; return the exit code."""
    parser = argparse.ArgumentParser(
        description="Write a run, or one checkpoint, as one file for other programs: from decoded "
        "pixels to probabilities.",
        epilog="example: export.py runs/photos --format onnx --output photos.onnx",
    )
    parser.add_argument("model", type=Path, help="a run's folder (its best.pt) or a checkpoint")
    parser.add_argument(
        "--format", choices=("onnx", "pt2"), required=True,
        help="onnx: for ONNX Runtime and others; pt2: for torch.export.load",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="FILE", required=True)
    arguments = parser.parse_args()
    return pass_through(lambda: _export(arguments))


def _export(arguments: argparse.Namespace) -> int:
    check_installation()
    import torch

    from neither import files
    from neither.inference.classifier import load_classifier
    from neither.inference.export import require_packages, require_same, to_file
    from neither.model.checkpoint import find_checkpoint, load_checkpoint

    output, kind = arguments.output, arguments.format
    require_packages(kind)
    path = find_checkpoint(arguments.model)
    classifier = load_classifier(path, torch.device("cpu"))
    if classifier.source.is_dir():
        files.require_outside(output, classifier.source)
    if output.is_dir() or (output.exists() and output.suffix not in (".onnx", ".pt2")):
        raise UsageError(f"{output}: not a file to write over; choose another --output")
    files.make_folder(output.parent)
    content = to_file(load_checkpoint(path), kind)
    what, pixels = _pictures(path, classifier)
    worst = require_same(content, kind, classifier, pixels)
    files.write_whole(output, content)
    show(f"written: {output}, {len(content) / 1e6:.1f} MB; on {len(pixels)} {what} it differs from "
         f"the classifier by at most {worst:.0e} in a probability")  # fmt: skip
    return 0


def _pictures(path: Path, classifier: "Classifier") -> tuple[str, "NDArray[np.uint8]"]:
    """Return what the export is tried on: pictures of val, else such as the demo draws."""
    import numpy as np

    from neither.data.decode import decode, decode_file
    from neither.data.demo.picture import CLASSES, draw_picture
    from neither.data.split_file import find_split

    preprocessing = classifier.preprocessing
    try:
        found = find_split(path.parent.parent / "splits.csv", classifier.source, "val")
    except UserError:  # one checkpoint alone knows no split
        found = None
    if found is not None:
        every = max(1, len(found.paths) // _NUM_PICTURES)  # from all over: the list is by class
        some = [found.root / name for name in found.paths[::every][:_NUM_PICTURES]]
        squares = [decode_file(each, preprocessing).pixels for each in some]
        there = [square for square in squares if square is not None]
        if there:
            return "pictures of val", np.stack(there)
        say(f"{classifier.source}: the pictures of val are gone; drawn ones take their place")
    drawn = [draw_picture(0, "val", CLASSES[index % 3], index)[0] for index in range(_NUM_PICTURES)]
    return "drawn pictures", np.stack([decode(each, preprocessing) for each in drawn])
