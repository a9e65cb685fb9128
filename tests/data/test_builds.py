"""Stores built by several processes at once, and by ones that are killed."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import pytest

import builds

Draw = Callable[..., Path]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def photos(tmp_path: Path, draw: Draw) -> Path:
    for number in range(40):
        draw(tmp_path / "photos" / f"{number:03}.png", number)
    (tmp_path / "photos/bad.jpg").write_bytes(b"no picture")
    return tmp_path / "photos"


@contextmanager
def started(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Run builds.py; what is left of it at the end is killed."""
    with subprocess.Popen(
        [sys.executable, builds.__file__, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


def line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline()


def test_a_build_that_is_killed_at_any_moment_leaves_nothing_wrong(photos: Path) -> None:
    with started("kill", photos) as process:
        out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert int(out.split()[1]) >= 40  # steps: else little was tried


def test_a_build_in_processes_that_is_killed_leaves_nothing_wrong(photos: Path, draw: Draw) -> None:
    for number in range(40, 300):
        draw(photos / f"{number:03}.png", number)
    for turns in (1, 4, 9):
        with started("pool", photos) as process:
            for _ in range(turns):
                assert line(process.stdout) == "written\n"
            process.kill()
            process.communicate(timeout=60)  # which ends when all its processes have
        builds.check(builds.build(photos), photos)
        shutil.rmtree(os.environ["XDG_CACHE_HOME"])


@pytest.mark.usefixtures("watchdog")
def test_two_builds_at_once_are_both_right_and_decode_each_file_once(
    photos: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with started("build", photos, log) as first:
        assert line(first.stdout) == "decoding\n"
        with started("build", photos, log) as second:
            assert "another run is decoding these images" in line(second.stderr)
            assert not log.exists()
            assert first.communicate("\n", timeout=60)[0] == "right\n"
            assert second.communicate("\n", timeout=60)[0] == "right\n"
    assert sorted(log.read_text().split()) == builds.names_in(photos)


def test_builds_that_start_together_decode_each_file_once(photos: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with started("build", photos, log) as one, started("build", photos, log) as other:
        for process in (one, other):
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        for process in (one, other):
            assert process.communicate(timeout=60)[0].endswith("right\n")
    assert sorted(log.read_text().split()) == builds.names_in(photos)


def test_a_mapped_array_stays_as_it_is_while_another_process_builds(
    photos: Path, tmp_path: Path, draw: Draw, home: Path
) -> None:
    mapped = builds.build(photos).pixels
    before = np.array(mapped)
    for number in range(20):
        draw(photos / f"new {number}.png", 500 + number)
        draw(photos / f"{number:03}.png", 900 + number)
    with started("build", photos, tmp_path / "log") as process:
        assert process.communicate("\n", timeout=60)[0].endswith("right\n")
    assert len((tmp_path / "log").read_text().splitlines()) == 40
    assert np.array_equal(mapped, before)
    shutil.rmtree(home)
    assert np.array_equal(mapped, before)
