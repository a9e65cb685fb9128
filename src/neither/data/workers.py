"""Processes that exist only while images are decoded or drawn."""

import ctypes
import multiprocessing
import os
import signal
import struct
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from itertools import chain, islice
from typing import Any, TypeVar

from neither.runtime import signals
from neither.runtime.console import printable
from neither.runtime.errors import OutputError

Item = TypeVar("Item")
Result = TypeVar("Result")

_AT_ONCE = 32  # items a message: large enough to hide its cost, small enough to share work evenly
_AHEAD = 4  # chunks under way for each process: bounds memory whatever the number of items
_LOOK_EVERY_SECONDS = 1.0
_MAX_LOOKS = 60  # in which nothing moves; counted, so that a suspended machine loses no time
_SLOT = struct.Struct("=i1020s")  # a process's number and the end of the name it is at work on

_slot: Any = None  # of this process, in memory that its parent sees; None in the parent itself


def num_cores() -> int:
    """Count the cores that this process may use, not those the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def parallel_map(
    function: Callable[[Item], Result], items: Iterable[Item], at_once: int = _AT_ONCE
) -> Generator[Result]:
    """Yield `function(item)` for each item, in order, computed on all cores.

    Args:
        function: a module-level function, so that another process can import it.
        items: taken as they are needed; a short list is worked on right here, as processes take
            longer to start.
        at_once: items a message to a process.

    Raises:
        OutputError: if a process is killed (by lack of memory, mostly), or does not come back.
        Stopped: if a signal asks for an end.
    """
    coming = iter(items)
    first = list(islice(coming, 2 * at_once + 1))
    cores = num_cores()
    if cores == 1 or len(first) <= 2 * at_once:
        for item in chain(first, coming):
            signals.poll()
            yield function(item)
        return
    coming = chain(first, coming)
    waiting: deque[Future[list[Result]]] = deque()
    context = _context()
    slots = context.RawArray(ctypes.c_char, cores * _SLOT.size)
    number = context.Value("i", 0)
    pool = ProcessPoolExecutor(cores, context, _serve_parent, (slots, number))
    try:
        while True:
            while len(waiting) < _AHEAD * cores and (chunk := list(islice(coming, at_once))):
                waiting.append(pool.submit(_apply, function, chunk))
            if not waiting:
                return
            yield from _wait_for(waiting.popleft(), slots)
    except BrokenProcessPool as error:
        signals.poll()  # a signal to the whole group ends the others too, which is no accident
        names = " or ".join(name for _, name in _at_work(slots))
        raise OutputError(
            f"a process that decodes images was killed{' at ' if names else ''}{names}. The usual "
            "cause is too little memory: close other programs and start the same command again"
        ) from error
    except BaseException:
        for process, _ in _at_work(slots):  # to no use any more, and it may never come back
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def mark_current_file(name: object) -> None:
    """Note what this process is about to read, in case it never comes back from there."""
    if _slot is not None:
        _slot[:] = _SLOT.pack(os.getpid(), os.fsencode(str(name))[-1020:])


def _wait_for(future: Future[list[Result]], slots: Any) -> list[Result]:  # noqa: ANN401
    """Wait for a chunk as long as anything moves."""
    looks, before = 0, b""
    while True:
        signals.poll()
        try:
            return future.result(_LOOK_EVERY_SECONDS)
        except TimeoutError:
            if future.done():  # then it is the function's own
                raise
        looks, before = (looks + 1 if slots.raw == before else 0), slots.raw
        if looks == _MAX_LOOKS:
            names = " and ".join(name for _, name in _at_work(slots))
            raise OutputError(f"no process has come back for a minute; they were at {names}. "
                              "Move these files away and start the same command again")  # fmt: skip


def _at_work(slots: Any) -> list[tuple[int, str]]:  # noqa: ANN401
    """Return the processes that are in the middle of something, and of what."""
    parts = (_SLOT.unpack_from(slots, start) for start in range(0, len(slots), _SLOT.size))
    return [
        (process, printable(os.fsdecode(name.rstrip(b"\0")))) for process, name in parts if process
    ]


def _apply(function: Callable[[Item], Result], chunk: Sequence[Item]) -> list[Result]:
    try:
        return [function(item) for item in chunk]
    finally:
        if _slot is not None:
            _slot[:] = bytes(_SLOT.size)


def _serve_parent(slots: Any, number: Any) -> None:  # noqa: ANN401
    global _slot
    with number.get_lock():
        start = number.value * _SLOT.size
        number.value += 1
    _slot = memoryview(slots).cast("B")[start : start + _SLOT.size]
    # Ctrl-C reaches the whole group of a terminal; only the parent knows how to end in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # One that was killed cannot tell; its processes would wait for work for ever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _context() -> multiprocessing.context.BaseContext:
    # Never plain fork: torch's threads hold locks that a forked child would wait for, for ever.
    methods = multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
