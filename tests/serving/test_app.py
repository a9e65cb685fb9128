"""The API in this process: records, limits, who may ask."""

import asyncio
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from neither.data.image_file import UnreadableError
from neither.inference.classifier import Classifier
from neither.inference.prediction import to_json
from neither.serving import decoders, guard, uploads
from neither.serving import engine as engine_module
from neither.serving.app import create_app, describe_model
from neither.serving.engine import Engine
from neither.serving.guard import Guard

BASE = "http://127.0.0.1:8000"
Encode = Callable[..., bytes]


@pytest.fixture(scope="module")
def client(classifier: Classifier) -> Iterator[TestClient]:
    engine = Engine(classifier)
    app = create_app(engine, describe_model(Path(__file__), classifier))
    with TestClient(Guard(app, None, ["photos.lan"]), base_url=BASE) as client:
        yield client
    engine.close()


def test_the_records_are_those_of_predict(
    client: TestClient, classifier: Classifier, encode: Encode, tmp_path: Path
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
    assert client.post("/v1/explain", content=contents["a.png"]).content.startswith(b"\x89PNG")
    assert client.post("/v1/explain", content=b"no image").status_code == 422


def test_the_model_and_the_api_describe_themselves(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/v1/model").json()["classes"] == ["dog", "human", "neither"]
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/predict", "/v1/model", "/healthz"} <= paths.keys()


def test_a_name_is_text(client: TestClient, encode: Encode) -> None:
    names = ["../../etc/passwd", "/etc/passwd", "<img src=x onerror=alert(1)>.png", "\u00e4.png"]
    files = [("file", (name, encode("dog"))) for name in names]
    rows = client.post("/v1/predict", files=files).json()["predictions"]
    assert [row["path"] for row in rows] == names
    assert {row["decision"] for row in rows} == {"dog"}
    assert client.get("/static/..%2fapp.py").status_code == 404


def test_too_much_is_refused(
    client: TestClient, encode: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = encode("dog"), encode("dog") + bytes(2000)
    monkeypatch.setattr(uploads, "MAX_BYTES", 1000)
    assert client.post("/v1/predict", content=large).status_code == 413
    files = [("file", ("large", large)), ("file", ("small", small))]
    rows = client.post("/v1/predict", files=files).json()["predictions"]
    assert [row["status"] for row in rows] == ["unreadable", "ok"]
    with monkeypatch.context() as patch:
        patch.setattr(uploads, "MAX_FILES", 1)
        assert client.post("/v1/predict", files=files).status_code == 413
        parts = b"--x\r\n\r\n\r\n" * 3 + b"--x--\r\n"  # no files, but they take time
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        assert client.post("/v1/predict", content=parts, headers=kind).status_code == 413
    with monkeypatch.context() as patch:
        patch.setattr(uploads, "MAX_BODY_BYTES", 1000)
        assert client.post("/v1/predict", files=files).status_code == 413
    with monkeypatch.context() as patch:
        patch.setattr(uploads, "MAX_HELD_BYTES", 10)
        assert client.post("/v1/predict", content=small).status_code == 429
    with monkeypatch.context() as patch:
        patch.setattr(guard, "MAX_REQUESTS", 0)
        refused = client.post("/v1/predict", content=small)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    monkeypatch.setattr(uploads, "MAX_HELD_BYTES", len(small))  # all that was held is released
    assert client.post("/v1/predict", content=small).status_code == 200


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "image/png"),
        (b"", "multipart/form-data"),
        (b"", "multipart/form-data; boundary=" + "x" * 1000),
        (b"--x\r\nbroken", "multipart/form-data; boundary=x"),
        (
            b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\nno file\r\n--x--",
            "multipart/form-data; boundary=x",
        ),
    ],
)
def test_a_body_without_an_image_is_refused(client: TestClient, content: bytes, kind: str) -> None:
    response = client.post("/v1/predict", content=content, headers={"Content-Type": kind})
    assert response.status_code == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "Photos.LAN:8000"}, 200),
        ({"Host": "evil.example:8000"}, 421),
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Host": ""}, 421),
        ({"Host": "evil.example:127.0.0.1:"}, 421),
        ({"Origin": "http://[::1"}, 403),
        ({"Origin": BASE}, 200),
        ({"Origin": "http://127.0.0.1:8001"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_only_this_origin_may_write(
    client: TestClient, encode: Encode, headers: dict[str, str], status: int
) -> None:
    response = client.post("/v1/predict", content=encode("dog"), headers=headers)
    assert response.status_code == status
    assert "access-control-allow-origin" not in response.headers
    assert "'unsafe" not in response.headers["content-security-policy"]


def test_the_token_is_asked_for(classifier: Classifier) -> None:
    app = create_app(None, {}, "predict.html")  # type: ignore[arg-type]
    client = TestClient(Guard(app, "secret"), base_url=BASE)
    for public in ("/", "/static/predict.js", "/static/style.css", "/healthz"):
        assert client.get(public).status_code == 200
    bearer = {"Authorization": "Bearer secret"}
    for wrong in ({}, {"Authorization": "Bearer other"}, {"Authorization": "Basic secret"}):
        assert client.get("/v1/nothing?token=secret", headers=wrong).status_code == 401
        assert client.post("/v1/session", headers=wrong).status_code == 401
    assert client.get("/v1/nothing", headers=bearer).status_code == 404
    cookie = client.post("/v1/session", headers=bearer).headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert client.get("/v1/nothing").status_code == 404  # by the cookie
    assert client.get("/v1/nothing", headers={"Host": "127.0.0.1:8001"}).status_code == 401


def test_a_decoder_that_dies_or_hangs_is_replaced(
    classifier: Classifier, encode: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check() -> None:
        engine = Engine(classifier)
        for _ in range(4):
            with pytest.raises(UnreadableError, match="crashed"):
                await engine.run(os.abort)
        monkeypatch.setattr(decoders, "MAX_CPU_SECONDS", 0.1)
        with pytest.raises(UnreadableError, match="took"):
            await engine.run(sum, range(10**12))
        monkeypatch.setattr(decoders, "MAX_SECONDS", 0.1)
        with pytest.raises(UnreadableError, match="took"):
            await engine.run(time.sleep, 1000)
        monkeypatch.undo()
        alone = await engine.predict(encode("dog"))
        together = await asyncio.gather(*(engine.predict(encode("dog")) for _ in range(100)))
        assert set(map(to_json, together)) == {to_json(alone)}
        engine.close()

    asyncio.run(check())


def test_large_images_wait_for_each_other_and_small_ones_do_not(
    classifier: Classifier, encode: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check() -> None:
        monkeypatch.setattr(engine_module, "_QUICK_PIXELS", 10)
        engine = Engine(classifier)
        async with engine._large:
            large = asyncio.create_task(engine.predict(encode("dog")))
            assert (await engine.predict(pixel.getvalue())).decision == "human"
            assert not large.done()
        assert (await large).decision == "dog"
        engine.close()

    pixel = io.BytesIO()
    Image.new("RGB", (1, 1), "lime").save(pixel, "PNG")
    monkeypatch.setattr(engine_module, "count_processes", lambda: 1)
    asyncio.run(check())
