"""Selective prediction and rejection: against scikit-learn, by definition, by hand."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn.metrics import roc_auc_score
from torch import Tensor

from neither.evaluation.selective import (
    accepts,
    auroc,
    bootstrap_precision,
    certify_threshold,
    choose_threshold,
    fit_decision_rule,
    fit_pooled_rule,
    fpr_at_tpr,
    most_confident_mistakes,
    num_to_certify,
    rejection_metrics,
    risk_coverage,
    selective_metrics,
)

images = st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=7)


def measure(pairs: list[tuple[int, bool]]) -> dict[str, Any]:
    confidences = torch.tensor([pair[0] / 8 for pair in pairs], dtype=torch.float64)
    return selective_metrics(confidences, torch.tensor([pair[1] for pair in pairs]))


@given(images)
def test_ties_are_the_mean_over_all_their_orders(pairs: list[tuple[int, bool]]) -> None:
    rows = []
    for order in itertools.permutations(pairs):
        if [pair[0] for pair in order] == sorted((pair[0] for pair in pairs), reverse=True):
            wrong = list(itertools.accumulate(not pair[1] for pair in order))
            rows.append([wrong[k] / (k + 1) for k in range(len(wrong))])
    risks = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    found = measure(pairs)
    num = len(pairs)
    assert found["aurc"] == pytest.approx(sum(risks) / num, abs=1e-12)
    counted = sum(risk * (k + 1) for k, risk in enumerate(risks)) / num**2
    assert found["augrc"] == pytest.approx(counted, abs=1e-12)


def test_selective_metrics_by_hand() -> None:
    # By confidence: correct, correct, wrong, correct; errors among the first k: 0, 0, 1, 1.
    found = measure([(8, True), (6, True), (5, False), (3, True)])
    assert found["aurc"] == pytest.approx((0 + 0 + 1 / 3 + 1 / 4) / 4)
    assert found["augrc"] == pytest.approx((0 + 0 + 1 + 1) / 16)
    assert found["auroc"] == pytest.approx(2 / 3)
    assert found["coverage_at_99"] == 0.5
    assert found["accuracy_at"] == {"0.95": 0.75, "0.9": 0.75, "0.8": pytest.approx(2 / 3)}


def test_all_correct_and_all_wrong() -> None:
    correct, wrong = measure([(5, True), (3, True)]), measure([(5, False), (3, False)])
    assert (correct["aurc"], correct["augrc"], correct["coverage_at_99"]) == (0, 0, 1)
    assert (wrong["aurc"], wrong["augrc"], wrong["coverage_at_99"]) == (1, 0.75, 0)
    assert "auroc" not in correct | wrong


scores = st.lists(st.integers(0, 12).map(lambda n: n / 12), min_size=1, max_size=25)


def tensor(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.property("P21")
@given(scores, scores)
def test_auroc_is_that_of_scikit_learn(positive: list[float], negative: list[float]) -> None:
    truth = [1] * len(positive) + [0] * len(negative)
    found = auroc(tensor(positive), tensor(negative))
    assert found == pytest.approx(roc_auc_score(truth, positive + negative), abs=1e-12)
    assert auroc(-tensor(positive), -tensor(negative)) == pytest.approx(1 - found, abs=1e-12)
    assert auroc(tensor(positive).exp(), tensor(negative).exp()) == pytest.approx(found, abs=1e-12)


def test_false_positive_rate_at_a_true_positive_rate() -> None:
    positive = tensor([number / 20 for number in range(1, 21)])
    # 95 % of 20 are 19: the threshold is the second lowest, 0.1, and a tie with it passes.
    assert fpr_at_tpr(positive, tensor([0.05, 0.09, 0.1, 0.9]), 0.95) == 0.5
    assert fpr_at_tpr(positive, tensor([0.05, 0.09, 0.1, 0.9]), 1.0) == 1.0
    assert fpr_at_tpr(tensor([0.5]), tensor([0.4]), 0.95) == 0.0


def oscr_by_hand(probabilities: Tensor, labels: Tensor, reject: int) -> float:
    """Go through all pairs: a correct known image above one to be rejected, ties half."""
    known = [number for number in range(probabilities.shape[1]) if number != reject]
    total, pairs = 0.0, 0
    for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True):
        if label == reject:
            continue
        best = max(row[number] for number in known)
        correct = max(known, key=lambda number: row[number]) == label
        for other, other_label in zip(probabilities.tolist(), labels.tolist(), strict=True):
            if other_label != reject:
                continue
            pairs += 1
            theirs = max(other[number] for number in known)
            total += correct * ((best > theirs) + (best == theirs) / 2)
    return total / pairs


@pytest.mark.property("T6")
@given(st.integers(2, 40), st.integers(0, 10_000))
def test_oscr_counts_each_pair_once_and_ties_half(num: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    parts = torch.randint(0, 6, (num, 3), generator=generator).double() + 0.5
    # Two known classes of one probability would leave the prediction to their order.
    parts[:, 1] += 0.25
    probabilities = parts / parts.sum(dim=1, keepdim=True)
    labels = torch.randint(0, 3, (num,), generator=generator)
    labels[0], labels[1] = 0, 2
    found = rejection_metrics(probabilities, labels, 2)
    assert found["oscr"] == pytest.approx(oscr_by_hand(probabilities, labels, 2), abs=1e-12)
    known = labels != 2
    correct = (probabilities[:, :2].argmax(dim=1) == labels)[known].double().mean()
    assert 0 <= found["oscr"] <= float(correct)
    assert all(0 <= each <= float(correct) + 1e-12 for each in found["ccr_at_fpr"].values())


def test_rejection_metrics_by_hand() -> None:
    probabilities = tensor([0.9, 0.05, 0.05, 0.2, 0.7, 0.1, 0.5, 0.3, 0.2, 0.1, 0.3, 0.6, 0.6, 0.2,
                            0.2]).view(5, 3)  # fmt: skip
    labels = torch.tensor([0, 1, 1, 2, 2])  # the third is known, yet taken for the other class
    found = rejection_metrics(probabilities, labels, 2)
    # 1 - p(neither): known 0.95, 0.9, 0.8; neither 0.4, 0.8: 5 pairs won and one tie of 6.
    assert found["auroc"] == pytest.approx(5.5 / 6)
    assert found["fpr_at_95_tpr"] == 0.5
    # Right and known: 0.9, 0.7; neither reaches 0.3 and 0.6: both above both, of 3 x 2 pairs.
    assert found["oscr"] == pytest.approx(4 / 6)
    assert found["ccr_at_fpr"] == {"0.1": pytest.approx(2 / 3), "0.01": pytest.approx(2 / 3),
                                "0.001": pytest.approx(2 / 3)}  # fmt: skip


@pytest.mark.parametrize("label", [0, 2])
def test_without_known_or_rejected_images_there_are_no_rejection_metrics(label: int) -> None:
    probabilities = tensor([0.5, 0.3, 0.2]).expand(4, 3)
    assert rejection_metrics(probabilities, torch.full((4,), label), 2) == {}


def test_known_images_alike_leave_nothing_at_a_low_rate() -> None:
    probabilities = tensor([0.6, 0.2, 0.2]).expand(6, 3)
    found = rejection_metrics(probabilities, torch.tensor([0, 0, 0, 2, 2, 2]), 2)
    assert (found["auroc"], found["oscr"], found["fpr_at_95_tpr"]) == (0.5, 0.5, 1.0)
    assert found["ccr_at_fpr"]["0.1"] == 0


def test_risk_coverage_and_mistakes_by_hand() -> None:
    """By falling confidence: wrong 1.0, correct 0.9, wrong 0.8, wrong 0.7, correct 0.6."""
    probabilities = tensor([0.9, 0.1, 0.6, 0.4, 0.3, 0.7, 0.0, 1.0, 0.2, 0.8]).view(5, 2)
    labels = torch.zeros(5, dtype=torch.int64)
    assert risk_coverage(probabilities, labels) == [
        (0.2, 1.0), (0.4, 0.5), (0.6, pytest.approx(2 / 3)), (0.8, 0.75), (1.0, 0.6),
    ]  # fmt: skip
    assert most_confident_mistakes(probabilities, labels, 2) == [3, 4]
    assert most_confident_mistakes(probabilities, labels, 9) == [3, 4, 2]


def test_a_long_curve_keeps_its_ends() -> None:
    num = 10_000
    confidences = torch.linspace(1, 0.51, num, dtype=torch.float64)
    labels = (torch.arange(num) >= num // 2).long()  # the more confident half is correct
    points = risk_coverage(torch.stack([confidences, 1 - confidences], dim=1), labels)
    assert len(points) == 200
    assert points[0] == (1 / num, 0.0)
    assert points[-1] == (1.0, 0.5)


@given(
    st.lists(st.tuples(st.integers(1, 10), st.booleans()), min_size=1, max_size=30),
    st.sampled_from([0.5, 0.9, 0.98, 1.0]),
)
def test_the_threshold_is_the_smallest_that_reaches_the_target(
    pairs: list[tuple[int, bool]], target: float
) -> None:
    def precision(threshold: int) -> float:
        accepted = [correct for confidence, correct in pairs if confidence >= threshold]
        return sum(accepted) / len(accepted)

    reached = [each for each in sorted({pair[0] for pair in pairs}) if precision(each) >= target]
    expected = min(reached) / 10 if reached else None
    found = choose_threshold(
        torch.tensor([pair[0] / 10 for pair in pairs], dtype=torch.float64),
        torch.tensor([pair[1] for pair in pairs]), target,
    )  # fmt: skip
    assert found == pytest.approx(expected, abs=2e-12)
    assert found is None or found < min(reached) / 10


@pytest.mark.parametrize("below", [1 - 5e-13, 1 - 2**-53])
def test_the_epsilon_never_accepts_the_next_lower_confidence(below: float) -> None:
    confidences = torch.tensor([1.0, below], dtype=torch.float64)
    found = choose_threshold(confidences, torch.tensor([True, False]), 1.0)
    assert found is not None
    assert (confidences >= found).tolist() == [True, False]


def test_a_precision_that_is_exactly_the_target_reaches_it() -> None:
    """98 of 100, where 0.98 has no exact binary form."""
    confidences = torch.full((100,), 0.7, dtype=torch.float64)
    hits = torch.arange(100) >= 2
    assert choose_threshold(confidences, hits, 0.98) == pytest.approx(0.7)
    assert choose_threshold(confidences, torch.arange(100) >= 3, 0.98) is None


@pytest.mark.parametrize(("num_errors", "target", "num"), [
    (0, 0.98, 114), (1, 0.98, 194), (0, 0.5, 4), (3, 0.9, 65), (40, 0.999, 49_386),
])  # fmt: skip
def test_the_number_that_certifies_is_by_the_exact_binomial(
    num_errors: int, target: float, num: int
) -> None:
    assert num_to_certify(num_errors, target) == num
    assert binom.cdf(num_errors, num, 1 - target) <= 0.1
    assert binom.cdf(num_errors, num - 1, 1 - target) > 0.1


def certify_by_hand(pairs: list[tuple[int, bool]], target: float) -> float | None:
    """Test 31 sizes one after another, each with all that have its last confidence.

    The first is a third, less what certifies no more mistakes, and at least what certifies none.
    From the first that fails it is two steps back.
    """
    ordered = sorted((pair[0] for pair in pairs), reverse=True)
    found: list[float] = []
    first, errors = num_to_certify(0, target), 1
    while num_to_certify(errors, target) <= len(pairs) // 3:
        first, errors = num_to_certify(errors, target), errors + 1
    first = min(first, len(pairs))
    for step in range(31):
        size = first + step * (len(pairs) - first) // 30
        hits = [hit for confidence, hit in pairs if confidence >= ordered[size - 1]]
        if binom.cdf(hits.count(False), len(hits), 1 - target) > 0.1:
            return found[-2 if len(found) > 1 else -1] if found else None
        found.append(ordered[size - 1] / 100)
    return found[-1]


@given(st.randoms(use_true_random=False), st.integers(1, 300), st.sampled_from([0.5, 0.8, 0.95]))
def test_certified_thresholds_pass_each_test_in_turn(
    random: Any, num: int, target: float  # noqa: ANN401
) -> None:  # fmt: skip
    chosen = random.choices(range(1, 100), k=num)
    pairs = [(each, random.random() < 0.6 + each / 200) for each in chosen]
    confidences = torch.tensor([each / 100 for each, _ in pairs], dtype=torch.float64)
    hits = torch.tensor([hit for _, hit in pairs])
    found, num_lacking = certify_threshold(confidences, hits, target)
    expected = certify_by_hand(pairs, target)
    assert found == (None if expected is None else pytest.approx(expected, abs=2e-12))
    assert (num_lacking == 0) == (found is not None)


def test_one_confident_mistake_does_not_end_the_sequence() -> None:
    """The second of 800 is wrong: two mistakes among 265 are certified, and three among all."""
    confidences, hits = torch.linspace(1, 0.5, 800, dtype=torch.float64), torch.ones(800) > 0
    hits[[1, 500, 700]] = False
    assert certify_threshold(confidences, hits, 0.98)[0] == pytest.approx(0.5)
    hits[[2, 3]] = False  # three mistakes among 265
    assert certify_threshold(confidences, hits, 0.98) == (None, num_to_certify(3, 0.98) - 265)


def test_what_is_lacking_would_certify() -> None:
    """With one mistake among 113 predictions: as many more, all correct, as it says."""
    hits = torch.arange(113) != 50
    confidences = torch.linspace(1, 0.5, 113, dtype=torch.float64)
    found, num_lacking = certify_threshold(confidences, hits, 0.98)
    assert (found, num_lacking) == (None, 194 - 113)
    more = torch.full((num_lacking,), 0.99, dtype=torch.float64)
    for num, threshold in ((num_lacking - 1, None), (num_lacking, pytest.approx(0.5))):
        # All of one confidence, so that the first test is of all.
        merged = torch.full((113 + num,), 0.5, dtype=torch.float64)
        every_hit = torch.cat([hits, more[:num] > 0])
        assert certify_threshold(merged, every_hit, 0.98)[0] == threshold
    assert certify_threshold(confidences[:0], hits[:0], 0.98) == (None, 114)
    assert certify_threshold(confidences, hits, 1.0) == (None, 0)  # no number certifies it


def test_the_reject_class_has_a_threshold_of_its_own() -> None:
    """Enough predictions of neither to be certified, too few of dog and human."""
    known = torch.linspace(0.99, 0.5, 50, dtype=torch.float64)
    rejected = torch.linspace(0.99, 0.5, 300, dtype=torch.float64)
    probabilities = torch.zeros(350, 3, dtype=torch.float64)
    probabilities[:25, 0], probabilities[25:50, 1] = known[:25], known[25:]
    probabilities[50:, 2] = rejected
    labels = probabilities.argmax(dim=1)
    labels[40:42] = 2  # of 50 by falling confidence
    rule = fit_decision_rule(probabilities, labels, 2, 0.98)
    assert rule.threshold == pytest.approx(float(known[39]))
    assert rule.reject_threshold == pytest.approx(0.5)
    assert (rule.is_certified, rule.num_reject_lacking) == (False, 0)
    assert rule.to_json()["num_lacking"] == {"known": num_to_certify(2, 0.98) - 50}

    one = fit_decision_rule(probabilities, labels, None, 0.98)  # two mistakes among all 350
    assert one.threshold == pytest.approx(0.5)
    assert (one.reject_threshold, one.is_certified) == (None, True)
    pooled = fit_pooled_rule(probabilities, labels, 2, 0.98)
    assert pooled.threshold == pooled.reject_threshold == pytest.approx(0.5)
    assert (pooled.is_certified, pooled.num_lacking) == (False, 0)

    labels[0] = 2  # the most confident of all: no threshold is right from the top on
    wrong = fit_pooled_rule(probabilities[:1], labels[:1], 2, 0.98)
    assert not accepts(wrong, probabilities, 2).any()


def test_sources_are_drawn_whole() -> None:
    """One source of ten mistakes among four sources: it is drawn from none to four times."""
    sources = [name for name in "abcd" for _ in range(10)]
    hits = torch.tensor([source != "d" for source in sources])
    low, high = bootstrap_precision(hits, sources)
    assert (low, high) == (0.5, 1.0)
    alone = bootstrap_precision(hits, [""] * 40)
    assert 0.6 < alone[0] < 0.75 < alone[1] < 0.9
    assert bootstrap_precision(torch.ones(3, dtype=torch.bool), "abc") == (1.0, 1.0)
