"""Image files in, one answer for each out, in order and in bounded memory."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from neither.data.decode import Decoded, decode_file
from neither.data.processes import map_in_processes
from neither.inference.classifier import BATCH_SIZE, Classifier


@dataclass(frozen=True)
class Answer:
    """What the classifier says of one file.

    Attributes:
        logits: (C,) float32, or None if the file is unreadable.
        reason: why it is unreadable; empty if it is not.
        sha256: of the file's bytes; empty if they could not be read.
    """

    logits: Tensor | None
    reason: str
    sha256: str


def answer_files(classifier: Classifier, paths: Iterable[Path]) -> Iterator[Answer]:
    """Yield an answer for each path, in order, decoding in parallel.

    Raises:
        OutputError: if a decoding process was killed.
        Stopped: if a signal asks for an end.
    """
    decode = partial(decode_file, preprocessing=classifier.preprocessing)
    waiting: list[Decoded] = []
    for decoded in map_in_processes(decode, paths):
        waiting.append(decoded)
        if len(waiting) == BATCH_SIZE:
            yield from _answer(classifier, waiting)
            waiting = []
    yield from _answer(classifier, waiting)


def _answer(classifier: Classifier, images: Sequence[Decoded]) -> Iterator[Answer]:
    pixels = [image.pixels for image in images if image.pixels is not None]
    logits = iter(classifier.logits(torch.from_numpy(np.stack(pixels))) if pixels else ())
    for image in images:
        scored = next(logits) if image.pixels is not None else None
        yield Answer(scored, image.reason, image.sha256.hex())
