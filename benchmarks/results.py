"""What every benchmark says of where and with what it was run, and where its figures go."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

FOLDER = Path("runs") / "benchmarks"
_PACKAGES = ("neither", "torch", "torchvision", "pillow", "numpy", "timm", "ultralytics")


def write(name: str, figures: object) -> None:
    """Write figures with the machine and the versions to `runs/benchmarks/<name>.json`."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.json"
    content = {"machine": describe_machine(), "versions": list_versions(), "figures": figures}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(f"written: {path}")


def describe_machine() -> dict[str, object]:
    """Return processor, number of cores and, where there is one, the GPU."""
    import torch

    machine: dict[str, object] = {"processor": _processor(), "cores": os.cpu_count()}
    machine["threads"] = torch.get_num_threads()
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    return machine


def list_versions() -> dict[str, str]:
    """Return the versions of what is compared, as far as it is installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def measure(what: str, num: int, rounds: int, work: Callable[[], object]) -> dict[str, float]:
    """Print and return images per second of some rounds of the same work on `num` images."""
    speeds = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        speeds.append(num / (time.perf_counter() - started))
    figures = {"median": statistics.median(speeds), "least": min(speeds), "most": max(speeds)}
    print(f"  {what}: {figures['median']:,.0f} images/s ({figures['least']:,.0f} - "
          f"{figures['most']:,.0f})", flush=True)  # fmt: skip
    return figures


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Return mean, smallest, largest and n of some figures."""
    low, high = min(values), max(values)
    mean = statistics.mean(values)
    return f"{mean:.{digits}f} ({low:.{digits}f} - {high:.{digits}f}, n = {len(values)})"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
