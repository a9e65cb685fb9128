"""Command `review RUN [FOLDER_OF_NEW_IMAGES] [--corrections FILE]`."""

import argparse
import shlex
from pathlib import Path

from neither.cli.command import check_installation, require_packages, run_command
from neither.cli.serve import PACKAGES, add_arguments
from neither.runtime import files
from neither.runtime.console import info, print_line
from neither.runtime.errors import UsageError

_MANIFEST = "manifest.csv"


def main() -> int:
    """Review; return the exit code."""
    parser = argparse.ArgumentParser(
        description="Serve a web page to review the labels of a run's images, the doubtful ones "
        "first, and to label new images. No image is changed: the answers go to a CSV file, which "
        "data.corrections of a config follows.",
        epilog="example: review.py runs/photos my/new_photos",
    )
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("new_images", nargs="?", type=Path, metavar="FOLDER_OF_NEW_IMAGES",
                        help="images to label, the least certain first; they become rows of a "
                        f"{_MANIFEST} beside the answers")  # fmt: skip
    parser.add_argument("--corrections", type=Path, metavar="FILE",
                        help="where the answers are, and go (default: the file that the run was "
                        "trained with, or corrections.csv in its folder)")  # fmt: skip
    add_arguments(parser)
    arguments = parser.parse_args()
    return run_command(lambda: _review(arguments))


def _review(arguments: argparse.Namespace) -> int:
    run, new_images = arguments.run, arguments.new_images
    if not (run / "splits.csv").is_file():
        raise UsageError(f"{run}: this is not the folder of a run")
    require_packages("serve", *PACKAGES)
    check_installation()
    from neither.data.layout import require_folder
    from neither.inference.classifier import load_classifier
    from neither.runtime.devices import choose_device_config
    from neither.serving.app import create_app, describe_model
    from neither.serving.engine import Engine
    from neither.serving.guard import Guard, new_token
    from neither.serving.review import add_review, open_review
    from neither.serving.server import address_of, open_socket, run_server
    from neither.training.run_folder import CORRECTIONS

    classifier = load_classifier(run, choose_device_config("auto", "float32").device)
    source, path = classifier.source, arguments.corrections
    if not source.exists():
        raise UsageError(f"{source}: the images of this run are gone; put them back, or start this "
                         "command where the run was trained")  # fmt: skip
    if new_images is not None:
        require_folder(new_images)
    if path is None:
        known = classifier.corrections
        path = known if known is not None and known.is_file() else run / CORRECTIONS
    for folder in filter(None, (source, new_images)):
        if folder.is_dir():
            files.require_outside(path, folder)
    files.make_folder(path.parent)
    with open_socket(arguments.host, arguments.port) as listener:
        review = open_review(run, classifier, path, new_images)
        engine, token = Engine(classifier), new_token()
        app = create_app(engine, describe_model(run, classifier), "review.html")
        add_review(app, engine, review)
        command = ["python", "scripts/train.py", str(run / "config.yaml")]
        command += [f"name={run.resolve().name}-reviewed", f"data.corrections={path}"]
        if new_images is not None:
            command += ["data.root=null", f"data.manifest={path.with_name(_MANIFEST)}"]

        def close() -> None:
            engine.close()
            if new_images is not None:
                review.write_manifest(path.with_name(_MANIFEST), source)
            if path.exists():
                info(f"train with these answers: {shlex.join(command)}")

        print_line(f"{address_of(listener)}#{token}")
        info(f"open this address in a browser; answers go to {path}; Ctrl-C ends the review")
        run_server(Guard(app, token, arguments.allowed_host), listener, close)
    return 0
