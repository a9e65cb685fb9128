import io
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neither.runtime import console


@pytest.fixture(autouse=True)
def opened() -> Iterator[None]:
    """Send messages to standard error, and leave the log as it was."""
    log = logging.getLogger("neither")
    before, level = list(log.handlers), log.level
    console.setup_console()
    yield
    log.handlers[:], log.level = before, level


@given(st.text())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_printable_can_drive_a_terminal_or_break_a_line(text: str) -> None:
    shown = console.printable(text)
    assert shown.isprintable()
    assert shown.encode().decode() == shown  # no surrogates
    if text.isprintable():
        assert shown == text


def test_what_is_escaped_can_be_told_apart() -> None:
    assert console.printable("a\nb\x1b[31m\udcff") == r"a\nb\x1b[31m\udcff"
    assert console.printable(Path("ä b")) == "ä b"


def test_messages_go_to_standard_error_and_results_to_standard_output(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console.info("a message")
    console.warn("odd")
    console.report_error("wrong")
    console.print_line("a result")
    out, err = capsys.readouterr()
    assert out == "a result\n"
    assert err == "a message\nwarning: odd\nerror: wrong\n"


def test_opening_twice_says_nothing_twice(capsys: pytest.CaptureFixture[str]) -> None:
    console.setup_console()
    console.info("once")
    assert capsys.readouterr().err == "once\n"


@pytest.mark.parametrize("text", ["[bold]x[/bold]", ":smile:", "[/nonsense]", "x" * 300, "a 1 b"])
def test_text_is_shown_as_it_is(capsys: pytest.CaptureFixture[str], text: str) -> None:
    console.info(text)
    console.print_line(text)
    assert capsys.readouterr() == (f"{text}\n", f"{text}\n")


def test_a_table_shows_its_cells_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [["[red]dog", "0.5"], ["a\nb", "0.25"]]
    console.print_table("Figures", ["class", "[recall]"], rows)
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.split("\n")
    assert lines[0].strip() == "Figures"
    for cells in (["class", "[recall]"], ["[red]dog", "0.5"], [r"a\nb", "0.25"]):
        (line,) = [line for line in lines if cells[0] in line]
        assert re.fullmatch(rf"\W+{re.escape(cells[0])}\W+{re.escape(cells[1])}\W*", line) or (
            re.split(r"\s*[│┃]\s*", line)[1:3] == cells
        )


def test_the_log_file_keeps_all_messages_and_tracebacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log.txt"
    path.write_text("before\n")
    with console.log_to_file(path):
        console.info("hello \udcff")
        try:
            raise ValueError("deep down")
        except ValueError:
            console.log_traceback()
    console.info("after")
    text = path.read_text()
    assert re.match(r"before\n\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ hello \\udcff\n", text)
    assert "Traceback (most recent call last)" in text
    assert "ValueError: deep down" in text
    assert "after" not in text
    assert "traceback" not in capsys.readouterr().err.lower()


class Closed(io.StringIO):
    """A stream whose reader has left, or whose disk is full."""

    def __init__(self, error: type[OSError]) -> None:
        super().__init__()
        self.error = error

    def write(self, _: str) -> int:
        raise self.error


@pytest.mark.parametrize("error", [BrokenPipeError, OSError])
def test_a_message_that_cannot_be_written_stops_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: type[OSError],
) -> None:
    with console.log_to_file(tmp_path / "log.txt"), monkeypatch.context() as patch:
        patch.setattr("sys.stderr", Closed(error))
        console.info("one")
        console.warn("two")
    console.info("three")
    assert capsys.readouterr().err == "three\n"  # what was lost is not tried again
    assert re.findall(r"one|two", (tmp_path / "log.txt").read_text()) == ["one", "two"]


def test_a_result_that_nobody_reads_is_the_callers_to_handle() -> None:
    code = (
        "import os, sys; from neither import terminal\n"
        "try:\n    terminal.show('a result')\n"
        "except BrokenPipeError:\n    os._exit(7)"
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code], stdout=writer, check=False)
    os.close(writer)
    assert done.returncode == 7


def test_without_a_terminal_progress_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("neither.runtime.console.time.monotonic", lambda: now)
    with console.progress_bar("decoding", 1000, done=100) as bar:
        for _ in range(60):
            now += 1.0
            bar.advance()
            if bar.is_due():
                bar.note("loss 0.5")
    assert capsys.readouterr().err.splitlines() == [
        f"decoding: {100 + done} of 1,000 images, {900 - done} s left"
        + (", loss 0.5" if done else "")
        for done in (10, 20, 30, 40, 50, 60)
    ]


def test_a_note_is_due_when_the_last_one_is_a_second_old(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 5.0
    monkeypatch.setattr("neither.runtime.console.time.monotonic", lambda: now)
    with console.progress_bar("training", 10) as bar:
        assert not bar.is_due()
        now = 6.0
        assert bar.is_due()
        bar.note("x")
        assert not bar.is_due()


def test_a_bar_that_has_not_moved_for_long_still_says_something(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("neither.runtime.console.time.monotonic", lambda: now)
    with console.progress_bar("drawing", 0, done=3) as bar:
        now = 60.0
        bar.reach(3, 100)
    assert capsys.readouterr().err.startswith("drawing: 3 of 100 images")


def test_one_that_is_silenced_says_nothing_until_it_may(capsys: pytest.CaptureFixture[str]) -> None:
    console.silence(True)
    console.info("one")
    console.print_line("two")
    console.silence(False)
    console.report_error("three")
    assert capsys.readouterr() == ("", "error: three\n")
