"""`MODEL_CARD.md`: what a model is for, how good it is, where it ends (Mitchell et al., 2019)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files as resources
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from neither.config.schema import Config
from neither.data.split_file import read_splits
from neither.data.splits import SPLITS
from neither.evaluation.metrics import wilson_interval
from neither.reporting.text import format_percent
from neither.runtime import files
from neither.runtime.console import printable

_MOST_NAMED = 20


def write_model_card(
    folder: Path,
    config: Config,
    environment: Mapping[str, Any],
    metrics: Mapping[str, Any],
    num_parameters: int,
    evaluate_command: str,
    warnings: Sequence[str],
) -> None:
    """Write the card of a finished run, whole or not at all.

    Args:
        folder: of the run.
        config: of the run.
        environment: what its `environment.json` holds.
        metrics: of its best checkpoint on val, as in `metrics.json`.
        num_parameters: of its network.
        evaluate_command: what to type for figures that chose nothing.
        warnings: what was told in training.

    Raises:
        DataError: if its `splits.csv` cannot be read back.
        OSError: if the disk is full or the folder cannot be written.
    """
    page = Environment(  # noqa: S701 - Markdown, of names that the config has checked
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    page.filters |= {"percent": format_percent, "code": "`{}`".format, "interval": _interval,
                     "plain": printable}  # fmt: skip
    text = resources("neither.reporting").joinpath("model_card.md.jinja").read_text("utf-8")
    card = page.from_string(text).render(
        folder=folder,
        config=config,
        known=[name for name in config.classes if name != config.reject_class],
        environment=environment,
        images=describe_splits(folder / "splits.csv", config.classes),
        metrics=metrics,
        num_scored=sum(map(sum, metrics["confusion_matrix"])),
        num_parameters=num_parameters,
        evaluate_command=evaluate_command,
        has_test=not evaluate_command.endswith("--split val"),
        warnings=warnings,
        wilson=wilson_interval,
    )
    files.write_atomic(folder / "MODEL_CARD.md", card.encode("utf-8", "backslashreplace"))


def _interval(bounds: Sequence[float]) -> str:
    return f"{100 * bounds[0]:.1f} - {100 * bounds[1]:.1f} %"


def describe_splits(splits_file: Path, classes: Sequence[str]) -> str:
    """Count the images of each class and split, and name some that are left out.

    Args:
        splits_file: `splits.csv` of the run.
        classes: names.

    Raises:
        DataError: if the file cannot be read back.
    """
    counts = Counter((split, label) for _, label, split, _, _ in read_splits(splits_file))
    rows = [
        [split or "left out", *(f"{counts[split, name]:,}" for name in classes),
         f"{sum(counts[split, name] for name in classes):,}"]
        for split in (*filter(None, SPLITS), "")
    ]  # fmt: skip
    text = _table(["images", *map(_code, classes), "all"], rows)
    left_out = (row for row in read_splits(splits_file) if not row[2])
    lines = [f"    {printable(path)}: {printable(why)}\n" for path, _, _, _, why in
             islice(left_out, _MOST_NAMED)]  # fmt: skip
    if lines:
        text += f"\nLeft out, the first {len(lines)}; `splits.csv` lists each:\n\n{''.join(lines)}"
    return text


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _code(name: str) -> str:
    return f"`{name}`"
