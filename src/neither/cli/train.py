"""`train.py CONFIG [section.key=value ...] [--output-dir DIR] [--fresh]`."""

import argparse
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from neither.cli.main import check_installation, run_command
from neither.config.loader import load_config
from neither.config.schema import Config
from neither.runtime.console import print_line, silence, warn

if TYPE_CHECKING:
    from neither.models.checkpoint import Checkpoint


_SHOWN = ("macro_recall", "accuracy", "loss")


def main() -> int:
    """Train; return the exit code."""
    parser = argparse.ArgumentParser(
        description="Train a network as a config says. The same command goes on with an "
        "unfinished run, and ends in the same weights.",
        epilog="example: train.py configs/photos_quick.yaml data.root=my/photos train.epochs=10",
    )
    parser.add_argument("config", type=Path, help="a YAML file, such as configs/photos_quick.yaml")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="section.key=value",
        help="put over the config's values, such as train.epochs=20 or 'classes=[cat, neither]'",
    )
    parser.add_argument("--output-dir", type=Path, help="the run's folder (default: runs/<name>)")
    parser.add_argument(
        "--fresh", action="store_true", help="start over; the old folder is kept as <folder>.1"
    )
    # Overrides and flags may come in any order.
    arguments = parser.parse_intermixed_args()
    return run_command(lambda: _train(arguments))


def _train(arguments: argparse.Namespace) -> int:
    silence(os.environ.get("LOCAL_RANK", "0") != "0")  # of several processes one speaks
    config = load_config(arguments.config, arguments.overrides)
    check_installation()
    from neither.training.run_report import evaluate_command
    from neither.training.trainer import run_training

    folder = arguments.output_dir or Path("runs") / config.name
    with run_training(config, folder, arguments.fresh) as run:
        if run is None:
            return 0
        _show_figures(run.read_best(), config)
        print_line(f"run:        {folder}")
        print_line(f"checkpoint: {run.best}")
        print_line(f"report:     {run.report if run.report.exists() else 'none, as told above'}")
        print_line(f"curves:     {shlex.join(['tensorboard', '--logdir', str(folder.parent)])}")
        print_line(f"evaluate:   {evaluate_command(config, folder)}")
        print_line(
            f"predict:    {shlex.join(['python', 'scripts/predict.py', str(folder), 'PICTURES'])}"
        )
    return 0


def _show_figures(best: "Checkpoint", config: Config) -> None:
    """Say how good the best epoch is."""
    from neither.reporting.text import is_near_chance

    figures = ", ".join(f"{key} {best.metrics[key]:.3f}" for key in _SHOWN)
    print_line(f"best epoch {best.epoch} of {config.train.epochs} on val: {figures}")
    _show_decision(best.temperature, best.threshold, config.decision.target_precision)
    if best.epoch == 0 < config.train.epochs:
        warn("no epoch was better than random weights: train longer, or bring more images")
    elif best.epoch and is_near_chance(best.metrics["macro_recall"], len(config.classes)):
        warn("that is little better than guessing: train longer, or bring more images")


def _show_decision(temperature: float, threshold: float | None, target: float) -> None:
    """Say what was fitted on val, and where val could not say."""
    from neither.evaluation.calibration import MAX_TEMPERATURE, MIN_TEMPERATURE

    promise = f"a precision of {target:g} on val"
    if threshold is None:
        print_line(
            f"temperature {temperature:.3f}; no threshold reaches {promise}: every "
            f"prediction is "
            "accepted"
        )
    else:
        print_line(f"temperature {temperature:.3f}; a probability from {threshold:.4f} on reaches "
             f"{promise}")  # fmt: skip
    if temperature in (MIN_TEMPERATURE, MAX_TEMPERATURE):
        warn("the temperature is at its bound: val is too small or too easy to say how sure the "
             "network may be")  # fmt: skip
