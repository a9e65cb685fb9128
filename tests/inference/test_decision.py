"""A decision and its reason."""

import pytest

from neither.inference.prediction import UNSURE, Decision, decide

CLASSES = ("dog", "human", "neither")


@pytest.mark.parametrize(
    ("threshold", "decided", "reason"),
    [
        (None, "human", "no threshold"),
        (0.625, "human", "0.6250 >= 0.6250"),
        (0.63, UNSURE, "0.6250 < 0.6300"),
        (0.6250001, UNSURE, "0.6250000 < 0.6250001"),
        (0.625 + 2**-53, UNSURE, "0.6250000000000000 < 0.6250000000000001"),
    ],
)
def test_the_top_probability_is_held_against_the_threshold(
    threshold: float | None, decided: str, reason: str
) -> None:
    found = decide([0.25, 0.625, 0.125], CLASSES, threshold)
    assert found == Decision("human", decided, reason, 0.625)


def test_of_equal_probabilities_the_first_is_predicted() -> None:
    assert decide([0.4, 0.2, 0.4], CLASSES, None).predicted == "dog"
