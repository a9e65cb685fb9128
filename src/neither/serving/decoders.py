"""Processes that decode what strangers send: one that dies or hangs is replaced."""

import asyncio
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from neither.data.image_file import UnreadableError
from neither.data.workers import init_process, process_context

Result = TypeVar("Result")

MAX_SECONDS = 60.0  # for one image, if other work keeps the processor busy
MAX_CPU_SECONDS = 10.0  # for one image; the largest that are read take 2


class Decoders:
    """A fixed number of processes that run functions for the event loop."""

    def __init__(self, num: int) -> None:
        """Start them; as many images are decoded at a time."""
        self._pools = [_start_process() for _ in range(num)]  # of one process each
        self._idle = list(range(num))
        self._free = asyncio.Semaphore(num)

    async def run(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Return what a module-level function returns in another process.

        If the caller is cancelled, the process still finishes before it counts as free. So the
        number of images in memory is bounded.

        Raises:
            UnreadableError: if the function raises it, the process is killed, or it takes more
                than 10 seconds of CPU time.
        """
        await self._free.acquire()
        work = asyncio.create_task(self._run(self._idle.pop(), function, arguments))
        # If the caller is cancelled, nobody else asks for the exception, and asyncio would log it.
        work.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(work)

    async def _run(
        self, index: int, function: Callable[..., Result], arguments: tuple[object, ...]
    ) -> Result:
        try:
            try:
                future = self._pools[index].submit(_call, MAX_CPU_SECONDS, function, arguments)
            except BrokenProcessPool:  # it was killed since its last use
                self._pools[index] = _start_process()
                future = self._pools[index].submit(_call, MAX_CPU_SECONDS, function, arguments)
            return await asyncio.wait_for(asyncio.wrap_future(future), MAX_SECONDS)
        except (BrokenProcessPool, TimeoutError):
            _kill(self._pools[index])
            self._pools[index] = _start_process()
            raise UnreadableError("decoding crashed, or took too long") from None
        finally:
            self._idle.append(index)
            self._free.release()

    def close(self) -> None:
        """Kill the processes."""
        for pool in self._pools:
            _kill(pool)


def _call(
    max_seconds: float, function: Callable[..., Result], arguments: tuple[object, ...]
) -> Result:
    """Call a function in this process, which ends if that takes more CPU time."""
    if hasattr(signal, "setitimer"):  # not on Windows
        signal.setitimer(signal.ITIMER_PROF, max_seconds)
    return function(*arguments)


def _start_process() -> ProcessPoolExecutor:
    pool = ProcessPoolExecutor(1, process_context(), init_process)
    pool.submit(int)  # before the first image comes
    return pool


def _kill(pool: ProcessPoolExecutor) -> None:
    for process in list(pool._processes.values()):
        process.kill()
    pool.shutdown(cancel_futures=True)
