"""`train.py CONFIG [section.key=value ...] [--output-dir DIR] [--fresh]`."""

import argparse
import os
import shlex
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from neither.commands.door import check_installation, pass_through
from neither.config import load_config
from neither.errors import UsageError, UserError
from neither.terminal import say, show, silence, warn

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
    silence(os.environ.get("LOCAL_RANK", "0") != "0")  # of several processes one speaks
    config = load_config(arguments.config, arguments.overrides)
    check_installation()
    from neither import files
    from neither.data.scored import given_splits
    from neither.data.split_file import read_hashes
    from neither.ranks import joined
    from neither.training.loop import train
    from neither.training.run import open_run

    folder = arguments.output_dir or Path("runs") / config.name
    source = config.data.source
    with joined() as ranks, ExitStack() as stack:
        if config.train.batch_size < ranks.size:
            raise UsageError(
                f"train.batch_size: {config.train.batch_size} images, in all, are too few for "
                f"{ranks.size} processes"
            )
        if source.is_dir():
            files.require_readable(source)
            files.require_outside(folder, source)
        run = ranks.share(lambda: stack.enter_context(open_run(config, folder, arguments.fresh)))
        if run.resumed is not None and run.resumed.epoch >= config.train.epochs:
            _require_same_source(run.resumed.config["data"], source, config.name)
            say(f"{folder}: this run is finished; --fresh starts it over")
        else:
            train(config, run, ranks)
        if not ranks.is_first:
            return 0
        best = run.read_best()
        figures = ", ".join(f"{key} {best.metrics[key]:.3f}" for key in _SHOWN)
        show(f"best epoch {best.epoch} of {config.train.epochs} on val: {figures}")
        _show_decision(best.temperature, best.threshold, config.decision.target_precision)
        if best.epoch == 0 < config.train.epochs:
            warn("no epoch was better than random weights: train longer, or bring more images")
        again = ["python", "scripts/evaluate.py", str(folder), str(source)]
        with suppress(UserError):  # the images may be gone by now, which harms nothing
            if "test" not in given_splits(source):
                kept = read_hashes(folder / "splits.csv", "test")
                again += ["--split", "test" if kept else "val"]
        show(f"run:        {folder}")
        show(f"checkpoint: {run.best}")
        show(f"evaluate:   {shlex.join(again)}")
        show(f"curves:     {shlex.join(['tensorboard', '--logdir', str(folder.parent)])}")
    return 0


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
