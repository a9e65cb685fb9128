"""Features of images from a frozen backbone: computed once, then kept on disk for all runs.

They lie in `~/.cache/neither/features` (or below `XDG_CACHE_HOME`), which can be deleted at any
time. A folder holds the features of one backbone and way to compute them, in blocks: files that are
published whole and never changed, so a process that is killed loses one block at most. Images are
recognised by their content.
"""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from neither.data.cache import delete_unused
from neither.data.dataset import MappedPixels
from neither.data.preprocessing import Preprocessing
from neither.inference.classifier import compute_outputs, forward_size
from neither.runtime import files
from neither.runtime.console import progress_bar, warn
from neither.runtime.errors import OutputError, UsageError

_FORMAT = 1
_BLOCK_IMAGES = 1024
_NOTE_IMAGES = 64  # between two updates of the progress bar
_CHECKSUM_BYTES = 32


def embed(
    backbone: nn.Module,
    pixels: Tensor | MappedPixels,
    indices: Tensor,
    keys: NDArray[np.uint8],
    preprocessing: Preprocessing,
    device: torch.device,
    source: Path,
) -> Tensor:
    """Compute the features of images, or read those that are on disk.

    Each forward pass has the batch shape of prediction, so an image has the same bits in both.

    Args:
        backbone: in evaluation mode, on `device`; from images (B, 3, S, S) to features (B, F).
        pixels: (M, S, S, 3) uint8 RGB.
        indices: (N,) int64, the images to use.
        keys: (N, 32), the SHA-256 of each image's file.
        preprocessing: mean and standard deviation of the backbone's input.
        device: where to compute.
        source: of the images; nothing is written below it.

    Returns:
        (N, F) float32 on the CPU.

    Raises:
        Stopped: if a signal asks to stop; finished blocks are kept.
    """
    folder = _open_folder(backbone, preprocessing, device, source)
    known: dict[bytes, NDArray[np.float32]] = {}
    for block in _read_blocks(folder):
        known.update(zip((key.tobytes() for key in block["key"]), block["features"], strict=True))
    missing = np.array([row for row, key in enumerate(keys) if key.tobytes() not in known], int)
    with progress_bar("embedding", len(missing)) as bar:
        start_time = time.monotonic()
        for start in range(0, len(missing), _BLOCK_IMAGES):
            rows = missing[start : start + _BLOCK_IMAGES]
            parts = []
            for batch in np.split(rows, range(_NOTE_IMAGES, len(rows), _NOTE_IMAGES)):
                parts.append(
                    compute_outputs(backbone, pixels, indices[batch], preprocessing, device).numpy()
                )
                done = start + sum(map(len, parts))
                bar.set_note(f"{done / (time.monotonic() - start_time):,.0f} images/s")
                bar.update(done, len(missing))
            features = np.concatenate(parts)
            known.update(zip((keys[row].tobytes() for row in rows), features, strict=True))
            if folder is not None:
                folder = _write_block(folder, keys[rows], features)
    return torch.from_numpy(np.stack([known[key.tobytes()] for key in keys]))


@torch.inference_mode()
def compute_head_logits(network: nn.Module, features: Tensor) -> Tensor:
    """Compute the logits of a network from features, with the bits of prediction.

    Args:
        network: as it predicts, with a `head`.
        features: (N, F) float32, which `embed` computed with its backbone.

    Returns:
        (N, C) float32 on the CPU.
    """
    head, size = network.get_submodule("head"), forward_size(network)
    device = next(head.parameters()).device
    parts, padded = [], torch.zeros(size, features.shape[1])
    for batch in torch.split(features, size):
        padded[: len(batch)] = batch
        parts.append(head(padded.to(device))[: len(batch)].cpu())
    return torch.cat(parts)


def _block_dtype(num_features: int) -> np.dtype[np.void]:
    return np.dtype([("key", "u1", 32), ("features", "<f4", (num_features,))])


def _open_folder(
    backbone: nn.Module, preprocessing: Preprocessing, device: torch.device, source: Path
) -> Path | None:
    """Return the folder of a backbone's features; None if it cannot be written."""
    weights = sha256()
    for name, tensor in backbone.state_dict().items():
        weights.update(name.encode())
        weights.update(tensor.cpu().contiguous().numpy().tobytes())
    key = (_FORMAT, weights.hexdigest(), preprocessing.fingerprint(), PIL.__version__,
           torch.__version__, torch.get_num_threads(), forward_size(backbone), str(device),
           torch.backends.cpu.get_cpu_capability())  # fmt: skip
    try:
        home = files.cache_folder() / "features"
        files.require_outside(home, source)
        folder = home / sha256(repr(key).encode()).hexdigest()[:32]
        for path in folder.glob("*.features"):  # used today, whatever a month has made of them
            with suppress(OSError):
                os.utime(path)
        delete_unused(home)  # also what killed processes left: others may be writing here now
        files.make_folder(folder)
    except UsageError:  # it is among the images
        return None
    except OutputError as error:
        warn(f"features are not kept for later runs: {error}")
        return None
    return folder


def _read_blocks(folder: Path | None) -> Iterator[NDArray[np.void]]:
    """Yield the blocks of a folder, and mark them as used; damaged ones are ignored."""
    for path in sorted(folder.glob("*.features")) if folder else ():
        with suppress(OSError, ValueError):
            content = path.read_bytes()
            body, checksum = content[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
            (num_features,) = np.frombuffer(body[:8], "<i8")
            if sha256(body).digest() == checksum:
                with suppress(OSError):  # of another user, or just deleted
                    os.utime(path)
                yield np.frombuffer(body[8:], _block_dtype(int(num_features)))


def _write_block(
    folder: Path, keys: NDArray[np.uint8], features: NDArray[np.float32]
) -> Path | None:
    """Publish a block; return None if the disk refuses it, so that no further one is tried."""
    block = np.empty(len(keys), _block_dtype(features.shape[1]))
    block["key"], block["features"] = keys, features
    body = np.array(features.shape[1], "<i8").tobytes() + block.tobytes()
    try:
        files.write_atomic(folder / f"{uuid4().hex}.features", body + sha256(body).digest())
    except OSError as error:
        warn(f"{folder}: features are not kept for later runs: {error.strerror}")
        return None
    return folder
