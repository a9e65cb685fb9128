"""The cores and the memory that this process may use: those of the machine and of its container.

Containers, systemd and batch systems limit processes by control groups (cgroups), in files of two
versions. A limit of a group applies to all groups inside it.
"""

import math
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path("/")  # of the folders proc and sys

_UNKNOWN_MEMORY = 4 << 30  # assumed to be free where the system does not say
_MEMORY_FILES = (  # limit, usage, and the key in memory.stat of files that the kernel can drop
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.high", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def num_cores() -> int:
    """Count the cores that this process may use; a part of one, as in `--cpus=1.5`, counts."""
    if hasattr(os, "sched_getaffinity"):
        available = len(os.sched_getaffinity(0))
    else:
        available = os.cpu_count() or 1
    return math.ceil(min([available, *map(_core_quota, _cgroups("cpu"))]))


def free_memory() -> int:
    """Estimate in bytes how much memory this process can still take.

    Memory with cached files counts as free, since the kernel drops these when it is needed. Where
    the system does not say, as on macOS, the result is 4 GB.
    """
    text = read_system_file(ROOT / "proc/meminfo")
    match = re.search(r"^MemAvailable: +(\d+) kB$", text, re.MULTILINE)
    available = int(match[1]) * 1024 if match else _UNKNOWN_MEMORY
    return max(0, min([available, *map(_unused_memory, _cgroups("memory"))]))


def _core_quota(cgroup: Path) -> float:
    """Return the number of cores that a group may use; infinity without a limit."""
    parts = read_system_file(cgroup / "cpu.max").split() or [
        read_system_file(cgroup / f"cpu.cfs_{name}_us") for name in ("quota", "period")
    ]
    with suppress(ValueError):  # "max 100000", or no such files
        quota, period = map(int, parts)
        if quota > 0 and period > 0:  # version 1 writes -1 for no limit
            return quota / period
    return math.inf


def _unused_memory(cgroup: Path) -> int:
    """Return the bytes below the limits of a group that are not in use; a huge number if none."""
    unused = [2**63]
    for limit, usage, cache in _MEMORY_FILES:
        with suppress(ValueError):  # "max", or no such files
            left = int(read_system_file(cgroup / limit)) - int(read_system_file(cgroup / usage))
            text = read_system_file(cgroup / "memory.stat")
            match = re.search(rf"^{cache} (\d+)$", text, re.MULTILINE)
            unused.append(left + (int(match[1]) if match else 0))
    return min(unused)


def _cgroups(controller: str) -> Iterator[Path]:
    """Yield the folder of this process's group, and of each group around it that is visible."""
    text = read_system_file(ROOT / "proc/self/cgroup")
    lines = (line.split(":", 2) for line in text.splitlines())
    groups = {name: group for _, names, group in lines for name in names.split(",")}
    for line in read_system_file(ROOT / "proc/self/mountinfo").splitlines():
        # ID, parent, device, top, mount point, options ... - file system, source, its options
        mount, _, file_system = line.partition(" - ")
        if file_system.startswith("cgroup2 "):
            group = groups.get("", "/")  # one tree for all controllers
        elif file_system.startswith("cgroup ") and controller in re.split("[ ,]", file_system)[2:]:
            group = groups.get(controller, "/")
        else:
            continue
        top, mount_point = mount.split()[3:5]
        folder = ROOT / mount_point.lstrip("/")
        yield folder
        if Path(group).is_relative_to(top):  # else a container sees its own group as the top
            for name in Path(group).relative_to(top).parts:
                folder /= name
                yield folder


def read_system_file(path: Path) -> str:
    """Return the text of a file of the system, without space around it; empty if there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
