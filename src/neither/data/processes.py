"""Processes that exist only while images are decoded or drawn."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import TypeVar

from neither import stopping
from neither.errors import OutputError

Item = TypeVar("Item")
Result = TypeVar("Result")

_AT_ONCE = 32  # items a message: large enough to hide its cost, small enough to share work evenly
_AHEAD = 4  # chunks under way for each process: bounds memory whatever the number of items


def num_cores() -> int:
    """Count the cores that this process may use, not those the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_in_processes(
    function: Callable[[Item], Result], items: Iterable[Item], at_once: int = _AT_ONCE
) -> Iterator[Result]:
    """Yield `function(item)` for each item, in order, computed on all cores.

    Args:
        function: a module-level function, so that another process can import it.
        items: taken as they are needed; a short list is worked on right here, as processes take
            longer to start.
        at_once: items a message to a process.

    Raises:
        OutputError: if a process is killed (by lack of memory, mostly).
        Stopped: if a signal asks for an end.
    """
    coming = iter(items)
    first = list(islice(coming, 2 * at_once + 1))
    cores = num_cores()
    if cores == 1 or len(first) <= 2 * at_once:
        for item in chain(first, coming):
            stopping.poll()
            yield function(item)
        return
    coming = chain(first, coming)
    waiting: deque[Future[list[Result]]] = deque()
    pool = ProcessPoolExecutor(cores, mp_context=_context(), initializer=_serve_parent)
    try:
        while True:
            while len(waiting) < _AHEAD * cores and (chunk := list(islice(coming, at_once))):
                waiting.append(pool.submit(_apply, function, chunk))
            if not waiting:
                return
            stopping.poll()
            yield from waiting.popleft().result()
    except BrokenProcessPool as error:
        stopping.poll()  # a signal to the whole group ends the others too, which is no accident
        raise OutputError(
            "a process that decodes images was killed. The usual cause is too little memory: "
            "close other programs and start the same command again"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _apply(function: Callable[[Item], Result], chunk: Sequence[Item]) -> list[Result]:
    return [function(item) for item in chunk]


def _serve_parent() -> None:
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
