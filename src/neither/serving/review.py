"""A review of labels: which images to look at, in which order, the answers so far, its routes."""

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fastapi import FastAPI, HTTPException, Request, Response
from pydantic import BaseModel, ValidationError

from neither.data.corrections import DROPPED, RANDOM_SAMPLE, UNDONE, Answer, AnswerFile
from neither.data.decode import make_thumbnail
from neither.data.image_file import UnreadableError, read_file
from neither.data.manifest import is_manifest, read_manifest
from neither.data.scan import ImageTable
from neither.data.split_file import csv_line, read_split
from neither.evaluation.metrics import wilson_interval
from neither.inference.classifier import Classifier
from neither.inference.prediction import UNSURE, to_json
from neither.reporting.html import read_label_issues, read_predictions
from neither.runtime import files
from neither.runtime.console import info, printable, progress_bar, warn
from neither.runtime.errors import DataError
from neither.serving.engine import Engine
from neither.serving.uploads import read_body
from neither.training.run_report import val_folder

KEEP = "<keep>"  # the label as it is; of a new image, the predicted class
NEW_IMAGES, ALL_OF_VAL = "new images", "all of val"
_SIDES = {"large": 1024, "small": 160}  # pixels
_MAX_BODY = 1 << 20
_MAX_SAMPLE = 1000  # of 1,000 images the interval is at most 6 % wide


class ReviewImage(NamedTuple):
    """An image of the run, or a new one."""

    file: Path  # where it is
    path: str  # as the run or the folder of new images names it
    sha256: str  # of the file that is meant, in hex
    label: str  # in the run; empty for a new image
    split: str  # train or val; empty for a new image
    # the class that the model prefers to the label, or that of a new image; or empty
    predicted: str = ""


class Review:
    """The queues of a review and its answers, which other reviewers add to at the same time.

    Attributes:
        images: all of them; a queue holds their indices.
        queues: by name, in the order in which they are worth the time.
        classes: of the model.
        path: of `corrections.csv`.
    """

    def __init__(
        self,
        images: Sequence[ReviewImage],
        queues: Mapping[str, Sequence[int]],
        classes: Sequence[str],
        path: Path,
    ) -> None:
        """Go on with the answers that the file holds.

        Raises:
            DataError: if it is malformed.
        """
        self.images, self.queues, self.classes, self.path = images, queues, classes, path
        self._indices: dict[str, list[int]] = {}
        for index, image in enumerate(images):
            self._indices.setdefault(image.sha256, []).append(index)
        self._lock = threading.Lock()
        self._file = AnswerFile(path, classes)
        self._answers = self._file.read()

    def answer(self, queue: str, labels: Mapping[int, str | None]) -> dict[int, str | None]:
        """Append answers to the file; they are on the disk when this returns.

        Args:
            queue: that showed the images.
            labels: a class, `KEEP`, `DROPPED`, or None to undo, by the index of the image.

        Returns:
            The answers before: given to this function, they undo it.
        """
        with self._lock:
            self._answers = self._file.read()
            before = {index: self._label(index) for index in labels}
            rows = [self._row(index, label, queue) for index, label in labels.items()]
            if queue == RANDOM_SAMPLE:
                rows += self._passed(labels)
            self._file.append(rows)
            self._answers = self._file.read()
        return before

    def state(self) -> dict[str, Any]:
        """Return all answers by index, and what they say of the labels, as JSON.

        `estimate` is the number of images of the random sample that were answered before the first
        one that was not, how many of their labels are wrong, and the 95 % interval of that fraction
        (Wilson, 1927).
        """
        with self._lock:
            self._answers = self._file.read()
            answers = self._answers
        known = [
            (answer, self._indices[digest])
            for digest, answer in answers.items()
            if digest in self._indices
        ]
        sampled: list[bool] = []
        for index in self.queues[RANDOM_SAMPLE]:
            answer = answers.get(self.images[index].sha256)
            if answer is None or answer.queue != RANDOM_SAMPLE:
                break
            sampled.append(answer.is_change)
        num, num_wrong = len(sampled), sum(sampled)
        interval = wilson_interval(num_wrong / num, num) if num else (0.0, 1.0)
        return {
            "answers": {index: answer.new_label for answer, indices in known for index in indices},
            "num_changed": sum(answer.is_change for answer, _ in known if answer.old_label),
            "estimate": {"num_images": num, "num_wrong": num_wrong, "interval": interval},
        }

    def write_manifest(self, path: Path, source: Path) -> None:
        """Write a manifest of the run's images in their splits, and the new ones in train.

        Labels are those of the run; `data.corrections` replaces them. New images have no source if
        the run has a manifest with a column of sources, which comes before `data.sources`.
        """
        sources: dict[str, str] = {}
        if is_manifest(source):
            table = read_manifest(source)
            sources = dict(zip(table.paths, table.sources, strict=True))
        columns = ["path", "label", "split"] + ["source"] * any(sources.values())
        with files.atomic_writer(path) as file:
            file.write(csv_line(columns))
            for index, image in enumerate(self.images):
                label = image.label or self._label(index) or DROPPED
                if label != DROPPED:
                    cells = [str(image.file.absolute()), label, image.split or "train"]
                    cells.append(sources.get(image.path, ""))
                    file.write(csv_line(cells[: len(columns)]))

    def _label(self, index: int) -> str | None:
        answer = self._answers.get(self.images[index].sha256)
        return None if answer is None else answer.new_label

    def _row(self, index: int, label: str | None, queue: str) -> Answer:
        image = self.images[index]
        label = UNDONE if label is None else label
        if label == KEEP:
            label = image.label or image.predicted
        before = self._answers.get(image.sha256)
        if before is None:
            return Answer(image.sha256, image.path, image.label, label, queue)
        queue = RANDOM_SAMPLE if before.queue == RANDOM_SAMPLE else queue
        return replace(before, new_label=label, queue=queue)

    def _passed(self, indices: Mapping[int, object]) -> Iterator[Answer]:
        """Yield the answers of another queue that the sample has passed: now they are of both."""
        order = self.queues[RANDOM_SAMPLE]
        last = max((order.index(index) for index in indices if index in order), default=0)
        for index in order[:last]:
            answer = self._answers.get(self.images[index].sha256)
            if answer is not None and answer.queue != RANDOM_SAMPLE:
                yield replace(answer, queue=RANDOM_SAMPLE)


def open_review(
    run: Path, classifier: Classifier, path: Path, new_images: Path | None = None
) -> Review:
    """Find the images of a finished run that are worth a look, and predict new ones.

    `path` is that of `corrections.csv`, which need not exist.

    Raises:
        DataError: if `splits.csv` or `corrections.csv` is malformed, or a folder has no image.
    """
    source = classifier.source
    images: list[ReviewImage] = []
    for split in ("train", "val"):
        table = read_split(run / "splits.csv", source, split)
        images += [
            ReviewImage(table.root / image, image, digest, label, split)
            for image, label, digest in zip(table.paths, table.labels, table.hashes, strict=True)
        ]
    index_of = {image.path: index for index, image in enumerate(images)}
    queues: dict[str, list[int]] = {"label issues": [], "confident mistakes": [], "unsure": []}

    def add(queue: str, row: Mapping[str, str]) -> None:
        index = index_of.get(row["path"].removeprefix("./"))
        if index is not None:
            images[index] = images[index]._replace(predicted=row["predicted"])
            queues[queue].append(index)

    for row in read_label_issues(run):
        add("label issues", row)
    predictions = read_predictions(val_folder(source, run) / "predictions.csv")
    for row in predictions:
        if row["predicted"] != row["true_label"]:
            add("confident mistakes", row)
    for row in reversed(predictions):
        if row["predicted"] == row["true_label"] and row["decision"] == UNSURE:
            add("unsure", row)
    # Whoever reviews, and whenever: the same images in the same order, whatever the model says.
    draws = [sha256(f"{RANDOM_SAMPLE} {image.sha256}".encode()).digest() for image in images]
    order = sorted(range(len(images)), key=draws.__getitem__)
    queues[RANDOM_SAMPLE] = order[:_MAX_SAMPLE]
    queues[ALL_OF_VAL] = [index for index in order if images[index].split == "val"]
    if new_images is not None:
        known = {image.sha256 for image in images}
        found = _predict_new(classifier, new_images)
        new = {image.sha256: image for image in found if image.sha256 not in known}
        queues = {NEW_IMAGES: list(range(len(images), len(images) + len(new)))} | queues
        images += new.values()
    return Review(images, queues, classifier.classes, path)


def _predict_new(classifier: Classifier, folder: Path) -> list[ReviewImage]:
    """Predict the images of a folder; return the readable ones, the least certain first."""
    table = ImageTable(folder, folder)
    paths = table.scan(folder)
    for note in (*table.notes, *table.unreadable_folders):
        info(note)
    if not paths:
        raise DataError(f"{printable(folder)}: no images here")
    found: list[tuple[float, ReviewImage]] = []
    with progress_bar("predicting", len(paths)) as bar:
        results = classifier.predict_files(folder / path for path in paths)
        for path, (prediction, logits, digest) in zip(paths, results, strict=True):
            bar.advance()
            if logits is None:
                warn(f"{printable(path)}: {printable(prediction.error)}; it is left out")
                continue
            image = ReviewImage(folder / path, path, digest, "", "", prediction.predicted)
            found.append((prediction.confidence, image))
    return [image for _, image in sorted(found, key=lambda each: each[0])]


class Answers(BaseModel):
    """What a reviewer says of some images."""

    queue: str
    answers: dict[int, str | None]


def add_review(app: FastAPI, engine: Engine, review: Review) -> None:
    """Add the routes of a review to an app."""

    def image_of(index: int) -> ReviewImage:
        if not 0 <= index < len(review.images):
            raise HTTPException(404, "no such image")
        return review.images[index]

    @app.get("/v1/review")
    def show_review() -> dict[str, Any]:
        """Return classes, queues, and the state of the review."""
        about = {"classes": review.classes, "queues": review.queues, "dropped": DROPPED,
                 "file": printable(review.path), "has_heat_maps": engine.has_heat_maps}  # fmt: skip
        try:
            return about | review.state()
        except (DataError, OSError) as error:
            raise HTTPException(503, printable(error)) from error

    @app.post("/v1/answers")
    async def answer(request: Request) -> dict[str, Any]:
        """Append answers; return the state, and the answers before."""
        try:
            given = Answers.model_validate_json(await read_body(request, _MAX_BODY))
        except ValidationError as error:
            raise HTTPException(422, "want a queue and answers") from error
        labels = {*review.classes, KEEP, DROPPED, None}
        if given.queue not in review.queues or not {*given.answers.values()} <= labels:
            raise HTTPException(422, "no such queue or class")
        for index in given.answers:
            image_of(index)
        try:
            before = await asyncio.to_thread(review.answer, given.queue, given.answers)
            return await asyncio.to_thread(review.state) | {"before": before}
        except (DataError, OSError) as error:
            raise HTTPException(503, f"not saved: {printable(error)}") from error

    @app.get("/v1/images/{index}")
    async def show_image(index: int) -> dict[str, Any]:
        """Return what is known of an image, and its prediction."""
        image = image_of(index)
        prediction = await engine.predict(await _read(image), printable(image.path))
        about = {"label": image.label, "split": image.split, "prefers": image.predicted}
        return about | {"prediction": json.loads(to_json(prediction))}

    @app.get("/v1/images/{index}/heat_map")
    async def show_heat_map(index: int) -> Response:
        content = await _read(image_of(index))
        try:
            return Response(await engine.explain(content), media_type="image/png")
        except UnreadableError as error:
            raise HTTPException(410, str(error)) from error

    @app.get("/v1/images/{index}/{size}")
    async def show_pixels(index: int, size: Literal["large", "small"]) -> Response:
        image = image_of(index)
        try:
            content = await engine.run(make_thumbnail, image.file, _SIDES[size])
        except UnreadableError as error:
            raise HTTPException(410, str(error)) from error
        if not content:
            raise HTTPException(410, "this image cannot be read any more")
        return Response(content, media_type="image/jpeg")


async def _read(image: ReviewImage) -> bytes:
    """Read the file of an image; an answer would be about another one if it has changed."""
    try:
        content = await asyncio.to_thread(read_file, image.file)
    except UnreadableError as error:
        raise HTTPException(410, str(error)) from error
    if sha256(content).hexdigest() != image.sha256:
        raise HTTPException(410, "this file has changed since the run; it cannot be reviewed")
    return content
