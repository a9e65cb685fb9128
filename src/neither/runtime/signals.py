"""The flag that signals set and long loops poll.

A handler only notes the signal; work stops at the next safe point, where state can be saved. A
second signal leaves at once: everything on disk was written whole, so nothing can be harmed.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
_received: signal.Signals | None = None
_held = False


class Stopped(Exception):  # noqa: N818 - a request that was met, not an error
    """The user or the system asked for an end, and it was reached in good order."""

    def __init__(self, received: signal.Signals) -> None:
        super().__init__(f"stopped by {received.name}")
        # The schedulers' convention (128 + signal), a lost terminal counting as a termination.
        self.exit_code = 130 if received == signal.SIGINT else 143


def poll() -> None:
    """Return if work may go on.

    Raises:
        Stopped: if a signal has asked for an end.
    """
    if _received is not None and not _held:
        raise Stopped(_received)


def received() -> int:
    """Return the number of the signal that asked for an end, 0 if none has."""
    return _received or 0


@contextmanager
def deferred(is_held: bool) -> Iterator[None]:
    """Let `poll` always return inside the block, if so asked.

    That is for what several processes do together: a signal comes to each at another moment, and
    they must agree where to stop (`Ranks.poll`).
    """
    global _held
    _held = is_held
    try:
        yield
    finally:
        _held = False


def _handle(number: int, _frame: FrameType | None) -> None:
    global _received
    if _received is not None:
        os._exit(Stopped(_received).exit_code)
    _received = signal.Signals(number)


@contextmanager
def installed() -> Iterator[None]:
    """Note SIGINT, SIGTERM and SIGHUP inside the block; put the old handlers back after it.

    Outside the main thread signals belong to somebody else, so nothing is installed there.
    """
    global _received
    _received = None
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = {number: signal.signal(number, _handle) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        _received = None
