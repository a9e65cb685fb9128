"""One folder, one run, one owner: new, resumed, finished, moved aside or refused; environment."""

import errno
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from neither.config.loader import load_config
from neither.config.schema import RENAMED_KEYS, Config
from neither.data.preprocessing import Preprocessing
from neither.models.checkpoint import load_checkpoint
from neither.runtime import files
from neither.runtime.console import log_to_folder
from neither.runtime.devices import DeviceConfig
from neither.runtime.errors import CheckpointError, OutputError, UsageError
from neither.training.run_folder import RunFolder, open_run_folder, write_environment
from neither.training.state import build_state

CPU = torch.device("cpu")
MakeConfig = Callable[..., Config]


def save_last(config: Config, run: RunFolder, epoch: int = 1) -> None:
    """Leave what training leaves after some epochs."""
    device_config = DeviceConfig(CPU, "float32")
    state = build_state(config, Preprocessing(config.data.image_size), device_config)
    state = replace(state, epoch=epoch, step=10 * epoch, metrics={"loss": 1.0, "macro_recall": 0.5})
    state.save(run.best, config, resumable=False)
    state.save(run.last, config, resumable=True)


def start_run(config: Config, folder: Path, epoch: int = 1) -> None:
    with open_run_folder(config, folder, fresh=False) as run:
        save_last(config, run, epoch)


def open_and_close(config: Config, folder: Path, fresh: bool = False) -> RunFolder:
    with open_run_folder(config, folder, fresh) as run:
        return run


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".lock"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "test"


def test_a_new_run_has_its_folders_and_the_config_that_repeats_it(
    folder: Path, make_config: MakeConfig
) -> None:
    config = make_config(train={"lr": 0.05})
    run = open_and_close(config, folder)
    assert run.resumed is None
    assert names(folder) == {"config.yaml", "checkpoints", "tensorboard", "log.txt"}
    assert load_config(folder / "config.yaml") == config
    assert (run.best, run.last) == (
        folder / "checkpoints" / "best.pt",
        folder / "checkpoints" / "last.pt",
    )


def test_the_same_config_resumes_from_the_last_checkpoint(
    folder: Path, make_config: MakeConfig
) -> None:
    start_run(make_config(), folder, epoch=2)
    resumed = open_and_close(make_config(), folder).resumed
    assert resumed is not None
    assert (resumed.epoch, resumed.step) == (2, 20)
    assert resumed.training is not None
    assert "resuming" in (folder / "log.txt").read_text()
    assert "after epoch 2, step 20" in (folder / "log.txt").read_text()


def test_a_finished_run_is_opened_to_be_read(folder: Path, make_config: MakeConfig) -> None:
    start_run(make_config(), folder, epoch=3)
    run = open_and_close(make_config(), folder)
    assert run.resumed is not None
    assert run.resumed.epoch == 3
    assert "resuming" not in (folder / "log.txt").read_text()
    best = run.load_best()
    assert (best.epoch, best.training) == (3, None)


def test_changed_keys_are_listed_with_both_values(folder: Path, make_config: MakeConfig) -> None:
    start_run(make_config(), folder)
    before = (folder / "config.yaml").read_bytes()
    changed = make_config(
        seed=5, train={"epochs": 30, "warmup_epochs": 1}, classes=("dog", "human"), name="other",
    )  # fmt: skip
    with pytest.raises(UsageError) as refused:
        open_and_close(changed, folder)
    message = str(refused.value)
    assert refused.value.exit_code == 2
    assert str(folder) in message
    listed = [line.strip() for line in message.splitlines() if " became " in line]
    assert listed == [
        "classes: ('dog', 'human', 'neither') became ('dog', 'human')",
        "seed: 0 became 5",
        "train.epochs: 3 became 30",
        "train.warmup_epochs: 0 became 1",
    ]
    assert "name=other-2" in message
    assert "--fresh" in message
    assert (folder / "config.yaml").read_bytes() == before


def test_a_run_of_version_1_must_start_again(folder: Path, make_config: MakeConfig) -> None:
    start_run(make_config(), folder)
    config_file = folder / "config.yaml"
    for old, new in RENAMED_KEYS.items():
        old_key, new_key = (f"  {key.partition('.')[2]}:" for key in (old, new))
        config_file.write_text(config_file.read_text().replace(new_key, old_key))
    with pytest.raises(UsageError, match=r"config\.yaml:[^$]*--fresh[^\n]*$"):
        open_and_close(make_config(), folder)
    assert open_and_close(make_config(), folder, fresh=True).resumed is None
    assert (folder.with_name(f"{folder.name}.1") / "config.yaml").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"device": "cpu"},
        {"data": {"root": "elsewhere"}},
        {"data": {"root": None, "manifest": "photos.csv"}},
        {"checkpoint": {"save_every_minutes": 1.0}},
    ],
    ids=str,
)
def test_keys_that_change_no_number_may_change(
    change: dict[str, object], folder: Path, make_config: MakeConfig
) -> None:
    start_run(make_config(), folder)
    assert open_and_close(make_config(**change), folder).resumed is not None


@pytest.mark.parametrize(
    "change",
    [
        {"train": {"epochs": 4}},
        {"data": {"group_pattern": "^([0-9]+)"}},
        {"data": {"sources": "^([0-9]+)"}},
        {"data": {"aliases": {"person": "human"}}},
        {"augmentation": {"horizontal_flip": False}},
        {"precision": "bfloat16"},
        {"reject_class": "dog"},
        {"decision": {"target_precision": 0.5}},
    ],
    ids=str,
)
def test_keys_that_change_numbers_may_not(
    change: dict[str, object], folder: Path, make_config: MakeConfig
) -> None:
    start_run(make_config(), folder)
    with pytest.raises(UsageError, match=r"another config\n.* became "):
        open_and_close(make_config(**change), folder)


def test_a_run_that_ended_before_its_first_checkpoint_may_change_its_config(
    folder: Path, make_config: MakeConfig
) -> None:
    open_and_close(make_config(), folder)
    (folder / "splits.csv").write_text("of other classes")
    changed = make_config(classes=("cat", "cow"), train={"epochs": 9})
    assert open_and_close(changed, folder).resumed is None
    assert load_config(folder / "config.yaml") == changed
    assert not (folder / "splits.csv").exists()


def test_a_run_whose_disk_was_full_at_once_can_begin_when_there_is_space(
    folder: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_atomic", full_disk)
        with pytest.raises(OSError, match="No space"):
            open_and_close(make_config(), folder)
    (folder / ".config.yaml.123.tmp").write_text("what a killed writer leaves")
    assert open_and_close(make_config(), folder).resumed is None
    assert names(folder) == {"config.yaml", "checkpoints", "tensorboard", "log.txt"}


def test_a_resumed_run_keeps_its_splits(folder: Path, make_config: MakeConfig) -> None:
    start_run(make_config(), folder)
    (folder / "splits.csv").write_text("path,label\n")
    open_and_close(make_config(), folder)
    assert (folder / "splits.csv").read_text() == "path,label\n"


def test_files_of_killed_writers_are_removed(folder: Path, make_config: MakeConfig) -> None:
    start_run(make_config(), folder)
    left = [folder / ".metrics.jsonl.1.tmp", folder / "checkpoints" / ".last.pt.1.tmp"]
    for path in left:
        path.write_text("half of a file")
    open_and_close(make_config(), folder)
    assert not any(path.exists() for path in left)


def damage(path: Path) -> bytes:
    content = path.read_bytes()
    path.write_bytes(content[:1000] + b"x" + content[1001:])
    return path.read_bytes()


def test_a_damaged_checkpoint_is_replaced_by_the_one_before(
    folder: Path, make_config: MakeConfig
) -> None:
    """K01."""
    start_run(make_config(), folder)
    with open_run_folder(make_config(), folder, fresh=False) as run:
        files.keep_copy(run.previous, run.last)
        save_last(make_config(), run, 2)
    assert load_checkpoint(run.last).epoch == 2
    damaged = damage(run.last)
    resumed = open_and_close(make_config(), folder).resumed
    assert resumed is not None
    assert resumed.epoch == 1
    log = (folder / "log.txt").read_text()
    assert "last.pt: damaged: the checksum differs" in log
    assert "resuming" in log.splitlines()[-1]
    # Neither thrown away, nor ever to be taken for the one before the next.
    assert (folder / "checkpoints" / "damaged.pt").read_bytes() == damaged
    assert not run.last.exists()
    again = open_and_close(make_config(), folder).resumed
    assert again is not None
    assert again.epoch == 1


def test_without_a_usable_checkpoint_nothing_is_resumed(
    folder: Path, make_config: MakeConfig
) -> None:
    start_run(make_config(), folder)
    last = folder / "checkpoints" / "last.pt"
    damage(last)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"last\.pt: damaged.*previous\.pt.*--fresh"):
            open_and_close(make_config(), folder)
        files.keep_copy(last.with_name("previous.pt"), last)
    assert open_and_close(make_config(), folder, fresh=True).resumed is None


def test_a_damaged_best_checkpoint_is_logged_and_replaced(
    folder: Path, make_config: MakeConfig
) -> None:
    start_run(make_config(), folder)
    with open_run_folder(make_config(), folder, fresh=False) as run:
        assert run.is_best_usable()
        damage(run.best)
        assert not run.is_best_usable()
        run.best.unlink()
        assert not run.is_best_usable()
    log = (folder / "log.txt").read_text()
    assert log.count("the next validated epoch replaces it") == 2


def test_fresh_moves_each_old_run_aside_under_the_next_number(
    folder: Path, make_config: MakeConfig
) -> None:
    for number in range(3):
        run = open_and_close(make_config(seed=number), folder, fresh=True)
        assert run.resumed is None
        save_last(make_config(seed=number), run, epoch=number + 1)
        (folder / "report.html").write_text(f"of run {number}")
    assert {path.name for path in folder.parent.iterdir()} == {"test", "test.1", "test.2"}
    for number, name in enumerate(["test.1", "test.2", "test"]):
        kept = folder.with_name(name)
        assert load_config(kept / "config.yaml").seed == number
        assert (kept / "report.html").read_text() == f"of run {number}"
        resumed = open_and_close(make_config(seed=number), kept).resumed
        assert resumed is not None
        assert resumed.epoch == number + 1


def test_a_run_in_the_current_folder_can_be_started_over(
    folder: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_run(make_config(), folder)
    monkeypatch.chdir(folder)
    assert open_and_close(make_config(), Path(), fresh=True).resumed is None
    assert (folder.with_name("test.1") / "checkpoints" / "last.pt").exists()


def test_a_killed_fresh_leaves_a_folder_that_is_still_a_run(
    folder: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_run(make_config(), folder)
    num_parts, rename, calls = len(names(folder)), Path.rename, 0
    listed = sorted(folder.iterdir(), reverse=True)  # an order that a file system may answer

    def killed_at_the_last_part(path: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == num_parts:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed_at_the_last_part)
        patch.setattr(Path, "iterdir", lambda _: iter(listed))
        with pytest.raises(KeyboardInterrupt):
            open_and_close(make_config(), folder, fresh=True)
    assert open_and_close(make_config(), folder, fresh=True).resumed is None
    assert (folder.with_name("test.1") / "checkpoints" / "last.pt").exists()
    assert names(folder.with_name("test.2")) == {"config.yaml"}


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("name", ["holiday.jpg", "config.yaml"])
def test_a_folder_that_is_no_run_is_left_as_it_is(
    name: str, fresh: bool, folder: Path, make_config: MakeConfig
) -> None:
    folder.mkdir(parents=True)
    (folder / name).write_text("another program's")
    with pytest.raises(OutputError, match=f"not a run .*{name}.*--output-dir") as refused:
        open_and_close(make_config(), folder, fresh)
    assert refused.value.exit_code == 6
    assert [path.name for path in folder.iterdir()] == [name]
    assert (folder / name).read_text() == "another program's"
    assert list(folder.parent.iterdir()) == [folder]


def test_hidden_files_do_not_matter(folder: Path, make_config: MakeConfig) -> None:
    folder.mkdir(parents=True)
    (folder / ".DS_Store").write_text("left by a file manager")
    assert open_and_close(make_config(), folder).resumed is None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")
def test_a_folder_has_one_owner_at_a_time(folder: Path, make_config: MakeConfig) -> None:
    start_run(make_config(), folder)
    with open_run_folder(make_config(), folder, fresh=False):
        for fresh in (False, True):
            with pytest.raises(OutputError, match=f"another run.*pid {os.getpid()}") as refused:
                open_and_close(make_config(), folder, fresh)
            assert refused.value.exit_code == 6
    assert {path.name for path in folder.parent.iterdir()} == {"test"}
    open_and_close(make_config(), folder)


def read_environment_file(run: RunFolder) -> dict[str, object]:
    content: dict[str, object] = json.loads((run.folder / "environment.json").read_text())
    return content


def test_the_environment_is_recorded(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write_environment(run, DeviceConfig(CPU, "bfloat16"), "abc123")
    environment = read_environment_file(run)
    assert environment["torch"] == torch.__version__
    assert environment["precision"] == "bfloat16"
    assert str(environment["device"]).startswith("cpu: ")
    assert environment["threads"] == torch.get_num_threads()
    assert environment["command"] == sys.argv
    assert environment["data_fingerprint"] == "abc123"
    assert None not in environment.values()


@pytest.fixture
def started(tmp_path: Path, make_config: Callable[..., Config]) -> RunFolder:
    """Return a run to resume."""
    config = make_config()
    state = build_state(config, Preprocessing(32), DeviceConfig(CPU, "float32"))
    run = RunFolder(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    state.metrics = {"loss": 1.0}
    state.save(run.best, config, resumable=True)
    write_environment(run, DeviceConfig(CPU, "float32"), "abc123")
    return RunFolder(tmp_path, run.load_best())


def test_resuming_in_the_same_environment_logs_nothing(started: RunFolder, tmp_path: Path) -> None:
    with log_to_folder(tmp_path):
        write_environment(started, DeviceConfig(CPU, "float32"), "abc123")
    assert (tmp_path / "log.txt").read_text() == ""


@pytest.mark.fault("R23", "K14")
def test_resuming_in_another_environment_is_logged(started: RunFolder, tmp_path: Path) -> None:
    path = tmp_path / "environment.json"
    changes = {"threads": 99, "torch": "2.99.0", "python": "3.99"}
    path.write_text(json.dumps(read_environment_file(started) | changes))
    with log_to_folder(tmp_path):
        write_environment(started, DeviceConfig(CPU, "bfloat16"), "abc123")
    (line,) = (tmp_path / "log.txt").read_text().splitlines()
    assert "in its last bits" in line
    assert "torch 2.99.0 became " in line
    assert "precision float32 became bfloat16" in line
    assert "threads 99 became " in line
    assert "python" not in line


@pytest.mark.parametrize("content", ["", "[]", "{half"])
def test_a_damaged_environment_is_replaced(
    content: str, started: RunFolder, tmp_path: Path
) -> None:
    (tmp_path / "environment.json").write_text(content)
    write_environment(started, DeviceConfig(CPU, "float32"), "abc123")
    assert read_environment_file(started)["precision"] == "float32"
