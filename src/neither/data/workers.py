"""Processes that exist only while files are decoded or drawn."""

import ctypes
import multiprocessing.spawn
import os
import signal
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

from neither.runtime import signals
from neither.runtime.console import printable
from neither.runtime.errors import OutputError, UsageError
from neither.runtime.limits import free_memory, num_cores

Item = TypeVar("Item")
Result = TypeVar("Result")

_CHUNK_SIZE = 32  # items a message: enough to hide its cost, few enough to balance the load
_PROCESS_BYTES = 1 << 28  # of memory: 50 MB of code, a large image at full size and results
_CHUNKS_AHEAD = 4  # for each process; bounds memory whatever the number of items
_POLL_SECONDS = 1.0
_MAX_POLLS = 60  # without progress; counted, so that a suspended machine loses no time
_SLOT = struct.Struct("=i1020s")  # a process ID and the end of the path that it works on

_slot: Any = None  # of this process, in memory shared with its parent; None in the parent itself


def count_processes() -> int:
    """Return how many processes decode at a time: fewer than cores where memory is scarce."""
    return max(1, min(num_cores(), free_memory() // _PROCESS_BYTES))


def parallel_map(
    function: Callable[[Item], Result], items: Iterable[Item], chunk_size: int = _CHUNK_SIZE
) -> Generator[Result]:
    """Yield `function(item)` for each item, in order, computed on all cores.

    There are fewer processes than cores where memory is scarce.

    Args:
        function: a module-level function, so that another process can import it.
        items: taken only as they are needed. Two chunks or fewer are computed in this process, as
            others take longer to start.
        chunk_size: items a message to a process.

    Raises:
        OutputError: if a process is killed (mostly by lack of memory), or hangs for a minute.
        UsageError: if the processes cannot import the main script.
        Stopped: if a signal asks to stop.
    """
    remaining = iter(items)
    first = list(islice(remaining, 2 * chunk_size + 1))
    remaining = chain(first, remaining)
    num_processes = count_processes()
    if num_processes <= 1 or len(first) <= 2 * chunk_size:
        for item in remaining:
            signals.poll()
            yield function(item)
        return
    main_script = multiprocessing.spawn.get_preparation_data("").get("init_main_from_path")
    if main_script is not None and not Path(main_script).exists():
        raise _main_script_error(main_script, "but there is no such file")
    pending: deque[Future[list[Result]]] = deque()
    context = process_context()
    slots = context.RawArray(ctypes.c_char, num_processes * _SLOT.size)
    num_started = context.Value("i", 0)
    pool = ProcessPoolExecutor(num_processes, context, _init_worker, (slots, num_started))
    try:
        while True:
            while len(pending) < _CHUNKS_AHEAD * num_processes and (
                chunk := list(islice(remaining, chunk_size))
            ):
                pending.append(pool.submit(_apply, function, chunk))
            if not pending:
                return
            yield from _wait_for(pending.popleft(), slots)
    except BrokenProcessPool as error:
        signals.poll()  # a signal to the whole process group ends the workers too
        if main_script is not None and num_started.value == 0:
            raise _main_script_error(main_script, "and all of them ended there") from error
        names = " or ".join(name for _, name in _current_files(slots))
        raise OutputError(
            f"a process that decodes images was killed{' at ' if names else ''}{names}. The usual "
            "cause is too little memory: close other programs and start the same command again"
        ) from error
    except BaseException:
        for process, _ in _current_files(slots):  # its result is not needed, and it may hang
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def exit_if_imported_as_main() -> None:
    """End this process, without a message, if it is one of `parallel_map` at its start.

    It then runs the main script once more, up to the call that started it, which would start others
    in turn. The process that waits for it says what to do.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        sys.exit(1)


def mark_current_file(name: object) -> None:
    """Record the file that this process is about to read, in case it is killed or hangs there."""
    if _slot is not None:
        _slot[:] = _SLOT.pack(os.getpid(), os.fsencode(str(name))[-1020:])


def _main_script_error(path: str, what: str) -> UsageError:
    return UsageError(
        f"{printable(path)}: the processes that decode images import the main script, {what}. Save "
        "the script as a file, and call neither.train and neither.evaluate below the line\n"
        '       if __name__ == "__main__":'
    )


def _wait_for(future: Future[list[Result]], slots: Any) -> list[Result]:  # noqa: ANN401
    """Wait for a chunk as long as any process makes progress."""
    num_polls, before = 0, b""
    while True:
        signals.poll()
        try:
            return future.result(_POLL_SECONDS)
        except TimeoutError:
            if future.done():  # the function itself raised it
                raise
        num_polls, before = (num_polls + 1 if slots.raw == before else 0), slots.raw
        if num_polls == _MAX_POLLS:
            names = " and ".join(name for _, name in _current_files(slots))
            raise OutputError(f"no decoding process has made progress for a minute, at {names}. "
                              "Move these files away and start the same command again")  # fmt: skip


def _current_files(slots: Any) -> list[tuple[int, str]]:  # noqa: ANN401
    """Return the IDs of the processes that work on a file, each with its path."""
    parts = (_SLOT.unpack_from(slots, start) for start in range(0, len(slots), _SLOT.size))
    return [(id_, printable(os.fsdecode(name.rstrip(b"\0")))) for id_, name in parts if id_]


def _apply(function: Callable[[Item], Result], chunk: Sequence[Item]) -> list[Result]:
    try:
        return [function(item) for item in chunk]
    finally:
        if _slot is not None:
            _slot[:] = bytes(_SLOT.size)


def _init_worker(slots: Any, num_started: Any) -> None:  # noqa: ANN401
    global _slot
    with num_started.get_lock():
        start = num_started.value * _SLOT.size
        num_started.value += 1
    _slot = memoryview(slots).cast("B")[start : start + _SLOT.size]
    init_process()


def init_process() -> None:
    """Let this process ignore Ctrl-C, and end with its parent."""
    # In a terminal the signal reaches the whole process group; only the parent ends in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    # A parent that is killed sends no message; its workers would wait for work forever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def process_context() -> multiprocessing.context.BaseContext:
    """Return how processes start."""
    # Not fork: a forked child can wait forever for a lock that one of torch's threads holds.
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload([])  # a main script that ends would end the server with it
    return context
