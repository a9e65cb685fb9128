"""The results of an evaluation as tables on the screen."""

from collections.abc import Iterator, Sequence
from typing import Any

from neither.evaluation.verdict import judge, percent
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
    if "unlabelled" in metrics:
        counts = metrics["unlabelled"]["decided"].items()
        show("decided: " + ", ".join(f"{name} {count:,}" for name, count in counts))
    if "foreign" in metrics:
        show_table(
            "folders that are no class of this model, and how their images were decided",
            ["", *next(iter(metrics["foreign"].values()))["decided"], "images"],
            [
                [folder, *map(str, row["decided"].values()), str(row["num_images"])]
                for folder, row in metrics["foreign"].items()
            ],
        )
    if "accuracy" in metrics:
        show(judge(metrics)[0])
        if "priors" in metrics:
            mix = ", ".join(
                f"{name} {_percent(share)}" for name, share in metrics["priors"].items()
            )
            show(f"answered for another mix of classes than in training: {mix}")
        for line in (*_hits(metrics), *_calibration(metrics), *_rejection(metrics)):
            show(line)
        show(_withheld(metrics))
    show(_threshold(metrics))
    if metrics["num_unreadable"]:
        show(f"{metrics['num_unreadable']:,} files could not be read")


def _hits(metrics: dict[str, Any]) -> Iterator[str]:
    num = sum(map(sum, metrics["confusion_matrix"]))
    within = metrics["intervals"]
    yield f"on {num:,} images, with 95 % intervals:"
    yield (
        f"  accuracy {_percent(metrics['accuracy'])} ({_range(within['accuracy'])}), "
        f"macro recall {_percent(metrics['macro_recall'])} ({_range(within['macro_recall'])})"
    )
    low, high = within["nll"]
    yield (
        f"  nll {metrics['nll']:.4f} ({low:.4f} - {high:.4f}), {metrics['refinement']:.4f} at "
        f"their best temperature; Brier {metrics['brier']:.4f}"
    )


def _calibration(metrics: dict[str, Any]) -> Iterator[str]:
    yield (
        f"calibration at temperature {metrics['temperature']:.3f}; in brackets what chance alone "
        "gives, mean and 95 %:"
    )
    names = {"ece": "ECE", "adaptive_ece": "adaptive", "classwise_ece": "by class"}
    chance = metrics["chance"]
    yield "  " + ", ".join(
        f"{name} {_percent(metrics[key])} ({_percent(chance[key]['mean'])}, "
        f"{_percent(chance[key]['q95'])})"
        for key, name in names.items()
    )


def _rejection(metrics: dict[str, Any]) -> Iterator[str]:
    if "rejection" in metrics:
        found = metrics["rejection"]
        yield f"{metrics['reject_class']} against the rest, by 1 - p({metrics['reject_class']}):"
        yield (
            f"  AUROC {found['auroc']:.4f}; {_percent(found['fpr_at_95_tpr'])} pass where 95 % of "
            f"the rest do; OSCR {found['oscr']:.4f}"
        )


def _withheld(metrics: dict[str, Any]) -> str:
    found = metrics["selective"]
    shares = ", ".join(
        f"{_percent(accuracy)} of the surest {100 * float(share):.0f} %"
        for share, accuracy in found["accuracy_at"].items()
    )
    return f"right: {shares}; AURC {found['aurc']:.4f}, AUGRC {found['augrc']:.4f}"


def _threshold(metrics: dict[str, Any]) -> str:
    if "threshold" not in metrics:
        return "no threshold kept the promised precision on val: every prediction is accepted"
    threshold = f"a probability of {metrics['threshold']:.4f}"
    if "decision" not in metrics:
        return f"unsure below {threshold}"
    found = metrics["decision"]
    mix = ", with the mix of classes there" if "priors" in metrics else ""
    promise = f"(promised on val{mix}: {_percent(found['target_precision'])})"
    if "precision" not in found:
        return f"unsure below {threshold}: all of the images {promise}"
    return (f"accepted from {threshold} on: {_percent(found['coverage'])} of the images, "
            f"{_percent(found['precision'])} of them right {promise}")  # fmt: skip


def _range(bounds: Sequence[float]) -> str:
    return f"{100 * bounds[0]:.1f} - {100 * bounds[1]:.1f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else percent(share)
