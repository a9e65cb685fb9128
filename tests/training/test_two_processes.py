"""Real processes, started by torchrun: each start takes seconds, so there are few."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from calls import Call
from checkpoints import save_run
from images import draw_shape, make_splits
from neither.config.loader import load_config
from neither.models.checkpoint import Checkpoint, load_checkpoint
from neither.runtime.distributed import World
from neither.training import trainer
from neither.training.run_folder import open_run_folder
from outputs import read_rows
from scripts import ROOT

pytestmark = pytest.mark.usefixtures("no_plots")

_ABORTED = "terminate called without an active exception"
SAVE_EACH_STEP = "checkpoint.save_every_minutes=1e-9"
TEXT = """name: shared
classes: [dog, human, neither]
device: cpu
precision: float32
data: {root: ROOT, image_size: 32, unlabelled: MORE}
model: {name: softmax_regression}
train: {epochs: 3, batch_size: 8, lr: 0.01, teacher: TEACHER}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a config and its 47 images: batches of 8 and 7, uneven parts."""
    home = tmp_path_factory.mktemp("shared")
    root = make_splits(home / "images", train=15, val=5, test=1)
    teacher = save_run(home / "teacher", root)
    (home / "more").mkdir()
    for number in range(2):
        draw_shape("dog", 500 + number).save(home / "more" / f"{number}.png")
    text = TEXT.replace("ROOT", str(root)).replace("TEACHER", str(teacher))
    (home / "shared.yaml").write_text(text.replace("MORE", str(home / "more")))
    return home


def torchrun(*arguments: str | Path, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a script in two processes that find each other at a free port.

    About once in eighty starts on a busy machine Gloo's threads abort a process of torch 2.14 that
    is leaving (pytorch #190489): then the same command goes on, as users are told to let it.
    """
    done = _torchrun(*arguments, restarts=restarts)
    return _torchrun(*arguments, restarts=restarts) if _ABORTED in done.stderr else done


def _torchrun(*arguments: str | Path, restarts: int) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
         f"--max-restarts={restarts}", *arguments],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert_no_process_left(str(arguments[-1]))
    return done


def assert_no_process_left(folder: str) -> None:
    """Assert that no process works in a run's folder any more."""
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")
             if path.exists()]  # fmt: skip
    assert not [line for line in lines if folder.encode() in line]


def messages(done: subprocess.CompletedProcess[str], begin: str) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith(begin)]


def last(folder: Path) -> Checkpoint:
    return load_checkpoint(folder / "checkpoints" / "last.pt")


def train_alone(home: Path, folder: Path) -> None:
    config = load_config(home / "shared.yaml")
    with open_run_folder(config, folder, fresh=False) as run:
        trainer.train(config, run)


def assert_equal_metrics(one: Path, other: Path) -> None:
    """Assert the same counts, and the same sums but for rounding."""
    for mine, theirs in zip(read_rows(one), read_rows(other), strict=True):
        for split in ("train", "val"):
            for name, value in mine[split].items():
                if "recall" in name or name == "accuracy":
                    assert value == theirs[split][name], name
                assert value == pytest.approx(theirs[split][name], abs=1e-5, rel=1e-5), name
    for name, weights in last(one).weights.items():
        assert torch.allclose(weights, last(other).weights[name], rtol=0, atol=1e-5), name


def test_two_processes_one_of_which_is_killed_train_what_one_does(home: Path) -> None:
    """Rank 1 is killed in the second epoch; torchrun ends both and starts them again."""
    folder = home / "killed"
    command = (home / "shared.yaml", "--output-dir", folder, SAVE_EACH_STEP)
    done = torchrun("tests/dying.py", "1", "8", "SIGKILL", *command, restarts=1)
    assert done.returncode == 0, done.stderr
    (error,) = messages(done, "error: ")
    assert "was killed" in error
    assert len(messages(done, f"resuming {folder} after epoch 1, step 8")) == 1
    assert len(messages(done, "epoch 3 of 3")) == 1
    assert done.stdout.count("best epoch") == 1, "only rank 0 prints"
    assert json.loads((folder / "environment.json").read_text())["processes"] == 2
    train_alone(home, home / "alone")
    assert_equal_metrics(home / "alone", folder)

    (folder / "checkpoints" / "last.pt").unlink()  # one process goes on from the one before
    train_alone(home, folder)
    assert_equal_metrics(home / "alone", folder)
    assert "processes 2 became 1" in (folder / "log.txt").read_text()


def test_fewer_images_a_batch_than_processes_are_refused(
    home: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "init_distributed", lambda: nullcontext(World(0, 9)))
    done = call("train", home / "shared.yaml", "--output-dir", home / "few")
    assert done.code == 2
    assert "train.batch_size: 8 images, in all, are too few for 9 processes" in done.err
    assert not (home / "few").exists()
