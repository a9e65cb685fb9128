"""What `evaluate --require` demands of the figures, for tests of models in CI.

What `--priors` says.

`evaluate.py RUN_OR_CHECKPOINT FOLDER_OR_CSV_OR_FILE [--split test] [--unseen DIR] ...`.
"""

import argparse
import difflib
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from neither.cli.main import check_installation, run_command
from neither.runtime.console import print_line
from neither.runtime.errors import DataError, RequirementError, UsageError

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_FORM = re.compile(r"\s*(?P<path>[^<>]+?)\s*(?P<comparison>>=|<=|>|<)\s*(?P<bound>[^<>=]+)")


@dataclass(frozen=True)
class Requirement:
    """One demand, such as `per_class.neither.recall>=0.85`.

    Attributes:
        path: of a figure in `metrics.json`, the keys joined by dots.
        comparison: >=, <=, > or <.
        bound: what the figure is compared with.
    """

    path: str
    comparison: str
    bound: float

    def complaint(self, metrics: Mapping[str, object]) -> str | None:
        """Say how far the figures are from it; return None if it is met.

        Raises:
            UsageError: if there is no such figure.
        """
        figures = dict(_figures(metrics))
        if self.path not in figures:
            close = difflib.get_close_matches(self.path, figures, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UsageError(f"--require: metrics.json has no figure {self.path}{hint}")
        found = figures[self.path]
        if _COMPARISONS[self.comparison](found, self.bound):
            return None
        return f"{self.path} is {found:.10g}, required {self.comparison} {self.bound:.10g}"


def read_requirement(text: str) -> Requirement:
    """Read `FIGURE>=NUMBER`.

    Raises:
        UsageError: if it is anything else.
    """
    form = _FORM.fullmatch(text)
    with suppress(ValueError):
        if form is not None and math.isfinite(bound := float(form["bound"])):
            return Requirement(form["path"], form["comparison"], bound)
    raise UsageError(f"--require: {text!r} is not FIGURE>=NUMBER, nor with <=, > or <")


def _figures(metrics: Mapping[str, object], above: str = "") -> Iterator[tuple[str, float]]:
    """Yield each number with its path."""
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _figures(value, f"{above}{key}.")
        elif isinstance(value, int | float):
            yield f"{above}{key}", value


def read_priors(text: str) -> dict[str, float]:
    """Read `dog=0.1,human=0.2,neither=0.7`.

    Raises:
        UsageError: if it is not of this form, or names a class twice.
    """
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.strip().rpartition("=")
        try:
            share = float(value)
        except ValueError as error:
            raise UsageError(f"--priors: {part!r} is not CLASS=SHARE") from error
        if name in shares:
            raise UsageError(f"--priors: {name} stands twice")
        shares[name] = share
    return shares


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
    return run_command(lambda: _evaluate(arguments))


def _evaluate(arguments: argparse.Namespace) -> int:
    check_installation()
    from neither.evaluation.evaluation import evaluate_path
    from neither.inference.classifier import load_classifier
    from neither.reporting.html import report_evaluation
    from neither.reporting.text import print_metrics
    from neither.runtime.devices import choose_compute

    requirements = [read_requirement(text) for text in arguments.require]
    classifier = load_classifier(arguments.model, choose_compute("auto", "float32").device)
    if arguments.priors is not None:
        classifier = classifier.with_priors(read_priors(arguments.priors))
    evaluation = evaluate_path(
        arguments.model, classifier, arguments.images, arguments.split, arguments.unseen,
        arguments.output_dir,
    )  # fmt: skip
    report_evaluation(arguments.model, evaluation)
    metrics, output_dir = evaluation.metrics, evaluation.output_dir
    print_metrics(str(evaluation.source), metrics)
    print_line(f"written: {output_dir}/report.html, metrics.json, predictions.csv")
    missed = [complaint for each in requirements if (complaint := each.complaint(metrics))]
    if missed:
        raise RequirementError("\n       ".join(missed))
    return DataError.exit_code if metrics["num_unreadable"] or evaluation.unreadable_folders else 0
