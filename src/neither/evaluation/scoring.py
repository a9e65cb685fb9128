"""Score a model on what a path means: a folder, its split, a CSV file, or one image."""

import shlex
from pathlib import Path
from typing import Any, NamedTuple

from neither import files
from neither.data.found import Found
from neither.data.manifest import find_scored_rows, is_manifest
from neither.data.scored import find_scored_images, find_unseen_images, given_splits
from neither.data.split_file import find_split, read_hashes
from neither.evaluation.evaluation import evaluate
from neither.evaluation.history import read_rows
from neither.evaluation.report import Story, write_report
from neither.inference.classifier import Classifier
from neither.model.checkpoint import find_checkpoint
from neither.terminal import say, warn


class Scoring(NamedTuple):
    """What scoring gave.

    Attributes:
        metrics: what `metrics.json` holds.
        source: what was scored: of a folder with splits, that of the split.
        output_dir: where it lies.
        refused: folders that could not be read.
    """

    metrics: dict[str, Any]
    source: Path
    output_dir: Path
    refused: list[str]


def score(
    model: Path,
    classifier: Classifier,
    images: Path,
    split: str | None,
    unseen_root: Path | None,
    output_dir: Path | None,
) -> Scoring:
    """Score a model's classifier and write the results.

    Args:
        model: the folder of a run, or one checkpoint file.
        classifier: loaded from it.
        images: a folder with or without labels, a CSV file, or an image.
        split: train, val or test; None for test where the folder has splits, else for all of it.
        unseen_root: folders of kinds that are no class, if any.
        output_dir: None for `evaluations/<a>-<b>` in the run's folder, or beside the checkpoint;
            with priors `-priors` is added.

    Raises:
        UsageError: if something is not there, or the results would lie among the images.
        DataError: if there is no image.
        CheckpointError: if a logit is not finite.
        OutputError: if a folder cannot be read or written, or a decoding process was killed.
    """
    roots = [root for root in (images, unseen_root) if root is not None and root.is_dir()]
    for root in roots:
        files.require_readable(root)
    scored = _find(model, images, split, classifier)
    unseen = None
    if unseen_root is not None:
        unseen = find_unseen_images(unseen_root, classifier.classes)
        scored.leave_out(unseen_root)  # they get their rows once
    refused = [*scored.refused, *(unseen.refused if unseen else [])]
    for note in [*scored.notes, *(unseen.notes if unseen else [])]:
        say(note)
    for refusal in refused:
        warn(refusal)
    say(f"images are decoded as in training: {classifier.preprocessing}")
    whole = scored.root if images.is_dir() else images
    name = "-".join(whole.resolve().parts[1:][-2:]) or "root"  # without the / or C:\ before them
    if split and whole.resolve() == images.resolve():  # no folder of its own
        name = f"{whole.resolve().name}-{split}"
    if classifier.priors:  # beside the figures without them, not in their place
        name += "-priors"
    home = model if model.is_dir() else find_checkpoint(model).parent
    output_dir = output_dir or home / "evaluations" / name
    for root in roots:
        files.require_outside(output_dir, root)
    files.make_folder(output_dir)
    next_command = shlex.join(["python", "scripts/predict.py", str(model), "FOLDER"])
    story = Story(
        f"{home.resolve().name} on {name}",
        str(whole),
        rows=read_rows(home),
        warnings=refused,
        commands=[("Say of any other pictures what they show:", next_command)],
    )
    evaluation = evaluate(classifier, scored, unseen, _trained_on(model), output_dir)
    # Never an old report beside new figures, however the drawing of the new one ends.
    (output_dir / "report.html").unlink(missing_ok=True)
    write_report(output_dir / "report.html", evaluation.metrics, evaluation.scored, story)
    return Scoring(evaluation.metrics, whole, output_dir, refused)


def _find(model: Path, images: Path, split: str | None, classifier: Classifier) -> Found:
    """Find what to score; a run knows the splits that it made of a folder that lacks them."""
    kept = model / "splits.csv"
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
    splits_file = model / "splits.csv"
    if not splits_file.is_file():
        say("a checkpoint alone cannot tell whether it was trained on these images; its run can")
        return set()
    return read_hashes(splits_file, "train")
