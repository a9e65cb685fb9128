"""`MODEL_CARD.md`: what a model is for, how good it is, where it ends (Mitchell et al., 2019)."""

from collections.abc import Mapping, Sequence
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from neither import files
from neither.config import Config
from neither.evaluation.intervals import share_interval
from neither.evaluation.verdict import percent
from neither.terminal import printable
from neither.training.card import describe_images


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
    page.filters |= {"percent": percent, "code": "`{}`".format, "interval": _interval,
                     "plain": printable}  # fmt: skip
    text = resources("neither.training").joinpath("model_card.md.jinja").read_text("utf-8")
    card = page.from_string(text).render(
        folder=folder,
        config=config,
        known=[name for name in config.classes if name != config.reject_class],
        environment=environment,
        images=describe_images(folder / "splits.csv", config.classes),
        metrics=metrics,
        num_scored=sum(map(sum, metrics["confusion_matrix"])),
        num_parameters=num_parameters,
        evaluate_command=evaluate_command,
        has_test=not evaluate_command.endswith("--split val"),
        warnings=warnings,
        wilson=share_interval,
    )
    files.write_whole(folder / "MODEL_CARD.md", card.encode("utf-8", "backslashreplace"))


def _interval(bounds: Sequence[float]) -> str:
    return f"{100 * bounds[0]:.1f} - {100 * bounds[1]:.1f} %"
