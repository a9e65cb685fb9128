"""Command `cross_validate CONFIG [--folds N] [--seeds 0,1,2] [section.key=value ...]`."""

import argparse
from contextlib import suppress
from pathlib import Path
from typing import Any

from neither.cli.command import add_config_arguments, check_installation, run_command
from neither.runtime.console import format_percent, print_line, printable

_MAX_LISTED = 20


def main() -> int:
    """Cross-validate; return the exit code."""
    parser = argparse.ArgumentParser(
        description="Leave each source of images out of training once, or each of some folds if "
        "data.sources names none, and report what to expect on images from elsewhere. The same "
        "command goes on after a stop.",
        epilog="example: cross_validate.py configs/photos_quick.yaml data.root=my/photos "
        "'data.sources=([^/]+)_[^/]*$'",
    )
    add_config_arguments(parser, "runs/<name>-cv")
    parser.add_argument("--folds", type=int, help="the most folds (default: 10)")
    parser.add_argument("--seeds", type=_parse_seeds, metavar="0,1,2", default=(),
                        help="one cross-validation for each seed, and the means")  # fmt: skip
    arguments = parser.parse_intermixed_args()
    if arguments.folds is not None and arguments.folds < 2:
        parser.error("--folds: must be 2 or more")
    return run_command(lambda: _cross_validate(arguments))


def _parse_seeds(text: str) -> tuple[int, ...]:
    with suppress(ValueError):
        seeds = tuple(map(int, text.split(",")))
        if len({*seeds}) == len(seeds) > 1 and min(seeds) >= 0 and max(seeds) < 2**63:
            return seeds
    raise argparse.ArgumentTypeError(f"{text}: want two or more different seeds, such as 0,1,2")


def _cross_validate(arguments: argparse.Namespace) -> int:
    from neither.config.loader import load_config

    config = load_config(arguments.config, arguments.overrides)
    check_installation()
    from neither.reporting.text import cross_validation_sentences
    from neither.training.cross_validation import cross_validate, repeat_cross_validation

    folder = arguments.output_dir or Path("runs") / f"{config.name}-cv"
    seeds = arguments.seeds
    if seeds:
        metrics = repeat_cross_validation(config, seeds, folder, arguments.folds, arguments.fresh)
    else:
        metrics = cross_validate(config, folder, arguments.folds, arguments.fresh)
    for sentence in cross_validation_sentences(metrics):
        print_line(sentence)
    for row in metrics["sources"][:_MAX_LISTED]:
        print_line(f"  {_describe(row)}")
    if len(metrics["sources"]) > _MAX_LISTED:
        print_line(f"  and {len(metrics['sources']) - _MAX_LISTED:,} more")
    rows = "seed-*/" if seeds else "out_of_fold.csv"
    print_line(f"written: {folder}/report.html, metrics.json, {rows}")
    return 0


def _describe(row: dict[str, Any]) -> str:
    classes = ", ".join(f"{name} {num:,}" for name, num in row["classes"].items())
    text = f"{printable(row['source'])} ({classes}): {format_percent(row['accuracy'])} correct, "
    text += f"{format_percent(row['coverage'])} accepted"
    if row["precision"] is not None:
        text += f", {format_percent(row['precision'])} of these correct"
    return text
