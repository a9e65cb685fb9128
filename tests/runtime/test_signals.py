import os
import signal
import subprocess
import sys
import threading

import pytest

from neither.runtime import signals
from neither.runtime.signals import Stopped

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def kill_self(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def test_work_goes_on_without_a_signal() -> None:
    with signals.installed():
        signals.poll()


@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)]
)
def test_a_signal_is_noted_and_ends_the_work_at_the_next_poll(
    number: signal.Signals, exit_code: int
) -> None:
    steps = []
    with signals.installed():
        kill_self(number)
        steps.append("the step under way is finished")
        with pytest.raises(Stopped, match=f"stopped by {number.name}") as caught:
            signals.poll()
    assert steps
    assert caught.value.exit_code == exit_code


def test_the_flag_is_lowered_and_the_old_handlers_are_back_after_the_block() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with signals.installed():
        assert [signal.getsignal(number) for number in SIGNALS] != before
        kill_self(signal.SIGTERM)
        with pytest.raises(Stopped):
            signals.poll()
    assert [signal.getsignal(number) for number in SIGNALS] == before
    signals.poll()


@pytest.mark.parametrize(
    ("first", "second", "exit_code"), [("SIGINT", "SIGINT", 130), ("SIGTERM", "SIGINT", 143)]
)
def test_a_second_signal_leaves_at_once(first: str, second: str, exit_code: int) -> None:
    code = f"""
import os, signal
from neither import stopping
with stopping.watched():
    os.kill(os.getpid(), signal.{first})
    print("goes on", flush=True)
    os.kill(os.getpid(), signal.{second})
    print("must not be reached", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (exit_code, "goes on\n")


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
