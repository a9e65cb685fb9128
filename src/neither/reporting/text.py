"""What figures come to, in plain words: the first that a reader of a report sees.

The results of an evaluation as tables on the screen.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from neither.evaluation.metrics import wilson_interval
from neither.runtime.console import print_line, print_table

ENOUGH = 50  # images, below which a share is coarse
_BARELY = 0.2  # of the way from guessing to perfect, below which little was learned


def summary_sentences(metrics: Mapping[str, Any]) -> list[str]:
    """Say in plain words what to expect of a model, the most important first.

    Args:
        metrics: as in `metrics.json`.
    """
    said = []
    if learned := metrics.get("num_trained_on"):
        said.append(f"{learned:,} of these {metrics['num_images']:,} pictures were trained on, so "
                    "the figures say nothing about new ones.")  # fmt: skip
    if "accuracy" not in metrics:
        return [*said, "None of these pictures has a class as its label, so nobody knows how many "
                "answers are right."]  # fmt: skip
    num = sum(map(sum, metrics["confusion_matrix"]))
    low, high = (100 * bound for bound in wilson_interval(metrics["accuracy"], num))
    said.append(f"Of 100 pictures like these, {_of_100(metrics['accuracy'])} are called right "
                f"({low:.0f} to {high:.0f}).")  # fmt: skip
    num_classes = sum("recall" in figures for figures in metrics["per_class"].values())
    if is_near_chance(metrics["macro_recall"], num_classes):
        said.append("That is little better than guessing: train longer, or bring more pictures.")
    said.append(_sureness(metrics))
    reject = metrics.get("reject_class")
    recall = metrics["per_class"].get(reject, {}).get("recall") if reject else None
    if recall is not None:
        said.append(f"Of 100 pictures of {reject}, it calls {_of_100(recall)} {reject}.")
    return said


def _sureness(metrics: Mapping[str, Any]) -> str:
    """Say how often the model is sure, and how often rightly."""
    found, num = metrics["decision"], sum(map(sum, metrics["confusion_matrix"]))
    if "threshold" not in metrics:
        return (
            f"It could not promise to be right in "
            f"{format_percent(found['target_precision'])} of its "
            "answers, however sure, so it never says unsure."
        )
    if "precision" not in found:
        return "It is sure of none of them: all are for a person to look at."
    accepted = round(found["coverage"] * num)
    text = (f"Of 100 it is sure of {_of_100(found['coverage'])}, and right in "
            f"{format_percent(found['precision'])} of these answers.")  # fmt: skip
    return text if accepted >= ENOUGH else (
        f"It is sure of {accepted} of {num:,}, {round(found['precision'] * accepted)} of them "
        "rightly: too few to rely on."
    )  # fmt: skip


def is_near_chance(macro_recall: float, num_classes: int) -> bool:
    """Say whether a macro recall is hardly above that of a coin with so many sides."""
    guess = 1 / num_classes
    return guess < 1 and macro_recall < guess + _BARELY * (1 - guess)


def _of_100(share: float) -> str:
    """Round, but never to all or none where there are others."""
    if share in (0, 1):
        return "all" if share else "none"
    if 0 < share <= 0.005 or 0.995 <= share < 1:
        return "less than 1" if share < 0.5 else "more than 99"
    return f"about {100 * share:.0f}"


def format_percent(share: float) -> str:
    """Write a share in percent; 0.0 and 100.0 mean none and all."""
    rounded = round(100 * share, 1)
    if rounded in (0, 100) and share not in (0, 1):
        return "< 0.1 %" if share < 0.5 else "> 99.9 %"
    return f"{rounded:.1f} %"


def print_metrics(title: str, metrics: dict[str, Any]) -> None:
    """Print all figures of a `metrics.json`."""
    classes = metrics["classes"]
    if "accuracy" in metrics:
        confusion = metrics["confusion_matrix"]
        print_table(
            f"{title}: images by true class (row) and predicted class (column)",
            ["", *classes, "images", "recall", "precision", "f1"],
            [
                [name, *map(str, confusion[number]), str(figures["num_images"])]
                + [_percent(figures.get(key)) for key in ("recall", "precision", "f1")]
                for number, (name, figures) in enumerate(metrics["per_class"].items())
            ],
        )
    else:
        print_line(f"{title}: no image has a class as its label, so there is no accuracy")
    if "unlabelled" in metrics:
        counts = metrics["unlabelled"]["decided"].items()
        print_line("decided: " + ", ".join(f"{name} {count:,}" for name, count in counts))
    if "out_of_distribution" in metrics:
        print_table(
            "folders that are no class of this model, and how their images were decided",
            ["", *next(iter(metrics["out_of_distribution"].values()))["decided"], "images"],
            [
                [folder, *map(str, row["decided"].values()), str(row["num_images"])]
                for folder, row in metrics["out_of_distribution"].items()
            ],
        )
    if "accuracy" in metrics:
        print_line(summary_sentences(metrics)[0])
        if "priors" in metrics:
            mix = ", ".join(
                f"{name} {_percent(share)}" for name, share in metrics["priors"].items()
            )
            print_line(f"answered for another mix of classes than in training: {mix}")
        for line in (*_hits(metrics), *_calibration(metrics), *_rejection(metrics)):
            print_line(line)
        print_line(_withheld(metrics))
    print_line(_threshold(metrics))
    if metrics["num_unreadable"]:
        print_line(f"{metrics['num_unreadable']:,} files could not be read")


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
    chance = metrics["expected_if_calibrated"]
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
    return "-" if share is None else format_percent(share)
