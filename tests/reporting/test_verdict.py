"""What is said of figures: never more than they bear."""

from typing import Any

import pytest

from neither.reporting.text import format_percent, is_near_chance, summary_sentences


def figures(**other: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return figures of 100 images of which 90 are called right."""
    plain = {
        "num_images": 100, "accuracy": 0.9, "macro_recall": 0.9, "reject_class": "neither",
        "intervals": {"accuracy": [0.83, 0.95]}, "confusion_matrix": [[45, 5], [5, 45]],
        "per_class": {"dog": {"recall": 0.9}, "neither": {"recall": 0.9}}, "threshold": 0.7,
        "decision": {"target_precision": 0.98, "coverage": 0.6, "precision": 0.95},
    }  # fmt: skip
    return plain | other


def test_the_first_lines_are_hits_sureness_and_the_reject_class() -> None:
    assert summary_sentences(figures()) == [
        "Of 100 pictures like these, about 90 are called right (83 to 94).",
        "Of 100 it is sure of about 60, and right in 95.0 % of these answers.",
        "Of 100 pictures of neither, it calls about 90 neither.",
    ]


def test_figures_on_what_was_trained_on_are_told_first() -> None:
    first, *_ = summary_sentences(figures(num_trained_on=99))
    assert first.startswith("99 of these 100 pictures were trained on")


@pytest.mark.parametrize(
    ("decision", "said"),
    [
        ({"coverage": 0.02, "precision": 1.0}, "sure of 2 of 100, 2 of them rightly: too few"),
        ({"coverage": 0.0}, "It is sure of none of them"),
        ({"coverage": 1.0, "precision": 0.9}, "Of 100 it is sure of all, and right in 90.0 %"),
    ],
)
def test_few_sure_answers_are_counted_instead(decision: dict[str, float], said: str) -> None:
    lines = summary_sentences(figures(decision={"target_precision": 0.98} | decision))
    assert sum(said in line for line in lines) == 1


def test_without_a_threshold_it_never_says_unsure() -> None:
    without = figures()
    del without["threshold"]
    assert "It could not promise to be right in 98.0 %" in summary_sentences(without)[1]


def test_hardly_more_than_guessing_is_told() -> None:
    assert "little better than guessing" in summary_sentences(figures(macro_recall=0.55))[1]
    assert is_near_chance(0.45, 3)
    assert not is_near_chance(0.48, 3)
    assert not is_near_chance(1.0, 1)
    assert not is_near_chance(0.0, 1)


@pytest.mark.parametrize(
    ("share", "said"),
    [(1.0, "all are"), (0.998, "more than 99 are"), (0.994, "about 99 are"), (0.002, "less than 1"),
     (0.0, "none are")],
)  # fmt: skip
def test_all_and_none_are_said_of_all_and_none_only(share: float, said: str) -> None:
    assert said in summary_sentences(figures(accuracy=share))[0]


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0.0 %"), (1e-5, "< 0.1 %"), (0.0006, "0.1 %"), (0.9877, "98.8 %"),
     (0.99999, "> 99.9 %"), (1.0, "100.0 %")],
)  # fmt: skip
def test_none_and_all_are_said_of_none_and_all_alone(share: float, text: str) -> None:
    assert format_percent(share) == text
