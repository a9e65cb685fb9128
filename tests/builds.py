"""Build stores in processes of their own: beside another one, and to be killed.

Usage: builds.py build FOLDER LOG    decode in this process, log each file, wait for a line on stdin
       builds.py kill FOLDER         be killed at each step
       builds.py pool FOLDER         decode in processes, printing a line a shard
"""

import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from neither.data import store, workers
from neither.data.decode import DecodedFile, decode_file
from neither.data.preprocessing import Preprocessing
from neither.data.scan import ImageTable
from neither.data.store import Cache, ImageStore, build_store
from neither.runtime.console import setup_console

PREPROCESSING = Preprocessing(8)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def build(folder: Path) -> ImageStore:
    table = ImageTable(folder, folder)
    table.add(names_in(folder), "", "")
    return build_store(table, PREPROCESSING, folder.parent / "spare", 0.5)


decode_alone = cache(partial(decode_file, preprocessing=PREPROCESSING))


def check(built: ImageStore, folder: Path) -> None:
    """Require for each file what decoding it alone gives."""
    for index, name in enumerate(names_in(folder)):
        alone = decode_alone(folder / name)
        assert built.reasons.get(index, "") == alone.reason, name
        assert built.fingerprints["sha256"][index].tobytes() == alone.sha256, name
        if alone.pixels is not None:
            assert np.array_equal(built.gather(np.array([index]))[0], alone.pixels), name


def build_beside_others(folder: Path, log: Path) -> None:
    """Decode after a line on standard input and log each file; then check."""
    started = False

    def logged(path: Path, preprocessing: Preprocessing, *, with_traits: bool) -> DecodedFile:
        nonlocal started
        if not started:
            started = True
            print("decoding", flush=True)
            sys.stdin.readline()
        with log.open("a") as file:
            file.write(f"{path.name}\n")
        return decode_file(path, preprocessing, with_traits=with_traits)

    setup_console()
    store.decode_file = logged  # type: ignore[assignment,attr-defined]
    check(build(folder), folder)
    print("right", flush=True)


def in_child(work: Callable[[], object]) -> int:
    """Do something in a forked process and return its exit code, -9 if it was killed."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def dying(step: int, work: Callable[[], object]) -> None:
    """Do something, but be killed before or after the given step of all that touch the disk."""
    done = 0

    def count() -> None:
        nonlocal done
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)
        done += 1

    def counted(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        count()
        result = function(*arguments, **options)
        count()
        return result

    for name in ("open", "fsync", "replace", "unlink", "utime"):
        setattr(os, name, partial(counted, getattr(os, name)))
    work()


def kill_at_each_step(folder: Path) -> int:
    """Kill a build at each step: of an empty cache, then of one whose files have changed since."""
    home, full = Path(os.environ["XDG_CACHE_HOME"]), folder.parent / "full"
    shutil.rmtree(home, ignore_errors=True)
    kills = 0
    for before in (None, full):
        if before is not None:
            build(folder)
            shutil.copytree(home, before)
            for name in names_in(folder)[5:]:
                os.utime(folder / name, (1, 1))
        for step in range(1000):
            shutil.rmtree(home, ignore_errors=True)
            if before is not None:
                shutil.copytree(before, home)
            code = in_child(partial(dying, step, partial(build, folder)))
            for _ in range(2):
                check(build(folder), folder)
            assert not list(home.glob("neither/images/*/.*.tmp"))
            if code == 0:
                break
            assert code == -signal.SIGKILL, code
            kills += 1
    return kills


def main() -> None:
    """Do what the command line asks for."""
    what, folder = sys.argv[1], Path(sys.argv[2])
    store._CHUNK_IMAGES = store._SHARD_IMAGES = 16
    if what == "pool":
        workers.num_cores = lambda: 2  # type: ignore[attr-defined]
        add = Cache.add

        def reported(*arguments: Any) -> None:  # noqa: ANN401
            add(*arguments)
            print("published", flush=True)

        Cache.add = reported  # type: ignore[method-assign,assignment]
        build(folder)
        return
    workers.num_cores = lambda: 1  # type: ignore[attr-defined]
    if what == "build":
        build_beside_others(folder, Path(sys.argv[3]))
        return
    os.fsync = lambda fd: None  # saves time: what was written outlives a killed process anyway
    print(kill_at_each_step(folder))


if __name__ == "__main__":
    main()
