"""`train.py CONFIG [section.key=value ...] [--output-dir DIR] [--fresh]`."""

import argparse
import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neither.commands.door import check_installation, pass_through
from neither.config import Config, load_config
from neither.errors import DataError, UsageError, UserError
from neither.terminal import say, show, warn

if TYPE_CHECKING:
    from neither.model.checkpoint import Checkpoint
    from neither.training.run import Run

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
    return pass_through(lambda: _train(arguments))


def _train(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config, arguments.overrides)
    check_installation()
    from neither import files
    from neither.data.scored import given_splits
    from neither.data.split_file import read_hashes
    from neither.model.torchvision_network import require_network
    from neither.training.loop import train
    from neither.training.run import open_run

    require_network(config.model.name)
    folder = arguments.output_dir or Path("runs") / config.name
    source = config.data.source
    if source.is_dir():
        files.require_readable(source)
        files.require_outside(folder, source)
    with open_run(config, folder, arguments.fresh) as run:
        if run.resumed is not None and run.resumed.epoch >= config.train.epochs:
            _require_same_source(run.resumed.config["data"], source, config.name)
            say(f"{folder}: this run is finished; --fresh starts it over")
        else:
            train(config, run)
        best = run.read_best()
        again = ["python", "scripts/evaluate.py", str(folder), str(source)]
        with suppress(UserError):  # the images may be gone by now, which harms nothing
            if "test" not in given_splits(source):
                kept = read_hashes(folder / "splits.csv", "test")
                again += ["--split", "test" if kept else "val"]
        report = folder / "report.html"
        if run.resumed is None or run.resumed.epoch < config.train.epochs or not report.exists():
            _report(config, run, shlex.join(again))
        _show_figures(best, config)
        show(f"run:        {folder}")
        show(f"checkpoint: {run.best}")
        show(f"report:     {report if report.exists() else 'none: see the warning above'}")
        show(f"curves:     {shlex.join(['tensorboard', '--logdir', str(folder.parent)])}")
        show(f"evaluate:   {shlex.join(again)}")
        show(f"predict:    {shlex.join(['python', 'scripts/predict.py', str(folder), 'PICTURES'])}")
    return 0


def _report(config: Config, run: "Run", evaluate_command: str) -> None:
    """Write the report; a run whose images are gone by now is no less finished for it."""
    from neither.training.report import report_run

    try:
        report_run(config, run, evaluate_command)
    except DataError as error:
        warn(f"no report could be written: {error}")


def _show_figures(best: "Checkpoint", config: Config) -> None:
    """Say how good the best epoch is."""
    figures = ", ".join(f"{key} {best.metrics[key]:.3f}" for key in _SHOWN)
    show(f"best epoch {best.epoch} of {config.train.epochs} on val: {figures}")
    _show_decision(best.temperature, best.threshold, config.decision.target_precision)
    if best.epoch == 0 < config.train.epochs:
        warn("no epoch was better than random weights: train longer, or bring more images")


def _show_decision(temperature: float, threshold: float | None, target: float) -> None:
    """Say what was fitted on val, and where val could not say."""
    from neither.evaluation.temperature import LEAST, MOST

    promise = f"a precision of {target:g} on val"
    if threshold is None:
        show(f"temperature {temperature:.3f}; no threshold reaches {promise}: every prediction is "
             "accepted")  # fmt: skip
    else:
        show(f"temperature {temperature:.3f}; a probability from {threshold:.4f} on reaches "
             f"{promise}")  # fmt: skip
    if temperature in (LEAST, MOST):
        warn("the temperature is at its bound: val is too small or too easy to say how sure the "
             "network may be")  # fmt: skip


def _require_same_source(trained: dict[str, Any], asked_for: Path, name: str) -> None:
    """Say that a finished run knows nothing of other images, instead of showing its figures."""
    trained_on = Path(trained["root"] or trained["manifest"])
    if trained_on.expanduser().resolve() != asked_for.resolve():
        raise UsageError(
            f"this run is finished, and was trained on {trained_on}, not {asked_for}; for a new "
            f"run add name={name}-2"
        )
