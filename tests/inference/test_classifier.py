"""Logits that do not depend on the batch, priors, and files in order whatever they contain."""

import signal
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from images import draw_shape
from neither.config.schema import Model
from neither.data import workers
from neither.data.decode import decode_file
from neither.data.preprocessing import Preprocessing, normalize
from neither.inference.classifier import BATCH_SIZE, Classifier, compute_outputs, load_classifier
from neither.models.checkpoint import Checkpoint, DecisionRule, save_checkpoint
from neither.models.networks import build_network
from neither.runtime import signals
from neither.runtime.errors import CheckpointError

Patch = pytest.MonkeyPatch
CPU = torch.device("cpu")
SIZE = 32
PREPROCESSING = Preprocessing(SIZE)
CLASSES = ("dog", "human", "neither")


def make_network(name: str) -> nn.Module:
    """Build a network whose biases and statistics differ from their defaults, as after training."""
    settings = Model.model_validate({"name": name, "width": 16})
    network = build_network(settings, 3, SIZE, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return network.eval()


def make_classifier(name: str = "small_cnn", temperature: float = 1.0) -> Classifier:
    return Classifier(
        make_network(name), CLASSES, "neither", PREPROCESSING, temperature, Path("images"), {}, CPU
    )


def make_pixels(num: int, seed: int = 0) -> Tensor:
    values = np.random.default_rng(seed).integers(0, 256, (num, SIZE, SIZE, 3), dtype=np.uint8)
    return torch.from_numpy(values)


@pytest.mark.property("P18")
@pytest.mark.parametrize("name", ["small_cnn", "softmax_regression"])
def test_logits_do_not_depend_on_the_other_images_or_the_index_in_a_batch(name: str) -> None:
    classifier, pixels = make_classifier(name), make_pixels(2 * BATCH_SIZE + 2)
    alone = torch.cat([classifier.logits(image[None]) for image in pixels[:5]])
    assert len({tuple(logits) for logits in alone.tolist()}) == 5
    for num in (1, 2, BATCH_SIZE - 1, BATCH_SIZE, BATCH_SIZE + 1, 2 * BATCH_SIZE + 2):
        logits = classifier.logits(pixels[:num])
        assert logits.shape == (num, 3)
        assert torch.equal(logits[:5], alone[:num]), num
    straight = classifier.logits(pixels[:BATCH_SIZE])
    for shift in (1, 17, 32, 63):
        rolled = classifier.logits(pixels[:BATCH_SIZE].roll(shift, 0))
        assert torch.equal(rolled, straight.roll(shift, 0)), shift


def test_logits_are_those_of_the_network_on_normalised_pixels() -> None:
    classifier, pixels = make_classifier(), make_pixels(3)
    before = {name: each.clone() for name, each in classifier.network.state_dict().items()}
    with torch.no_grad():
        expected = classifier.network(normalize(pixels, PREPROCESSING))
    found = classifier.logits(pixels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(pixels, make_pixels(3))  # and nothing has changed
    after = classifier.network.state_dict()
    assert all(torch.equal(after[name], each) for name, each in before.items())


def test_a_signal_stops_between_batches() -> None:
    classifier = make_classifier("softmax_regression")
    with signals.installed():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(signals.Stopped):
            classifier.logits(make_pixels(1))


def test_a_checkpoint_becomes_the_classifier_that_it_describes(tmp_path: Path) -> None:
    network = make_network("small_cnn")
    checkpoint = Checkpoint(
        ("cat", "cow", "hen"), None, Model(width=16), Preprocessing(SIZE, "crop"),
        network.state_dict(), False, 1.5, DecisionRule(0.9, 0.75), "cross-validation",
        (0.5, 0.3, 0.2), "~/photos.csv", {"calf": "cow"}, {}, 1, 2, {},
    )  # fmt: skip
    save_checkpoint(tmp_path / "best.pt", checkpoint)
    loaded = load_classifier(tmp_path / "best.pt", CPU)
    assert loaded.classes == ("cat", "cow", "hen")
    assert loaded.reject_class is None
    assert loaded.preprocessing == Preprocessing(SIZE, "crop")
    assert (loaded.temperature, loaded.decision_rule) == (1.5, DecisionRule(0.9, 0.75))
    assert loaded.calibrated_on == "cross-validation"
    assert loaded.class_frequencies == (0.5, 0.3, 0.2)
    assert loaded.source == Path.home() / "photos.csv"
    assert loaded.aliases == {"calf": "cow"}
    expected = compute_outputs(
        network, make_pixels(2), torch.arange(2), Preprocessing(SIZE, "crop"), CPU
    )
    assert torch.equal(loaded.logits(make_pixels(2)), expected)


LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0]])


@pytest.fixture
def trained() -> Classifier:
    """A classifier with known class frequencies; its network is not used."""
    return Classifier(
        nn.Identity(), CLASSES, "neither", PREPROCESSING, 2.0, Path("images"), {}, CPU,
        class_frequencies=(0.5, 0.25, 0.25),
    )  # fmt: skip


def test_priors_multiply_each_probability_by_the_ratio_of_frequencies(trained: Classifier) -> None:
    priors = {"neither": 0.8, "dog": 0.1, "human": 0.1}
    before = trained.probabilities(LOGITS)
    weighed = before * torch.tensor([0.1 / 0.5, 0.1 / 0.25, 0.8 / 0.25], dtype=torch.float64)
    expected = weighed / weighed.sum(dim=1, keepdim=True)
    found = trained.with_priors(priors).probabilities(LOGITS)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    same = trained.with_priors(dict(zip(CLASSES, trained.class_frequencies, strict=True)))
    torch.testing.assert_close(same.probabilities(LOGITS), before)
    certified = replace(trained, decision_rule=DecisionRule(0.98, 0.9, 0.8, is_certified=True))
    # What was certified for the frequencies of val is not certified for others.
    assert certified.with_priors(priors).decision_rule == DecisionRule(0.98, 0.9, 0.8)


def test_priors_name_classes_in_any_unicode_form(trained: Classifier) -> None:
    named = replace(trained, classes=("dog", "M\u00e4dchen", "neither"))
    priors = {"dog": 0.1, "Ma\u0308dchen": 0.1, "neither": 0.8}
    assert named.with_priors(priors).priors == (0.1, 0.1, 0.8)


@pytest.mark.parametrize("frequencies", [(), (0.5, 0.5, 0.0)])
def test_priors_need_frequencies(trained: Classifier, frequencies: tuple[float, ...]) -> None:
    with pytest.raises(CheckpointError):
        replace(trained, class_frequencies=frequencies).with_priors(
            {"dog": 0.2, "human": 0.3, "neither": 0.5}
        )


@pytest.mark.property("P19")
@pytest.mark.parametrize("order", [[1, 0, 2], [2, 0, 1]])
def test_the_order_of_classes_does_not_matter(trained: Classifier, order: list[int]) -> None:
    other = replace(trained, classes=tuple(CLASSES[index] for index in order))
    mine = dict(zip(CLASSES, trained.probabilities(LOGITS)[0].tolist(), strict=True))
    theirs = other.probabilities(LOGITS[:, order])[0].tolist()
    assert mine == pytest.approx(dict(zip(other.classes, theirs, strict=True)), abs=4.5e-16)


def make_files(folder: Path, num: int, unreadable: set[int]) -> list[Path]:
    """Write different images, and text in place of some."""
    paths = [folder / f"{index:03}.png" for index in range(num)]
    for index, path in enumerate(paths):
        if index in unreadable:
            path.write_text("not an image")
        else:
            draw_shape(CLASSES[index % 3], index, 20 + index % 7).save(path)
    return paths


def test_files_are_predicted_in_order(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(workers, "num_cores", lambda: 2)
    classifier = make_classifier()
    unreadable = {0, BATCH_SIZE - 1, BATCH_SIZE, BATCH_SIZE + 7}
    paths = make_files(tmp_path, BATCH_SIZE + 20, unreadable)
    results = list(classifier.predict_files(iter(paths)))
    assert [Path(result.prediction.path) for result in results] == paths
    for index, (path, (prediction, logits, digest)) in enumerate(zip(paths, results, strict=True)):
        assert digest == sha256(path.read_bytes()).hexdigest()
        assert bool(prediction.error) == (logits is None) == (index in unreadable)
        if logits is not None and index % 10 == 5:
            pixels = decode_file(path, PREPROCESSING).pixels
            assert pixels is not None
            assert torch.equal(logits, classifier.logits(torch.tensor(pixels)[None])[0])
            assert prediction == classifier(path)
