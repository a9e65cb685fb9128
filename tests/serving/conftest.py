"""A tiny classifier, served from a thread of this process."""

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from signal import SIGTERM

import pytest
import torch
from PIL import Image

from color_classifier import COLORS
from neither.data.preprocessing import Preprocessing
from neither.inference.classifier import Classifier
from neither.models.networks import SoftmaxRegression
from neither.runtime import signals
from neither.serving.app import create_app, describe_model
from neither.serving.engine import Engine
from neither.serving.guard import Guard
from neither.serving.server import address_of, open_socket, run_server

SIDE = 8
TOKEN = "the-token"  # noqa: S105


@pytest.fixture(scope="package")
def classifier() -> Classifier:
    """Red is a dog, green is a human, blue is neither."""
    network = SoftmaxRegression(SIDE, 3).eval()
    with torch.no_grad():
        network.head.weight.copy_(torch.eye(3).repeat_interleave(SIDE**2, dim=1) / 50)
    return Classifier(
        network, tuple(COLORS), "neither", Preprocessing(SIDE), 1.0, Path("images"), {},
        torch.device("cpu"),
    )  # fmt: skip


@pytest.fixture(scope="package")
def encode() -> Callable[..., bytes]:
    """Return a function that makes an image file in the color of a class."""

    def encode_one(color_of: str, kind: str = "PNG") -> bytes:
        file = io.BytesIO()
        Image.new("RGB", (12, 10), COLORS[color_of]).save(file, kind)
        return file.getvalue()

    return encode_one


@pytest.fixture
def address(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve with a token, and return the address."""
    listener, engine = open_socket("127.0.0.1", 0), Engine(classifier)
    app = Guard(create_app(engine, describe_model(Path(__file__), classifier)), TOKEN)

    def serve() -> None:
        with suppress(signals.Stopped):
            run_server(app, listener, engine.close)

    address = address_of(listener)
    thread = threading.Thread(target=serve)
    thread.start()
    yield address
    monkeypatch.setattr(signals, "_received", SIGTERM)
    thread.join()
