"""The routes: the page, its files, and the JSON API."""

import asyncio
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import version
from importlib.resources import files as resources
from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI, HTTPException, Request, Response
from pydantic import BaseModel

from neither.data.image_file import MAX_BYTES, UnreadableError
from neither.inference.classifier import Classifier
from neither.inference.prediction import Prediction, to_json
from neither.models.checkpoint import find_run
from neither.reporting import text
from neither.runtime.console import printable
from neither.serving.engine import Engine
from neither.serving.guard import cookie_name
from neither.serving.uploads import Memory, Upload, read_uploads

_MAX_FIGURES = 20  # evaluations that are listed
_AHEAD = 8  # files of a request that are decoded or predicted while others arrive
_MEDIA_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript",
                "svg": "image/svg+xml"}  # fmt: skip
_CONTENT = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "file": {"type": "array", "items": {"type": "string", "format": "binary"}}
                },
            }
        },
        "image/*": {"schema": {"type": "string", "format": "binary"}},
    },
}


class Record(BaseModel):
    """The prediction for one image, as a line of `predict --format jsonl`."""

    path: str
    status: Literal["ok", "unreadable"]
    predicted: str | None = None
    decision: str | None = None
    reason: str | None = None
    certified: bool | None = None
    confidence: float | None = None
    probabilities: dict[str, float] | None = None
    error: str | None = None


class Records(BaseModel):
    """The answer of `/v1/predict`: a record for each file, in their order."""

    predictions: list[Record]


def create_app(engine: Engine, about: Mapping[str, Any], page: str = "predict.html") -> FastAPI:
    """Return the app, without the guard; other pages may add routes to it.

    `/v1/model` answers `about`; `/` answers the file `page` of the folder `static`.
    """
    # Without the pages that FastAPI makes of openapi.json: they load scripts from elsewhere.
    app = FastAPI(title="neither", version=version("neither"), docs_url=None, redoc_url=None)
    memory = Memory()
    static = _read_static()

    @app.get("/static/{name}", include_in_schema=False)
    async def show_static(name: str) -> Response:
        if name not in static:
            raise HTTPException(404, "no such page")
        media_type = _MEDIA_TYPES[name.rpartition(".")[2]]
        headers = {"Cache-Control": "no-cache"}
        return Response(static[name], media_type=media_type, headers=headers)

    @app.get("/", include_in_schema=False)
    async def show_page() -> Response:
        return await show_static(page)

    @app.get("/healthz")
    async def check_health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/model")
    async def show_model() -> dict[str, Any]:
        return {**about, "has_heat_maps": engine.has_heat_maps}

    @app.post("/v1/session", status_code=204, include_in_schema=False)
    async def open_session(request: Request) -> Response:
        """Turn the bearer token, which the guard has checked, into a cookie of this browser."""
        response = Response(status_code=204)
        token = request.headers.get("authorization", "").partition(" ")[2]
        name = cookie_name(request.headers["host"])
        response.set_cookie(name, token, httponly=True, samesite="strict")
        return response

    @app.post(
        "/v1/predict",
        response_model=Records,
        response_model_exclude_unset=True,
        openapi_extra={"requestBody": _CONTENT},
    )
    async def predict(request: Request) -> Response:
        """Predict the class of each image: multipart/form-data with files, or one raw file."""
        tasks: dict[asyncio.Task[Prediction], Upload] = {}
        pending: set[asyncio.Task[Prediction]] = set()
        try:
            async for upload in read_uploads(request, memory):
                task = asyncio.create_task(_predict(engine, upload))
                tasks[task] = upload
                pending.add(task)
                if len(pending) > _AHEAD:
                    _, pending = await asyncio.wait(pending, return_when="FIRST_COMPLETED")
            lines = [to_json(await task) for task in tasks]
        finally:
            for task, upload in tasks.items():
                task.cancel()
                upload.release()  # a task that has not started would not
        body = f'{{"predictions": [\n{",".join(lines)}]}}\n'
        return Response(body, media_type="application/json")

    @app.post("/v1/explain", openapi_extra={"requestBody": _CONTENT})
    async def explain(request: Request) -> Response:
        """Return a PNG file: the first image, and beside it the heat map of its class."""
        if not engine.has_heat_maps:
            raise HTTPException(404, "this network has no heat maps")
        async for upload in read_uploads(request, memory):
            try:
                return Response(await engine.explain(upload.seal()), media_type="image/png")
            except UnreadableError as error:
                raise HTTPException(422, str(error)) from error
            finally:
                upload.release()
        raise HTTPException(400, "no image in this request")

    return app


async def _predict(engine: Engine, upload: Upload) -> Prediction:
    try:
        if upload.is_too_large:
            return Prediction(upload.name, error=f"larger than {MAX_BYTES:,} bytes")
        return await engine.predict(upload.seal(), upload.name)
    finally:
        upload.release()


def _read_static() -> dict[str, bytes]:
    """Read the files of the pages; no request opens a file."""
    folder = resources("neither.serving").joinpath("static")
    static = {file.name: file.read_bytes() for file in folder.iterdir()}
    static["style.css"] = resources("neither.reporting").joinpath("style.css").read_bytes()
    return static


def describe_model(model: Path, classifier: Classifier) -> dict[str, Any]:
    """Return what `GET /v1/model` answers of a run or checkpoint file, and the classifier in it."""
    run, home = find_run(model).resolve(), []
    for path in sorted(run.glob("evaluations/*/metrics.json"))[:_MAX_FIGURES]:
        home += _figures(path, text.summary_sentences)
    path = run.with_name(f"{run.name}-cv") / "metrics.json"
    elsewhere = _figures(path, text.cross_validation_sentences)
    return {
        "name": printable(run.name),
        "classes": list(classifier.classes),
        "reject_class": classifier.reject_class,
        "thresholds": classifier.decision_rule.to_json(),
        "decision_rule": text.describe_decisions(classifier),
        "evaluations": home,
        "cross_validation": elsewhere,
    }


def _figures(
    path: Path, sentences: Callable[[Mapping[str, Any]], list[str]]
) -> list[dict[str, Any]]:
    """Return the sentences on a `metrics.json`; none if it is missing or damaged."""
    with suppress(Exception):  # damage raises any of a dozen types
        metrics = json.loads(path.read_text())
        return [{"name": printable(path.parent.name), "sentences": sentences(metrics)}]
    return []
