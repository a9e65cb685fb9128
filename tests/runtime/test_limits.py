"""Limits of cgroups of both versions, in trees of files as the kernel shows them."""

import os
from pathlib import Path

import pytest

from neither.runtime import limits
from neither.runtime.limits import free_memory, num_cores

GB = 2**30
V2_MOUNT = "31 23 0:28 {top} /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNTS = """22 27 0:21 / /proc rw,relatime - proc proc rw
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""
V1_GROUPS = "9:name=systemd:/x\n4:memory:{group}\n1:cpu,cpuacct:{group}\n0::/\n"
CPU, MEMORY = "sys/fs/cgroup/cpu,cpuacct", "sys/fs/cgroup/memory"
NO_LIMIT = {"cpu.max": "max 100000", "memory.max": "max", "memory.current": f"{3 * GB}"}
NO_LIMIT_V1 = {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a machine of 64 cores with 100 GB, of which 40 GB are available and 1 GB is unused."""
    monkeypatch.setattr(limits, "ROOT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    write(tmp_path / "proc", {
        "meminfo": f"MemTotal: {100 * 2**20} kB\nMemFree:  {2**20} kB\n"
        f"MemAvailable:   {40 * 2**20} kB\nBuffers: 1 kB",
    })  # fmt: skip
    return tmp_path


def write(folder: Path, texts: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(f"{text}\n")


def v2(root: Path, groups: dict[str, dict[str, str]], group: str, top: str = "/") -> None:
    """Make a tree of version 2, with files for each group below the mount point."""
    write(root / "proc/self", {"cgroup": f"0::{group}", "mountinfo": V2_MOUNT.format(top=top)})
    for name, texts in groups.items():
        write(root / "sys/fs/cgroup" / name, texts)


def v1(root: Path, folders: dict[str, dict[str, str]], group: str) -> None:
    mounts, groups = V1_MOUNTS, V1_GROUPS.format(group=group)
    write(root / "proc/self", {"cgroup": groups, "mountinfo": mounts})
    for name, texts in folders.items():
        write(root / name, texts)


@pytest.mark.parametrize(("limit", "cores"), [
    ("200000 100000", 2), ("150000 100000", 2), ("1000 100000", 1), ("6400000 50000", 64),
    ("max 100000", 64), ("max", 64), ("", 64), ("damaged", 64), ("0 0", 64),
])  # fmt: skip
def test_a_quota_of_version_2_rounds_up(machine: Path, limit: str, cores: int) -> None:
    v2(machine, {"": {"cpu.max": limit}}, "/")
    assert num_cores() == cores


@pytest.mark.parametrize(("quota", "cores"), [("200000", 2), ("20000", 1), ("-1", 64), ("", 64)])
@pytest.mark.parametrize("folder", ["", "docker/1"])
def test_a_quota_of_version_1(machine: Path, quota: str, cores: int, folder: str) -> None:
    v1(machine, {}, "/docker/1")
    write(machine / CPU / folder, {"cpu.cfs_quota_us": quota, "cpu.cfs_period_us": "100000"})
    assert num_cores() == cores


def test_the_lowest_limit_of_nested_groups_applies(machine: Path) -> None:
    outer = {"cpu.max": "250000 100000", "memory.max": f"{6 * GB}", "memory.current": f"{5 * GB}"}
    inner = {"cpu.max": "800000 100000", "memory.max": f"{4 * GB}", "memory.current": f"{GB}"}
    v2(machine, {"": {}, "a": outer, "a/b": NO_LIMIT, "a/b/c": inner}, "/a/b/c")
    assert (num_cores(), free_memory()) == (3, GB)
    v2(machine, {"a": NO_LIMIT}, "/a/b/c")
    assert (num_cores(), free_memory()) == (8, 3 * GB)
    v1(machine, {
        f"{CPU}/a": {"cpu.cfs_quota_us": "300000", "cpu.cfs_period_us": "100000"},
        f"{CPU}/a/b": NO_LIMIT_V1, f"{MEMORY}/a/b": {
            "memory.limit_in_bytes": f"{8 * GB}", "memory.usage_in_bytes": f"{6 * GB}"
        },
    }, "/a/b")  # fmt: skip
    assert (num_cores(), free_memory()) == (3, 2 * GB)


def test_a_group_beside_or_below_does_not_count(machine: Path) -> None:
    limit = {"cpu.max": "100000 100000", "memory.max": f"{GB}", "memory.current": "0"}
    v2(machine, {"a": NO_LIMIT, "b": limit, "a/b": limit}, "/a")
    assert (num_cores(), free_memory()) == (64, 40 * GB)


@pytest.mark.parametrize("group", ["/docker/1", "/docker/1/inner", "/../other", "/"])
def test_a_container_sees_its_own_group_as_the_top(machine: Path, group: str) -> None:
    limit = {"cpu.max": "200000 100000", "memory.max": f"{2 * GB}", "memory.current": f"{GB}"}
    v2(machine, {"": limit}, group, "/docker/1")
    assert (num_cores(), free_memory()) == (2, GB)
    v2(machine, {"inner": limit | {"cpu.max": "100000 100000"}}, group, "/docker/1")
    assert num_cores() == (1 if group.endswith("inner") else 2)


def test_cached_files_count_as_free_memory(machine: Path) -> None:
    stat = f"anon {GB}\nfile {6 * GB}\ninactive_file {5 * GB}\nactive_file {GB}"
    usage = {"memory.max": f"{8 * GB}", "memory.current": f"{7 * GB}", "memory.stat": stat}
    v2(machine, {"": usage}, "/")
    assert free_memory() == 6 * GB
    write(machine / "sys/fs/cgroup", {"memory.high": f"{4 * GB}"})
    assert free_memory() == 2 * GB
    write(machine / "sys/fs/cgroup", {"memory.high": f"{GB}"})
    assert free_memory() == 0
    v1(machine, {MEMORY: {
        "memory.limit_in_bytes": f"{8 * GB}", "memory.usage_in_bytes": f"{8 * GB}",
        "memory.stat": f"inactive_file 5\ntotal_inactive_file {5 * GB}",
    }}, "/")  # fmt: skip
    assert free_memory() == 5 * GB


def test_without_limits_the_machine_counts(machine: Path) -> None:
    assert (num_cores(), free_memory()) == (64, 40 * GB)
    v2(machine, {"": NO_LIMIT}, "/")
    assert (num_cores(), free_memory()) == (64, 40 * GB)
    v1(machine, {
        CPU: NO_LIMIT_V1,
        MEMORY: {"memory.limit_in_bytes": "9223372036854771712", "memory.usage_in_bytes": "5"},
    }, "/")  # fmt: skip
    assert (num_cores(), free_memory()) == (64, 40 * GB)
    (machine / "proc/meminfo").unlink()  # as on macOS
    assert free_memory() == 4 * GB


def test_fewer_cores_than_the_limit_stay(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5})
    v2(machine, {"": {"cpu.max": "400000 100000"}}, "/")
    assert num_cores() == 1
