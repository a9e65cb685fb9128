import multiprocessing
import operator
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import Mock

import pytest

from neither.data import workers
from neither.data.dataset_report import _inspect_file
from neither.data.decode import decode_file
from neither.data.store import _decode_chunk
from neither.data.workers import parallel_map
from neither.reporting import html
from neither.runtime import signals
from neither.runtime.errors import OutputError, UsageError
from neither.runtime.signals import Stopped

Patch = pytest.MonkeyPatch

# Functions of the standard library: another process can import them wherever it starts.
EVALUATE: Callable[[str], Any] = eval
PID = "__import__('os').getpid()"


@pytest.fixture
def two_cores(monkeypatch: Patch) -> None:
    monkeypatch.setattr(workers, "num_cores", lambda: 2)


def run(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    return list(parallel_map(function, items))


@pytest.mark.usefixtures("two_cores")
def test_a_short_list_is_computed_in_this_process() -> None:
    assert set(run(EVALUATE, [PID] * 64)) == {os.getpid()}
    assert list(parallel_map(EVALUATE, iter([PID] * 64))) == [os.getpid()] * 64
    assert run(operator.neg, []) == []


@pytest.mark.usefixtures("two_cores")
def test_a_long_list_is_computed_in_other_processes_in_order_and_none_stays() -> None:
    items = [f"({number}, {PID})" for number in range(331)]
    results = run(EVALUATE, items)
    assert [number for number, _ in results] == list(range(331))
    assert os.getpid() not in {pid for _, pid in results}
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(("cores", "free", "num"), [
    (64, 2**31, 8), (2, 2**31, 2), (64, 2**34, 64), (64, 2**29, 2),
])  # fmt: skip
def test_there_are_no_more_processes_than_memory_allows(
    monkeypatch: Patch, cores: int, free: int, num: int
) -> None:
    monkeypatch.setattr(workers, "num_cores", lambda: cores)
    monkeypatch.setattr(workers, "free_memory", lambda: free)
    pool = Mock(side_effect=RuntimeError("enough"))
    monkeypatch.setattr(workers, "ProcessPoolExecutor", pool)
    with pytest.raises(RuntimeError, match="enough"):
        run(operator.neg, range(100))
    assert pool.call_args.args[0] == num
    monkeypatch.setattr(workers, "free_memory", lambda: 2**28)  # for one: this process decodes
    assert run(operator.neg, range(100)) == [-number for number in range(100)]


@pytest.mark.fault("R21")
@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_both_start_methods_give_the_same_results(
    method: str, monkeypatch: Patch, watchdog: None
) -> None:
    """Even while another thread holds a lock, as torch's do; fork would hang."""
    monkeypatch.setattr(workers, "process_context", lambda: multiprocessing.get_context(method))
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
    assert workers.process_context().get_start_method() != "fork"


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("script", [
    None, "neither.train('config.yaml')", "neither.evaluate('run', 'images')", "raise SystemExit"
])  # fmt: skip
def test_a_main_script_that_processes_cannot_import_is_an_error_with_a_remedy(
    script: str | None, tmp_path: Path, monkeypatch: Patch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It comes from standard input, or starts the work again in each process."""
    main = ModuleType("__main__")
    main.__file__ = str(tmp_path / "<stdin>")
    if script is not None:
        Path(main.__file__).write_text(f"import neither\n{script}\n")
    monkeypatch.setitem(sys.modules, "__main__", main)
    with pytest.raises(UsageError, match=r'(?s)<stdin>: .*__name__ == "__main__"') as error:
        run(operator.neg, range(100))
    assert "memory" not in str(error.value)
    assert capfd.readouterr().err == ""
    assert multiprocessing.active_children() == []


def counted(taken: list[int]) -> Iterator[int]:
    for number in count():
        taken.append(number)
        yield number


@pytest.mark.parametrize("cores", [1, 2])
def test_items_are_taken_only_as_they_are_needed(monkeypatch: Patch, cores: int) -> None:
    monkeypatch.setattr(workers, "num_cores", lambda: cores)
    taken: list[int] = []
    results = parallel_map(operator.neg, counted(taken))
    assert list(islice(results, 500)) == [-number for number in range(500)]
    assert len(taken) <= 500 + (65 if cores == 1 else 2 * 4 * 32 + 32)
    assert isinstance(results, Iterator)
    results.close()
    assert multiprocessing.active_children() == []


ENDLESS_WORK = """
import operator
from itertools import count
from neither.data import workers
workers.num_cores = lambda: 2
if __name__ == "__main__":
    for number in workers.parallel_map(operator.neg, count()):
        if number == -300:
            print("at work", flush=True)
"""


@pytest.mark.fault("R15")
def test_when_the_parent_is_killed_its_processes_end_too(tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(ENDLESS_WORK)
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


WORK = "__import__('neither.data.workers').data.workers.mark_current_file('{}')"


@pytest.mark.fault("R15")
@pytest.mark.usefixtures("two_cores")
def test_the_file_that_kills_a_process_is_named() -> None:
    """Control characters in its name are escaped."""
    deadly = WORK.format("sound.jpg") + ", " + WORK.format("deadly \\x1b[2J.jpg")
    items = [*["1"] * 70, deadly + ", __import__('os').kill(__import__('os').getpid(), 9)"]
    with pytest.raises(OutputError, match=r"at deadly \\x1b\[2J\.jpg\."):
        run(EVALUATE, items)
    assert multiprocessing.active_children() == []


@pytest.mark.fault("R15")
@pytest.mark.usefixtures("two_cores")
def test_the_file_at_which_a_process_hangs_is_named(monkeypatch: Patch, watchdog: None) -> None:
    monkeypatch.setattr(workers, "_MAX_POLLS", 2)
    items = [*["1"] * 70, WORK.format("endless.jpg") + ", __import__('time').sleep(1000)"]
    with pytest.raises(OutputError, match=r"at endless\.jpg\."):
        run(EVALUATE, items)
    assert multiprocessing.active_children() == []


@pytest.mark.usefixtures("two_cores")
def test_a_signal_ends_the_wait_for_a_process_that_hangs(watchdog: None) -> None:
    signal_sent = f", __import__('os').kill({os.getpid()}, 15), __import__('time').sleep(1000)"
    items = [*["1"] * 70, WORK.format("endless.jpg") + signal_sent]
    with signals.installed(), pytest.raises(Stopped):
        run(EVALUATE, items)


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


@pytest.mark.usefixtures("two_cores")
def test_processes_that_decode_or_draw_thumbnails_import_no_torch(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    functions: list[Any] = [decode_file, _decode_chunk, _inspect_file]

    def spy(function: Any, items: Sequence[Path]) -> list[bytes]:  # noqa: ANN401
        functions.append(function)
        return [b""] * len(items)

    monkeypatch.setattr(html, "parallel_map", spy)
    html.make_thumbnails([tmp_path])
    modules = {getattr(each, "func", each).__module__ for each in functions}
    imports = [
        f"__import__({name!r}) and 0, 'torch' in __import__('sys').modules" for name in modules
    ]
    results = run(EVALUATE, imports + ["None, 0"] * 64)
    assert not any(has_torch for _, has_torch in results)
