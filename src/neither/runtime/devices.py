"""Where and in which precision to compute, decided once."""

import ctypes
from dataclasses import dataclass
from typing import Literal

import torch

from neither.runtime.distributed import SINGLE_PROCESS, World
from neither.runtime.errors import OutputError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_MOST = 2**30  # bytes


@dataclass(frozen=True)
class Compute:
    """The device and the precision of the training step.

    Attributes:
        device: where everything is computed.
        precision: float32, or bfloat16 for autocast in the training step.
    """

    device: torch.device
    precision: Literal["float32", "bfloat16"]

    @property
    def dtype(self) -> torch.dtype:
        """What large products are computed in."""
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32

    def autocast(self) -> torch.autocast:
        """Return the context of the training step's forward pass; it does nothing for float32."""
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"
        )


def choose_compute(
    device: str, precision: Literal["auto", "float32", "bfloat16"], world: World = SINGLE_PROCESS
) -> Compute:
    """Resolve `auto` by what the machine has, the same each time on the same machine.

    Args:
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto takes bfloat16 where the hardware multiplies it faster than float32.
        world: each takes a GPU of its own.

    Raises:
        OutputError: if a device is asked for by name and is not there.
    """
    if world.size > 1:
        wanted = torch.device(_find_device() if device == "auto" else device)
        if wanted.type == "mps" or wanted.index is not None:
            raise OutputError(
                f"device: {wanted} is for one process, but {world.size} train together; choose "
                "cuda, which gives each its own, or cpu"
            )
        device = f"cuda:{world.local_rank}" if wanted.type == "cuda" else "cpu"
    chosen = choose_device(device)
    if chosen.type == "cuda":
        if chosen.index is not None:
            torch.cuda.set_device(chosen)  # what NCCL works on
        # The same run gives the same bits: no kernel chosen by a stopwatch, none that races.
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
    if chosen.type == "cpu":
        _keep_freed_memory()
    if precision == "auto":
        precision = "bfloat16" if _has_fast_bfloat16(chosen) else "float32"
    return Compute(chosen, precision)


def choose_device(device: str) -> torch.device:
    """Resolve `auto`, and change no setting of the process.

    Args:
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        OutputError: if a device is asked for by name and is not there.
    """
    chosen = torch.device(_find_device() if device == "auto" else device)
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        have = f"{torch.cuda.device_count()} CUDA devices are here"
        raise OutputError(f"device: {device}: {have}; choose auto or cpu")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise OutputError(f"device: {device}: no MPS device is here; choose auto or cpu")
    return chosen


def _keep_freed_memory() -> None:
    """Let the C library keep the memory that a step frees, for the next step.

    By default glibc gives large blocks back at once, and the system clears each page anew: a tenth
    of a training step. Other C libraries have no such switch and are left alone.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _MOST)
    mallopt(_M_TRIM_THRESHOLD, _MOST)


def _find_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _has_fast_bfloat16(device: torch.device) -> bool:
    """Ask the hardware, not a stopwatch: a choice that wavers would break exact resuming."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and _cpu_multiplies_bfloat16()


def _cpu_multiplies_bfloat16() -> bool:
    # AVX512-BF16 or AMX. Without them oneDNN emulates bfloat16, slower than float32.
    cpu = torch.cpu
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())
