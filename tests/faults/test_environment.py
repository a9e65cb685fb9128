"""The rows of the fault matrix on what surrounds a run: signals, disks, permissions, memory.

Kills and failing calls are tried one by one in `benchmarks/torture.py`, of which
`tests/test_torture.py` runs a sample.
"""

import errno
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calls import Call
from faults.tiny import assert_refused
from neither.cli import train as train_command
from neither.data import store
from neither.models.checkpoint import load_checkpoint, read_archive
from neither.training import trainer, validation
from neither.training.step import train_step
from scripts import ROOT, drop_rights, run_script, start_script


def last_weights(run: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = read_archive(run / "checkpoints" / "last.pt")[0]["weights"]
    return weights


def assert_same_end(run: Path, whole: Path) -> None:
    expected = last_weights(whole)
    assert all(torch.equal(each, expected[name]) for name, each in last_weights(run).items())


@pytest.fixture
def whole(config: Path, call: Call) -> Path:
    """Train without an accident."""
    run = config.with_name("whole")
    assert call("train", config, "--output-dir", run).code == 0
    return run


def train(call: Call, config: Path, *more: str | Path) -> Any:  # noqa: ANN401
    return call("train", config, *more, "--output-dir", config.with_name("run"))


Patch = pytest.MonkeyPatch


def before(
    module: object, name: str, number: int, act: Callable[[], object]
) -> Callable[..., None]:
    """Return what lets something happen before the call of this number of a function."""

    def patch(monkeypatch: Patch) -> None:
        function, calls = getattr(module, name), 0

        def counted(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
            nonlocal calls
            calls += 1
            if calls == number:
                act()
            return function(*arguments, **options)

        monkeypatch.setattr(module, name, counted)

    return patch


def terminate() -> None:
    signal.raise_signal(signal.SIGTERM)


MOMENTS = {
    "import": before(train_command, "check_installation", 1, terminate),
    "scan": before(os, "scandir", 3, terminate),
    "decoding": before(store, "decode_file_with_traits", 5, terminate),
    "first validation": before(validation, "compute_logits", 1, terminate),
    "first save": before(os, "fsync", 5, terminate),
    "step": before(trainer, "train_step", 2, terminate),
    "validation": before(validation, "compute_logits", 3, terminate),
    "save": before(os, "replace", 9, terminate),
}


@pytest.mark.fault("R03")
@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS.keys())
def test_a_signal_at_any_moment_ends_in_order_and_the_run_goes_on_to_the_bit(
    moment: Callable[[Patch], None], config: Path, whole: Path, call: Call, monkeypatch: Patch,
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # so that images are decoded
    with monkeypatch.context() as patch:
        moment(patch)
        done = train(call, config)
    assert done.code == 143, done.err
    assert done.err.splitlines()[-1] == "stopped by SIGTERM"
    assert train(call, config).code == 0
    assert_same_end(config.with_name("run"), whole)


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    while not condition():
        assert process.poll() is None, "it ended too early"
        time.sleep(0.01)


@pytest.mark.fault("R04", "R13")
def test_two_runs_never_share_a_folder_and_ten_interrupts_end_one_unharmed(config: Path) -> None:
    run = config.with_name("run")
    arguments = ("train", config, "train.epochs=100000", "--output-dir", run)
    both = [start_script(*arguments), start_script(*arguments)]
    while not any(process.poll() is not None for process in both):
        time.sleep(0.01)
    (loser,) = (process for process in both if process.poll() is not None)
    (winner,) = (process for process in both if process is not loser)
    assert loser.returncode == 6
    wait_for((run / "checkpoints" / "last.pt").exists, winner)
    third = run_script(*map(str, arguments))
    assert third.returncode == 6
    assert re.search(rf"another run is using .*pid {winner.pid} on \S+", third.stderr)
    for _ in range(10):
        winner.send_signal(signal.SIGINT)
    assert winner.wait(timeout=60) == 130
    assert load_checkpoint(run / "checkpoints" / "last.pt").training is not None
    winner = start_script(*arguments)  # the lock died with its owner
    time.sleep(0.5)
    wait_for(lambda: "going on with" in (run / "log.txt").read_text(), winner)
    winner.send_signal(signal.SIGHUP)
    assert winner.wait(timeout=60) == 143


@pytest.mark.fault("R06")
def test_a_suspended_run_carries_on(config: Path, whole: Path) -> None:
    run = config.with_name("run")
    process = start_script("train", config, "--output-dir", run)
    wait_for((run / "splits.csv").exists, process)
    process.send_signal(signal.SIGSTOP)
    time.sleep(1)
    process.send_signal(signal.SIGCONT)
    assert process.wait(timeout=60) == 0
    assert_same_end(run, whole)


def fail_to_sync(name: str, number: int, code: int) -> Callable[[Patch], None]:
    """Return a disk that has no room for the version of this number of a file."""

    def patch(monkeypatch: Patch) -> None:
        fsync, times = os.fsync, 0

        def full(descriptor: int) -> None:
            nonlocal times
            if f".{name}." in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
                times += 1
                if times == number:
                    raise OSError(code, os.strerror(code))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", full)

    return patch


DISKS = [
    ("config.yaml", 1, errno.ENOSPC, "No space left on device; free some space"),
    ("splits.csv", 1, errno.ENOSPC, "No space left on device; free some space"),
    ("environment.json", 1, errno.EIO, "Input/output error"),
    ("best.pt", 1, errno.ENOSPC, "MB cannot be saved here: No space left on device"),
    ("last.pt", 1, errno.ENOSPC, "MB cannot be saved here: No space left on device"),
    ("last.pt", 2, errno.ENOSPC, "MB cannot be saved here: No space left on device"),
    ("last.pt", 3, errno.EDQUOT, "MB cannot be saved here: Disk quota exceeded"),
    ("last.pt", 2, errno.EIO, "MB cannot be saved here: Input/output error"),
]


@pytest.mark.fault("R07", "R08", "R09")
@pytest.mark.parametrize(("name", "number", "code", "said"), DISKS)
def test_a_disk_that_fails_keeps_what_was_saved_and_the_run_goes_on_once_there_is_room(
    name: str, number: int, code: int, said: str,
    config: Path, whole: Path, call: Call, monkeypatch: Patch,
) -> None:  # fmt: skip
    run = config.with_name("run")
    with monkeypatch.context() as patch:
        fail_to_sync(name, number, code)(patch)
        assert_refused(train(call, config), 6, name if "cannot" in said else "", said)
    assert not [path for path in run.rglob("*.tmp") if path.is_file()]
    for path in (run / "checkpoints").glob("*.pt"):
        load_checkpoint(path)
    assert train(call, config).code == 0
    assert_same_end(run, whole)


@pytest.mark.fault("R07")
def test_a_disk_without_room_for_curves_costs_curves_and_one_warning(
    config: Path, whole: Path, call: Call, monkeypatch: Patch
) -> None:
    fail_to_sync("metrics.jsonl", 1, errno.ENOSPC)(monkeypatch)
    done = train(call, config)
    assert done.code == 0, done.err
    assert done.err.count("curves can no longer be written") == 1
    assert_same_end(config.with_name("run"), whole)


@pytest.mark.fault("R07")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_a_log_that_cannot_be_written_costs_one_warning(
    config: Path, whole: Path, call: Call
) -> None:
    run = config.with_name("run")
    assert train(call, config, "train.epochs=0").code == 0
    shutil.rmtree(run / "checkpoints")
    (run / "log.txt").unlink()
    (run / "log.txt").symlink_to("/dev/full")
    done = train(call, config)
    assert done.code == 0, done.err
    assert done.err.count("log.txt: cannot be written: ") == 1
    assert_same_end(run, whole)


@pytest.mark.fault("R09")
@pytest.mark.parametrize("limit", [2000, 9000, 12_000])
def test_a_limit_on_the_size_of_files_is_no_crash(limit: int, config: Path, tmp_path: Path) -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = run_script("train", config, "--output-dir", tmp_path / "run", first=limited,
                      XDG_CACHE_HOME=str(tmp_path / "cache"))  # fmt: skip
    assert done.returncode == 6, done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.fault("R10", "R12")
def test_a_folder_that_cannot_be_a_run_is_refused_before_training(
    config: Path, call: Call, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "thesis.txt").write_text("mine")
    for folder, said in ((tmp_path / "file", "cannot make this folder"),
                         (tmp_path / "file" / "below", "cannot make this folder"),
                         (tmp_path / ("x" * 300), "too long"),
                         (tmp_path / "others", "this folder is not a run")):  # fmt: skip
        assert_refused(call("train", config, "--output-dir", folder), 6, said)
    assert (tmp_path / "others" / "thesis.txt").read_text() == "mine"
    good = tmp_path / "\N{DOG FACE} caf\u00e9" / ("x" * 255)
    assert call("train", config, "train.epochs=0", "--output-dir", good).code == 0


@pytest.mark.fault("R10", "R25", "D17", "E13")
def test_permissions_are_asked_for_before_work_begins(home: Path, tmp_path: Path) -> None:
    shut = tmp_path / "shut"
    shut.mkdir()
    shut.chmod(0o555)
    new = run_script("train", home / "tiny.yaml", "--output-dir", shut / "run", first=drop_rights)
    assert (new.returncode, "Permission denied" in new.stderr) == (6, True), new.stderr
    own = run_script("train", home / "tiny.yaml", "--output-dir", shut, first=drop_rights)
    assert (own.returncode, "permission denied" in own.stderr) == (6, True), own.stderr
    for way, code in (((home / "images" / "test"), 6), ((home / "images" / "test" / "dog"), 3)):
        mode = way.stat().st_mode
        way.chmod(0)
        try:
            done = run_script("evaluate", home / "run", home / "images" / "test", "--output-dir",
                              home / "out", first=drop_rights)  # fmt: skip
        finally:
            way.chmod(mode)
        assert done.returncode == code, done.stderr
        assert "ermission denied" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.fault("R25")
def test_curves_that_may_not_be_written_cost_no_training(home: Path) -> None:
    run = home / "run"
    assert run_script("train", home / "tiny.yaml", "--output-dir", run, "--fresh").returncode == 0
    shutil.rmtree(run / "checkpoints")
    (run / "tensorboard" / "train").chmod(0o555)
    done = run_script("train", home / "tiny.yaml", "--output-dir", run, first=drop_rights)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("curves can no longer be written") == 1
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.fault("R11")
def test_a_run_folder_that_vanishes_ends_the_run_at_the_next_save(
    config: Path, call: Call, monkeypatch: Patch
) -> None:
    run = config.with_name("run")
    before(trainer, "train_step", 2, lambda: shutil.rmtree(run))(monkeypatch)
    assert_refused(train(call, config), 6, str(run / "checkpoints"), "No such file or directory")


@pytest.mark.fault("D26")
def test_images_that_vanish_in_mid_run_are_not_missed(
    config: Path, whole: Path, images: Path, call: Call, monkeypatch: Patch
) -> None:
    before(trainer, "train_step", 2, lambda: shutil.rmtree(images))(monkeypatch)
    done = train(call, config)
    assert done.code == 0, done.err
    assert_same_end(config.with_name("run"), whole)


@pytest.mark.fault("D27")
def test_a_folder_that_vanishes_while_it_is_read_ends_the_run(
    config: Path, images: Path, call: Call, monkeypatch: Patch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before(store, "decode_file_with_traits", 5, lambda: shutil.rmtree(images))(monkeypatch)
    assert_refused(train(call, config), 3, "images are unreadable", "no such file or directory")


@pytest.mark.fault("R20")
def test_a_clock_that_jumps_changes_nothing(
    config: Path, whole: Path, call: Call, monkeypatch: Patch
) -> None:
    now, jumps = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: now() + 3600 * (-1) ** next(jumps) * 24)
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    done = train(call, config)
    assert done.code == 0, done.err
    assert_same_end(config.with_name("run"), whole)
    rows = [json.loads(line) for line in
            (config.with_name("run") / "metrics.jsonl").read_text().splitlines()]  # fmt: skip
    assert all(row["train"].get("images_per_second", 1) > 0 for row in rows)


def list_states() -> list[object]:
    legacy: Any = np.random.get_state()
    return [random.getstate(), legacy[1].tolist(), torch.get_rng_state().tolist()]


@pytest.mark.fault("R24")
def test_random_numbers_of_others_change_nothing_and_are_left_alone(
    config: Path, whole: Path, call: Call, monkeypatch: Patch
) -> None:
    def spend() -> None:
        random.random()  # noqa: S311
        np.random.rand()
        torch.rand(1)

    def noisy(*arguments: Any) -> bool:  # noqa: ANN401
        spend()
        return train_step(*arguments)

    spend()
    states = list_states()
    assert train(call, config).code == 0
    assert list_states() == states
    monkeypatch.setattr(trainer, "train_step", noisy)
    assert train(call, config, "--fresh").code == 0
    assert_same_end(config.with_name("run"), whole)


@pytest.mark.fault("R29")
def test_a_user_without_a_name_or_a_home_trains(config: Path, tmp_path: Path) -> None:
    """As in a container with an unknown user id."""
    program = (
        "import os, pwd, runpy, sys\n"
        "def unknown(*_): raise KeyError('uid not found')\n"
        "pwd.getpwuid = pwd.getpwnam = unknown\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    bare = {name: value for name, value in os.environ.items()
            if name not in ("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME")}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", program, ROOT / "scripts" / "train.py", config, "--output-dir",
         tmp_path / "run"],
        env=bare, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Matplotlib" not in done.stderr


@pytest.mark.fault("R30")
def test_many_epochs_leave_no_files_open_and_no_threads_running(config: Path, call: Call) -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    assert train(call, config).code == 0
    files, threads = open_files(), threading.active_count()
    during = []

    def look(*arguments: Any) -> bool:  # noqa: ANN401
        memory = int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # type: ignore[index]
        during.append((open_files(), threading.active_count(), memory))
        return train_step(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "train_step", look)
        assert train(call, config, "train.epochs=100", "--fresh").code == 0
    assert (open_files(), threading.active_count()) == (files, threads)
    assert {each[:2] for each in during[3:]} == {during[3][:2]}
    assert during[-1][2] - during[len(during) // 2][2] < 20_000  # kilobytes in 150 steps
