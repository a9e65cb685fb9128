"""An image gets the same bits alone, in company, and wherever it lies in a batch."""

import math
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neither.config.schema import Model
from neither.data.preprocessing import Preprocessing, normalize
from neither.inference.classifier import BATCH_SIZE, Classifier, compute_logits, load_classifier
from neither.models.checkpoint import Checkpoint, save_checkpoint
from neither.models.networks import build_network
from neither.runtime import signals
from neither.runtime.errors import CheckpointError, UsageError

CPU = torch.device("cpu")
SIZE = 32
PREPROCESSING = Preprocessing(SIZE)


def make_network(name: str) -> nn.Module:
    """Build a network whose weights and statistics are all at work, as after training."""
    settings = Model.model_validate({"name": name, "width": 16})
    network = build_network(settings, 3, SIZE, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return network.eval()


def make_classifier(name: str = "small_cnn", temperature: float = 1.0) -> Classifier:
    classes = ("dog", "human", "neither")
    return Classifier(
        make_network(name), classes, "neither", PREPROCESSING, temperature, Path("images"), {}, CPU
    )


def make_pixels(num: int, seed: int = 0) -> Tensor:
    values = np.random.default_rng(seed).integers(0, 256, (num, SIZE, SIZE, 3), dtype=np.uint8)
    return torch.from_numpy(values)


@pytest.mark.parametrize("name", ["small_cnn", "softmax_regression"])
def test_p18_an_image_gets_the_same_bits_in_any_company(name: str) -> None:
    classifier, pixels = make_classifier(name), make_pixels(2 * BATCH_SIZE + 2)
    alone = torch.cat([classifier.logits(image[None]) for image in pixels[:5]])
    assert len({tuple(logits) for logits in alone.tolist()}) == 5
    for num in (1, 2, BATCH_SIZE - 1, BATCH_SIZE, BATCH_SIZE + 1, 2 * BATCH_SIZE + 2):
        logits = classifier.logits(pixels[:num])
        assert logits.shape == (num, 3)
        assert torch.equal(logits[:5], alone[:num]), num


@pytest.mark.parametrize("name", ["small_cnn", "softmax_regression"])
def test_p18_an_image_gets_the_same_bits_at_any_place(name: str) -> None:
    classifier, pixels = make_classifier(name), make_pixels(BATCH_SIZE)
    straight = classifier.logits(pixels)
    for shift in (1, 17, 32, 63):
        assert torch.equal(classifier.logits(pixels.roll(shift, 0)), straight.roll(shift, 0))


def test_logits_are_those_of_the_network_on_normalised_pixels() -> None:
    classifier, pixels = make_classifier(), make_pixels(3)
    with torch.no_grad():
        expected = classifier.network(normalize(pixels, PREPROCESSING))
    found = classifier.logits(pixels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_rows_choose_images_in_their_order() -> None:
    network, pixels = make_network("small_cnn"), make_pixels(6)
    every = compute_logits(network, pixels, torch.arange(6), PREPROCESSING, CPU)
    some = compute_logits(network, pixels, torch.tensor([4, 0, 4]), PREPROCESSING, CPU)
    assert torch.equal(some, every[[4, 0, 4]])


def test_scoring_changes_neither_pixels_nor_network() -> None:
    classifier, pixels = make_classifier(), make_pixels(3)
    before = {name: each.clone() for name, each in classifier.network.state_dict().items()}
    first = classifier.logits(pixels)
    assert torch.equal(classifier.logits(pixels), first)
    assert torch.equal(pixels, make_pixels(3))
    after = classifier.network.state_dict()
    assert all(torch.equal(after[name], each) for name, each in before.items())


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 16 / 17), (2.0, 4 / 5)])
def test_probabilities_follow_the_temperature(temperature: float, expected: float) -> None:
    logits = torch.tensor([[0.0, math.log(16)]])
    probabilities = make_classifier(temperature=temperature).probabilities(logits)
    assert probabilities[0, 1].item() == pytest.approx(expected, rel=1e-6)


def test_a_signal_stops_scoring_between_batches() -> None:
    classifier = make_classifier("softmax_regression")
    with signals.installed():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(signals.Stopped):
            classifier.logits(make_pixels(1))


def test_a_checkpoint_becomes_the_classifier_that_it_describes(tmp_path: Path) -> None:
    network = make_network("small_cnn")
    config = {
        "data": {"root": None, "manifest": "~/photos.csv", "aliases": {"calf": "cow"}},
        "decision": {"target_precision": 0.9},
    }
    checkpoint = Checkpoint(
        ("cat", "cow", "hen"), None, Model(width=16), Preprocessing(SIZE, "crop"),
        network.state_dict(), False, 1.5, 0.75, (0.5, 0.3, 0.2), config, 1, 2, {},
    )  # fmt: skip
    save_checkpoint(tmp_path / "best.pt", checkpoint)
    loaded = load_classifier(tmp_path / "best.pt", CPU)
    assert loaded.classes == ("cat", "cow", "hen")
    assert loaded.reject_class is None
    assert loaded.preprocessing == Preprocessing(SIZE, "crop")
    assert (loaded.temperature, loaded.threshold) == (1.5, 0.75)
    assert (loaded.target_precision, loaded.shares) == (0.9, (0.5, 0.3, 0.2))
    assert loaded.source == Path.home() / "photos.csv"
    assert loaded.aliases == {"calf": "cow"}
    expected = compute_logits(
        network, make_pixels(2), torch.arange(2), Preprocessing(SIZE, "crop"), CPU
    )
    assert torch.equal(loaded.logits(make_pixels(2)), expected)


def test_a_bad_or_missing_checkpoint_is_an_error_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        load_classifier(tmp_path / "missing.pt", CPU)
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(CheckpointError):
        load_classifier(tmp_path / "text.pt", CPU)
