"""Processes that decode what strangers send: one that dies or hangs is replaced."""

import asyncio
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, TypeVar

from neither.data.image_file import UnreadableError
from neither.data.workers import exit_with_parent, process_context

Result = TypeVar("Result")

MAX_SECONDS = 10.0  # for one image; the largest that are read take 2


class Decoders:
    """A fixed number of processes that run functions for the event loop."""

    def __init__(self, num: int) -> None:
        """Start them.

        Args:
            num: number of processes; as many images are decoded at a time.
        """
        self._threads = ThreadPoolExecutor(num, "decoder")  # each waits for one process
        self._free = asyncio.Semaphore(num)
        self._idle: SimpleQueue[_Process] = SimpleQueue()
        for _ in range(num):
            self._idle.put(_Process())

    async def run(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Return what a module-level function returns in another process.

        If the caller is cancelled, the process still finishes before it counts as free. So the
        number of images in memory is bounded.

        Raises:
            UnreadableError: if the function raises it, the process is killed, or it takes longer
                than 10 seconds.
        """
        await self._free.acquire()
        work = asyncio.get_running_loop().run_in_executor(
            self._threads, self._run, function, arguments
        )
        work.add_done_callback(lambda _: self._free.release())
        return await asyncio.shield(work)

    def _run(self, function: Callable[..., Result], arguments: tuple[object, ...]) -> Result:
        process = self._idle.get()
        try:
            return process.run(function, arguments)
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """Kill the processes."""
        self._threads.shutdown()
        while not self._idle.empty():
            self._idle.get().kill()


class _Process:
    """One process, which starts again at its next use if it was killed."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        context = process_context()
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs,), daemon=True)  # type: ignore[attr-defined]
        self._process.start()
        theirs.close()

    def run(self, function: Callable[..., Result], arguments: tuple[object, ...]) -> Result:
        if not self._process.is_alive():
            self._start()
        try:
            self._connection.send((function, arguments))
            if not self._connection.poll(MAX_SECONDS):
                raise TimeoutError
            result, error = self._connection.recv()
        except (OSError, EOFError) as lost:
            self.kill()
            is_slow = isinstance(lost, TimeoutError)
            reason = f"decoding took over {MAX_SECONDS:.0f} s" if is_slow else "decoding crashed"
            raise UnreadableError(reason) from None
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()


def _work(connection: Connection) -> None:
    """Run what the parent sends until it closes the connection; the parent may kill this."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal, to the whole process group
    threading.Thread(target=exit_with_parent, daemon=True).start()
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        answer: tuple[Any, Exception | None]
        try:
            answer = function(*arguments), None
        except Exception as error:
            answer = None, error
        connection.send(answer)
        del function, arguments, answer  # the memory of a large image, while this waits
