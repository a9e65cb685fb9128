"""Features of a frozen backbone, or answers of a teacher: computed once, then kept on disk.

They lie in `~/.cache/neither/features` (or below `XDG_CACHE_HOME`), which can be deleted at any
time. A folder holds the features of one backbone and way to compute them, in blocks: files that are
published whole and never changed, so a process that is killed loses one block at most. Images are
recognised by their content.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from neither.data.dataset import MappedPixels
from neither.data.preprocessing import Preprocessing
from neither.data.store import delete_unused
from neither.inference.classifier import compute_outputs, forward_size
from neither.runtime import files
from neither.runtime.console import progress_bar, warn
from neither.runtime.errors import OutputError, UsageError

_FORMAT = 2
_BLOCK_IMAGES = 1024
_NOTE_IMAGES = 64  # between two updates of the progress bar


def embed(
    backbone: nn.Module,
    pixels: Tensor | MappedPixels,
    indices: Tensor,
    keys: NDArray[np.uint8],
    preprocessing: Preprocessing,
    device: torch.device,
    source: Path,
) -> Tensor:
    """Compute the features of images, or read those that are on disk; else as `compute_cached`.

    Each forward pass has the batch shape of prediction, so an image has the same bits in both. Of
    (M, S, S, 3) uint8 RGB pixels the (N,) indices are used; the backbone is in evaluation mode.
    """

    def compute(rows: NDArray[np.int64]) -> Tensor:
        return compute_outputs(backbone, pixels, indices[rows], preprocessing, device)

    key = (preprocessing.fingerprint(),)
    return compute_cached("embedding", backbone, key, device, compute, keys, source)


def compute_cached(
    name: str,
    network: nn.Module,
    settings: tuple[object, ...],
    device: torch.device,
    compute: Callable[[NDArray[np.int64]], Tensor],
    keys: NDArray[np.uint8],
    source: Path,
) -> Tensor:
    """Compute outputs of a network for images, or read those that are on disk.

    Args:
        name: of the progress bar.
        network: whose outputs they are.
        settings: what they depend on besides network, images and machine.
        device: of the network.
        compute: from (B,) rows of `keys` to the float32 outputs of these images, on the CPU.
        keys: (N, 32), the SHA-256 of each image's file.
        source: of the images; nothing is written below it.

    Returns:
        (N, ...) float32 on the CPU.

    Raises:
        Stopped: if a signal asks to stop; finished blocks are kept.
    """
    folder = _open_folder(network, settings, device, source)
    known: dict[bytes, NDArray[np.float32]] = {}
    for path in sorted(folder.glob("*.npz")) if folder else ():
        with suppress(Exception), path.open("rb") as file:  # damage raises any of a dozen types
            block = np.load(file)
            known |= dict(zip(map(bytes, block["keys"]), block["features"], strict=True))
    missing = np.array([row for row, key in enumerate(keys) if bytes(key) not in known], int)
    with progress_bar(name, len(missing)) as bar:
        start_time = time.monotonic()
        for start in range(0, len(missing), _BLOCK_IMAGES):
            rows = missing[start : start + _BLOCK_IMAGES]
            parts = []
            for batch in np.split(rows, range(_NOTE_IMAGES, len(rows), _NOTE_IMAGES)):
                parts.append(compute(batch).numpy())
                done = start + sum(map(len, parts))
                bar.set_note(f"{done / (time.monotonic() - start_time):,.0f} images/s")
                bar.update(done, len(missing))
            features = np.concatenate(parts)
            known |= dict(zip(map(bytes, keys[rows]), features, strict=True))
            if folder is not None:
                folder = _write_block(folder, keys[rows], features)
    return torch.from_numpy(np.stack([known[bytes(key)] for key in keys]))


@torch.inference_mode()
def compute_head_logits(network: nn.Module, features: Tensor) -> Tensor:
    """Compute (N, C) logits from the (N, F) features of a network's backbone, as it predicts."""
    head, size = network.get_submodule("head"), forward_size(network)
    device = next(head.parameters()).device
    parts, padded = [], torch.zeros(size, features.shape[1])
    for batch in torch.split(features, size):
        padded[: len(batch)] = batch
        parts.append(head(padded.to(device))[: len(batch)].cpu())
    return torch.cat(parts)


def _open_folder(
    network: nn.Module, settings: tuple[object, ...], device: torch.device, source: Path
) -> Path | None:
    """Return the folder of a network's outputs; None if it cannot be written."""
    weights = sha256()
    for name, tensor in network.state_dict().items():
        weights.update(name.encode())
        weights.update(tensor.cpu().contiguous().numpy().tobytes())
    key = (_FORMAT, weights.hexdigest(), repr(network), *settings, PIL.__version__,
           torch.__version__, torch.get_num_threads(), forward_size(network), str(device),
           torch.backends.cpu.get_cpu_capability())  # fmt: skip
    try:
        home = files.cache_folder() / "features"
        files.require_outside(home, source)
        folder = home / sha256(repr(key).encode()).hexdigest()[:32]
        for path in folder.glob("*.npz"):  # used today, whatever a month has made of them
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


def _write_block(
    folder: Path, keys: NDArray[np.uint8], features: NDArray[np.float32]
) -> Path | None:
    """Publish a block; return None if the disk refuses it, so that no further one is tried."""
    try:
        with files.atomic_writer(folder / f"{uuid4().hex}.npz") as file:
            np.savez(file, keys=keys, features=features)
    except OSError as error:
        warn(f"{folder}: features are not kept for later runs: {error.strerror}")
        return None
    return folder
