"""The rows of the fault matrix on what surrounds a run: signals, disks, permissions, memory.

`benchmarks/torture.py` kills at more moments and lets every call fail; test_torture.py samples it.
"""

import errno
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calls import Call
from faults.tiny import TinyRun, assert_refused
from moments import before, terminate
from neither.cli import train as train_command
from neither.config.loader import load_config
from neither.data import store
from neither.models.checkpoint import load_checkpoint
from neither.training import trainer, validation
from neither.training.step import train_step
from scripts import permissions_apply, start_script

Patch = pytest.MonkeyPatch

MOMENTS = {
    "import": before(train_command, "check_installation", 1, terminate),
    "scan": before(os, "scandir", 3, terminate),
    "decoding": before(store, "decode_file", 5, terminate),
    "first save": before(os, "fsync", 5, terminate),
    "step": before(trainer, "train_step", 2, terminate),
    "validation": before(validation, "compute_outputs", 3, terminate),
    "save": before(os, "replace", 9, terminate),
}


@pytest.mark.fault("R03")
@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS.keys())
def test_a_signal_at_any_moment_exits_143_and_the_run_resumes_to_the_bit(
    moment: Callable[[Patch], None], tiny: TinyRun, monkeypatch: Patch, tmp_path: Path
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # so that images are decoded
    with monkeypatch.context() as patch:
        moment(patch)
        done = tiny.train()
    assert done.code == 143, done.err
    assert "SIGTERM" in done.err.splitlines()[-1]
    tiny.assert_finished()


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    while not condition():
        assert process.poll() is None, "it ended too early"
        time.sleep(0.01)


@pytest.mark.fault("R04", "R06", "R13")
def test_a_run_has_one_process_which_can_be_suspended_and_interrupted(
    config: Path, tiny: TinyRun
) -> None:
    run, endless = tiny.folder, "train.epochs=100000"
    arguments = ("train", config, endless, "--output-dir", run)
    both = [start_script(*arguments), start_script(*arguments)]
    while not any(process.poll() is not None for process in both):
        time.sleep(0.01)
    (loser,) = (process for process in both if process.poll() is not None)
    (winner,) = (process for process in both if process is not loser)
    assert loser.returncode == 6
    last = run / "checkpoints" / "last.pt"
    wait_for(last.exists, winner)
    assert_refused(tiny.train(endless), 6, f"pid {winner.pid} on ")
    winner.send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    winner.send_signal(signal.SIGCONT)
    rows = len((run / "metrics.jsonl").read_text().splitlines())
    wait_for(lambda: len((run / "metrics.jsonl").read_text().splitlines()) > rows, winner)
    for _ in range(10):
        winner.send_signal(signal.SIGINT)
    assert winner.wait(timeout=60) == 130
    training = load_checkpoint(last).training
    assert training is not None
    # The lock ended with its owner.
    with pytest.MonkeyPatch.context() as patch:
        before(trainer, "train_step", 3, lambda: signal.raise_signal(signal.SIGHUP))(patch)
        assert tiny.train(endless).code == 143


def fail_to_sync(name: str, number: int, code: int) -> Callable[[Patch], None]:
    """Return a patch: the disk has no room for the version of this number of a file."""

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


@pytest.mark.fault("R07", "R08", "R09")
@pytest.mark.parametrize(
    ("name", "number", "code"),
    [("splits.csv", 1, errno.ENOSPC), ("environment.json", 1, errno.EIO),
     ("best.pt", 1, errno.ENOSPC), ("last.pt", 1, errno.ENOSPC), ("last.pt", 3, errno.EDQUOT)],
)  # fmt: skip
def test_a_full_disk_exits_6_keeps_what_was_saved_and_the_run_resumes_to_the_bit(
    name: str, number: int, code: int, tiny: TinyRun, monkeypatch: Patch
) -> None:
    with monkeypatch.context() as patch:
        fail_to_sync(name, number, code)(patch)
        assert_refused(tiny.train(), 6, os.strerror(code))
    assert not [path for path in tiny.folder.rglob("*.tmp") if path.is_file()]
    for path in (tiny.folder / "checkpoints").glob("*.pt"):
        load_checkpoint(path)
    tiny.assert_finished()


@pytest.mark.fault("R10", "R12")
def test_a_folder_that_cannot_be_a_run_exits_6_before_training(
    config: Path, call: Call, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    (tmp_path / "read-only").mkdir(0o555)
    for name in ("file", "file/below", "x" * 300, "other", "read-only", "read-only/run"):
        with permissions_apply():
            assert_refused(call("train", config, "--output-dir", tmp_path / name), 6, name)
    assert (tmp_path / "other" / "thesis.txt").read_text() == "mine"
    good = tmp_path / "\N{DOG FACE} caf\u00e9" / ("x" * 255)
    assert call("train", config, "train.epochs=0", "--output-dir", good).code == 0


@pytest.mark.parametrize(
    ("override", "code"), [("classes=[dog, human, gone, neither]", 3), ("device=cuda:99", 6)]
)
def test_a_run_that_fails_before_it_begins_leaves_no_empty_folders(
    override: str, code: int, tiny: TinyRun
) -> None:
    for _ in range(2):
        assert tiny.train(override).code == code
        assert not [path for path in tiny.folder.rglob("*") if path.is_dir()]
    tiny.assert_finished()


@pytest.mark.fault("R11")
def test_a_run_folder_that_vanishes_exits_6_at_the_next_save(
    tiny: TinyRun, monkeypatch: Patch
) -> None:
    before(trainer, "train_step", 2, lambda: shutil.rmtree(tiny.folder))(monkeypatch)
    assert_refused(tiny.train(), 6, str(tiny.folder / "checkpoints"))


@pytest.mark.fault("D26")
def test_images_may_vanish_once_they_are_decoded(
    images: Path, tiny: TinyRun, monkeypatch: Patch
) -> None:
    before(trainer, "train_step", 2, lambda: shutil.rmtree(images))(monkeypatch)
    tiny.assert_finished()


@pytest.mark.fault("D27")
def test_images_that_vanish_while_they_are_decoded_exit_3(
    images: Path, tiny: TinyRun, monkeypatch: Patch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before(store, "decode_file", 5, lambda: shutil.rmtree(images))(monkeypatch)
    assert_refused(tiny.train(), 3, "train/")


@pytest.mark.fault("D27")
def test_a_run_whose_images_moved_asks_where_they_are_and_resumes_to_the_bit(
    images: Path, tiny: TinyRun, monkeypatch: Patch
) -> None:
    with monkeypatch.context() as patch:
        before(trainer, "train_step", 3, terminate)(patch)
        assert tiny.train().code == 143
    moved = images.rename(images.with_name("moved"))
    done = tiny.train()
    assert_refused(done, 2, str(images), "data.root=")
    done = tiny.train(f"data.root={moved}")
    assert done.code == 0, done.err
    tiny.assert_same_weights()
    assert load_config(tiny.folder / "config.yaml").data.root == str(moved)
    assert tiny.call("train", tiny.folder / "config.yaml", "--output-dir", tiny.folder).code == 0


@pytest.mark.fault("R24")
def test_the_global_random_states_are_neither_used_nor_changed(
    tiny: TinyRun, monkeypatch: Patch
) -> None:
    def list_states() -> list[object]:
        legacy: Any = np.random.get_state()
        return [random.getstate(), legacy[1].tolist(), torch.get_rng_state().tolist()]

    def draw(*arguments: Any) -> bool:  # noqa: ANN401
        random.random()  # noqa: S311
        np.random.rand()
        torch.rand(1)
        return not arguments or train_step(*arguments)

    draw()
    states = list_states()
    assert tiny.train("train.epochs=0").code == 0
    assert list_states() == states
    monkeypatch.setattr(trainer, "train_step", draw)
    assert tiny.train("--fresh").code == 0
    tiny.assert_same_weights()


@pytest.mark.fault("R30")
def test_many_epochs_leave_no_files_open_and_no_threads_running(
    tiny: TinyRun, monkeypatch: Patch
) -> None:
    def count() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    during = []

    def look(*arguments: Any) -> bool:  # noqa: ANN401
        memory = int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # type: ignore[index]
        during.append((count(), memory))
        return train_step(*arguments)

    assert tiny.train("train.epochs=0").code == 0
    idle = count()
    monkeypatch.setattr(trainer, "train_step", look)
    assert tiny.train("train.epochs=25", "--fresh").code == 0
    assert count() == idle
    assert {counts for counts, _ in during[3:]} == {during[3][0]}
    assert during[-1][1] - during[len(during) // 2][1] < 10_000  # kilobytes
