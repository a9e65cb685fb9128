"""The API in this process."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from color_classifier import COLORS
from neither.data.preprocessing import Preprocessing
from neither.inference.classifier import Classifier
from neither.inference.prediction import to_json
from neither.models.networks import SoftmaxRegression
from neither.serving.app import create_app
from neither.serving.engine import Engine
from neither.serving.guard import Guard

SIDE = 8


@pytest.fixture
def classifier() -> Classifier:
    """Red is a dog, green is a human, blue is neither."""
    network = SoftmaxRegression(SIDE, 3).eval()
    with torch.no_grad():
        network.head.weight.copy_(torch.eye(3).repeat_interleave(SIDE**2, dim=1) / 10)
    return Classifier(
        network, tuple(COLORS), "neither", Preprocessing(SIDE), 1.0, Path("images"), {},
        torch.device("cpu"),
    )  # fmt: skip


@pytest.fixture
def client(classifier: Classifier) -> Iterator[TestClient]:
    engine = Engine(classifier)
    app = create_app(engine, {"name": "colors"})
    with TestClient(Guard(app), base_url="http://127.0.0.1:8000") as client:
        yield client
    engine.close()


def encode(color_of: str, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (12, 10), COLORS[color_of]).save(file, kind)
    return file.getvalue()


def test_the_records_are_those_of_predict(
    client: TestClient, classifier: Classifier, tmp_path: Path
) -> None:
    contents = {"a.png": encode("dog"), "b.jpg": encode("human", "JPEG"), "c.png": b"no image"}
    expected = []
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    for file in classifier.predict_files([tmp_path / name for name in contents]):
        record = json.loads(to_json(file.prediction))
        expected.append(record | {"path": Path(record["path"]).name})
    files = [("file", item) for item in contents.items()]
    assert client.post("/v1/predict", files=files).json() == {"predictions": expected}
    raw = client.post("/v1/predict", content=contents["a.png"]).json()["predictions"]
    assert raw == [expected[0] | {"path": ""}]
