"""Choice of the device and the precision of the training step."""

import ctypes
import os
from dataclasses import dataclass
from typing import Literal

import torch

from neither.runtime.distributed import SINGLE_PROCESS, World
from neither.runtime.errors import OutputError
from neither.runtime.limits import num_cores

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_THRESHOLD_BYTES = 2**30


@dataclass(frozen=True)
class DeviceConfig:
    """The device and the precision of the training step."""

    device: torch.device  # of all tensors
    # float32, or bfloat16 for autocast in the training step
    precision: Literal["float32", "bfloat16"]

    @property
    def dtype(self) -> torch.dtype:
        """The type of matrix products and convolutions."""
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32

    def autocast(self) -> torch.autocast:
        """Return the context of the training step's forward pass; it does nothing for float32."""
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"
        )


def choose_device_config(
    device: str, precision: Literal["auto", "float32", "bfloat16"], world: World = SINGLE_PROCESS
) -> DeviceConfig:
    """Resolve `auto` by the hardware alone, and configure torch for work there.

    The precision auto is bfloat16 where the hardware multiplies it faster than float32. Each rank
    takes a GPU of its own.

    Raises:
        OutputError: if there is no such device.
    """
    if world.size > 1:
        requested = torch.device(_find_device() if device == "auto" else device)
        if requested.type == "mps" or requested.index is not None:
            raise OutputError(
                f"device: {requested} is for one process, but {world.size} train together; choose "
                "cuda, which gives each its own GPU, or cpu"
            )
        device = f"cuda:{world.local_rank}" if requested.type == "cuda" else "cpu"
    chosen = choose_device(device)
    if chosen.type == "cuda":
        if chosen.index is not None:
            torch.cuda.set_device(chosen)  # NCCL uses the current device
        # Bitwise repeatable runs: no kernel chosen by timing, none with atomic additions.
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
    if chosen.type == "cpu":
        _keep_freed_memory()
    if "OMP_NUM_THREADS" not in os.environ and num_cores() < torch.get_num_threads():
        torch.set_num_threads(num_cores())  # torch ignores the CPU limit of a container
    if precision == "auto":
        precision = "bfloat16" if _has_fast_bfloat16(chosen) else "float32"
    return DeviceConfig(chosen, precision)


def choose_device(device: str) -> torch.device:
    """Resolve `auto`, and raise `OutputError` if the device does not exist.

    Unlike `choose_device_config` this changes no setting of the process.
    """
    chosen = torch.device(_find_device() if device == "auto" else device)
    num_cuda = torch.cuda.device_count()
    if chosen.type == "cuda" and (chosen.index or 0) >= num_cuda:
        raise OutputError(f"device: {device}: found {num_cuda} CUDA devices; choose auto or cpu")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise OutputError(f"device: {device}: this machine has no MPS device; choose auto or cpu")
    return chosen


def _find_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _has_fast_bfloat16(device: torch.device) -> bool:
    """Ask the hardware, not a timing, which would vary and so break exact resuming."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # AVX512-BF16 or AMX. Without them oneDNN emulates bfloat16, slower than float32.
    return device.type == "cpu" and bool(
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )


def _keep_freed_memory() -> None:
    """Make glibc keep the memory that a step frees, for the next step.

    By default large blocks go back to the system, which clears each page when it is used again: a
    tenth of the time of a training step. Other C libraries have no such setting.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _THRESHOLD_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _THRESHOLD_BYTES)
