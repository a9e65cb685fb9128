"""The processes that train one network together: `torchrun` starts them and gives each a rank.

After each step all ranks hold the same state. So the first alone writes, and what it wrote any
number of them can go on from.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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


@dataclass(frozen=True)
class World:
    """One of the processes, as it sees the others; nothing here costs anything to one alone.

    What is asked of all must be asked by all, in the same order.

    Attributes:
        rank: the number of this one, from 0 on.
        size: how many there are.
        local_rank: its number on its own machine.
        store: where they leave word for each other; None for one alone.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    store: Any = field(default=None, compare=False)  # some builds of torch have no dist.Store
    _meetings: Iterator[int] = field(default_factory=count, compare=False, repr=False)

    @property
    def is_first(self) -> bool:
        """Whether this is the one that speaks and writes."""
        return self.rank == 0

    def part(self, num: int) -> slice:
        """Return which of `num` things this rank works on: as many as the others, within two.

        Every part begins at an even place, so that images of `mixing` keep their partners. The last
        ones may be empty; the first is not.
        """
        start, stop = (min(num, 2 * -(-num * rank // (2 * self.size)))
                       for rank in (self.rank, self.rank + 1))  # fmt: skip
        return slice(start, stop)

    def poll(self) -> None:
        """Return if work may go on; all ranks stop here together, whichever got the signal.

        Raises:
            Stopped: if a signal has asked any of them for an end.
            OutputError: if one of them is gone.
        """
        if self.size == 1:
            signals.poll()
            return
        received = torch.tensor(signals.received())
        self._reduce(received, dist.ReduceOp.MAX)
        if received:
            raise signals.Stopped(Signals(int(received)))

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Add up each of these tensors over all ranks, in place, in one message.

        Args:
            tensors: floating, on one device; the same shapes in all ranks, which afterwards hold
                the same bits.

        Raises:
            OutputError: if another rank is gone.
        """
        if self.size == 1:
            return
        flat = torch.cat([each.reshape(-1) for each in tensors])
        self._reduce(flat, dist.ReduceOp.SUM)
        done = 0
        for each in tensors:
            each.copy_(flat[done : done + each.numel()].view(each.shape))
            done += each.numel()

    def gather(self, rows: Tensor, num: int) -> Tensor:
        """Put together what each rank worked out for its part of `num` things.

        Args:
            rows: (P, ...) floating, for the things of `part(num)`.
            num: of things.

        Returns:
            (num, ...), in order, the same in all ranks.
        """
        if self.size == 1:
            return rows
        whole = rows.new_zeros((num, *rows.shape[1:]))
        whole[self.part(num)] = rows
        self.sum([whole])
        return whole

    def share(self, work: Callable[[], Result]) -> Result:
        """Let the first rank do some work, however long it takes, and return its result in all.

        Raises:
            Stopped: if a signal asks for an end, to those that wait too.
            Exception: in the first rank whatever the work raises; its end ends the others.
        """
        if self.size == 1:
            return work()
        results = [work() if self.is_first else None]
        self.meet()
        with _report_lost_rank():
            dist.broadcast_object_list(results, src=0, device=torch.device("cpu"))
        return results[0]  # type: ignore[return-value] # it came from the first

    def rank0_first(self, work: Callable[[], Result]) -> Result:
        """Do some work in the first rank, then in all others, which so find it done mostly.

        Raises:
            Stopped: if a signal asks for an end.
            Exception: whatever the work raises; the end of one rank ends the others.
        """
        if self.size == 1:
            return work()
        result = work() if self.is_first else None
        self.meet()
        if not self.is_first:
            result = work()
        self.meet()
        return result  # type: ignore[return-value] # one of the two

    def all_equal(self, text: str) -> bool:
        """Say whether all ranks ask this of the same text."""
        number = int.from_bytes(sha256(text.encode()).digest()[:7], "big")
        extremes = torch.tensor([number, -number])
        if self.size > 1:
            self._reduce(extremes, dist.ReduceOp.MAX)
        return int(extremes.sum()) == 0

    def wait(self) -> None:
        """Return as soon as all ranks are here."""
        if self.size > 1:
            self._reduce(torch.zeros(1), dist.ReduceOp.SUM)

    def meet(self) -> None:
        """Wait for all ranks, for hours if need be, and listen to signals meanwhile."""
        name = f"meeting {next(self._meetings)}"
        with _report_lost_rank():
            self.store.add(name, 1)
            while self.store.add(name, 0) < self.size:
                signals.poll()
                time.sleep(_POLL_SECONDS)

    def _reduce(self, tensor: Tensor, how: Any) -> None:  # noqa: ANN401 - as torch declares it
        with _report_lost_rank():
            dist.all_reduce(tensor, how)


SINGLE_PROCESS = World()


@contextmanager
def init_distributed() -> Iterator[World]:
    """Join the processes that `torchrun` started beside this one, inside the block.

    Inside it only the first rank speaks. What ends one of them ends all, and only the one that
    ended first says why.

    Yields:
        `ALONE` if there is no other.

    Raises:
        OutputError: if the others cannot be reached.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield SINGLE_PROCESS
        return
    try:
        from torch.distributed.rendezvous import rendezvous

        store, rank, size = next(iter(rendezvous("env://")))
        # torchrun keeps the store when it starts all anew after one has ended.
        store = dist.PrefixStore(  # type: ignore[attr-defined]
            os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store
        )
        ranks = World(rank, size, int(os.environ.get("LOCAL_RANK", "0")), store)
        ranks.meet()
        # Tensors on GPUs travel by NCCL, all others by Gloo.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    except (ImportError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise OutputError(
            f"the processes of this training do not find each other: {reason}. RANK and WORLD_SIZE "
            "are set, as torchrun does; unset them to train in one process"
        ) from error
    console.silence(rank > 0)
    try:
        yield ranks
        ranks.meet()  # however one of them leaves, the first has written all by then
    except BaseException:
        console.silence(not _is_first_to_end(store))
        raise
    finally:
        dist.destroy_process_group()


def _is_first_to_end(store: Any) -> bool:  # noqa: ANN401
    try:
        return bool(store.add("ended", 1) == 1)
    except RuntimeError:  # it went with the process that kept it
        return True


@contextmanager
def _report_lost_rank() -> Iterator[None]:
    """Turn the breaking of a connection, which is how the end of another rank shows."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise OutputError(
            "another process of this training was killed, by lack of memory mostly, or cannot be "
            "reached any more. The same command goes on from the last checkpoint"
        ) from error
