"""The official CIFAR sets, downloaded, checked and read by torchvision."""

import socket
import sys
import tarfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass
from http.client import HTTPException
from io import StringIO
from pathlib import Path
from threading import Thread
from typing import TypeVar
from urllib.error import HTTPError

import numpy as np
from numpy.typing import NDArray

from neither import stopping
from neither.errors import OutputError
from neither.files import cache_folder
from neither.terminal import printable, say

Result = TypeVar("Result")

_SILENCE_SECONDS = 60.0  # after which a server counts as gone
_POLL_SECONDS = 0.1

# What urllib, tarfile and torchvision's check of the sums raise; URLError is an OSError.
_FAILURES = (OSError, RuntimeError, EOFError, HTTPException, tarfile.TarError, zlib.error)


@dataclass(frozen=True)
class OfficialSet:
    """One of four: the train or the test set of CIFAR-10 or CIFAR-100 (Krizhevsky, 2009).

    Attributes:
        name: cifar10 or cifar100.
        part: train or test.
        pixels: (N, 32, 32, 3) uint8 RGB.
        kinds: N fine labels, such as dog or aquarium_fish.
    """

    name: str
    part: str
    pixels: NDArray[np.uint8]
    kinds: list[str]


def download_folder() -> Path:
    """Return where downloads lie, so that no command downloads twice.

    Raises:
        OutputError: if the user has no home.
    """
    return cache_folder() / "cifar"


def fetch_sets(folder: Path) -> list[OfficialSet]:
    """Read all four sets, downloading only what does not lie in the folder with the right sums.

    Raises:
        OutputError: if a set cannot be had, saying which files to put where by hand.
        Stopped: if a signal asks for an end; a download goes on from nothing the next time.
    """
    # Here, as the commands check the installation before anything imports torchvision.
    from torchvision.datasets import CIFAR10, CIFAR100

    sources = {"cifar10": CIFAR10, "cifar100": CIFAR100}
    archives = " and ".join(source.filename for source in sources.values())
    sets = []
    for name, source in sources.items():
        say(f"reading {source.__name__}; what is not yet in {folder} is downloaded")
        for part in ("train", "test"):

            def read(name: str = name, part: str = part) -> OfficialSet:
                data = sources[name](folder, train=part == "train", download=True)
                return OfficialSet(name, part, data.data, [data.classes[k] for k in data.targets])

            try:
                with _quiet():
                    sets.append(_run_aside(read))
            except _FAILURES as error:
                reason = printable(getattr(error, "reason", error))
                if isinstance(error, HTTPError):  # is also an answer, whose connection stays open
                    error.close()
                raise OutputError(
                    f"{source.__name__} cannot be had from {source.url} ({reason}). Try again, or "
                    f"put {archives}, fetched elsewhere, into {folder}"
                ) from error
    return sets


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
    """Give torchvision manners: no bar but on a terminal, no warnings, no waiting for ever."""
    before = socket.getdefaulttimeout()
    with ExitStack() as stack:
        stack.callback(socket.setdefaulttimeout, before)
        socket.setdefaulttimeout(_SILENCE_SECONDS)
        # NumPy 2.4.0 to 2.4.4 warn of pickles as old as these; nobody can change them any more.
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        if not sys.stderr.isatty():
            stack.enter_context(redirect_stderr(StringIO()))
        yield
