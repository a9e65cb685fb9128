"""Progress, tables and messages.

Results go to standard output; progress and messages to standard error and, inside `logged_to`, to a
file. Nothing here may stop the work: a full disk or a closed pipe costs a line, not a run.
"""

import logging
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_LINE_EVERY_SECONDS = 10.0
_NOTE_EVERY_SECONDS = 1.0
_FILE_ONLY = logging.DEBUG + 1

_log = logging.getLogger("neither")


class _Console(Console):
    """Leave a closed pipe to the caller; rich alone would end the program with exit code 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


_messages = _Console(stderr=True, highlight=False, markup=False, emoji=False)
_results = _Console(highlight=False, markup=False, emoji=False)


class _ConsoleHandler(logging.Handler):
    """Print above a live progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == _FILE_ONLY:
            return
        style = {logging.WARNING: "yellow", logging.ERROR: "bold red"}.get(record.levelno, "")
        try:
            _messages.print(Text(record.getMessage(), style=style), soft_wrap=True)
        except (OSError, ValueError):
            with suppress(OSError, ValueError), _messages.capture():
                pass  # forgets the line, which rich would keep and try again
            self.handleError(record)


class _FileHandler(logging.FileHandler):
    """Say once that the log cannot be written, and go on without it."""

    _failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not self._failed:
            self._failed = True
            with suppress(OSError, ValueError):
                text = f"warning: {self.baseFilename}: cannot be written: {sys.exc_info()[1]}"
                _messages.print(Text(text, style="yellow"), soft_wrap=True)

    def close(self) -> None:
        with suppress(OSError):  # what could not be written would be tried again
            super().close()


def printable(text: object) -> str:
    """Escape what could drive a terminal or break a line: a file name may hold any character."""
    return "".join(
        letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(text)
    )  # surrogates, which stand for bytes that are no UTF-8, are not printable either


def info(message: str) -> None:
    """Tell the user what is going on."""
    _log.info(message)


def warn(message: str) -> None:
    """Tell the user what deserves a look."""
    _log.warning("warning: %s", message)


def report_error(message: str) -> None:
    """Tell the user why the command ends here."""
    _log.error("error: %s", message)


def log_only(message: str) -> None:
    """Put what is too long for the screen into the log file."""
    _log.log(_FILE_ONLY, message)


def log_traceback() -> None:
    """Put the exception being handled into the log file, not on the screen."""
    _log.log(_FILE_ONLY, "traceback", exc_info=True)


def _note_thread(failed: threading.ExceptHookArgs) -> None:
    """Log what ended a thread: whoever waits for it tells the user, TensorBoard's writer too."""
    _log.log(_FILE_ONLY, "traceback of a thread", exc_info=failed.exc_value)


def setup_console() -> None:
    """Send messages to standard error; called once by each command.

    Only here are settings of the whole process touched: whoever imports us keeps their own.
    """
    _log.setLevel(_FILE_ONLY)
    _log.propagate = False
    logging.raiseExceptions = False  # a message that cannot be written is lost, no more
    # Where the home folder cannot be written it keeps its fonts elsewhere: no news to our user.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    threading.excepthook = _note_thread
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a character the locale lacks becomes an escape
            stream.reconfigure(errors="backslashreplace")
    if not any(isinstance(handler, _ConsoleHandler) for handler in _log.handlers):
        _log.addHandler(_ConsoleHandler())


def silence(is_silent: bool) -> None:
    """Keep messages and results from the terminal, or let them through again."""
    _messages.quiet = _results.quiet = is_silent


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Append all messages, with the time, to a file inside the block."""
    handler = _FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    before = _log.level
    _log.setLevel(_FILE_ONLY)
    _log.addHandler(handler)
    try:
        yield
    finally:
        _log.removeHandler(handler)
        _log.setLevel(before)
        handler.close()


def print_line(text: str) -> None:
    """Print a line of results."""
    _results.print(Text(text), soft_wrap=True)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table of results: the first column names the row, the others are figures."""
    print_line(title)
    table = Table()
    for index, column in enumerate(columns):
        table.add_column(Text(printable(column)), justify="right" if index else "left")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    _results.print(table)


class ProgressBar:
    """How far a long task is: a live bar on a terminal, a line now and then elsewhere."""

    def __init__(self, title: str, total: int, done: int, unit: str, live: Progress | None) -> None:
        self._title, self._total, self._unit, self._live = title, total, unit, live
        self._first = self._done = done
        self._started = self._said = self._noted = time.monotonic()
        self._note = ""
        if live is not None:
            self._task = live.add_task(title, total=total, completed=done, note="")

    def advance(self) -> None:
        """Count one finished step."""
        self.reach(self._done + 1, self._total)

    def reach(self, done: int, total: int) -> None:
        """Say how many of how many steps are finished."""
        self._done, self._total = done, total
        if self._live is not None:
            self._live.update(self._task, completed=done, total=total)
        elif time.monotonic() - self._said >= _LINE_EVERY_SECONDS:
            self._said = time.monotonic()
            parts = [f"{self._title}: {done:,} of {total:,} {self._unit}"]
            if done > self._first:
                pace = (self._said - self._started) / (done - self._first)
                parts.append(f"{pace * (total - done):.0f} s left")
            parts.append(self._note)
            info(", ".join(filter(None, parts)))

    def is_due(self) -> bool:
        """Say whether the last note is old enough to be worth the work of a new one."""
        return time.monotonic() - self._noted >= _NOTE_EVERY_SECONDS

    def note(self, text: str) -> None:
        """Say what else is worth knowing beside the bar, such as the loss."""
        self._noted, self._note = time.monotonic(), text
        if self._live is not None:
            self._live.update(self._task, note=text)


@contextmanager
def progress_bar(
    title: str, total: int, unit: str = "images", done: int = 0
) -> Iterator[ProgressBar]:
    """Show how far the block is; `done` steps of `total` were taken before it."""
    if not _messages.is_terminal:
        yield ProgressBar(title, total, done, unit, None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeRemainingColumn(), TextColumn("{task.fields[note]}"))  # fmt: skip
    with Progress(*columns, console=_messages, transient=True) as live:
        yield ProgressBar(title, total, done, unit, live)
