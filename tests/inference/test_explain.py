"""Heat maps that show what spoke for a class, and where."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from neither.config.schema import Model
from neither.data.preprocessing import Preprocessing
from neither.inference.classifier import Classifier
from neither.inference.explain import Explainer, contrast_map, draw_heat_map
from neither.inference.prediction import Prediction
from neither.models.networks import build_network

CLASSES = ("dog", "human", "neither")


def make_classifier(size: int = 16) -> Classifier:
    """A linear classifier for which red speaks for dogs and blue against them."""
    network = build_network(Model(name="softmax_regression"), 3, size, seed=0)
    with torch.no_grad():
        weights = network.get_parameter("head.weight").zero_().view(3, 3, size, size)
        weights[0, 0], weights[0, 2] = 1, -1
    return Classifier(network.eval(), CLASSES, "neither", Preprocessing(size), 1.0, Path("x"), {},
                      torch.device("cpu"))  # fmt: skip


def halves(size: int = 16) -> np.ndarray:
    """An image whose left half is red, and its right half blue."""
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[:, : size // 2, 0] = pixels[:, size // 2 :, 2] = 255
    return pixels


def test_the_evidence_of_a_class_is_its_lead_over_the_mean() -> None:
    classifier, pixels = make_classifier(), halves()
    maps = [contrast_map(classifier, pixels, number) for number in range(3)]
    assert torch.allclose(sum(maps), torch.zeros(16, 16), atol=1e-5)  # type: ignore[arg-type]
    assert (maps[0][:, :8] > 0).all()
    assert (maps[0][:, 8:] < 0).all()
    logits = classifier.logits(torch.from_numpy(pixels[None]))[0]
    assert torch.isclose(maps[0].sum(), logits[0] - logits.mean(), rtol=1e-4)


def test_red_is_drawn_for_and_blue_against_a_class() -> None:
    classifier, pixels = make_classifier(), halves()
    drawn = draw_heat_map(pixels, contrast_map(classifier, pixels, 0)).astype(int)
    assert drawn.shape == (256, 512, 3)
    plain, heat = drawn[:, :256], drawn[:, 256:]
    assert plain[:, 50].mean(axis=0).argmax() == 0
    assert (heat[:, 50, 0] - heat[:, 50, 2]).min() > 50
    assert (heat[:, 200, 2] - heat[:, 200, 0]).min() > 50


def test_without_evidence_the_picture_is_grey() -> None:
    drawn = draw_heat_map(halves(), torch.zeros(4, 4))
    assert (np.ptp(drawn[:, 256:].astype(int), axis=2) == 0).all()


def test_a_picture_is_written_for_each_image_below_the_folder(tmp_path: Path) -> None:
    Image.fromarray(halves(20)).save(tmp_path / "a.png")
    explainer = Explainer(make_classifier(), tmp_path / "maps")
    prediction = Prediction("a.png", {"dog": 0.8}, "dog", "dog", "", 0.8)
    explainer.draw(tmp_path / "a.png", "x/a.png", prediction)
    explainer.draw(tmp_path / "gone.png", "gone.png", prediction)
    (path,) = (path for path in (tmp_path / "maps").rglob("*") if path.is_file())
    assert path == tmp_path / "maps" / "x" / "a.png.png"
    with Image.open(path) as picture:
        assert picture.size == (512, 280)
