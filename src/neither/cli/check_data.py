"""`check_data.py FOLDER_OR_CSV [--json]`."""

import argparse
import json
from pathlib import Path
from typing import Any

from neither.cli.main import run_command
from neither.runtime.console import print_line, print_table, printable, report_error, warn
from neither.runtime.errors import DataError

_MAX_NAMED = 10


def main() -> int:
    """Check a folder of images; return the exit code."""
    parser = argparse.ArgumentParser(
        description="Decode every image of a folder, or of a CSV file path,label[,split], and say "
        "what may go wrong in training on it. Nothing is written. Exit code 3 if something stops "
        "a training on just these classes with default settings, 0 if not.",
        epilog="example: check_data.py my/photos --json > report.json",
    )
    parser.add_argument("images", type=Path, help="a folder as for training, or a CSV file")
    parser.add_argument("--json", action="store_true", help="print the whole report as JSON")
    arguments = parser.parse_args()
    return run_command(lambda: _check(arguments))


def _check(arguments: argparse.Namespace) -> int:
    from neither.data.dataset_report import report_dataset

    report = report_dataset(arguments.images)
    if arguments.json:
        print_line(json.dumps(report, indent=2))
    else:
        _show(report)
    for warning in report["warnings"]:
        warn(printable(warning))
    for error in report["errors"]:
        report_error(error)
    return DataError.exit_code if report["errors"] else 0


def _show(report: dict[str, Any]) -> None:
    classes = report["classes"] or ["unlabelled"]
    print_table(
        f"{report['source']}: readable images",
        ["", *classes, "together"],
        [
            [split, *(f"{counts.get(name, 0):,}" for name in classes), f"{sum(counts.values()):,}"]
            for split, counts in report["counts"].items()
        ],
    )
    for key, what in (("formats", "formats"), ("modes", "modes")):
        if report[key]:
            print_line(
                f"{what}: " + ", ".join(f"{name} {num:,}" for name, num in report[key].items())
            )
    for key in ("short_side", "long_side"):
        if sizes := report[key]:
            print_line(
                f"{key.replace('_', ' ')}: {sizes['min']:,} to {sizes['max']:,} "
                f"pixels, median "
                f"{sizes['median']:,}"
            )
    for key, what in (
        ("exif_rotated", "turned upright by their EXIF tag"),
        ("exif_invalid", "with an invalid EXIF orientation, which is ignored"),
        ("animated", "with several frames or pages, of which the first counts"),
        ("grayscale", "without color"),
    ):
        if report[key]:
            print_line(f"{report[key]:,} images {what}")
    others = ", ".join(f"{suffix or 'no suffix'} {num:,}"
                       for suffix, num in report["other_files"].items())  # fmt: skip
    print_line(
        f"other files, not read: {printable(others) or 'none'}; hidden: {report['num_hidden']:,}"
    )
    _show_shortcuts(report)
    lines = [f"{each['path']}: {each['reason']}" for each in report["unreadable"]]
    _name("unreadable files", lines, len(lines))  # all of them, as each is to be mended
    for key, what in (("exact_duplicates", "same bytes"), ("near_duplicates", "alike")):
        _name(f"groups of images: {what}", [" = ".join(each["paths"]) for each in report[key]])
    for key in ("single_color", "dark", "blurred"):
        _name(f"{key.replace('_', '-')} images", report[key])


def _show_shortcuts(report: dict[str, Any]) -> None:
    if report.get("shortcuts"):
        print_table(
            "what tells a class without a look at what the image shows",
            ["class", "trait", "share of it", "of the others", "told right"],
            [
                [each["label"], each["trait"], _percent(each["fraction"]),
                 _percent(each["fraction_of_others"]), _percent(each["balanced_accuracy"])]
                for each in report["shortcuts"]
            ],
        )  # fmt: skip
    if "macro_recall_from_metadata" in report:
        chance = 1 / len(report["classes"])
        print_line(
            f"from format, mode, size, shape and grayscale together the class is "
            f"guessed right in "
            f"{_percent(report['macro_recall_from_metadata'])} (macro recall; chance "
            f"{_percent(chance)})"
        )


def _name(what: str, lines: list[str], most: int = _MAX_NAMED) -> None:
    print_line(f"{what}: {len(lines) or 'none'}")
    for line in lines[:most]:
        print_line(f"  {printable(line)}")
    if len(lines) > most:
        print_line(f"  and {len(lines) - most:,} more; --json lists all")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
