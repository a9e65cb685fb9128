"""Fixtures that many tests use."""

import os
import signal
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from calls import Call, calling
from images import make_splits

# Two workers with two threads each would slow each other down on two cores; scripts that tests
# start inherit this. Runs are compared only with runs of the same number of threads.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A worker takes a file at a time, so a long one at the end would leave the other worker idle.
SLOWEST = ("test_two_processes", "test_readme", "test_torture", "test_environment", "test_trainer",
           "test_head", "test_cross_validation", "test_timm", "test_end_to_end", "test_evaluate",
           "test_export")  # fmt: skip

settings.register_profile(
    "few, the same each time", derandomize=True, deadline=None, max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
settings.load_profile("few, the same each time")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slowest files first."""
    items.sort(key=lambda item: item.path.stem not in SLOWEST)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape output that is not UTF-8, which pytest-xdist cannot send to its parent."""
    report = yield
    report.sections = [(title, text.encode(errors="backslashreplace").decode())
                       for title, text in report.sections]  # fmt: skip
    return report


@pytest.fixture(scope="session", autouse=True)
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give the tests, and the scripts they run, an image cache; save time in this process.

    It waits for no disk, and starts no processes, which would import torch, unless a test asks.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("neither.data.workers.num_cores", lambda: 1)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(os, "fsync", lambda _: None)  # what was written outlives a process anyway
        yield


@pytest.fixture(scope="module")
def no_plots() -> Iterator[None]:
    """Leave out most of the time of a tiny run; test_summaries.py and test_html.py test it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("neither.reporting.html._draw_plots", lambda *_: {})
        for name in ("log_run", "log_epoch"):
            patch.setattr(f"neither.training.summaries.{name}", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def small_backbone() -> Iterator[None]:
    from backbone import shrink  # imports torch, which reads OMP_NUM_THREADS once

    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        yield


@pytest.fixture
def make_images(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that makes a folder of images in three splits."""
    return partial(make_splits, tmp_path / "images")


@pytest.fixture
def watchdog() -> Iterator[None]:
    """Fail after 60 seconds."""

    def fail(*_: object) -> None:
        raise AssertionError("this hangs")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """Return a function that runs a command in this process as its script does."""
    with calling(monkeypatch, capsys) as run:
        yield run
