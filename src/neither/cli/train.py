"""Command `train CONFIG [section.key=value ...] [--output-dir DIR] [--fresh]`."""

import argparse
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neither.cli.command import add_config_arguments, check_installation, run_command
from neither.runtime.console import print_line, silence, warn

if TYPE_CHECKING:
    from neither.config.schema import Config
    from neither.models.checkpoint import Checkpoint

_METRICS = ("macro_recall", "accuracy", "loss")


def main() -> int:
    """Train; return the exit code."""
    parser = argparse.ArgumentParser(
        description="Train a network as a config says. The same command resumes an unfinished run, "
        "with the same final weights as without the stop.",
        epilog="docs/config.md lists every key of a config: type, range, default and meaning. "
        "example: train.py configs/photos_quick.yaml data.root=my/photos train.epochs=10",
    )
    add_config_arguments(parser, "runs/<name>")
    # Overrides and flags may come in any order.
    arguments = parser.parse_intermixed_args()
    return run_command(lambda: _train(arguments))


def _train(arguments: argparse.Namespace) -> int:
    from neither.config.loader import load_config

    silence(os.environ.get("LOCAL_RANK", "0") != "0")
    config = load_config(arguments.config, arguments.overrides)
    check_installation()
    from neither.training.run_report import evaluate_command, read_val_metrics
    from neither.training.trainer import run_training

    folder = arguments.output_dir or Path("runs") / config.name
    with run_training(config, folder, arguments.fresh) as run:
        if run is None:
            return 0
        _print_best(run.load_best(), config, read_val_metrics(config, folder))
        predict = shlex.join(["python", "scripts/predict.py", str(folder), "IMAGES"])
        print_line(f"run:        {folder}")
        print_line(f"checkpoint: {run.best}")
        print_line(f"report:     {run.report if run.report.exists() else 'none, see above'}")
        print_line(f"curves:     {shlex.join(['tensorboard', '--logdir', str(folder.parent)])}")
        print_line(f"evaluate:   {evaluate_command(config, folder)}")
        print_line(f"predict:    {predict}")
    return 0


def _print_best(best: "Checkpoint", config: "Config", val_metrics: dict[str, Any]) -> None:
    """Print the metrics of the best epoch, and what was fitted on val."""
    from neither.evaluation.calibration import MAX_TEMPERATURE, MIN_TEMPERATURE
    from neither.reporting.text import (
        FEW_IMAGES,
        count_accepted,
        describe_decisions,
        is_near_chance,
        review_sentence,
    )

    metrics = ", ".join(f"{key} {best.metrics[key]:.3f}" for key in _METRICS)
    epoch = (
        "" if config.model.is_frozen else f"best epoch {best.epoch} of {config.train.epochs} on "
    )
    print_line(f"{epoch}val: {metrics}")
    rule = best.decision_rule.to_json()
    accepted = f"temperature {best.temperature:.3f}"
    if rule.items() <= val_metrics.items() and "decision" in val_metrics:
        num_accepted, num_correct = count_accepted(val_metrics)
        accepted += f"; {num_correct:,} of {num_accepted:,} accepted images of val are correct"
        if num_accepted < FEW_IMAGES:
            accepted += ", too few to rely on"
    print_line(accepted)
    if sentence := review_sentence(val_metrics):
        print_line(sentence)
    for line in describe_decisions(best):
        print_line(line)
    if best.temperature in (MIN_TEMPERATURE, MAX_TEMPERATURE):
        warn(f"the temperature from {best.calibrated_on} is at its limit: too few or easy images")
    if best.epoch == 0 < config.train.epochs:
        warn("no epoch was better than the initial weights: train longer, or add images")
    elif best.epoch and is_near_chance(best.metrics["macro_recall"], len(config.classes)):
        warn("the macro recall is hardly better than chance: train longer, or add images")
