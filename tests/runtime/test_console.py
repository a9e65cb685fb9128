import errno
import io
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from clock import fake_clock
from neither.runtime import console

Patch = pytest.MonkeyPatch
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def opened() -> Iterator[None]:
    """Send messages to standard error, and restore the logger afterwards."""
    logger = logging.getLogger("neither")
    handlers, level, hook = list(logger.handlers), logger.level, threading.excepthook
    console.setup_console()
    yield
    logger.handlers[:], logger.level, threading.excepthook = handlers, level, hook


@given(st.text())
def test_printable_text_cannot_control_a_terminal_or_break_a_line(text: str) -> None:
    shown = console.printable(text)
    assert shown.isprintable()
    assert shown.encode().decode() == shown  # no surrogates
    if text.isprintable():
        assert shown == text


def test_printable_escapes_as_python_does() -> None:
    assert console.printable("a\nb\x1b[31m\udcff") == r"a\nb\x1b[31m\udcff"
    assert console.printable(Path("ä b")) == "ä b"


def test_messages_and_results_have_streams_of_their_own(capsys: Capture) -> None:
    console.setup_console()  # a second call adds no second handler
    console.info("a message")
    console.warn("odd")
    console.report_error("wrong")
    console.print_line("a result")
    out, err = capsys.readouterr()
    assert out == "a result\n"
    assert err == "a message\nwarning: odd\nerror: wrong\n"


def test_text_is_shown_as_it_is(capsys: Capture) -> None:
    for text in ("[bold]x[/bold]", ":smile:", "[/nonsense]", "x" * 300, "a 1 b"):
        console.info(text)
        console.print_line(text)
        assert capsys.readouterr() == (f"{text}\n", f"{text}\n")


def test_a_table_shows_its_cells_as_they_are(capsys: Capture) -> None:
    rows = [["[red]dog", "0.5"], ["a\nb", "0.25"]]
    console.print_table("Metrics", ["class", "[recall]"], rows)
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.split("\n")
    assert lines[0].strip() == "Metrics"
    for cells in (["class", "[recall]"], ["[red]dog", "0.5"], [r"a\nb", "0.25"]):
        (line,) = [line for line in lines if cells[0] in line]
        assert re.split(r"\s*[│┃]\s*", line)[1:3] == cells


def test_the_log(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "log.txt"
    path.write_text("before\n")
    with console.log_to_folder(tmp_path):
        console.info("hello \udcff")
        console.log_only("details")
        try:
            raise ValueError("deep down")
        except ValueError:
            console.log_traceback()
        thread = threading.Thread(target=Mock(side_effect=KeyError("in a thread")))
        thread.start()
        thread.join()
    console.info("after")
    text = path.read_text()
    assert re.match(r"before\n\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ hello \\udcff\n", text)
    assert "details\n" in text
    assert text.count("Traceback (most recent call last)") == 2
    assert "ValueError: deep down" in text
    assert "KeyError: 'in a thread'" in text
    assert "after" not in text
    assert not (tmp_path / "warnings.jsonl").exists()
    err = capsys.readouterr().err
    assert "traceback" not in err.lower()
    assert "details" not in err


def test_warnings_are_read_back_each_once(tmp_path: Path) -> None:
    assert console.read_warnings(tmp_path) == []
    for message in ("two\nlines", "odd \udcff", "two\nlines"):
        with console.log_to_folder(tmp_path):
            console.info("no warning")
            console.warn(message)
            console.report_error("no warning")
    with (tmp_path / "warnings.jsonl").open("ab") as file:
        file.write(b'\xff\n[]\n3\n{"message": \n' + b"[" * 100_000 + b"\n{}\n")
        file.write(b'{"message": "last"}\n')
    assert console.read_warnings(tmp_path) == ["two\nlines", "odd \udcff", "last"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has this device")
def test_unusable_log_files_stop_nothing(tmp_path: Path, capsys: Capture) -> None:
    for name in ("log.txt", "warnings.jsonl"):
        (tmp_path / name).symlink_to("/dev/full")
    with console.log_to_folder(tmp_path):
        console.warn("one")
        console.warn("two")
    assert capsys.readouterr().err.count("log.txt: cannot be written") == 1
    assert console.read_warnings(tmp_path) == []


@pytest.mark.parametrize("error", [BrokenPipeError, OSError])
def test_a_closed_stream_stops_nothing(
    tmp_path: Path, monkeypatch: Patch, capsys: Capture, error: type[OSError]
) -> None:
    with console.log_to_folder(tmp_path), monkeypatch.context() as patch:
        patch.setattr(sys.stderr, "write", Mock(side_effect=error))
        console.info("one")
        console.warn("two")
    console.info("three")
    assert capsys.readouterr().err == "three\n"  # lost lines are not retried
    assert re.findall(r"one|two", (tmp_path / "log.txt").read_text()) == ["one", "two"]


def test_a_progress_bar_survives_its_terminal(monkeypatch: Patch) -> None:
    terminal = Mock(encoding="utf-8", spec=["isatty", "encoding", "write", "flush", "fileno"])
    monkeypatch.setattr(sys, "stderr", terminal)
    done = []
    with console.progress_bar("training", 3) as bar:
        for step in range(3):
            for method in (terminal.write, terminal.flush):
                method.side_effect = OSError(errno.EIO, "Input/output error")
            bar.advance()
            bar.set_note("loss 0.5")
            console.warn("a message")
            done.append(step)
    assert done == [0, 1, 2]
    assert terminal.write.called


def test_a_warning_on_a_topic_is_logged_once(monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.setattr(console, "_warned_topics", set())
    for topic in ("locks", "sync", "locks"):
        console.warn_once(topic, f"about {topic}")
    assert capsys.readouterr().err == "warning: about locks\nwarning: about sync\n"


def test_a_closed_standard_output_raises_in_the_caller() -> None:
    code = (
        "import os; from neither.runtime import console\n"
        "try:\n    console.print_line('a result')\n"
        "except BrokenPipeError:\n    os._exit(7)"
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code], stdout=writer, check=False)
    os.close(writer)
    assert done.returncode == 7


def test_without_a_terminal_progress_is_lines(capsys: Capture, monkeypatch: Patch) -> None:
    now = 0.0
    monkeypatch.setattr("neither.runtime.console.time.monotonic", lambda: now)
    with console.progress_bar("decoding", 1000, done=100) as bar:
        for _ in range(60):
            now += 1.0
            bar.advance()
            if bar.is_note_due():
                bar.set_note("loss 0.5")
                assert not bar.is_note_due()
    assert capsys.readouterr().err.splitlines() == [
        f"decoding: {100 + done} of 1,000 images, {900 - done} s left"
        + (", loss 0.5" if done else "")
        for done in (10, 20, 30, 40, 50, 60)
    ]
    with console.progress_bar("drawing", 0, done=3) as bar:
        now += 60.0
        bar.update(3, 100)  # no finished step, no estimate
    assert capsys.readouterr().err == "drawing: 3 of 100 images\n"


# Seconds until each update, and the number of steps that it adds.
UPDATES = {
    "even": [(0.25, 1)] * 4000,
    "compiled in the first step": [(60.0, 1)] + [(0.25, 1)] * 2000,
    "compiled for minutes": [(1500.0, 1)] + [(0.5, 1)] * 1000,
    "batches that take long": [(20.0, 64)] * 12,
    "one update for each image of a batch": [(20.0, 1), *[(0.0, 1)] * 63] * 12,
    "steps that take longer than a line": [(45.0, 1)] * 20,
    "uneven": [(0.1 + step * 37 % 19 / 10, 1) for step in range(500)],
    "eight processes in waves": [(3.0, 32), *[(0.1, 32)] * 7] * 50,
    "a million in a moment": [(0.001, 20)] * 50_000,
}


@pytest.mark.parametrize("updates", UPDATES.values(), ids=UPDATES)
@pytest.mark.parametrize("done", [0, 5000], ids=["begun", "resumed"])
def test_the_time_left_is_right_ten_seconds_after_the_first_step(
    monkeypatch: Patch, updates: list[tuple[float, int]], done: int
) -> None:
    clock = fake_clock(monkeypatch)
    total = done + sum(count for _, count in updates)
    with console.progress_bar("decoding", total, done=done) as bar:
        for seconds, count in updates:
            clock.now += seconds
            bar.advance(count)
    clock.check(updates[0][0], clock.now, step=max(seconds for seconds, _ in updates[1:]))


def test_a_break_counts_as_often_as_it_is_still_to_come(monkeypatch: Patch) -> None:
    clock = fake_clock(monkeypatch)
    with console.progress_bar("training", 10 * 100) as bar:
        for epoch in range(11):
            if epoch:
                for _ in range(100):
                    clock.now += 0.4
                    bar.advance()
            with bar.taking_break("validating", 10 - epoch):
                clock.now += 30
    clock.check(30.4, clock.now)
    assert not any("validating" in line for _, line in clock.lines)


def test_the_time_left_follows_a_changed_rate(monkeypatch: Patch) -> None:
    clock = fake_clock(monkeypatch)
    with console.progress_bar("training", 1000) as bar:
        for step in range(1000):
            clock.now += 0.1 if step < 500 else 1.0
            bar.advance()
            if step == 499:
                bar.restart_rate()
    clock.lines = [(now, line) for now, line in clock.lines if now > 50]
    clock.check(51, clock.now)


def test_a_terminal_shows_the_time_left(monkeypatch: Patch) -> None:
    stream = io.StringIO()
    terminal = Console(file=stream, force_terminal=True, width=120)
    monkeypatch.setattr(console, "_console", lambda _: terminal)
    clock = fake_clock(monkeypatch)
    with console.progress_bar("training", 1000) as bar:
        for _ in range(10):
            clock.now += 9.0
            bar.advance()
    assert "2:28:30 left" in stream.getvalue()


def test_a_silenced_console_prints_nothing(capsys: Capture) -> None:
    console.silence(True)
    console.info("one")
    console.print_line("two")
    console.silence(False)
    console.report_error("three")
    assert capsys.readouterr() == ("", "error: three\n")


def test_only_0_is_0_percent_and_only_1_is_100() -> None:
    assert list(map(console.format_percent, (0.0, 1e-5, 0.0006, 0.9877, 0.99999, 1.0))) == [
        "0.0 %", "< 0.1 %", "0.1 %", "98.8 %", "> 99.9 %", "100.0 %",
    ]  # fmt: skip
