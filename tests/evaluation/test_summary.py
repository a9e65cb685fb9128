"""The whole of `metrics.json` that takes labels, for a classifier known through and through."""

import json
import math

import pytest
import torch

from neither.evaluation.evaluation import compute_metrics
from neither.evaluation.metrics import wilson_interval
from neither.inference.classifier import Classifier

# Red is a dog, green a human, blue neither: one logit each, at temperature 1.25.
LOGITS = torch.tensor([[5.0, 0, 0]] * 3 + [[0, 5.0, 0]] * 3 + [[0, 0, 5.0]] * 3 + [[0, 2.5, 0]])
LABELS = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, 2])
SURE = math.exp(4) / (math.exp(4) + 2)
LESS = math.exp(2) / (math.exp(2) + 2)


def test_every_figure_of_a_table_worked_by_hand(classifier: Classifier) -> None:
    found = compute_metrics(classifier, LOGITS, LABELS)
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(found))
    losses = [-math.log(SURE)] * 9 + [-math.log((1 - LESS) / 2)]
    assert found["accuracy"] == 0.9
    assert found["macro_recall"] == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert found["nll"] == pytest.approx(sum(losses) / 10)
    assert found["refinement"] <= found["nll"]
    assert found["ece"] == pytest.approx((9 * (1 - SURE) + LESS) / 10)
    assert found["reliability"] == [
        {"num_images": 1, "confidence": pytest.approx(LESS), "accuracy": 0.0},
        {"num_images": 9, "confidence": pytest.approx(SURE), "accuracy": 1.0},
    ]
    assert found["selective"]["accuracy_at"] == {"0.95": 0.9, "0.9": 1.0, "0.8": 1.0}
    # 1 - p(neither): the wrong one of neither is between the known images and its fellows.
    assert found["rejection"]["auroc"] == 1.0
    assert set(found["rejection"]) == {
        "auroc", "fpr_at_95_tpr", "oscr", "ccr_at_fpr", "aurc", "augrc",
    }  # fmt: skip
    assert found["rejection"]["aurc"] == found["selective"]["aurc"] == pytest.approx(0.01)
    assert found["decision"] == {"target_precision": 1.0, "coverage": 1.0, "precision": 0.9}
    low, high = found["intervals"]["accuracy"]
    assert (low, high) == pytest.approx(wilson_interval(0.9, 10))
    assert set(found["expected_if_calibrated"]) == {"ece", "adaptive_ece", "classwise_ece"}


def test_what_does_not_apply_is_absent(classifier: Classifier) -> None:
    alone = compute_metrics(classifier, LOGITS[:3], LABELS[:3])
    assert "rejection" not in alone
    assert "auroc" not in alone["selective"]
    assert "null" not in json.dumps(alone)
    assert "NaN" not in json.dumps(alone)


def test_other_priors_move_every_figure(classifier: Classifier) -> None:
    from dataclasses import replace

    known = replace(classifier, class_frequencies=(0.25, 0.5, 0.25))
    priors = known.with_priors({"dog": 0.05, "human": 0.05, "neither": 0.9})
    # p * prior / share, and all divided by their sum.
    parts = [0.05 / 0.25, math.exp(2) * 0.05 / 0.5, 0.9 / 0.25]
    expected = [each / sum(parts) for each in parts]
    assert priors.probabilities(LOGITS[-1:])[0].tolist() == pytest.approx(expected)
    assert compute_metrics(priors, LOGITS, LABELS)["accuracy"] == 1.0
    same = known.with_priors(dict(zip(known.classes, known.class_frequencies, strict=True)))
    assert same.probabilities(LOGITS).allclose(known.probabilities(LOGITS))
