import multiprocessing
import operator
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest

from neither.data import workers
from neither.data.workers import num_cores, parallel_map
from neither.runtime import signals
from neither.runtime.errors import OutputError
from neither.runtime.signals import Stopped

# Functions of the standard library: another process can import them wherever it starts.
WHO: Callable[[str], Any] = eval
PID = "__import__('os').getpid()"


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "num_cores", lambda: 2)


def run(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    return list(parallel_map(function, items))


def test_the_cores_that_may_be_used_are_counted() -> None:
    assert 1 <= num_cores() <= (os.cpu_count() or 1)
    if hasattr(os, "sched_getaffinity"):
        assert num_cores() == len(os.sched_getaffinity(0))


@pytest.mark.usefixtures("two_cores")
def test_a_short_list_is_worked_on_right_here() -> None:
    assert set(run(WHO, [PID] * 64)) == {os.getpid()}
    assert run(operator.neg, []) == []


@pytest.mark.usefixtures("two_cores")
def test_a_long_list_is_worked_on_elsewhere_in_order_and_no_process_stays() -> None:
    items = [f"({number}, {PID})" for number in range(331)]
    results = run(WHO, items)
    assert [number for number, _ in results] == list(range(331))
    assert os.getpid() not in {pid for _, pid in results}
    assert multiprocessing.active_children() == []


def test_on_one_core_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "num_cores", lambda: 1)
    assert set(run(WHO, [PID] * 100)) == {os.getpid()}


@pytest.mark.fault("R21")
@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_however_processes_are_started_the_results_are_the_same(
    method: str, monkeypatch: pytest.MonkeyPatch, watchdog: None
) -> None:
    """Beside threads that hold locks, as torch's do; plain fork is never used for that."""
    monkeypatch.setattr(workers, "_context", lambda: multiprocessing.get_context(method))
    lock, done = threading.Lock(), threading.Event()

    def hold() -> None:
        with lock:
            done.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert run(operator.neg, range(200)) == [-number for number in range(200)]
    finally:
        done.set()
        holder.join()
    assert workers._context().get_start_method() != "fork"


def counted(taken: list[int]) -> Iterator[int]:
    for number in count():
        taken.append(number)
        yield number


@pytest.mark.parametrize("cores", [1, 2])
def test_items_are_taken_only_as_they_are_needed(
    monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    monkeypatch.setattr(workers, "num_cores", lambda: cores)
    taken: list[int] = []
    results = parallel_map(operator.neg, counted(taken))
    assert list(islice(results, 500)) == [-number for number in range(500)]
    assert len(taken) <= 500 + (65 if cores == 1 else 2 * 4 * 32 + 32)
    assert isinstance(results, Iterator)
    results.close()
    assert multiprocessing.active_children() == []


@pytest.mark.usefixtures("two_cores")
def test_a_few_of_a_stream_are_worked_on_right_here() -> None:
    assert run(WHO, iter([PID] * 64)) == [os.getpid()] * 64  # type: ignore[arg-type]


WORK_FOR_EVER = """
import operator
from itertools import count
from neither.data import processes
processes.num_cores = lambda: 2
if __name__ == "__main__":
    for number in processes.map_in_processes(operator.neg, count()):
        if number == -300:
            print("at work", flush=True)
"""


@pytest.mark.fault("R15")
def test_when_the_parent_is_killed_its_processes_end_too(tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(WORK_FOR_EVER)
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"at work\n"
        parent.kill()
        # Each process holds the pipe that this reads until all have closed it.
        parent.communicate(timeout=60)


@pytest.mark.usefixtures("two_cores")
def test_a_killed_process_is_an_error_with_a_remedy() -> None:
    with pytest.raises(OutputError, match=r"was killed.*too little memory"):
        run(os._exit, [9] * 100)
    assert multiprocessing.active_children() == []


WORK = (
    "(lambda work: work)(__import__('neither.data.workers').data.workers.mark_current_file('{}'))"
)


@pytest.mark.fault("R15")
@pytest.mark.usefixtures("two_cores")
def test_the_file_that_kills_a_process_is_named() -> None:
    """And a name that would drive the terminal is escaped."""
    deadly = WORK.format("sound.jpg") + ", " + WORK.format("deadly \\x1b[2J.jpg")
    items = [*["1"] * 70, deadly + ", __import__('os').kill(__import__('os').getpid(), 9)"]
    with pytest.raises(OutputError, match=r"was killed at deadly \\x1b\[2J\.jpg\. The usual"):
        run(WHO, items)
    assert multiprocessing.active_children() == []


@pytest.mark.fault("R15")
@pytest.mark.usefixtures("two_cores")
def test_the_file_that_a_process_does_not_come_back_from_is_named(
    monkeypatch: pytest.MonkeyPatch, watchdog: None
) -> None:
    """A minute's patience, here without the minute."""
    monkeypatch.setattr(workers, "_MAX_LOOKS", 2)
    items = [*["1"] * 70, WORK.format("endless.jpg") + ", __import__('time').sleep(1000)"]
    with pytest.raises(OutputError, match=r"no process has come back .* at endless\.jpg\. Move"):
        run(WHO, items)
    assert multiprocessing.active_children() == []


@pytest.mark.usefixtures("two_cores")
def test_a_signal_ends_the_wait_for_a_process_that_does_not_come_back(watchdog: None) -> None:
    items = [*["1"] * 70, WORK.format("endless.jpg") + ", __import__('time').sleep(1000)"]
    timer = threading.Timer(2.0, os.kill, (os.getpid(), 15))
    timer.start()
    with signals.installed(), pytest.raises(Stopped):
        run(WHO, items)


@pytest.mark.usefixtures("two_cores")
def test_an_error_in_a_process_is_raised_here() -> None:
    with pytest.raises(ZeroDivisionError):
        run(WHO, ["1 / 0"] * 100)
    assert multiprocessing.active_children() == []


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("num", [10, 1000])
def test_a_signal_ends_the_work(num: int) -> None:
    done = []

    def work() -> None:
        for result in parallel_map(operator.neg, range(num)):
            done.append(result)
            if len(done) == 5:
                os.kill(os.getpid(), 15)

    with signals.installed(), pytest.raises(Stopped):
        work()
    assert 5 <= len(done) < num
    assert multiprocessing.active_children() == []
