"""`evaluate.py RUN_OR_CHECKPOINT FOLDER_OR_CSV_OR_FILE [--split test] [--unseen DIR] ...`."""

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from neither.commands.door import check_installation, pass_through
from neither.commands.priors import read_priors
from neither.commands.requirements import read_requirement
from neither.errors import DataError, MissedError
from neither.terminal import say, show, warn

if TYPE_CHECKING:
    from neither.data.found import Found
    from neither.inference.classifier import Classifier


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
    from neither import files
    from neither.data.scored import find_unseen_images
    from neither.devices import choose_compute
    from neither.evaluation.evaluation import evaluate
    from neither.evaluation.history import read_rows
    from neither.evaluation.report import Story, write_report
    from neither.evaluation.screen import show_metrics
    from neither.inference.classifier import load_classifier
    from neither.model.checkpoint import find_checkpoint

    requirements = [read_requirement(text) for text in arguments.require]
    for root in (arguments.images, arguments.unseen):
        if root is not None and root.is_dir():
            files.require_readable(root)
    checkpoint = find_checkpoint(arguments.model)
    classifier = load_classifier(checkpoint, choose_compute("auto", "float32").device)
    if arguments.priors is not None:
        classifier = classifier.with_priors(read_priors(arguments.priors, classifier.classes))
    scored = _find(arguments, classifier)
    unseen = None
    if arguments.unseen is not None:
        unseen = find_unseen_images(arguments.unseen, classifier.classes)
    refused = [*scored.refused, *(unseen.refused if unseen else [])]
    for note in [*scored.notes, *(unseen.notes if unseen else [])]:
        say(note)
    for refusal in refused:
        warn(refusal)
    say(f"images are decoded as in training: {classifier.preprocessing}")
    whole = scored.root if arguments.images.is_dir() else arguments.images
    name = "-".join(whole.resolve().parts[1:][-2:]) or "root"  # without the / or C:\ before them
    if arguments.split and whole.resolve() == arguments.images.resolve():  # no folder of its own
        name = f"{whole.resolve().name}-{arguments.split}"
    home = arguments.model if arguments.model.is_dir() else checkpoint.parent
    output_dir = arguments.output_dir or home / "evaluations" / name
    for root in (arguments.images, arguments.unseen):
        if root is not None and root.is_dir():
            files.require_outside(output_dir, root)
    files.make_folder(output_dir)
    next_command = shlex.join(["python", "scripts/predict.py", str(arguments.model), "FOLDER"])
    story = Story(
        f"{home.resolve().name} on {name}",
        str(whole),
        rows=read_rows(home),
        warnings=refused,
        commands=[("Say of any other pictures what they show:", next_command)],
    )
    evaluation = evaluate(classifier, scored, unseen, _trained_on(arguments.model), output_dir)
    metrics = evaluation.metrics
    write_report(output_dir / "report.html", metrics, evaluation.scored, story)
    show_metrics(str(whole), metrics)
    show(f"written: {output_dir}/report.html, metrics.json, predictions.csv")
    missed = [complaint for each in requirements if (complaint := each.complaint(metrics))]
    if missed:
        raise MissedError("\n       ".join(missed))
    return DataError.exit_code if metrics["num_unreadable"] or refused else 0


def _find(arguments: argparse.Namespace, classifier: "Classifier") -> "Found":
    """Find what to score; a run knows the splits that it made of a folder that lacks them."""
    from neither.data.manifest import find_scored_rows, is_manifest
    from neither.data.scored import find_scored_images, given_splits
    from neither.data.split_file import find_split

    images, split = arguments.images, arguments.split
    kept = arguments.model / "splits.csv"
    own = images.exists() and images.resolve() == classifier.source.resolve() and kept.is_file()
    if own:
        given = given_splits(images)
        if split is not None and split not in given:
            return find_split(kept, images, split)
        if not given:
            say("the run was trained on this; --split test scores only what it kept for that")
    if is_manifest(images):
        return find_scored_rows(images, split, classifier.aliases, classifier.classes)
    return find_scored_images(images, classifier.classes, split, classifier.aliases)


def _trained_on(model: Path) -> set[str]:
    """Return the hashes of the images that a run was trained on; a bare checkpoint knows none."""
    from neither.data.split_file import read_hashes

    splits_file = model / "splits.csv"
    if not splits_file.is_file():
        say("a checkpoint alone cannot tell whether it was trained on these images; its run can")
        return set()
    return read_hashes(splits_file, "train")
