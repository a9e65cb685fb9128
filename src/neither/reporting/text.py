"""Metrics as sentences and console tables, and the templates of pages."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files as resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neither.data.scan import nfc
from neither.data.split_file import read_splits
from neither.data.splits import SPLITS
from neither.evaluation.metrics import wilson_interval
from neither.runtime.console import format_percent, print_line, print_table, printable

if TYPE_CHECKING:
    from neither.inference.classifier import Classifier
    from neither.models.checkpoint import Checkpoint

FEW_IMAGES = 50  # below this a fraction is coarse
_BARELY_LEARNED = 0.2  # of the way from chance to perfect
_MAX_NAMED = 3  # classes in a sentence
_MAX_LISTED = 20  # images that are left out
_THRESHOLDS = {"known": "threshold", "reject": "reject_threshold"}
_POPULATIONS = {
    "left-out sources": "images of sources that were left out of training",
    "cross-validation": "images that were left out of training",
}
_INFORMATIVE_ECE = 0.05  # largest ECE of a calibrated model at which the ECE means something


def summary_sentences(metrics: Mapping[str, Any]) -> list[str]:
    """Return sentences on what to expect of a model by its `metrics.json`, most important first."""
    sentences = list(_unseen_sentences(metrics))
    if num_trained_on := metrics.get("num_trained_on"):
        sentences.append(
            f"{num_trained_on:,} of these {metrics['num_images']:,} images were used for training, "
            "so the metrics do not apply to new images."
        )
    if num_changed := metrics.get("num_changed"):
        sentences.append(
            f"{num_changed:,} of these {metrics['num_images']:,} images are not those that the run "
            "kept: other images have their names now."
        )
    if "accuracy" not in metrics:
        return [*sentences, "No image is labelled with a class, so there is no accuracy."]
    low, high = (100 * bound for bound in wilson_interval(metrics["accuracy"], _num(metrics)))
    sentences.append(
        f"Of 100 images like these, {_of_100(metrics['accuracy'])} are classified correctly "
        f"({low:.0f} to {high:.0f})."
    )
    num_classes = sum("recall" in row for row in metrics["per_class"].values())
    if is_near_chance(metrics["macro_recall"], num_classes):
        sentences.append("That is little better than chance: train longer, or add images.")
    sentences.append(_confidence_sentence(metrics))
    reject = metrics.get("reject_class")
    recall = metrics["per_class"].get(reject, {}).get("recall") if reject else None
    if recall is not None:
        num = _of_100(recall)
        sentences.append(f"Of 100 images of {reject}, {num} are classified as {reject}.")
    return sentences


def review_sentence(metrics: Mapping[str, Any]) -> str:
    """Say what a review of labels changed; empty if there was none."""
    if (review := metrics.get("review")) is None:
        return ""
    text = f"{review['num_changed']:,} of {review['num_reviewed']:,} reviewed labels changed"
    if (before := review.get("macro_recall_before")) is not None:
        text += (
            f"; macro recall on the same corrected val: {_percent(before)} before, "
            f"{_percent(metrics['macro_recall'])} now"
        )
    return f"{text}."


def count_unseen(metrics: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many images of unseen kinds are decided as a class, and how many there are.

    The reject class does not count: it is the right decision.
    """
    rows = metrics.get("out_of_distribution", {}).values()
    known = [name for name in metrics["classes"] if name != metrics.get("reject_class")]
    num_accepted = sum(row["decided"].get(name, 0) for row in rows for name in known)
    return num_accepted, sum(row["num_images"] for row in rows)


def _unseen_sentences(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Say how many images of unseen kinds are accepted; nothing if none are."""
    num_accepted, num_images = count_unseen(metrics)
    if num_accepted:
        yield (
            f"Of {num_images:,} images of unseen kinds, {num_accepted:,} "
            f"({format_percent(num_accepted / num_images)}) are decided {_known_classes(metrics)}: "
            "for such images no probability can be relied on."
        )


def _known_classes(metrics: Mapping[str, Any]) -> str:
    """Name the classes that share the first threshold."""
    known = [printable(name) for name in metrics["classes"] if name != metrics.get("reject_class")]
    if len(known) <= _MAX_NAMED:
        return " or ".join(known)
    return "any class" if len(known) == len(metrics["classes"]) else "another class"


def describe_decisions(model: "Checkpoint | Classifier") -> list[str]:
    """Return the sentences on the thresholds of a model; else as `decision_rule_sentences`."""
    about = {"classes": model.classes, "reject_class": model.reject_class}
    about |= {"calibrated_on": model.calibrated_on, **model.decision_rule.to_json()}
    return decision_rule_sentences(about)


def decision_rule_sentences(metrics: Mapping[str, Any]) -> list[str]:
    """Return sentences on the thresholds: what they accept, and how far that can be relied on.

    Args:
        metrics: content of `metrics.json`, or of it `classes`, `reject_class`, `calibrated_on` and
            the entries of `DecisionRule.to_json`.
    """
    names = {"known": _known_classes(metrics)}
    if reject := metrics.get("reject_class"):
        names["reject"] = printable(reject)
    thresholds = {name: metrics.get(_THRESHOLDS[name]) for name in names}
    source = metrics["calibrated_on"]
    rules = [
        f"{names[name]} from a probability of {value:.4f}"
        for name, value in thresholds.items()
        if value is not None
    ]
    sentences = [f"Accepted: {', '.join(rules)}; below it the decision is unsure."] if rules else []
    if free := [names[name] for name, value in thresholds.items() if value is None]:
        sentences.append(
            f"No threshold reached the target precision on {source} for {' and '.join(free)}: "
            "every such prediction is accepted."
        )
    missing = [
        f"{num:,} more predictions of {names[name]}"
        for name, num in metrics.get("num_lacking", {}).items()
        if name in names
    ]
    if metrics["certified"]:
        sentences.append(
            "Certified: with 90 % confidence each threshold keeps the target precision, for images "
            f"like those of {source} alone."
        )
    elif missing:
        sentences.append(
            f"Not certified: {source} lacks at least {' and '.join(missing)}, all correct. The "
            "target may be missed even on images like these."
        )
    else:
        sentences.append(
            f"Not certified: the thresholds were fitted to {source}, and the target may be missed "
            "on other images."
        )
    return sentences


def _confidence_sentence(metrics: Mapping[str, Any]) -> str:
    """Say how many predictions are confident, and how many of these are correct."""
    decision = metrics["decision"]
    if metrics.keys().isdisjoint(_THRESHOLDS.values()):
        return (
            f"No threshold reached a precision of {format_percent(decision['target_precision'])} "
            f"on {metrics['calibrated_on']}, so no prediction is marked as unsure."
        )
    if "precision" not in decision:
        return "No prediction is confident: all are marked as unsure."
    num_accepted, num_correct = count_accepted(metrics)
    if num_accepted < FEW_IMAGES:
        return (
            f"{num_accepted} of {_num(metrics):,} predictions are confident, {num_correct} of them "
            "correct: too few to rely on."
        )
    return (
        f"Of 100 predictions, {_of_100(decision['coverage'])} are confident; "
        f"{format_percent(decision['precision'])} of these are correct."
    )


def count_accepted(metrics: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many labelled images reach the threshold, and how many of these are correct."""
    decision = metrics["decision"]
    num_accepted = round(decision["coverage"] * _num(metrics))
    return num_accepted, round(decision.get("precision", 0) * num_accepted)


def calibration_sentence(metrics: Mapping[str, Any], images: str = "images like these") -> str:
    """Say whether the probabilities are calibrated, as far as the number of images shows."""
    ece, bound = metrics["ece"], metrics["expected_if_calibrated"]["ece"]["q95"]
    if ece > bound:
        verdict = "are not well calibrated"
    elif bound <= _INFORMATIVE_ECE:
        verdict = "are well calibrated"
    else:
        verdict = "may be calibrated or not: there are too few images to tell"
    text = f"On {images} the probabilities {verdict}. They "
    if (source := metrics["calibrated_on"]) != "val":
        text = (
            f"The temperature was fitted to {_POPULATIONS[source]}: the probabilities are meant "
            "for such images; cross_validate says how well they are calibrated there. Here they "
        )
    return (
        f"{text}differ from the accuracy by {format_percent(ece)} on average; perfectly "
        f"calibrated, by up to {format_percent(bound)}."
    )


def cross_validation_sentences(metrics: Mapping[str, Any]) -> list[str]:
    """Return what a cross-validation says, perhaps of several seeds, most important first."""
    left_out = metrics.get("elsewhere", metrics.get("folds"))
    calibration = ""
    if "seeds" not in metrics:
        calibration = calibration_sentence({"calibrated_on": "val", **left_out}, "such images")
    text = render_template(
        "cross_validation.txt.jinja", metrics=metrics, left_out=left_out, calibration=calibration
    )
    return text.decode().splitlines()


def is_near_chance(macro_recall: float, num_classes: int) -> bool:
    """Return whether a macro recall is hardly above that of random predictions."""
    chance = 1 / num_classes
    return chance < 1 and macro_recall < chance + _BARELY_LEARNED * (1 - chance)


def format_interval(bounds: Sequence[float]) -> str:
    """Format an interval of fractions in percent."""
    return f"{100 * bounds[0]:.1f} - {100 * bounds[1]:.1f} %"


def render_template(template_name: str, **values: object) -> bytes:
    """Render a Jinja template of this package as UTF-8; values in HTML are escaped."""
    from jinja2 import Environment, StrictUndefined  # which predict does not need
    from markupsafe import Markup

    environment = Environment(
        autoescape=".html" in template_name,  # noqa: S701 - Markdown gets names that the config has checked
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "code": "`{}`".format,
        "interval": format_interval,
        "number": "{:,}".format,
        "percent": format_percent,
        "plain": printable,
    }
    folder = resources("neither.reporting")
    style = folder.joinpath("style.css").read_text("utf-8")
    environment.globals["style"] = Markup(style)  # noqa: S704 - a file of this package
    template = folder.joinpath(template_name).read_text("utf-8")
    return environment.from_string(template).render(values).encode("utf-8", "backslashreplace")


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


def _of_100(fraction: float) -> str:
    """Round to a whole number of 100, but to all or none only if it is exactly that."""
    if fraction in (0, 1):
        return "all" if fraction else "none"
    if fraction <= 0.005 or fraction >= 0.995:
        return "less than 1" if fraction < 0.5 else "more than 99"
    return f"about {100 * fraction:.0f}"


def print_metrics(title: str, metrics: Mapping[str, Any]) -> None:
    """Print the content of `metrics.json` as tables and lines."""
    has_labels = "accuracy" in metrics
    if has_labels:
        print_table(
            f"{title}: images by true class (row) and predicted class (column)",
            ["", *metrics["classes"], "images", "recall", "precision", "f1"],
            [
                [name, *map(str, counts), str(row["num_images"])]
                + [_percent(row.get(key)) for key in ("recall", "precision", "f1")]
                for counts, (name, row) in zip(
                    metrics["confusion_matrix"], metrics["per_class"].items(), strict=True
                )
            ],
        )
    else:
        print_line(f"{title}: no image is labelled with a class, so there is no accuracy")
    if "unlabelled" in metrics:
        counts = metrics["unlabelled"]["decided"].items()
        print_line("decisions: " + ", ".join(f"{name} {count:,}" for name, count in counts))
    if "out_of_distribution" in metrics:
        folders = metrics["out_of_distribution"]
        print_table(
            "out of distribution: folders that are no class of this model, and their decisions",
            ["", *next(iter(folders.values()))["decided"], "images"],
            [
                [folder, *map(str, row["decided"].values()), str(row["num_images"])]
                for folder, row in folders.items()
            ],
        )
    lines = [*_unseen_sentences(metrics), *decision_rule_sentences(metrics)]
    if has_labels:
        num_accepted, num_correct = count_accepted(metrics)
        lines = render_template(
            "metrics.txt.jinja",
            metrics=metrics,
            summary=summary_sentences(metrics)[: 2 if count_unseen(metrics)[0] else 1],
            decision_rule=decision_rule_sentences(metrics),
            num_labelled=_num(metrics),
            num_accepted=num_accepted,
            num_correct=num_correct,
        ).decode().splitlines()  # fmt: skip
    for line in lines:
        print_line(line)
    if metrics["num_unreadable"]:
        print_line(f"{metrics['num_unreadable']:,} files could not be read")


def _num(metrics: Mapping[str, Any]) -> int:
    """Return the number of labelled images."""
    return sum(map(sum, metrics["confusion_matrix"]))


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else format_percent(fraction)
