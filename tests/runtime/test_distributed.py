"""One process; `tests/training/test_two_processes.py` starts two."""

import os
import signal
from importlib import import_module
from pathlib import Path

import pytest
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from neither.runtime import console, distributed, signals
from neither.runtime.distributed import SINGLE_PROCESS, World, init_distributed
from neither.runtime.errors import OutputError

Patch = pytest.MonkeyPatch


@given(st.integers(1, 300), st.integers(1, 9))
def test_shards_cover_all_items_evenly(num: int, size: int) -> None:
    shards = [World(rank, size).shard(num) for rank in range(size)]
    assert [n for shard in shards for n in range(num)[shard]] == list(range(num))
    assert all(shard.start % 2 == 0 or shard.start == num for shard in shards), "CutMix pairs"
    assert len(range(num)[shards[0]]) > 0
    assert all(abs(len(range(num)[shard]) - num / size) <= 2 for shard in shards)


def test_a_single_process_has_everything_and_stops_at_a_signal() -> None:
    assert SINGLE_PROCESS.shard(7) == slice(0, 7)
    assert SINGLE_PROCESS.all_equal("text")
    assert SINGLE_PROCESS.broadcast(lambda: 5) == SINGLE_PROCESS.rank0_first(lambda: 5) == 5
    SINGLE_PROCESS.barrier()
    with signals.installed():
        SINGLE_PROCESS.poll_signals()
        signal.raise_signal(signal.SIGTERM)
        assert signals.received() == signal.SIGTERM
        with signals.deferred(True):
            signals.poll()
        with pytest.raises(signals.Stopped):
            SINGLE_PROCESS.poll_signals()


def test_all_ranks_stop_at_a_signal_that_one_received(monkeypatch: Patch) -> None:
    monkeypatch.setattr(World, "_reduce", lambda _, tensor, how: tensor.fill_(signal.SIGTERM))
    with signals.installed(), pytest.raises(signals.Stopped, match="SIGTERM"):
        World(0, 2).poll_signals()


def test_a_barrier_ends_when_a_rank_has_failed(monkeypatch: Patch) -> None:
    monkeypatch.setattr(distributed, "_POLL_SECONDS", 0)
    store = dist.HashStore()  # type: ignore[attr-defined]
    store.add("failed", 1)
    with signals.deferred(True), pytest.raises(OutputError, match="another process"):
        World(1, 2, 0, store).barrier()
    World(0, 2, 0, store).barrier()  # all have arrived: passes


def test_without_torchrun_there_is_one_process(monkeypatch: Patch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with init_distributed() as world:
        assert world is SINGLE_PROCESS
    assert "RANK" not in os.environ


def test_missing_processes_are_an_error(monkeypatch: Patch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(OutputError, match="RANK and WORLD_SIZE"), init_distributed():
        pass


def test_only_the_rank_that_fails_first_reports_it(monkeypatch: Patch) -> None:
    """Torchrun ends the others, which a barrier or a broken connection tells of the failure."""
    store, silences = dist.HashStore(), list[bool]()  # type: ignore[attr-defined]
    monkeypatch.setenv("WORLD_SIZE", "2")
    module = import_module("torch.distributed.rendezvous")  # the package's name is its function
    monkeypatch.setattr(module, "rendezvous", lambda _: iter([(store, 0, 2)]))
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(World, "barrier", lambda _: None)
    monkeypatch.setattr(console, "silence", silences.append)
    for is_silenced in (False, True):
        with pytest.raises(FileNotFoundError), init_distributed():
            Path("nothing").stat()
        assert silences[-1] is is_silenced
