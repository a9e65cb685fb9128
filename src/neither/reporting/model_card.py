"""`MODEL_CARD.md`: use, data, metrics and limits of a model (Mitchell et al., 2019)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neither.config.schema import Config
from neither.data.scan import nfc
from neither.data.split_file import read_splits
from neither.data.splits import SPLITS
from neither.evaluation.metrics import wilson_interval
from neither.reporting.text import decision_rule_sentences, render_template
from neither.runtime import files
from neither.runtime.console import printable

_MAX_LISTED = 20


def write_model_card(
    folder: Path,
    config: Config,
    environment: Mapping[str, Any],
    metrics: Mapping[str, Any],
    num_parameters: int,
    evaluate_command: str,
    warnings: Sequence[str],
) -> None:
    """Write the model card of a finished run atomically.

    Metrics are those of the best checkpoint on val; `evaluate_command` evaluates the run on images
    that were not used to select it.
    """
    card = render_template(
        "model_card.md.jinja",
        folder=folder,
        config=config,
        known_classes=[name for name in config.classes if name != config.reject_class],
        environment=environment,
        splits_table=describe_splits(folder / "splits.csv", config.classes),
        metrics=metrics,
        decision_rule=decision_rule_sentences(metrics),
        num_labelled=sum(map(sum, metrics["confusion_matrix"])),
        num_parameters=num_parameters,
        evaluate_command=evaluate_command,
        has_test=not evaluate_command.endswith("--split val"),
        warnings=warnings,
        wilson_interval=wilson_interval,
    )
    files.write_atomic(folder / "MODEL_CARD.md", card)


def describe_splits(splits_file: Path, classes: Sequence[str]) -> str:
    """Return a Markdown table of the images by class and split, and the first that are left out."""
    counts: Counter[tuple[str, str]] = Counter()
    left_out: list[str] = []
    for path, label, split, _, reason in read_splits(splits_file):
        counts[split, nfc(label)] += 1
        if not split and len(left_out) < _MAX_LISTED:
            left_out.append(f"    {printable(path)}: {printable(reason)}\n")
    rows = [
        [split or "left out", *(f"{counts[split, nfc(name)]:,}" for name in classes),
         f"{sum(counts[split, nfc(name)] for name in classes):,}"]
        for split in (*filter(None, SPLITS), "")
    ]  # fmt: skip
    table = [["images", *map("`{}`".format, classes), "all"], ["---", *["---:"] * len(rows[0][1:])]]
    text = "".join(f"| {' | '.join(row)} |\n" for row in table + rows)
    if left_out:
        text += f"\nLeft out, the first {len(left_out)}; `splits.csv` lists each:\n\n"
    return text + "".join(left_out)
