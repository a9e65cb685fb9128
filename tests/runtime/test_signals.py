import signal
import subprocess
import sys
import threading

import pytest

from neither.runtime import signals
from neither.runtime.signals import Stopped

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)]
)
def test_a_signal_stops_the_work_at_the_next_poll(number: signal.Signals, exit_code: int) -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    with signals.installed():
        signals.poll()
        assert [signal.getsignal(each) for each in SIGNALS] != before
        signal.raise_signal(number)  # raises nothing here
        with pytest.raises(Stopped, match=f"stopped by {number.name}") as caught:
            signals.poll()
    assert caught.value.exit_code == exit_code
    assert [signal.getsignal(each) for each in SIGNALS] == before
    signals.poll()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_the_parent_ignores_stays_ignored(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with signals.installed():
            for _ in range(2):
                signal.raise_signal(number)
                signals.poll()
            signal.raise_signal(next(each for each in SIGNALS if each != number))
            with pytest.raises(Stopped):  # the others are handled
                signals.poll()
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize(
    ("first", "second", "exit_code"), [("SIGINT", "SIGINT", 130), ("SIGTERM", "SIGINT", 143)]
)
def test_a_second_signal_exits_at_once(first: str, second: str, exit_code: int) -> None:
    code = f"""
import os, signal
from neither.runtime import signals
with signals.installed():
    os.kill(os.getpid(), signal.{first})
    print("goes on", flush=True)
    os.kill(os.getpid(), signal.{second})
    print("must not be reached", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (exit_code, "goes on\n"), done.stderr


def test_outside_the_main_thread_no_handler_is_installed() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    seen: list[object] = []

    def work() -> None:
        with signals.installed():
            seen.extend(signal.getsignal(number) for number in SIGNALS)
            signals.poll()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == before
