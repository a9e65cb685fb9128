import os
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neither import stopping
from neither.errors import OutputError
from neither.ranks import ALONE, Ranks, joined


@given(st.integers(1, 300), st.integers(1, 9))
def test_the_parts_of_the_ranks_are_all_and_nearly_even(num: int, size: int) -> None:
    parts = [Ranks(rank, size).part(num) for rank in range(size)]
    assert [n for part in parts for n in range(num)[part]] == list(range(num))
    assert all(part.start % 2 == 0 or part.start == num for part in parts), "partners of mixing"
    assert len(range(num)[parts[0]]) > 0
    assert all(abs(len(range(num)[part]) - num / size) <= 2 for part in parts)


def test_one_alone_has_everything_and_stops_when_told_to() -> None:
    assert ALONE.part(7) == slice(0, 7)
    assert ALONE.is_same("text")
    assert ALONE.share(lambda: 5) == ALONE.in_turn(lambda: 5) == 5
    with stopping.watched():
        ALONE.poll()
        signal.raise_signal(signal.SIGTERM)
        assert stopping.received() == signal.SIGTERM
        with stopping.held(True):
            stopping.poll()
        with pytest.raises(stopping.Stopped):
            ALONE.poll()


def test_without_torchrun_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined() as ranks:
        assert ranks is ALONE
    assert "RANK" not in os.environ


def test_others_that_nobody_started_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(OutputError, match=r"do not find each other: .* unset them"), joined():
        pass
