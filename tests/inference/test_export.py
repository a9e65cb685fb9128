"""An exported file: complete, for any number of pictures, and proven by running it."""

import io
import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from checkpoints import SIZE, make_checkpoint
from images import draw_shape
from neither.inference import export
from neither.inference.classifier import Classifier
from neither.inference.export import Format, describe, require_packages, require_same, run, to_file
from neither.runtime.errors import OutputError

CHECKPOINT = make_checkpoint(Path("images"))
PIXELS = np.stack([np.asarray(draw_shape("dog", seed, SIZE)) for seed in range(66)])
KINDS: tuple[Format, ...] = ("onnx", "pt2")


@pytest.fixture(scope="module")
def files() -> dict[Format, bytes]:
    return {kind: to_file(CHECKPOINT, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(
        CHECKPOINT.build(), CHECKPOINT.classes, "neither", CHECKPOINT.preprocessing,
        CHECKPOINT.temperature, Path("images"), {}, torch.device("cpu"),
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_pictures_gets_the_probabilities_of_the_classifier(
    files: dict[Format, bytes], kind: Format, classifier: Classifier
) -> None:
    expected = classifier.probabilities(classifier.logits(torch.from_numpy(PIXELS))).numpy()
    assert np.ptp(expected, axis=0).max() > 0.2  # not the same answer to all
    for num in (1, 2, 66):
        found = run(files[kind], kind, PIXELS[:num])
        assert found.dtype == np.float32
        assert found.shape == (num, 3)
        assert found == pytest.approx(expected[:num], abs=1e-5)
    assert require_same(files[kind], kind, classifier, PIXELS) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_answers_otherwise_is_refused(
    files: dict[Format, bytes], kind: Format, classifier: Classifier
) -> None:
    other = replace(classifier, temperature=1.26)
    with pytest.raises(RuntimeError, match=r"differ by .* nothing was written"):
        require_same(files[kind], kind, other, PIXELS)


def test_no_number_at_all_is_no_agreement(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "run", lambda *_: np.full((1, 3), np.nan))
    with pytest.raises(RuntimeError, match="differ by nan"):
        require_same(b"", "onnx", classifier, PIXELS[:1])


def test_the_metadata_says_all_that_a_user_must_know(files: dict[Format, bytes]) -> None:
    facts = {
        "classes": ["dog", "human", "neither"], "reject_class": "neither", "threshold": 0.5,
        "temperature": 1.25, "image_size": SIZE, "resize": "crop",
        "preprocessing": CHECKPOINT.preprocessing.fingerprint(),
    }  # fmt: skip
    extra = {"metadata.json": ""}
    torch.export.load(io.BytesIO(files["pt2"]), extra_files=extra)
    assert json.loads(extra["metadata.json"]) == facts
    model = onnx.load_from_string(files["onnx"])
    texts = {each.key: each.value for each in model.metadata_props}
    assert texts.keys() == facts.keys()
    for key, fact in facts.items():
        assert texts[key] == fact or json.loads(texts[key]) == fact
    bare = describe(replace(CHECKPOINT, reject_class=None, threshold=None))
    assert facts.keys() - bare.keys() == {"reject_class", "threshold"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_tells_nothing_of_the_machine_it_was_made_on(
    files: dict[Format, bytes], kind: Format
) -> None:
    for trace in (b"site-packages", str(Path(export.__file__).parents[2]).encode(), b"/home/"):
        assert trace not in files[kind]


def test_what_is_not_installed_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        export, "find_spec", lambda name: None if name == "onnxruntime" else find_spec(name)
    )
    with pytest.raises(OutputError, match=r"^onnxruntime .* pip install 'neither\[onnx\]'$"):
        require_packages("onnx")
    require_packages("pt2")
