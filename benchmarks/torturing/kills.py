"""SIGKILL at random moments, and each call that touches the disk made to fail."""

import builtins
import errno
import io
import mmap
import os
import random
import shutil
import signal
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from torturing import runs

from neither.models.checkpoint import load_checkpoint
from neither.runtime.errors import CheckpointError
from neither.training import trainer
from neither.training.step import train_step

FAULTS = ("kill", "ENOSPC", "EIO", "SIGTERM")
_CALLS = ("fsync", "replace", "rename", "link", "unlink", "mkdir", "open", "ftruncate")


def kill_at_random(home: Path, num_kills: int, seed: int, is_head: bool = False) -> dict[str, Any]:
    """Kill runs at random moments until so many kills were survived.

    Args:
        home: an existing folder to work in.
        num_kills: how many.
        seed: of the moments.
        is_head: train the head of a frozen backbone.

    Returns:
        Counts of runs, kills, runs lost, runs that end in other bits, the most steps that were
        taken again, and points that TensorBoard would show twice.
    """
    config, whole = runs.make_config(home, is_head), home / "whole"
    seconds, expected = _take(config, whole)
    chance, kills, number, repeated = random.Random(seed), 0, 0, 0
    lost, unequal, doubled = [], [], []
    while kills < num_kills:
        run = home / f"run{number}"
        number += 1
        reached = mmap.mmap(-1, 8)
        while True:
            process = runs.start(config, run, partial(_count_into, reached))
            time.sleep(chance.uniform(0, 1.5 * seconds))
            os.kill(process, signal.SIGKILL)
            code = runs.wait(process)
            if code != -signal.SIGKILL:
                break
            kills += 1
            repeated = max(repeated, struct.unpack("q", reached[:])[0] - _saved_step(run))
        if code != 0:
            lost.append(f"{run.name}: exit code {code}")
            continue
        unequal += runs.differences(expected, runs.outcome(run))
        doubled += runs.doubled_points(run)
        _forget(run)
    return {"kills": kills, "runs": number, "lost": lost, "unequal": unequal,
            "most_steps_repeated": repeated, "steps_between_saves": runs.STEPS_PER_EPOCH,
            "doubled": doubled}  # fmt: skip


def fail_each_call(
    home: Path, every: int, kinds: Iterable[str] = FAULTS, is_head: bool = False
) -> dict[str, Any]:
    """Let each call that touches the disk fail once in each way, and then go on with the run.

    Args:
        home: an existing folder to work in.
        every: try each call (1), each second (2), ...
        kinds: the ways to fail.
        is_head: train the head of a frozen backbone.

    Returns:
        The number of calls, counts of exit codes by kind, and what went wrong.
    """
    config, whole = runs.make_config(home, is_head), home / "whole"
    counted = mmap.mmap(-1, 8)
    _, expected = _take(config, whole, partial(_fail_at, -1, "kill", counted))
    num_calls = struct.unpack("q", counted[:])[0]
    codes: dict[str, Counter[int]] = {kind: Counter() for kind in kinds}
    wrong = []
    for index, kind in enumerate(codes):
        for call in range(index * every // len(codes), num_calls, every):
            run = home / f"{kind}{call}"
            process = runs.start(config, run, partial(_fail_at, call, kind, counted))
            code = runs.wait(process)
            codes[kind][code] += 1
            said = run.with_suffix(".err").read_text()
            allowed = {"kill": (-9,), "SIGTERM": (143, 0)}.get(kind, (6, 0))
            if code not in allowed or "Traceback" in said:
                wrong.append(f"{kind} at call {call}: exit code {code}: {said[-2000:]}")
            if runs.wait(runs.start(config, run)) != 0:
                wrong.append(f"{kind} at call {call}: lost: {run.with_suffix('.err').read_text()}")
                continue
            found = runs.outcome(run)
            if kind in ("ENOSPC", "EIO"):  # may cost points of curves, which is said
                found["rows"] = expected["rows"]
            else:
                wrong += [f"{kind} at call {call}: {each}" for each in runs.doubled_points(run)]
            wrong += [f"{kind} at call {call}: other bits in {place}"
                      for place in runs.differences(expected, found)]  # fmt: skip
            _forget(run)
    return {"calls": num_calls, "exit_codes": codes, "wrong": wrong}


def _take(
    config: Path, run: Path, spoil: Callable[[], object] = lambda: None
) -> tuple[float, dict[str, Any]]:
    """Run once without an accident; return its seconds and its outcome."""
    started = time.monotonic()
    code = runs.wait(runs.start(config, run, spoil))
    assert code == 0, run.with_suffix(".err").read_text()
    assert not runs.doubled_points(run)
    return time.monotonic() - started, runs.outcome(run)


def _forget(run: Path) -> None:
    shutil.rmtree(run)
    shutil.rmtree(run.with_suffix(".cache"), ignore_errors=True)  # a run may do without


def _saved_step(run: Path) -> int:
    """Return the step that a killed run would go on from."""
    for name in ("last.pt", "previous.pt"):
        path = run / "checkpoints" / name
        try:
            if path.exists():
                return load_checkpoint(path).step
        except CheckpointError:
            continue
    return 0


def _count_into(reached: mmap.mmap) -> None:
    """Note the number of each step where a killed process leaves it to be read."""

    def counted(state: Any, *arguments: Any) -> bool:  # noqa: ANN401
        taken = train_step(state, *arguments)
        reached[:] = struct.pack("q", state.step)
        return taken

    setattr(trainer, "train_step", counted)  # noqa: B010 - which mypy would not allow


def _fail_at(number: int, kind: str, counted: mmap.mmap) -> None:
    """Replace the calls that touch the disk; the one of this number fails."""
    calls = 0

    def happens() -> None:
        nonlocal calls
        if calls == number:
            calls += 1
            if kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif kind == "SIGTERM":
                signal.raise_signal(signal.SIGTERM)
            else:
                code = getattr(errno, kind)
                raise OSError(code, os.strerror(code))
        else:
            calls += 1
            counted[:] = struct.pack("q", calls)

    def wrap(function: Callable[..., Any], is_meant: Callable[..., bool]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
            if is_meant(*arguments, **options):
                happens()
            return function(*arguments, **options)

        return wrapped

    for name in _CALLS:
        is_meant = _writes if name == "open" else (lambda *_, **__: True)
        setattr(os, name, wrap(getattr(os, name), is_meant))
    for module, name in ((os, "fdopen"), (io, "open"), (builtins, "open")):
        setattr(module, name, _opening(getattr(module, name), happens))


def _writes(_path: object, flags: int = 0, *_: object, **__: object) -> bool:
    return bool(flags & os.O_CREAT)


def _opening(function: Callable[..., Any], happens: Callable[[], None]) -> Callable[..., Any]:
    """Let what is opened to be written fail as it is written."""

    def opened(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        file = function(path, mode, *arguments, **options)
        return file if mode in ("r", "rb", "rt") else _File(file, happens)

    return opened


class _File:
    """A file whose every write may be its last."""

    def __init__(self, file: Any, happens: Callable[[], None]) -> None:  # noqa: ANN401
        self._file, self._happens = file, happens

    def write(self, content: Any) -> Any:  # noqa: ANN401
        self._happens()
        return self._file.write(content)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._file, name)

    def __enter__(self) -> "_File":
        self._file.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._file.__exit__(*error)

    def __iter__(self) -> Any:  # noqa: ANN401
        return iter(self._file)
