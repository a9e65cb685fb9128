"""Command `export RUN_OR_CHECKPOINT --format onnx|pt2 --output FILE`."""

import argparse
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from neither.cli.command import check_installation, require_packages, run_command
from neither.runtime.console import info, print_line
from neither.runtime.errors import UsageError, UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from neither.inference.classifier import Classifier


_NUM_IMAGES = 64


def main() -> int:
    """Export; return the exit code."""
    parser = argparse.ArgumentParser(
        description="Write a run, or one checkpoint, as one file for other programs: from decoded "
        "pixels to probabilities.",
        epilog="example: export.py runs/photos --format onnx --output photos.onnx",
    )
    parser.add_argument("model", type=Path, help="a run's folder (its best.pt) or a checkpoint")
    parser.add_argument(
        "--format",
        choices=("onnx", "pt2"),
        required=True,
        help="onnx: for ONNX Runtime and others; pt2: for torch.export.load",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", required=True)
    arguments = parser.parse_args()
    return run_command(lambda: _export(arguments))


def _export(arguments: argparse.Namespace) -> int:
    check_installation()
    from neither.inference.classifier import load_classifier
    from neither.inference.export import export_checkpoint, verify_export
    from neither.models.checkpoint import load_checkpoint
    from neither.runtime import files
    from neither.runtime.devices import choose_device_config

    model, output, kind = arguments.model, arguments.output, arguments.format
    if kind == "onnx":
        require_packages("onnx", "onnx", "onnxscript", "onnxruntime")
    classifier = load_classifier(model, choose_device_config("cpu", "float32").device)
    if classifier.source.is_dir():
        files.require_outside(output, classifier.source)
    if output.is_dir() or (output.exists() and output.suffix not in (".onnx", ".pt2")):
        raise UsageError(f"{output}: not an exported file to overwrite; choose another --output")
    with files.new_folder(output.parent):
        content = export_checkpoint(load_checkpoint(model), kind)
        what, pixels = _trial_images(model, classifier)
        difference = verify_export(content, kind, classifier, pixels)
        files.write_atomic(output, content)
    print_line(
        f"written: {output}, {len(content) / 1e6:.1f} MB; on {len(pixels)} {what} its "
        f"probabilities differ from the classifier's by at most {difference:.0e}"
    )
    return 0


def _trial_images(model: Path, classifier: "Classifier") -> tuple[str, "NDArray[np.uint8]"]:
    """Return images to compare the export on: of the run's val split, else random pixels."""
    import numpy as np

    from neither.data.decode import decode_file
    from neither.data.split_file import read_split
    from neither.models.checkpoint import find_run

    preprocessing = classifier.preprocessing
    with suppress(UserError):  # a checkpoint outside a run, or a run that lost its file
        val = read_split(find_run(model) / "splits.csv", classifier.source, "val")
        step = max(1, len(val.paths) // _NUM_IMAGES)  # the paths are sorted by class
        paths = [val.root / name for name in val.paths[::step][:_NUM_IMAGES]]
        decoded = [decode_file(each, preprocessing).pixels for each in paths]
        readable = [pixels for pixels in decoded if pixels is not None]
        if readable:
            return "images of val", np.stack(readable)
        info(f"{classifier.source}: no image of val is readable; random images are used instead")
    shape = (_NUM_IMAGES, preprocessing.image_size, preprocessing.image_size, 3)
    return "random images", np.random.default_rng(0).integers(0, 256, shape, np.uint8)
