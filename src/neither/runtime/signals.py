"""Cooperative handling of SIGINT, SIGTERM and SIGHUP.

The handler only sets a flag, which long loops poll where state can be saved. A second signal exits
at once; that is safe, since files are written atomically.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
_SIGNALS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
_received: signal.Signals | None = None
_is_deferred = False


class Stopped(Exception):  # noqa: N818 - not an error
    """A signal asked to stop, and the work stopped at a safe point."""

    def __init__(self, received: signal.Signals) -> None:
        super().__init__(f"stopped by {received.name}")
        # 128 + signal, as schedulers expect; SIGHUP counts as SIGTERM.
        self.exit_code = 130 if received == signal.SIGINT else 143


def poll() -> None:
    """Raise `Stopped` if a signal asked to stop."""
    if _received is not None and not _is_deferred:
        raise Stopped(_received)


def received() -> int:
    """Return the number of the signal that asked to stop; 0 if there was none."""
    return _received or 0


@contextmanager
def deferred(is_deferred: bool) -> Iterator[None]:
    """Make `poll` always return inside the block, if `is_deferred`.

    Processes that train together get a signal at different moments, and must agree where to stop
    (`distributed.World.poll_signals`).
    """
    global _is_deferred
    _is_deferred = is_deferred
    try:
        yield
    finally:
        _is_deferred = False


@contextmanager
def installed() -> Iterator[None]:
    """Handle signals inside the block and restore the previous handlers after it.

    A signal that the parent process ignores stays ignored, as `nohup` asks for SIGHUP and a shell
    for the SIGINT of what it runs in the background. Outside the main thread Python allows no
    handlers, and none are installed.
    """
    global _received
    _received = None
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # None: a handler that is not Python's, and could not be restored.
    kept = (signal.SIG_IGN, None)
    handled = [number for number in _SIGNALS if signal.getsignal(number) not in kept]
    previous = {number: signal.signal(number, _handle) for number in handled}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _received = None


def _handle(number: int, _frame: FrameType | None) -> None:
    global _received
    if _received is not None:
        os._exit(Stopped(_received).exit_code)
    _received = signal.Signals(number)
