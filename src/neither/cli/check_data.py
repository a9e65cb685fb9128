"""Command `check_data FOLDER_OR_CSV [--sources REGEX] [--corrections FILE] [--json]`."""

import argparse
import json
import re
from pathlib import Path
from typing import Any

from neither.cli.command import run_command
from neither.runtime.console import (
    format_percent,
    print_line,
    print_table,
    printable,
    report_error,
    warn,
)
from neither.runtime.errors import DataError

_MAX_LISTED = 10
_MAX_SOURCES = 20


def main() -> int:
    """Check a folder of images; return the exit code."""
    parser = argparse.ArgumentParser(
        description="Decode every image of a folder, or of a CSV file path,label[,split][,source], "
        "and report what may go wrong in training on it. Nothing is written. Exit code 3 if "
        "training on these classes with default settings would fail, else 0.",
        epilog="example: check_data.py my/photos --json > report.json",
    )
    parser.add_argument("images", type=Path, help="a folder as for training, or a CSV file")
    parser.add_argument("--sources", type=_pattern, metavar="REGEX",
                        help="finds the source of an image (camera, site, shoot) in its path, as "
                        "data.sources does")  # fmt: skip
    parser.add_argument(
        "--corrections",
        type=Path,
        metavar="FILE",
        help="follow the answers of a review, as data.corrections does",
    )
    parser.add_argument("--json", action="store_true", help="print the whole report as JSON")
    arguments = parser.parse_args()
    return run_command(lambda: _check(arguments))


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"not a regular expression: {error}") from error
    return text


def _check(arguments: argparse.Namespace) -> int:
    from neither.data.dataset_report import report_dataset

    report = report_dataset(arguments.images, arguments.sources, arguments.corrections)
    if arguments.json:
        print_line(json.dumps(report, indent=2))
    else:
        _print_report(report)
    for warning in report["warnings"]:
        warn(printable(warning))
    for error in report["errors"]:
        report_error(error)
    return DataError.exit_code if report["errors"] else 0


def _print_report(report: dict[str, Any]) -> None:
    classes = report["classes"] or ["unlabelled"]
    print_table(
        f"{report['source']}: readable images",
        ["", *classes, "together"],
        [
            [split, *(f"{counts.get(name, 0):,}" for name in classes), f"{sum(counts.values()):,}"]
            for split, counts in report["counts"].items()
        ],
    )
    if sources := report["sources"]:
        print_table(
            "readable images by source",
            ["source", *classes, "together"],
            [
                [name or "none", *(f"{counts[label]:,}" for label in report["classes"] or [""]),
                 f"{counts.total():,}"]
                for name, counts in list(sources.items())[:_MAX_SOURCES]
            ],
        )  # fmt: skip
        if len(sources) > _MAX_SOURCES:
            print_line(f"and {len(sources) - _MAX_SOURCES:,} more; --json lists all")
    for key in ("formats", "modes"):
        if counts := report[key]:
            print_line(f"{key}: " + ", ".join(f"{name} {num:,}" for name, num in counts.items()))
    for key in ("short_side", "long_side"):
        if sizes := report[key]:
            print_line(
                f"{key.replace('_', ' ')}: {sizes['min']:,} to {sizes['max']:,} pixels, median "
                f"{sizes['median']:,}"
            )
    for key, what in (
        ("exif_rotated", "turned upright by their EXIF tag"),
        ("exif_invalid", "with an invalid EXIF orientation, which is ignored"),
        ("profile_invalid", "with a color profile that is damaged or unsuitable, and ignored"),
        ("animated", "with several frames or pages, of which the first is used"),
        ("grayscale", "without color"),
    ):
        if report[key]:
            print_line(f"{report[key]:,} images {what}")
    others = [f"{suffix or 'no suffix'} {num:,}" for suffix, num in report["other_files"].items()]
    print_line(
        f"other files, not read: {printable(', '.join(others)) or 'none'}; "
        f"hidden: {report['num_hidden']:,}"
    )
    _print_shortcuts(report)
    lines = [f"{each['path']}: {each['reason']}" for each in report["unreadable"]]
    _print_list("unreadable files", lines, len(lines))  # all, since each must be fixed
    for key, what in (("exact_duplicates", "same bytes"), ("near_duplicates", "near-duplicates")):
        groups = [" = ".join(group["paths"]) for group in report[key]]
        _print_list(f"groups of images: {what}", groups)
    for key in ("single_color", "dark", "blurred", "dropped_in_review"):
        _print_list(f"{key.replace('_', '-')} images", report[key])


def _print_shortcuts(report: dict[str, Any]) -> None:
    if report.get("shortcuts"):
        fractions = ("fraction", "fraction_of_others", "balanced_accuracy")
        print_table(
            "classes that are predictable from metadata",
            ["class", "trait", "of the class", "of the others", "balanced accuracy"],
            [
                [each["label"], each["trait"], *(format_percent(each[key]) for key in fractions)]
                for each in report["shortcuts"]
            ],
        )
    if "macro_recall_from_metadata" in report:
        print_line(
            "macro recall of predicting the class from format, mode, size, shape and grayscale: "
            f"{format_percent(report['macro_recall_from_metadata'])} (chance "
            f"{format_percent(1 / len(report['classes']))})"
        )


def _print_list(title: str, lines: list[str], max_lines: int = _MAX_LISTED) -> None:
    print_line(f"{title}: {len(lines) or 'none'}")
    for line in lines[:max_lines]:
        print_line(f"  {printable(line)}")
    if len(lines) > max_lines:
        print_line(f"  and {len(lines) - max_lines:,} more; --json lists all")
