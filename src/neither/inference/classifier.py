"""A checkpoint as a classifier: images in, one prediction for each out."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice, tee
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from neither.data.dataset import MappedPixels
from neither.data.decode import decode, decode_array, decode_file, decode_image
from neither.data.image_file import UnreadableError, read_file
from neither.data.layout import labels_by_name
from neither.data.preprocessing import Preprocessing, normalize
from neither.data.scan import nfc
from neither.data.workers import parallel_map
from neither.inference.prediction import Prediction, decide
from neither.models.checkpoint import CalibratedOn, DecisionRule, load_checkpoint
from neither.models.efficientnet_lite import FusedConv, fused
from neither.models.softmax import to_probabilities
from neither.runtime import signals
from neither.runtime.console import printable
from neither.runtime.errors import CheckpointError, DataError, UsageError

BATCH_SIZE = 64  # images that are decoded, and predicted on a GPU, at a time
_CPU_BATCH_SIZE = 16  # a quarter of the time for a single image, at the rate of 64
_FUSED_BATCH_SIZE = 8  # the features of more images do not fit into a core's cache

_SUM_TOLERANCE = 1e-3  # of priors that a user rounds to three digits
_Array = np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]
_Arrays = np.ndarray[tuple[int, int, int, int], np.dtype[np.uint8]]


class FilePrediction(NamedTuple):
    """The result for one file."""

    prediction: Prediction  # or the error if the file is unreadable
    logits: Tensor | None  # (C,) float32; None if the file is unreadable
    sha256: str  # hex digest of the file's content; empty if it could not be read


@dataclass(frozen=True)
class Classifier:
    """A network and the meaning of its outputs; call it with one image or a batch of them.

    Attributes:
        network: on `device`, in evaluation mode.
        classes: names in the order of the logits.
        reject_class: the class that means "none of the others", if there is one.
        preprocessing: from a file to pixels and from pixels to the network's input.
        temperature: divisor of the logits before softmax.
        source: the folder or manifest of the training run.
        aliases: class of each folder that has another name than its class.
        corrections: answers of a review that the training run followed, if it did.
        device: of the network.
        decision_rule: which predictions are accepted.
        calibrated_on: the images that temperature and decision rule were fitted to.
        class_frequencies: fraction of the training images in each class; empty if unknown.
        priors: fraction of each class where the classifier is used; empty if as in training.
    """

    network: nn.Module
    classes: tuple[str, ...]
    reject_class: str | None
    preprocessing: Preprocessing
    temperature: float
    source: Path
    aliases: Mapping[str, str]
    device: torch.device
    decision_rule: DecisionRule = field(default_factory=DecisionRule)
    calibrated_on: CalibratedOn = "val"
    class_frequencies: tuple[float, ...] = ()
    priors: tuple[float, ...] = ()
    corrections: Path | None = None

    @overload
    def __call__(self, image: str | Path | Image.Image | _Array) -> Prediction: ...

    @overload
    def __call__(self, image: list[Any] | _Arrays) -> list[Prediction]: ...

    def __call__(self, image: Any) -> Prediction | list[Prediction]:
        """Classify an image or a batch of images.

        Any number of threads may call this at once. An image gets the same probabilities alone and
        in a batch. A path, a Pillow image of that file and an array of its pixels give the same
        result, except for a large JPEG, which is read from its path at a reduced size (`decode`).

        Args:
            image: a path; a Pillow image of any mode, which is rotated by its EXIF orientation; an
                (H, W, 3) uint8 RGB array; or a batch: a list of these, or an (N, H, W, 3) array.

        Returns:
            A prediction; for a batch, a list of predictions in the same order.

        Raises:
            DataError: if a file cannot be read or decoded; the message names the first one.
            TypeError: if an image has another type.
            ValueError: if an array has another shape.
            CheckpointError: if a logit is not finite.
        """
        is_batch = isinstance(image, list) or (isinstance(image, np.ndarray) and image.ndim == 4)
        images = image if is_batch else [image]
        predictions: list[Prediction] = []
        for start in range(0, len(images), BATCH_SIZE):
            batch = images[start : start + BATCH_SIZE]
            pixels = np.stack([self._decode(each) for each in batch])
            paths = [str(each) if isinstance(each, str | Path) else "" for each in batch]
            predictions += self._predict(self.logits(torch.from_numpy(pixels)), paths)
        return predictions if is_batch else predictions[0]

    def _decode(self, image: object) -> NDArray[np.uint8]:
        try:
            if isinstance(image, str | Path):
                return decode(read_file(Path(image)), self.preprocessing)
            if isinstance(image, Image.Image):
                return decode_image(image, self.preprocessing)
            if isinstance(image, np.ndarray):
                return decode_array(image, self.preprocessing)
        except UnreadableError as error:
            raise DataError(f"{image}: {error}") from error
        raise TypeError(f"want a path, Pillow image or array, not {type(image).__name__}")

    def predict_files(self, paths: Iterable[Path]) -> Iterator[FilePrediction]:
        """Predict files in order and in bounded memory; processes decode them in parallel.

        Args:
            paths: image files; they are consumed as needed, some ahead.

        Yields:
            One result for each path; that of an unreadable file has an error and no logits.

        Raises:
            CheckpointError: if a logit is not finite.
            OutputError: if a decoding process was killed.
            Stopped: if a signal asks to stop.
        """
        to_decode, to_return = tee(paths)
        decoded = parallel_map(partial(decode_file, preprocessing=self.preprocessing), to_decode)
        files = zip(decoded, to_return, strict=True)
        while batch := list(islice(files, BATCH_SIZE)):
            pixels = [file.pixels for file, _ in batch if file.pixels is not None]
            readable = [str(path) for file, path in batch if file.pixels is not None]
            logits = torch.empty(0, len(self.classes))
            if pixels:
                logits = self.logits(torch.from_numpy(np.stack(pixels)))
            results = zip(self._predict(logits, readable), logits, strict=True)
            for file, path in batch:
                if file.pixels is None:
                    unreadable = Prediction(str(path), error=file.reason)
                    yield FilePrediction(unreadable, None, file.sha256.hex())
                else:
                    yield FilePrediction(*next(results), file.sha256.hex())

    def _predict(self, logits: Tensor, paths: Sequence[str]) -> list[Prediction]:
        rule, reject = self.decision_rule, self.reject_class
        return [
            decide(dict(zip(self.classes, row, strict=True)), rule, reject, path)
            for row, path in zip(self.probabilities(logits).tolist(), paths, strict=True)
        ]

    def predict_logits(self, logits: Tensor, paths: Sequence[Path]) -> Iterator[FilePrediction]:
        """Yield what `predict_files` does, without hashes, from known (N, C) logits of N files."""
        predictions = self._predict(logits, list(map(str, paths)))
        for prediction, row in zip(predictions, logits, strict=True):
            yield FilePrediction(prediction, row, "")

    def logits(self, pixels: Tensor) -> Tensor:
        """Compute the logits of decoded images.

        Args:
            pixels: (N, S, S, 3) uint8 RGB on the CPU, as `decode` returns them.

        Returns:
            (N, C) float32 on the CPU.
        """
        indices = torch.arange(len(pixels))
        return compute_outputs(self.network, pixels, indices, self.preprocessing, self.device)

    def scores(self, logits: Tensor) -> Tensor:
        """Divide logits by the temperature and shift them to the priors (Saerens et al., 2002).

        Softmax of the scores gives the probabilities; both are (N, C) float64.
        """
        scores = logits.double() / self.temperature
        if not self.priors:
            return scores
        log_priors = torch.tensor(self.priors, dtype=torch.float64).log()
        log_frequencies = torch.tensor(self.class_frequencies, dtype=torch.float64).log()
        return scores + log_priors - log_frequencies

    def probabilities(self, logits: Tensor) -> Tensor:
        """Compute calibrated probabilities.

        Args:
            logits: (N, C).

        Returns:
            (N, C) float64; each row sums to 1.

        Raises:
            CheckpointError: if a logit is not finite.
        """
        try:
            return to_probabilities(self.scores(logits))
        except ValueError as error:
            raise CheckpointError(f"this checkpoint gives no probabilities: {error}") from error

    def with_priors(self, priors: Mapping[str, float]) -> "Classifier":
        """Return a classifier for images in which the classes are not as frequent as in training.

        By Bayes' rule each probability is multiplied by the ratio of prior to training frequency
        (Saerens et al., 2002).

        Args:
            priors: fraction of each class, above 0; together 1.

        Raises:
            UsageError: if a class is missing or unknown, a fraction is not in (0, 1), or the sum
                is not 1.
            CheckpointError: if the class frequencies of training are unknown or 0.
        """
        if not self.class_frequencies or not all(self.class_frequencies):
            raise CheckpointError("this checkpoint does not know how common each class was")
        labels = labels_by_name(self.classes, {})
        priors = {labels.get(nfc(name), name): prior for name, prior in priors.items()}
        problems = [f"{name} is not a class" for name in priors if name not in self.classes]
        problems += [f"{name} is missing" for name in self.classes if name not in priors]
        wrong = {name: prior for name, prior in priors.items() if not 0 < prior < 1}
        problems += [f"{name} is {prior:g}, but must be in (0, 1)" for name, prior in wrong.items()]
        if problems:
            raise UsageError(f"priors: {printable('; '.join(problems))}")
        total = math.fsum(priors.values())
        if abs(total - 1) > _SUM_TOLERANCE:
            raise UsageError(f"priors: they must sum to 1, but sum to {total:g}")
        rule = replace(self.decision_rule, is_certified=False)  # it was for the frequencies of val
        in_order = tuple(priors[name] for name in self.classes)
        return replace(self, priors=in_order, decision_rule=rule)


def load_classifier(path: Path, device: torch.device) -> Classifier:
    """Load a run's `best.pt`, or one checkpoint file, as `load_checkpoint` does."""
    checkpoint = load_checkpoint(path)
    return Classifier(
        network=fused(checkpoint.build().to(device)),
        classes=checkpoint.classes,
        reject_class=checkpoint.reject_class,
        preprocessing=checkpoint.preprocessing,
        temperature=checkpoint.temperature,
        source=Path(checkpoint.source).expanduser(),
        aliases=checkpoint.aliases,
        device=device,
        decision_rule=checkpoint.decision_rule,
        calibrated_on=checkpoint.calibrated_on,
        class_frequencies=checkpoint.class_frequencies,
        corrections=checkpoint.corrections,
    )


def forward_size(network: nn.Module) -> int:
    """Return the number of images in every forward pass of a network.

    Kernels choose their order of summation by shape, so with one shape an image gets the same bits
    alone, in a batch, and at the end of a folder. `benchmarks/embedding.py` compares sizes.
    """
    if any(isinstance(layer, FusedConv) for layer in network.modules()):
        return _FUSED_BATCH_SIZE
    is_cpu = all(each.device.type == "cpu" for each in network.parameters())
    return _CPU_BATCH_SIZE if is_cpu else BATCH_SIZE


@torch.inference_mode()
def compute_outputs(
    network: nn.Module,
    pixels: Tensor | MappedPixels,
    indices: Tensor,
    preprocessing: Preprocessing,
    device: torch.device,
) -> Tensor:
    """Compute logits, or features, in float32, in batches of `forward_size`, the last one padded.

    Args:
        network: in evaluation mode, on `device`; from images (B, 3, S, S) to outputs (B, K).
        pixels: (M, S, S, 3) uint8 RGB on the CPU.
        indices: (N,) int64, the images to use; only one batch at a time is copied.
        preprocessing: mean and standard deviation of the network's input.
        device: where to compute.

    Returns:
        (N, K) float32 on the CPU.
    """
    parts, size = [], forward_size(network)
    padded = torch.zeros((size, *pixels.shape[1:]), dtype=torch.uint8)
    for start in range(0, len(indices), size):
        signals.poll()
        batch = indices[start : start + size]
        padded[: len(batch)] = pixels[batch]
        outputs = network(normalize(padded.to(device), preprocessing))
        parts.append(outputs[: len(batch)].float().cpu())
    return torch.cat(parts)
