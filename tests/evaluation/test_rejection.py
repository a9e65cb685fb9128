"""Rejection: against scikit-learn, and against tables worked by hand where others go wrong."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor

from neither.evaluation.selective import auroc, fpr_at_tpr, rejection_metrics

scores = st.lists(st.integers(0, 12).map(lambda n: n / 12), min_size=1, max_size=25)


def tensor(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@given(scores, scores)
@settings(max_examples=80, deadline=None)
def test_p21_auroc_is_scikit_learns_and_its_opposite_mirrors_it(
    positive: list[float], negative: list[float]
) -> None:
    truth = [1] * len(positive) + [0] * len(negative)
    found = auroc(tensor(positive), tensor(negative))
    assert found == pytest.approx(roc_auc_score(truth, positive + negative), abs=1e-12)
    assert auroc(-tensor(positive), -tensor(negative)) == pytest.approx(1 - found, abs=1e-12)
    assert auroc(tensor(positive).exp(), tensor(negative).exp()) == pytest.approx(found, abs=1e-12)


def test_false_positives_at_a_share_of_true_ones() -> None:
    positive = tensor([number / 20 for number in range(1, 21)])
    # 95 % of 20 are 19: the threshold is the second lowest, 0.1, and a tie with it passes.
    assert fpr_at_tpr(positive, tensor([0.05, 0.09, 0.1, 0.9]), 0.95) == 0.5
    assert fpr_at_tpr(positive, tensor([0.05, 0.09, 0.1, 0.9]), 1.0) == 1.0
    assert fpr_at_tpr(tensor([0.5]), tensor([0.4]), 0.95) == 0.0


def oscr_by_hand(probabilities: Tensor, labels: Tensor, reject: int) -> float:
    """Go through all pairs: a right known image above one to be rejected, ties half."""
    known = [number for number in range(probabilities.shape[1]) if number != reject]
    total, pairs = 0.0, 0
    for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True):
        if label == reject:
            continue
        best = max(row[number] for number in known)
        right = max(known, key=lambda number: row[number]) == label
        for other, other_label in zip(probabilities.tolist(), labels.tolist(), strict=True):
            if other_label != reject:
                continue
            pairs += 1
            theirs = max(other[number] for number in known)
            total += right * ((best > theirs) + (best == theirs) / 2)
    return total / pairs


@given(st.integers(2, 40), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_t6_oscr_counts_each_pair_once_and_ties_half(num: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    parts = torch.randint(0, 6, (num, 3), generator=generator).double() + 0.5
    # Two known classes of one probability would leave the prediction to their order.
    parts[:, 1] += 0.25
    probabilities = parts / parts.sum(dim=1, keepdim=True)
    labels = torch.randint(0, 3, (num,), generator=generator)
    labels[0], labels[1] = 0, 2
    found = rejection_metrics(probabilities, labels, 2)
    assert found is not None
    assert found.oscr == pytest.approx(oscr_by_hand(probabilities, labels, 2), abs=1e-12)
    known = labels != 2
    right = (probabilities[:, :2].argmax(dim=1) == labels)[known].double().mean()
    assert 0 <= found.oscr <= float(right)
    assert all(0 <= each <= float(right) + 1e-12 for each in found.ccr_at_fpr.values())


def test_a_table_worked_by_hand() -> None:
    probabilities = tensor([0.9, 0.05, 0.05, 0.2, 0.7, 0.1, 0.5, 0.3, 0.2, 0.1, 0.3, 0.6, 0.6, 0.2,
                            0.2]).view(5, 3)  # fmt: skip
    labels = torch.tensor([0, 1, 1, 2, 2])  # the third is known, yet taken for the other class
    found = rejection_metrics(probabilities, labels, 2)
    assert found is not None
    # 1 - p(neither): known 0.95, 0.9, 0.8; neither 0.4, 0.8: 5 pairs won and one tie of 6.
    assert found.auroc == pytest.approx(5.5 / 6)
    assert found.fpr_at_95_tpr == 0.5
    # Right and known: 0.9, 0.7; neither reaches 0.3 and 0.6: both above both, of 3 x 2 pairs.
    assert found.oscr == pytest.approx(4 / 6)
    assert found.ccr_at_fpr == {"0.1": pytest.approx(2 / 3), "0.01": pytest.approx(2 / 3),
                                "0.001": pytest.approx(2 / 3)}  # fmt: skip


@pytest.mark.parametrize("label", [0, 2])
def test_one_kind_alone_gives_nothing(label: int) -> None:
    probabilities = tensor([0.5, 0.3, 0.2]).expand(4, 3)
    assert rejection_metrics(probabilities, torch.full((4,), label), 2) is None


def test_known_images_alike_leave_nothing_at_a_low_rate() -> None:
    probabilities = tensor([0.6, 0.2, 0.2]).expand(6, 3)
    found = rejection_metrics(probabilities, torch.tensor([0, 0, 0, 2, 2, 2]), 2)
    assert found is not None
    assert (found.auroc, found.oscr, found.fpr_at_95_tpr) == (0.5, 0.5, 1.0)
    assert found.ccr_at_fpr["0.1"] == 0
