"""Downloads by other libraries, given manners: a signal ends them, and so does silence."""

import socket
import sys
import tarfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager, redirect_stderr
from http.client import HTTPException
from io import StringIO
from threading import Thread
from typing import TypeVar
from urllib.error import HTTPError

from neither import stopping
from neither.errors import OutputError
from neither.terminal import printable

Result = TypeVar("Result")

_SILENCE_SECONDS = 60.0  # after which a server counts as gone
_POLL_SECONDS = 0.1

# What urllib, tarfile and checks of sums raise; URLError is an OSError.
_FAILURES = (OSError, RuntimeError, EOFError, HTTPException, tarfile.TarError, zlib.error)


def fetch(function: Callable[[], Result], what: str, url: str, otherwise: str) -> Result:
    """Call a function that downloads, and return what it returns.

    Args:
        function: may leave something half made if it is cut off, and must find that out itself.
        what: is wanted.
        url: where from.
        otherwise: what a user without a network can do.

    Raises:
        OutputError: if it fails, on one line: what, the reason, and what to do.
        Stopped: if a signal asks for an end.
    """
    try:
        with _quiet():
            return _run_aside(function)
    except _FAILURES as error:
        reason = printable(getattr(error, "reason", error))
        if isinstance(error, HTTPError):  # is also an answer, whose connection stays open
            error.close()
        raise OutputError(
            f"{what} cannot be had from {url} ({reason}). Try again, or {otherwise}"
        ) from error


def _run_aside(function: Callable[[], Result]) -> Result:
    """Wait for a function that never polls, such as a download, but no longer than a signal asks.

    A daemon thread, which does not keep the program from ending. What it leaves half written fails
    the check of its sum the next time and is made anew.
    """
    future: Future[Result] = Future()

    def work() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=work, daemon=True).start()
    while not future.done():
        stopping.poll()
        wait([future], _POLL_SECONDS)
    return future.result()


@contextmanager
def _quiet() -> Iterator[None]:
    """No bar but on a terminal, no warnings, no waiting for ever."""
    before = socket.getdefaulttimeout()
    with ExitStack() as stack:
        stack.callback(socket.setdefaulttimeout, before)
        socket.setdefaulttimeout(_SILENCE_SECONDS)
        # NumPy 2.4.0 to 2.4.4 warn of pickles as old as CIFAR's; nobody can change them any more.
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        if not sys.stderr.isatty():
            stack.enter_context(redirect_stderr(StringIO()))
        yield
