"""The report on a cross-validation: what to expect at home and elsewhere, and a row a source."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neither.reporting.html import make_thumbnails
from neither.reporting.text import calibration_sentence, format_interval, render_template
from neither.runtime import files
from neither.runtime.console import format_percent

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
    if "seeds" in metrics:
        return [
            f"{_NAMES[name]} {_format(name, row['mean'])}, the mean of {len(row['values'])} seeds "
            f"(standard deviation {_format(name, row['std'])}, 95 % interval of the mean "
            f"{' to '.join(_format(name, bound) for bound in row['interval'])})."
            for name, row in left_out.items()
        ]
    sentences = []
    if "home" in metrics:
        home = metrics["home"]
        interval = format_interval(home["accuracy_interval"])
        sentences.append(
            f"On images of sources it has seen {format_percent(home['accuracy'])} are classified "
            f"correctly ({interval})."
        )
    if "prediction_interval" in left_out:
        low, high = map(format_percent, left_out["prediction_interval"])
        sentences.append(
            f"On images from a source it has not seen {format_percent(left_out['accuracy'])} are; "
            f"a new source lies between {low} and {high} with "
            f"{100 * left_out['prediction_level']:.0f} % confidence."
        )
    else:
        interval = format_interval(left_out["accuracy_interval"])
        sentences.append(
            f"Of images left out of training {format_percent(left_out['accuracy'])} are classified "
            f"correctly ({interval})."
        )
    rule = metrics["decision_rule"]
    if left_out["precision"] is None or rule["threshold"] is None:
        sentences.append("No decision reaches the target precision.")
    else:
        text = (
            f"Decisions: {format_percent(left_out['precision'])} of those accepted are correct "
            f"(target {format_percent(rule['target_precision'])}), "
            f"{format_percent(left_out['coverage'])} are accepted"
        )
        if "precision_interval" in left_out:
            low, high = map(format_percent, left_out["precision_interval"])
            text += f"; with other sources {low} to {high} would be (90 %, bootstrap over sources)"
        sentences.append(f"{text}.")
    return [*sentences, calibration_sentence({"calibrated_on": "val", **left_out}, "such images")]


def _format(name: str, value: float) -> str:
    return f"{value:.3f}" if name == "nll" else format_percent(value)


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
