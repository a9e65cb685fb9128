"""How common each class is where a model is used, by name.

A checkpoint as a classifier, and the one way in which logits are computed for use.

Image files in, one answer for each out, in order and in bounded memory.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from neither.data.decode import DecodedFile, decode, decode_array, decode_file, decode_image
from neither.data.image_file import UnreadableError, read_file
from neither.data.preprocessing import Preprocessing, normalize
from neither.data.workers import parallel_map
from neither.inference.prediction import Decision, Prediction, Verdict, decide
from neither.models.checkpoint import load_checkpoint
from neither.models.softmax import to_probabilities
from neither.runtime import signals
from neither.runtime.console import printable
from neither.runtime.errors import CheckpointError, DataError, UsageError

_ROUNDING = 1e-3  # of three shares written with three digits


def check_priors(priors: Mapping[str, float], classes: Sequence[str]) -> list[float]:
    """Return the shares in the order of the classes.

    Args:
        priors: each class with its share, above 0; together 1.
        classes: names.

    Raises:
        UsageError: if it is anything else.
    """
    odd = [f"{name} is no class" for name in priors if name not in classes]
    odd += [f"{name} has no share" for name in classes if name not in priors]
    odd += [f"the share of {name} is above 0 and below 1, not {share:g}"
            for name, share in priors.items() if not 0 < share < 1]  # fmt: skip
    if odd:
        raise UsageError(f"priors: {printable('; '.join(odd))}")
    total = math.fsum(priors.values())
    if abs(total - 1) > _ROUNDING:
        raise UsageError(f"priors: the shares sum to 1, but these to {total:g}")
    return [priors[name] for name in classes]


# One shape for every forward pass: kernels choose their order of summation by shape, so an image
# gets the same bits alone, in company, and at the end of a folder.
BATCH_SIZE = 64

_Array = np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]
_Arrays = np.ndarray[tuple[int, int, int, int], np.dtype[np.uint8]]


@dataclass(frozen=True)
class Classifier:
    """A network and what its outputs mean; call it with a picture, or with many.

    Attributes:
        network: on `device`, in evaluation mode.
        classes: names in the order of the logits.
        reject_class: the class that means none of the others, if there is one.
        preprocessing: from a file to pixels and from pixels to the network's input.
        temperature: what logits are divided by before softmax.
        source: the folder or manifest that it was trained on.
        aliases: other names of the classes' folders.
        device: of the network.
        threshold: the least probability to accept; None accepts every prediction.
        target_precision: what the threshold promises of the accepted predictions.
        shares: of each class among the training images; empty if they are not known.
        priors: of each class where the classifier is used; empty if they are those of training.
    """

    network: nn.Module
    classes: tuple[str, ...]
    reject_class: str | None
    preprocessing: Preprocessing
    temperature: float
    source: Path
    aliases: Mapping[str, str]
    device: torch.device
    threshold: float | None = None
    target_precision: float = 1.0
    shares: tuple[float, ...] = ()
    priors: tuple[float, ...] = ()

    @overload
    def __call__(self, picture: str | Path | Image.Image | _Array) -> Verdict: ...

    @overload
    def __call__(self, picture: list[Any] | _Arrays) -> list[Verdict]: ...

    def __call__(self, picture: Any) -> Verdict | list[Verdict]:
        """Classify a picture, or a batch of them, in this thread.

        Any number of threads may call at once. The same picture gets the same probabilities alone
        and in a batch. A path, a Pillow image of that file and an array of its pixels agree, except
        for a large JPEG: by its path it is read at a part of its size, see `decode`.

        Args:
            picture: a path; a Pillow image of any mode, turned upright by its EXIF tag; an
                (H, W, 3) uint8 RGB array; or a batch: a list of these, or an (N, H, W, 3) array.

        Returns:
            A verdict; for a batch a list of them, in its order.

        Raises:
            DataError: if a file cannot be read or gives no image; it names the first one.
            TypeError: if a picture is something else.
            ValueError: if an array has another shape.
            CheckpointError: if a logit is not finite.
        """
        is_batch = isinstance(picture, list) or (
            isinstance(picture, np.ndarray) and picture.ndim == 4
        )
        if not is_batch:
            return self._verdicts([picture])[0]
        batches = range(0, len(picture), BATCH_SIZE)
        return [verdict for start in batches
                for verdict in self._verdicts(picture[start : start + BATCH_SIZE])]  # fmt: skip

    def _verdicts(self, pictures: Sequence[object]) -> list[Verdict]:
        pixels = [self._square(picture) for picture in pictures]
        logits = self.logits(torch.from_numpy(np.stack(pixels)))
        rows = self.probabilities(logits).tolist()
        return [Verdict.of(self.decide(row), dict(zip(self.classes, row, strict=True)))
                for row in rows]  # fmt: skip

    def _square(self, picture: object) -> NDArray[np.uint8]:
        try:
            if isinstance(picture, str | Path):
                return decode(read_file(Path(picture)), self.preprocessing)
            if isinstance(picture, Image.Image):
                return decode_image(picture, self.preprocessing)
            if isinstance(picture, np.ndarray):
                return decode_array(picture, self.preprocessing)
        except UnreadableError as error:
            raise DataError(f"{picture}: {error}") from error
        raise TypeError(f"{type(picture).__name__} is no path, Pillow image or array")

    def logits(self, pixels: Tensor) -> Tensor:
        """Score decoded images.

        Args:
            pixels: (N, S, S, 3) uint8 RGB on the CPU, as `decode` returns them.

        Returns:
            (N, C) float32 logits on the CPU.
        """
        rows = torch.arange(len(pixels))
        return compute_logits(self.network, pixels, rows, self.preprocessing, self.device)

    def scores(self, logits: Tensor) -> Tensor:
        """Return (N, C) float64: (N, C) logits, tempered, and shifted for another mix of classes.

        Softmax of them gives the probabilities.
        """
        scores = logits.double() / self.temperature
        if not self.priors:
            return scores
        shares = torch.tensor([self.priors, self.shares], dtype=torch.float64).log()
        return scores + shares[0] - shares[1]

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return (N, C) float64 probabilities for (N, C) logits.

        Raises:
            CheckpointError: if a logit is not finite.
        """
        try:
            return to_probabilities(self.scores(logits))
        except ValueError as error:
            raise CheckpointError(f"this checkpoint gives no probabilities: {error}") from error

    def decide(self, probabilities: Sequence[float]) -> Decision:
        """Decide on one image by its probabilities, in the order of the classes."""
        return decide(probabilities, self.classes, self.threshold)

    def with_priors(self, priors: Mapping[str, float]) -> "Classifier":
        """Expect another mix of classes than in training (Saerens et al., 2002).

        By Bayes' rule each probability is multiplied by how much more common its class is.

        Args:
            priors: each class with its share, above 0; together 1.

        Raises:
            UsageError: if these are other classes, or no shares.
            CheckpointError: if the shares in training are not known, or a class had no image.
        """
        if not self.shares or not all(self.shares):
            raise CheckpointError("this checkpoint does not know how common each class was")
        return replace(self, priors=tuple(check_priors(priors, self.classes)))


def load_classifier(path: Path, device: torch.device) -> Classifier:
    """Load a run's `best.pt`, or one checkpoint file.

    Raises:
        UsageError: if there is none.
        CheckpointError: if it cannot be used.
    """
    checkpoint = load_checkpoint(path)
    data = checkpoint.config["data"]
    return Classifier(
        checkpoint.build().to(device),
        checkpoint.classes,
        checkpoint.reject_class,
        checkpoint.preprocessing,
        checkpoint.temperature,
        Path(data["root"] or data["manifest"]).expanduser(),
        data["aliases"],
        device,
        checkpoint.threshold,
        checkpoint.config["decision"]["target_precision"],
        checkpoint.shares,
    )


@torch.inference_mode()
def compute_logits(
    network: nn.Module,
    pixels: Tensor,
    rows: Tensor,
    preprocessing: Preprocessing,
    device: torch.device,
) -> Tensor:
    """Run a network in evaluation mode, in float32, over any number of images.

    Args:
        network: in evaluation mode, on `device`.
        pixels: (M, S, S, 3) uint8 RGB on the CPU.
        rows: (N,) int64, which of them; only a batch at a time is copied.
        preprocessing: mean and standard deviation.
        device: where to compute.

    Returns:
        (N, C) float32 logits on the CPU.

    Raises:
        Stopped: if a signal asks for an end.
    """
    parts = []
    padded = pixels.new_zeros((BATCH_SIZE, *pixels.shape[1:]))
    for start in range(0, len(rows), BATCH_SIZE):
        signals.poll()
        batch = rows[start : start + BATCH_SIZE]
        padded[: len(batch)] = pixels[batch]
        logits = network(normalize(padded.to(device), preprocessing))
        parts.append(logits[: len(batch)].float().cpu())
    return torch.cat(parts)


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
    waiting: list[DecodedFile] = []
    for decoded in parallel_map(decode, paths):
        waiting.append(decoded)
        if len(waiting) == BATCH_SIZE:
            yield from _answer(classifier, waiting)
            waiting = []
    yield from _answer(classifier, waiting)


def _answer(classifier: Classifier, images: Sequence[DecodedFile]) -> Iterator[Answer]:
    pixels = [image.pixels for image in images if image.pixels is not None]
    logits = iter(classifier.logits(torch.from_numpy(np.stack(pixels))) if pixels else ())
    for image in images:
        scored = next(logits) if image.pixels is not None else None
        yield Answer(scored, image.reason, image.sha256.hex())


def predict_one(
    classifier: Classifier, answer: Answer, shown: str, true_label: str = ""
) -> Prediction:
    """Turn an answer into probabilities and a decision.

    Raises:
        CheckpointError: if a logit is not finite.
    """
    if answer.logits is None:
        return Prediction(shown, true_label=true_label, error=answer.reason)
    probabilities: list[float] = classifier.probabilities(answer.logits[None])[0].tolist()
    return Prediction(shown, probabilities, classifier.decide(probabilities), true_label)
