"""Exported files: complete, for any batch size, and verified by running them."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from checkpoints import SIZE, make_checkpoint
from images import draw_shape
from neither.inference import export
from neither.inference.classifier import Classifier
from neither.inference.export import (
    Format,
    export_checkpoint,
    export_metadata,
    load_exported,
    verify_export,
)
from neither.models.checkpoint import DecisionRule

Patch = pytest.MonkeyPatch
CHECKPOINT = make_checkpoint(Path("images"))
PIXELS = np.stack([np.asarray(draw_shape("dog", seed, SIZE)) for seed in range(66)])
KINDS: tuple[Format, ...] = ("onnx", "pt2")


@pytest.fixture(scope="module")
def files() -> dict[Format, bytes]:
    return {kind: export_checkpoint(CHECKPOINT, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(
        CHECKPOINT.build(), CHECKPOINT.classes, "neither", CHECKPOINT.preprocessing,
        CHECKPOINT.temperature, Path("images"), {}, torch.device("cpu"),
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_any_batch_size(files: dict[Format, bytes], kind: Format, classifier: Classifier) -> None:
    expected = classifier.probabilities(classifier.logits(torch.from_numpy(PIXELS))).numpy()
    assert np.ptp(expected, axis=0).max() > 0.2
    run = load_exported(files[kind], kind)
    for num in (1, 2, 66):
        found = run(PIXELS[:num])
        assert found.dtype == np.float32
        assert found.shape == (num, 3)
        assert found == pytest.approx(expected[:num], abs=1e-5)
    assert verify_export(files[kind], kind, classifier, PIXELS) < 1e-5


def test_other_probabilities_are_refused(
    files: dict[Format, bytes], classifier: Classifier, monkeypatch: Patch
) -> None:
    other = replace(classifier, temperature=1.26)
    with pytest.raises(RuntimeError, match="nothing was written"):
        verify_export(files["onnx"], "onnx", other, PIXELS)
    monkeypatch.setattr(export, "load_exported", lambda *_: lambda _: np.full((1, 3), np.nan))
    with pytest.raises(RuntimeError, match="differ by nan"):
        verify_export(b"", "onnx", classifier, PIXELS[:1])


def test_the_metadata_is_complete(files: dict[Format, bytes]) -> None:
    expected = {
        "classes": ["dog", "human", "neither"], "reject_class": "neither", "threshold": 0.5,
        "reject_threshold": 0.4, "target_precision": 0.98, "certified": False,
        "num_lacking": {"known": 7}, "calibrated_on": "val",
        "temperature": 1.25, "image_size": SIZE, "resize": "crop", "decoder": 3,
        "preprocessing": CHECKPOINT.preprocessing.fingerprint(),
    }  # fmt: skip
    extra = {"metadata.json": ""}
    torch.export.load(io.BytesIO(files["pt2"]), extra_files=extra)
    assert json.loads(extra["metadata.json"]) == expected
    model = onnx.load_from_string(files["onnx"])
    texts = {each.key: each.value for each in model.metadata_props}
    assert texts.keys() == expected.keys()
    for key, value in expected.items():
        assert texts[key] == value or json.loads(texts[key]) == value
    bare = export_metadata(replace(CHECKPOINT, reject_class=None, decision_rule=DecisionRule()))
    assert expected.keys() - bare.keys() == {
        "reject_class", "threshold", "reject_threshold", "num_lacking",
    }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_contains_no_paths_of_the_machine(files: dict[Format, bytes], kind: Format) -> None:
    for text in (b"site-packages", str(Path(export.__file__).parents[2]).encode(), b"/home/"):
        assert text not in files[kind]
