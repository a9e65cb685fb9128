"""The report on a cross-validation: what to expect at home and elsewhere, and a row a source."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neither.reporting.html import make_thumbnails
from neither.reporting.text import calibration_sentence, render_template
from neither.runtime import files

_MAX_ROWS_WITH_MISTAKES = 30
_NAMES = {
    "accuracy": "Accuracy",
    "macro_recall": "Macro recall",
    "nll": "NLL",
    "precision": "Precision of decisions",
    "coverage": "Coverage of decisions",
}


def summary_sentences(metrics: Mapping[str, Any]) -> list[str]:
    """Return what a cross-validation says, most important first.

    Args:
        metrics: content of its `metrics.json`, which may be that of several seeds.
    """
    left_out = metrics.get("elsewhere", metrics.get("folds"))
    calibration = ""
    if "seeds" not in metrics:
        calibration = calibration_sentence({"calibrated_on": "val", **left_out}, "such images")
    text = render_template(
        "cross_validation.txt.jinja",
        metrics=metrics,
        left_out=left_out,
        names=_NAMES,
        calibration=calibration,
    )
    return text.decode().splitlines()


def write_report(folder: Path, image_root: Path, name: str, metrics: Mapping[str, Any]) -> None:
    """Write `report.html` of a cross-validation's folder and `metrics.json` atomically.

    The paths of the mistakes are relative to `image_root`.
    """
    rows = metrics["sources"]
    shown = [path for row in rows[:_MAX_ROWS_WITH_MISTAKES] for path in row["mistakes"]]
    root = image_root if image_root.is_dir() else image_root.parent
    uris = dict(zip(shown, make_thumbnails([root / path for path in shown]), strict=True))
    page = render_template(
        "cross_validation.html.jinja",
        name=name,
        sentences=summary_sentences(metrics),
        metrics=metrics,
        uris=uris,
    )
    files.write_atomic(folder / "report.html", page)
