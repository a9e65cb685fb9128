"""Bytes in, predictions out: images of concurrent requests share a forward pass."""

import asyncio
import io
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from neither.data.decode import decode
from neither.data.image_file import TooManyPixelsError, UnreadableError
from neither.data.workers import count_processes
from neither.inference.classifier import Classifier, forward_size
from neither.inference.explain import compute_heat_map, draw_heat_map
from neither.inference.prediction import Prediction
from neither.runtime.errors import UsageError
from neither.serving.decoders import Decoders

Result = TypeVar("Result")

_QUICK_PIXELS = 2**23  # decoded in 0.2 s; those of a JPEG count at the fraction that is read


class Engine:
    """A classifier for one event loop.

    Processes decode; one thread computes. It takes whatever waits, up to the batch of every forward
    pass, so an image gets the bits that `predict` gives it, in any company.
    """

    def __init__(self, classifier: Classifier) -> None:
        """Start the processes."""
        self.classifier = classifier
        num_processes = 1 + count_processes()  # large images never take all
        self._decoders = Decoders(num_processes)
        self._large = asyncio.Semaphore(num_processes // 2)
        self._thread = ThreadPoolExecutor(1, "forward")
        self._waiting: deque[tuple[NDArray[np.uint8], asyncio.Future[Prediction]]] = deque()
        self._task: asyncio.Task[None] | None = None
        size = classifier.preprocessing.image_size
        try:
            compute_heat_map(classifier, np.zeros((size, size, 3), np.uint8), 0)
            self.has_heat_maps = True
        except UsageError:
            self.has_heat_maps = False

    async def predict(self, content: bytes, path: str = "") -> Prediction:
        """Predict the class of an image file; one that is unreadable gives a reason.

        The path is for the record; it is not opened.

        Raises:
            CheckpointError: if a logit is not finite.
        """
        try:
            pixels = await self.decode(content)
        except UnreadableError as error:
            return Prediction(path, error=str(error))
        return replace(await self._classify(pixels), path=path)

    async def explain(self, content: bytes) -> bytes:
        """Return a PNG file: the image, and beside it the heat map of its predicted class.

        Raises:
            UnreadableError: if the image is unreadable.
        """
        pixels = await self.decode(content)
        predicted = (await self._classify(pixels)).predicted
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._draw, pixels, predicted)

    async def decode(self, content: bytes) -> NDArray[np.uint8]:
        """Decode the content of an image file; raise `UnreadableError` if it is unreadable.

        Large images, which take seconds, wait for each other, so that others need not.
        """
        preprocessing = self.classifier.preprocessing
        try:
            return await self.run(decode, content, preprocessing, _QUICK_PIXELS)
        except TooManyPixelsError:
            async with self._large:
                return await self.run(decode, content, preprocessing)

    async def run(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Return what a module-level function of an image returns in a decoding process.

        Raises:
            UnreadableError: if the function does, crashes, or takes too long.
        """
        return await self._decoders.run(function, *arguments)

    async def _classify(self, pixels: NDArray[np.uint8]) -> Prediction:
        loop = asyncio.get_running_loop()
        result: asyncio.Future[Prediction] = loop.create_future()
        self._waiting.append((pixels, result))
        if self._task is None:
            self._task = loop.create_task(self._classify_waiting())
        return await result

    async def _classify_waiting(self) -> None:
        loop, size = asyncio.get_running_loop(), forward_size(self.classifier.network)
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(size, len(self._waiting)))]
            batch = [each for each in batch if not each[1].done()]  # the sender has gone
            pixels = [each for each, _ in batch]
            answers = await loop.run_in_executor(self._thread, self._compute, pixels)
            for (_, result), answer in zip(batch, answers, strict=True):
                if result.done():
                    continue
                if isinstance(answer, Prediction):
                    result.set_result(answer)
                else:
                    result.set_exception(answer)
        self._task = None

    def _compute(self, pixels: Sequence[NDArray[np.uint8]]) -> list[Prediction | Exception]:
        """Return a prediction or an exception for each image: one never fails another."""
        if not pixels:
            return []
        answers: list[Prediction | Exception] = []
        try:
            logits = self.classifier.logits(torch.from_numpy(np.stack(pixels)))
        except Exception as error:
            return [error] * len(pixels)
        for row in logits:
            try:
                (one,) = self.classifier.predict_logits(row[None], [Path()])
                answers.append(one.prediction)
            except Exception as error:
                answers.append(error)
        return answers

    def _draw(self, pixels: NDArray[np.uint8], predicted: str) -> bytes:
        label = self.classifier.classes.index(predicted)
        drawn = draw_heat_map(pixels, compute_heat_map(self.classifier, pixels, label))
        file = io.BytesIO()
        Image.fromarray(drawn).save(file, "PNG")
        return file.getvalue()

    def close(self) -> None:
        """End the processes."""
        self._thread.shutdown()
        self._decoders.close()
