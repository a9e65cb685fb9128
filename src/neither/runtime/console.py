"""Messages, result tables and progress bars.

Results go to standard output; messages and progress to standard error and, inside `log_to_folder`,
to log files. A message that cannot be written is lost; it never stops the work.
"""

import json
import logging
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO, cast

from neither.runtime.errors import named

if TYPE_CHECKING:  # imported by what prints: decoding processes and --help do not
    from rich.console import Console

STANDARD_OUTPUT = "standard output"  # in errors of writing to it
_SECONDS_PER_LINE = 10.0  # of progress without a terminal
_SECONDS_PER_FRAME = 0.1  # on a terminal
_SECONDS_PER_NOTE = 1.0
_MAX_RATE_SECONDS = 120.0  # that a rate is measured over
_FILE_ONLY = logging.DEBUG + 1
_WARNINGS_NAME = "warnings.jsonl"
_MAX_WARNINGS_BYTES = 1 << 26

_logger = logging.getLogger("neither")
_warned_topics: set[str] = set()


@cache
def _console(name: Literal["stdout", "stderr"]) -> "Console":
    from rich.console import Console

    class _Console(Console):
        """Leave a closed pipe to the caller; rich itself would exit with code 1."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    file = cast("TextIO", _LossyStderr()) if name == "stderr" else None
    return _Console(file=file, stderr=file is not None, highlight=False, markup=False, emoji=False)


def _print(name: Literal["stdout", "stderr"], line: str, style: str = "") -> None:
    from rich.text import Text

    _console(name).print(Text(line, style=style), soft_wrap=True)


class _LossyStderr:
    """Standard error, but what cannot be written is lost: messages and bars never stop the work.

    The terminal may be gone while SIGHUP is ignored, or the disk of a redirected log be full.
    """

    @property
    def _stream(self) -> TextIO:
        # rich replaces the standard streams while it shows a progress bar.
        stream: TextIO = getattr(sys.stderr, "rich_proxied_file", sys.stderr)
        return stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):  # ValueError: it is closed
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._stream, name)


def printable(text: object) -> str:
    """Escape what could control a terminal or break a line, and bytes that are not UTF-8."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in str(text))


def format_percent(fraction: float) -> str:
    """Format a fraction in percent; 0.0 and 100.0 mean exactly none and all."""
    rounded = round(100 * fraction, 1)
    if rounded in (0, 100) and fraction not in (0, 1):
        return "< 0.1 %" if fraction < 0.5 else "> 99.9 %"
    return f"{rounded:.1f} %"


def info(message: str) -> None:
    """Log a message."""
    _logger.info(message)


def warn(message: str) -> None:
    """Log a warning; `read_warnings` returns it later."""
    _logger.warning("warning: %s", message)


def warn_once(topic: str, message: str) -> None:
    """Log a warning, unless this process has logged one on the same topic."""
    if topic not in _warned_topics:
        _warned_topics.add(topic)
        warn(message)


def report_error(message: str) -> None:
    """Log the error that ends the command."""
    _logger.error("error: %s", message)


def log_only(message: str) -> None:
    """Write a message that is too long for the screen to the log file."""
    _logger.log(_FILE_ONLY, message)


def log_traceback() -> None:
    """Write the exception being handled to the log file, not to the screen."""
    _logger.log(_FILE_ONLY, "traceback", exc_info=True)


def setup_console() -> None:
    """Send messages to standard error; each command calls this once.

    All process-wide settings are here: importing the package changes none.
    """
    silence(False)  # imports rich now, not when memory or file descriptors have run out
    _logger.setLevel(_FILE_ONLY)
    _logger.propagate = False
    logging.raiseExceptions = False  # a message that cannot be written is lost
    # Matplotlib reports where it caches fonts if the home folder is read-only; users need not know.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    # torch's compiler reports CUDA that lies there without a GPU; the log names the device used.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    threading.excepthook = _log_thread_exception
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # escape characters that the locale lacks
            stream.reconfigure(errors="backslashreplace")
    if not any(isinstance(handler, _ConsoleHandler) for handler in _logger.handlers):
        _logger.addHandler(_ConsoleHandler())


def silence(is_silent: bool) -> None:
    """Turn messages and results on the terminal off or on; log files are not affected."""
    _console("stderr").quiet = _console("stdout").quiet = is_silent


@contextmanager
def log_to_folder(folder: Path) -> Iterator[None]:
    """Append all messages to `log.txt`, and warnings to `warnings.jsonl`, inside the block.

    A line of `warnings.jsonl` is an object with the keys `time` (ISO 8601) and `message`.
    """
    log_file = _LogFileHandler(folder / "log.txt", encoding="utf-8", errors="backslashreplace")
    log_file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    handlers = (log_file, _WarningsHandler(folder / _WARNINGS_NAME))
    level = _logger.level
    _logger.setLevel(_FILE_ONLY)
    for handler in handlers:
        _logger.addHandler(handler)
    try:
        yield
    finally:
        _logger.setLevel(level)
        for handler in handlers:
            _logger.removeHandler(handler)
            handler.close()


def read_warnings(folder: Path) -> list[str]:
    """Return the distinct warnings in the `warnings.jsonl` of a folder, in order.

    A missing file has none, and damaged lines are skipped. At most 64 MiB are read.
    """
    path = folder / _WARNINGS_NAME
    messages: dict[str, None] = {}
    if path.is_file():  # reading a device might never end
        with suppress(OSError), path.open("rb") as file:
            for line in file.read(_MAX_WARNINGS_BYTES).splitlines():
                with suppress(ValueError, TypeError, KeyError, RecursionError):
                    messages[str(json.loads(line)["message"])] = None
    return list(messages)


def print_line(text: str) -> None:
    """Print a line of results."""
    with named(STANDARD_OUTPUT):
        _print("stdout", text)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table of results: the first column names the row, the others are right-aligned."""
    from rich.table import Table
    from rich.text import Text

    print_line(title)
    table = Table()
    for index, column in enumerate(columns):
        table.add_column(Text(printable(column)), justify="right" if index else "left")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    with named(STANDARD_OUTPUT):
        _console("stdout").print(table)


class ProgressBar:
    """A live progress bar on a terminal; elsewhere a line every ten seconds.

    The time left follows from the rate of the last two minutes. A sample of the rate is the time of
    an update and what was done before it: steps that arrive in groups count from group to group,
    and the time before the first update, when processes start, counts as nothing.
    """

    def __init__(self, title: str, total: int, done: int, is_live: bool) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._title, self._is_live = title, is_live
        self._shown_time = self._note_time = time.monotonic()
        self._note = ""
        self._past_break_seconds = self._coming_break_seconds = 0.0
        self.live = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[note]}"),
            console=_console("stderr"),
            transient=True,
            get_time=lambda: time.monotonic() - self._past_break_seconds,
            speed_estimate_period=_MAX_RATE_SECONDS,
        )
        self.live.add_task(title, total=total, completed=done, note="", left="")
        (self._task,) = self.live.tasks

    def advance(self, count: int = 1) -> None:
        """Count finished steps."""
        self.update(int(self._task.completed) + count, int(self._task.total or 0))

    def update(self, done: int, total: int) -> None:
        """Set the number of finished steps and of all steps."""
        self.live.update(self._task.id, completed=done, total=total)
        now = time.monotonic()
        if now - self._shown_time < (_SECONDS_PER_FRAME if self._is_live else _SECONDS_PER_LINE):
            return
        self._shown_time, seconds = now, None
        if rate := self.rate():
            seconds = round((total - done) / rate + self._coming_break_seconds)
        if self._is_live:
            left = "" if seconds is None else f"{timedelta(seconds=seconds)} left"
            self.live.update(self._task.id, left=left)
        else:
            left = "" if seconds is None else f"{seconds} s left"
            parts = (f"{self._title}: {done:,} of {total:,} images", left, self._note)
            info(", ".join(filter(None, parts)))

    def rate(self) -> float | None:
        """Return the recent number of steps per second, without breaks; None if not known yet."""
        return self._task.speed

    def restart_rate(self) -> None:
        """Forget the rate, since the steps so far took longer or shorter than those to come."""
        self.live.reset(self._task.id, completed=int(self._task.completed))

    @contextmanager
    def taking_break(self, note: str, num_left: int) -> Iterator[None]:
        """Show a note for the block, whose time is not that of the steps.

        `num_left` breaks of the same length are still to come.
        """
        start, note_before = time.monotonic(), self._note
        self.set_note(note)
        yield
        seconds = time.monotonic() - start
        self._past_break_seconds += seconds
        self._coming_break_seconds = num_left * seconds
        self.set_note(note_before)

    def is_note_due(self) -> bool:
        """Return whether the last note is a second old, so that a new one is worth its cost."""
        return time.monotonic() - self._note_time >= _SECONDS_PER_NOTE

    def set_note(self, text: str) -> None:
        """Set the text beside the bar, such as the current loss."""
        self._note_time, self._note = time.monotonic(), text
        self.live.update(self._task.id, note=text)


@contextmanager
def progress_bar(title: str, total: int, done: int = 0) -> Iterator[ProgressBar]:
    """Show a progress bar of images for the block; `done` of them were finished before it.

    `total` can be 0 if `ProgressBar.update` sets it later.
    """
    is_live = _console("stderr").is_terminal
    bar = ProgressBar(title, total, done, is_live)
    with bar.live if is_live else nullcontext():
        yield bar


class _ConsoleHandler(logging.Handler):
    """Print messages above a live progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno != _FILE_ONLY:
            style = {logging.WARNING: "yellow", logging.ERROR: "bold red"}.get(record.levelno, "")
            _print("stderr", record.getMessage(), style)


class _LogFileHandler(logging.FileHandler):
    """Report once that the log cannot be written, and go on without it."""

    _has_failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not self._has_failed:
            self._has_failed = True
            text = f"warning: {self.baseFilename}: cannot be written: {sys.exc_info()[1]}"
            _print("stderr", text, "yellow")

    def close(self) -> None:
        with suppress(OSError):  # closing retries what could not be written
            super().close()


class _WarningsHandler(logging.Handler):
    """Append each warning as a JSON line; the file is created by the first warning."""

    def __init__(self, path: Path) -> None:
        super().__init__(logging.WARNING)
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING:
            line = {
                "time": datetime.fromtimestamp(record.created).astimezone().isoformat(),
                "message": record.getMessage().removeprefix("warning: "),
            }
            # The message is in the log too, which reports a disk that is full.
            with suppress(OSError), self._path.open("a", encoding="ascii") as file:
                file.write(json.dumps(line) + "\n")


def _log_thread_exception(failed: threading.ExceptHookArgs) -> None:
    """Log the exception that ended a thread; its caller reports it to the user."""
    _logger.log(_FILE_ONLY, "traceback of a thread", exc_info=failed.exc_value)
