import os
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neither.runtime import signals
from neither.runtime.distributed import SINGLE_PROCESS, World, init_distributed
from neither.runtime.errors import OutputError


@given(st.integers(1, 300), st.integers(1, 9))
def test_the_parts_of_the_ranks_are_all_and_nearly_even(num: int, size: int) -> None:
    parts = [World(rank, size).shard(num) for rank in range(size)]
    assert [n for part in parts for n in range(num)[part]] == list(range(num))
    assert all(part.start % 2 == 0 or part.start == num for part in parts), "partners of mixing"
    assert len(range(num)[parts[0]]) > 0
    assert all(abs(len(range(num)[part]) - num / size) <= 2 for part in parts)


def test_one_alone_has_everything_and_stops_when_told_to() -> None:
    assert SINGLE_PROCESS.shard(7) == slice(0, 7)
    assert SINGLE_PROCESS.all_equal("text")
    assert SINGLE_PROCESS.broadcast(lambda: 5) == SINGLE_PROCESS.rank0_first(lambda: 5) == 5
    with signals.installed():
        SINGLE_PROCESS.poll_signals()
        signal.raise_signal(signal.SIGTERM)
        assert signals.received() == signal.SIGTERM
        with signals.deferred(True):
            signals.poll()
        with pytest.raises(signals.Stopped):
            SINGLE_PROCESS.poll_signals()


def test_without_torchrun_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with init_distributed() as world:
        assert world is SINGLE_PROCESS
    assert "RANK" not in os.environ


def test_others_that_nobody_started_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with (
        pytest.raises(OutputError, match="RANK and WORLD_SIZE"),
        init_distributed(),
    ):
        pass
