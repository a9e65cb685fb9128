"""The results of an evaluation as tables on the screen."""

from typing import Any

from neither.terminal import show, show_table


def show_metrics(title: str, metrics: dict[str, Any]) -> None:
    """Print all figures of a `metrics.json`."""
    classes = metrics["classes"]
    if "accuracy" in metrics:
        confusion = metrics["confusion_matrix"]
        show_table(
            f"{title}: images by true class (row) and predicted class (column)",
            ["", *classes, "images", "recall", "precision", "f1"],
            [
                [name, *map(str, confusion[number]), str(figures["num_images"])]
                + [_percent(figures.get(key)) for key in ("recall", "precision", "f1")]
                for number, (name, figures) in enumerate(metrics["per_class"].items())
            ],
        )
    else:
        show(f"{title}: no image has a class as its label, so there is no accuracy")
    if "foreign" in metrics:
        show_table(
            "folders that are no class of this model, and how their images were decided",
            ["", *classes, "images"],
            [
                [folder, *(str(row["decided"][name]) for name in classes), str(row["num_images"])]
                for folder, row in metrics["foreign"].items()
            ],
        )
    if "accuracy" in metrics:
        num = sum(map(sum, metrics["confusion_matrix"]))
        show(
            f"accuracy {_percent(metrics['accuracy'])}, macro recall "
            f"{_percent(metrics['macro_recall'])}, nll {metrics['nll']:.4f} on {num:,} images"
        )
    if metrics["num_unreadable"]:
        show(f"{metrics['num_unreadable']:,} files could not be read")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
