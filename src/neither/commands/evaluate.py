"""`evaluate.py RUN_OR_CHECKPOINT FOLDER_OR_CSV_OR_FILE [--split test] [--unseen DIR] ...`."""

import argparse
from pathlib import Path

from neither.commands.door import check_installation, pass_through
from neither.commands.priors import read_priors
from neither.commands.requirements import read_requirement
from neither.errors import DataError, MissedError
from neither.terminal import show


def main() -> int:
    """Evaluate; return the exit code."""
    parser = argparse.ArgumentParser(
        description="Score a run, or one checkpoint, on a folder of images or on one image.",
        epilog="example: evaluate.py runs/photos_quick my/photos --unseen my/other_things",
    )
    parser.add_argument("model", type=Path, help="a run's folder (its best.pt) or a checkpoint")
    parser.add_argument(
        "images", type=Path, help="a folder with or without labels, a CSV file, or an image"
    )
    parser.add_argument(
        "--split",
        choices=["train", "val", "test"],
        help="which split, of a folder or CSV file that has them (default: test) or that the run "
        "was trained on and split itself (default: all of it)",
    )
    parser.add_argument(
        "--unseen", type=Path, metavar="DIR", help="folders of kinds that are no class"
    )
    parser.add_argument(
        "--priors",
        metavar="CLASS=SHARE,...",
        help="how common each class is where the model is used, if not as in training; the "
        "probabilities are corrected for it",
    )
    parser.add_argument(
        "--require",
        action="append",
        default=[],
        metavar="FIGURE>=NUMBER",
        help="end with exit code 4 if a figure of metrics.json misses this, such as "
        "'macro_recall>=0.9' or 'per_class.neither.recall>=0.85'; may be given several times",
    )
    parser.add_argument(
        "--output-dir", type=Path, help="default: evaluations/<a>-<b> in the run's folder"
    )
    arguments = parser.parse_args()
    return pass_through(lambda: _evaluate(arguments))


def _evaluate(arguments: argparse.Namespace) -> int:
    check_installation()
    from neither.devices import choose_compute
    from neither.evaluation.scoring import score
    from neither.evaluation.screen import show_metrics
    from neither.inference.classifier import load_classifier

    requirements = [read_requirement(text) for text in arguments.require]
    classifier = load_classifier(arguments.model, choose_compute("auto", "float32").device)
    if arguments.priors is not None:
        classifier = classifier.with_priors(read_priors(arguments.priors))
    metrics, source, output_dir, refused = score(
        arguments.model, classifier, arguments.images, arguments.split, arguments.unseen,
        arguments.output_dir,
    )  # fmt: skip
    show_metrics(str(source), metrics)
    show(f"written: {output_dir}/report.html, metrics.json, predictions.csv")
    missed = [complaint for each in requirements if (complaint := each.complaint(metrics))]
    if missed:
        raise MissedError("\n       ".join(missed))
    return DataError.exit_code if metrics["num_unreadable"] or refused else 0
