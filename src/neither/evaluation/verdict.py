"""What figures come to, in plain words: the first that a reader of a report sees."""

from collections.abc import Mapping
from typing import Any

from neither.evaluation.intervals import share_interval

ENOUGH = 50  # images, below which a share is coarse
_BARELY = 0.2  # of the way from guessing to perfect, below which little was learned


def judge(metrics: Mapping[str, Any]) -> list[str]:
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
    low, high = (100 * bound for bound in share_interval(metrics["accuracy"], num))
    said.append(f"Of 100 pictures like these, {_of_100(metrics['accuracy'])} are called right "
                f"({low:.0f} to {high:.0f}).")  # fmt: skip
    num_classes = sum("recall" in figures for figures in metrics["per_class"].values())
    if is_guessing(metrics["macro_recall"], num_classes):
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
        return (f"It could not promise to be right in {percent(found['target_precision'])} of its "
                "answers, however sure, so it never says unsure.")  # fmt: skip
    if "precision" not in found:
        return "It is sure of none of them: all are for a person to look at."
    accepted = round(found["coverage"] * num)
    text = (f"Of 100 it is sure of {_of_100(found['coverage'])}, and right in "
            f"{percent(found['precision'])} of these answers.")  # fmt: skip
    return text if accepted >= ENOUGH else (
        f"It is sure of {accepted} of {num:,}, {round(found['precision'] * accepted)} of them "
        "rightly: too few to rely on."
    )  # fmt: skip


def is_guessing(macro_recall: float, num_classes: int) -> bool:
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


def percent(share: float) -> str:
    """Write a share in percent; 0.0 and 100.0 mean none and all."""
    rounded = round(100 * share, 1)
    if rounded in (0, 100) and share not in (0, 1):
        return "< 0.1 %" if share < 0.5 else "> 99.9 %"
    return f"{rounded:.1f} %"
