"""Another mix of classes: Bayes' rule, and nothing else."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from neither.data.preprocessing import Preprocessing
from neither.inference.classifier import Classifier
from neither.runtime.errors import CheckpointError

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0]])


@pytest.fixture
def classifier() -> Classifier:
    return Classifier(
        torch.nn.Identity(), ("dog", "human", "neither"), "neither", Preprocessing(32), 2.0,
        Path("images"), {}, torch.device("cpu"), shares=(0.5, 0.25, 0.25),
    )  # fmt: skip


def test_each_probability_is_multiplied_by_how_much_more_common_its_class_is(
    classifier: Classifier,
) -> None:
    priors = {"neither": 0.8, "dog": 0.1, "human": 0.1}
    before = classifier.probabilities(LOGITS)
    weighed = before * torch.tensor([0.1 / 0.5, 0.1 / 0.25, 0.8 / 0.25], dtype=torch.float64)
    expected = weighed / weighed.sum(dim=1, keepdim=True)
    found = classifier.with_priors(priors).probabilities(LOGITS)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(found[1], weighed[1] / weighed[1].sum())


def test_the_shares_of_training_change_nothing(classifier: Classifier) -> None:
    shares = dict(zip(classifier.classes, classifier.shares, strict=True))
    same = classifier.with_priors(shares)
    torch.testing.assert_close(same.probabilities(LOGITS), classifier.probabilities(LOGITS))


@pytest.mark.parametrize("shares", [(), (0.5, 0.5, 0.0)])
def test_unknown_shares_are_refused(classifier: Classifier, shares: tuple[float, ...]) -> None:
    with pytest.raises(CheckpointError, match="how common each class was"):
        replace(classifier, shares=shares).with_priors({"dog": 0.2, "human": 0.3, "neither": 0.5})


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 0, 1)])
def test_p19_classes_in_another_order_get_the_same_probabilities(
    classifier: Classifier, order: tuple[int, ...]
) -> None:
    other = replace(
        classifier,
        classes=tuple(classifier.classes[place] for place in order),
        shares=tuple(classifier.shares[place] for place in order),
    )
    pick: Callable[[Classifier, torch.Tensor], dict[str, float]] = lambda each, logits: dict(  # noqa: E731
        zip(each.classes, each.probabilities(logits)[0].tolist(), strict=True)
    )
    mine, theirs = pick(classifier, LOGITS), pick(other, LOGITS[:, list(order)])
    assert mine == pytest.approx(theirs, abs=4.5e-16)
    assert classifier.decide(list(mine.values())).decided == "dog"
    assert other.decide([theirs[name] for name in other.classes]).decided == "dog"
