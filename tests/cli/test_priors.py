"""`--priors`: every share once, or a message."""

import pytest

from neither.cli.evaluate import read_priors
from neither.inference.classifier import check_priors
from neither.runtime.errors import UsageError

CLASSES = ("dog", "human=being", "neither")


def test_shares_come_in_the_order_of_the_classes() -> None:
    priors = read_priors("neither=0.7,dog=0.1,human=being=0.2")
    assert check_priors(priors, CLASSES) == [0.1, 0.2, 0.7]
    rounded = read_priors("dog=0.333,human=being=0.333,neither=0.334")
    assert check_priors(rounded, CLASSES)[2] == 0.334


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is not CLASS=SHARE"),
        ("dog", "is not CLASS=SHARE"),
        ("dog=much,human=being=0.2,neither=0.7", "is not CLASS=SHARE"),
        ("dog=0.3,neither=0.7", "human=being is missing"),
        ("dog=0.1,human=being=0.2,neither=0.6,cat=0.1", "cat is not a class"),
        ("dog=0.1,dog=0.1,human=being=0.2,neither=0.7", "dog stands twice"),
        ("dog=0.1,human=being=0.2,neither=0.6", "sum to 0.9"),
        ("dog=0,human=being=0.3,neither=0.7", "dog is 0, but must be"),
        ("dog=-0.1,human=being=0.4,neither=0.7", "dog is -0.1"),
        ("dog=nan,human=being=0.4,neither=0.6", "dog is nan"),
    ],
)
def test_anything_else_is_told(text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        check_priors(read_priors(text), CLASSES)
