"""Command `evaluate RUN_OR_CHECKPOINT FOLDER_OR_CSV_OR_FILE [options]`."""

import argparse
import difflib
import math
import operator
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neither.cli.command import check_installation, run_command
from neither.runtime.console import print_line
from neither.runtime.errors import DataError, RequirementError, UsageError

if TYPE_CHECKING:
    from neither.inference.classifier import Classifier

_COMPARISONS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_REQUIREMENT = re.compile(r"\s*(?P<metric>[^<>]+?)\s*(?P<comparison>[<>]=?)\s*(?P<bound>[^<>=]+)")


def main() -> int:
    """Evaluate; return the exit code."""
    parser = argparse.ArgumentParser(
        description="Score a run, or one checkpoint, on a folder of images or on one image.",
        epilog="example: evaluate.py runs/photos_quick my/photos --unseen my/other_things",
    )
    parser.add_argument("model", type=Path, help="a run's folder (its best.pt) or a checkpoint")
    parser.add_argument("images", type=Path, help="a folder, labelled or not, a CSV or an image")
    parser.add_argument(
        "--split",
        choices=["train", "val", "test"],
        help="which split, of a folder or CSV file that has them (default: test) or that the run "
        "was trained on and split itself (default: all of it)",
    )
    parser.add_argument("--unseen", type=Path, metavar="DIR", help="folders of images of no class")
    parser.add_argument("--priors", metavar="CLASS=FRACTION,...",
                        help="how common each class is where the model is used, if not as in "
                        "training; the probabilities are corrected for it")  # fmt: skip
    parser.add_argument("--corrections", type=Path, metavar="FILE",
                        help="follow the answers of a review (default: those that the run was "
                        "trained with)")  # fmt: skip
    parser.add_argument("--require", action="append", default=[], metavar="METRIC>=NUMBER",
                        help="exit with code 4 if a number in metrics.json misses this, such as "
                        "'macro_recall>=0.9' or 'per_class.neither.recall>=0.85'; may be given "
                        "several times")  # fmt: skip
    parser.add_argument("--output-dir", type=Path, help="default: evaluations/<a>-<b> of the run")
    arguments = parser.parse_args()
    return run_command(lambda: _evaluate(arguments))


def _evaluate(arguments: argparse.Namespace) -> int:
    requirements = [read_requirement(text) for text in arguments.require]
    check_installation()
    from neither.evaluation.evaluation import evaluate_path
    from neither.reporting.html import report_evaluation
    from neither.reporting.text import print_metrics

    classifier = load_with_priors(arguments)
    evaluation = evaluate_path(
        arguments.model,
        classifier,
        arguments.images,
        arguments.split,
        arguments.unseen,
        arguments.output_dir,
        arguments.corrections,
    )
    report_evaluation(arguments.model, evaluation)
    metrics, output_dir = evaluation.metrics, evaluation.output_dir
    print_metrics(str(evaluation.source), metrics)
    print_line(f"written: {output_dir}/report.html, metrics.json, predictions.csv")
    missed = [message for each in requirements if (message := each.check(metrics))]
    if missed:
        raise RequirementError(*missed)
    return DataError.exit_code if metrics["num_unreadable"] or evaluation.unreadable_folders else 0


def load_with_priors(arguments: argparse.Namespace) -> "Classifier":
    """Load the `model` of a command line on the best device, with its `--priors`."""
    from neither.inference.classifier import load_classifier
    from neither.runtime.devices import choose_device_config

    device, priors = choose_device_config("auto", "float32").device, arguments.priors
    classifier = load_classifier(arguments.model, device)
    return classifier if priors is None else classifier.with_priors(read_priors(priors))


def read_priors(text: str) -> dict[str, float]:
    """Parse `dog=0.1,human=0.2,neither=0.7`; raise `UsageError` if it has another form."""
    priors: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.strip().rpartition("=")
        try:
            fraction = float(value)
        except ValueError as error:
            raise UsageError(f"--priors: {part!r} is not CLASS=FRACTION") from error
        if name in priors:
            raise UsageError(f"--priors: {name} is given twice")
        priors[name] = fraction
    return priors


@dataclass(frozen=True)
class Requirement:
    """One `--require`, such as `per_class.neither.recall>=0.85`."""

    metric: str  # keys of a number in `metrics.json`, joined by dots
    comparison: str  # >=, <=, > or <
    bound: float

    def check(self, metrics: Mapping[str, object]) -> str | None:
        """Return a message if the metrics miss this; raise `UsageError` if they lack the number."""
        from neither.data.scan import nfc

        numbers = {nfc(name): value for name, value in _numbers(metrics)}
        if (metric := nfc(self.metric)) not in numbers:
            close = difflib.get_close_matches(metric, numbers, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UsageError(f"--require: metrics.json has no number {self.metric}{hint}")
        value = numbers[metric]
        if _COMPARISONS[self.comparison](value, self.bound):
            return None
        return f"{self.metric} is {value:.10g}, required {self.comparison} {self.bound:.10g}"


def read_requirement(text: str) -> Requirement:
    """Parse `METRIC>=NUMBER`; raise `UsageError` if it has another form."""
    match = _REQUIREMENT.fullmatch(text)
    with suppress(ValueError):
        if match is not None and math.isfinite(bound := float(match["bound"])):
            return Requirement(match["metric"], match["comparison"], bound)
    raise UsageError(f"--require: {text!r} is not METRIC>=NUMBER, nor with <=, > or <")


def _numbers(metrics: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float):
            yield f"{prefix}{key}", value
