"""The processes that train one network together; `torchrun` starts them and gives each a rank.

After each step all ranks hold the same state. So rank 0 alone writes files, and a run can be
resumed from them by any number of processes.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import count
from signal import Signals
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from neither.runtime import console, signals
from neither.runtime.errors import OutputError, is_out_of_memory

Result = TypeVar("Result")

_POLL_SECONDS = 0.1
_FAILED_KEY = "failed"  # key in the store: how many ranks left with an exception
# torchrun's signal usually comes first; while signals are deferred, this ends the wait.
_NUM_POLLS_AFTER_FAILURE = 20


@dataclass(frozen=True)
class World:
    """This process and its group. With a single process every method returns at once.

    The methods are collective, except `shard`: all ranks must call them in the same order. All
    raise `OutputError` if another rank is lost; `barrier`, `broadcast` and `rank0_first` also raise
    `Stopped` on a signal. An exception in one rank ends the others too.
    """

    rank: int = 0  # number of this process, from 0
    size: int = 1  # number of processes (the world size)
    local_rank: int = 0  # number of this process on its machine
    # key-value store that all ranks can reach; None for a single process
    store: Any = field(default=None, compare=False)  # some builds of torch have no dist.Store
    _barriers: Iterator[int] = field(default_factory=count, compare=False, repr=False)

    @property
    def is_rank0(self) -> bool:
        """Whether this process is the one that prints and writes."""
        return self.rank == 0

    def shard(self, num: int) -> slice:
        """Return which of `num` items this rank works on; shard sizes differ by at most two.

        Every shard starts at an even index, so that CutMix pairs stay together. The last shards may
        be empty; that of rank 0 is not.
        """
        ends = (2 * -(-num * rank // (2 * self.size)) for rank in (self.rank, self.rank + 1))
        return slice(*(min(num, end) for end in ends))

    def poll_signals(self) -> None:
        """Raise `Stopped` in all ranks at the same point if any of them received a signal."""
        if self.size == 1:
            signals.poll()
            return
        received = torch.tensor(signals.received())
        self._reduce(received, dist.ReduceOp.MAX)
        if received:
            raise signals.Stopped(Signals(int(received)))

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Sum floating point tensors of one device over all ranks, in place, to the same bits."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        self._reduce(flat, dist.ReduceOp.SUM)
        sums = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, summed in zip(tensors, sums, strict=True):
            tensor.copy_(summed.view(tensor.shape))

    def all_gather(self, rows: Tensor, num: int) -> Tensor:
        """Concatenate the floating point rows that each rank computed for its `shard(num)`.

        Returns:
            (num, ...), in order, the same on all ranks.
        """
        if self.size == 1:
            return rows
        gathered = rows.new_zeros((num, *rows.shape[1:]))
        gathered[self.shard(num)] = rows
        self.all_reduce([gathered])
        return gathered

    def broadcast(self, work: Callable[[], Result]) -> Result:
        """Run `work` on rank 0, however long it takes, and return its result on all ranks."""
        if self.size == 1:
            return work()
        results = [work() if self.is_rank0 else None]
        self.barrier()
        with _report_lost_rank():
            dist.broadcast_object_list(results, src=0, device=torch.device("cpu"))
        return results[0]  # type: ignore[return-value] # the result of rank 0

    def rank0_first(self, work: Callable[[], Result]) -> Result:
        """Run `work` on rank 0, then on all others, which find its caches filled."""
        if self.size == 1:
            return work()
        result = work() if self.is_rank0 else None
        self.barrier()
        if not self.is_rank0:
            result = work()
        self.barrier()
        return result  # type: ignore[return-value] # `work` ran in one of the two branches

    def all_equal(self, text: str) -> bool:
        """Return whether all ranks passed the same text."""
        number = int.from_bytes(sha256(text.encode()).digest()[:7], "big")
        extremes = torch.tensor([number, -number])  # max(n) + max(-n) is 0 if all n are equal
        if self.size > 1:
            self._reduce(extremes, dist.ReduceOp.MAX)
        return int(extremes.sum()) == 0

    def barrier(self) -> None:
        """Wait for all ranks, for hours if need be, and poll signals meanwhile."""
        if self.size == 1:
            return
        name, num_polls_left = f"barrier {next(self._barriers)}", _NUM_POLLS_AFTER_FAILURE
        with _report_lost_rank():
            self.store.add(name, 1)
            while self.store.add(name, 0) < self.size:
                signals.poll()
                num_polls_left -= self.store.add(_FAILED_KEY, 0) > 0
                if not num_polls_left:
                    raise RuntimeError("a rank failed before this barrier")
                time.sleep(_POLL_SECONDS)

    def _reduce(self, tensor: Tensor, operation: Any) -> None:  # noqa: ANN401 - as torch declares it
        with _report_lost_rank():
            dist.all_reduce(tensor, operation)


SINGLE_PROCESS = World()


@contextmanager
def init_distributed() -> Iterator[World]:
    """Join the processes that `torchrun` started, inside the block; `SINGLE_PROCESS` without it.

    Only rank 0 prints there. An error in one rank ends all, and only the rank that failed first
    reports it.

    Raises:
        OutputError: if the others cannot be reached.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield SINGLE_PROCESS
        return
    try:
        from torch.distributed.rendezvous import rendezvous

        store, rank, size = next(iter(rendezvous("env://")))
        # torchrun keeps the store when it restarts all processes after one has ended.
        store = dist.PrefixStore(  # type: ignore[attr-defined]
            os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store
        )
        world = World(rank, size, int(os.environ.get("LOCAL_RANK", "0")), store)
        world.barrier()
        # NCCL for tensors on GPUs, Gloo for all others.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    except (ImportError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise OutputError(
            f"the processes of this training cannot connect to each other: {reason}. RANK and "
            "WORLD_SIZE are set, as torchrun does; unset them to train in one process"
        ) from error
    console.silence(rank > 0)
    try:
        yield world
        world.barrier()  # when any rank leaves, rank 0 has written everything
    except BaseException:
        is_first = True
        with suppress(RuntimeError):  # the process that kept the store may be gone
            is_first = store.add(_FAILED_KEY, 1) == 1
        console.silence(not is_first)
        raise
    finally:
        dist.destroy_process_group()


@contextmanager
def _report_lost_rank() -> Iterator[None]:
    """Turn a broken connection, which is how the exit of another rank shows, into an error."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise OutputError(
            "another process of this training was killed (usually by lack of memory), or cannot be "
            "reached any more. The same command resumes from the last checkpoint"
        ) from error
