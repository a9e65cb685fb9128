"""Train and val share their tags; a resumed run has each point once; disk errors cost curves."""

import errno
import os
import sys
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

from neither.runtime import files
from neither.runtime.console import log_to_folder
from neither.training.tensorboard import MetricsLogger
from outputs import read_rows

Patch = pytest.MonkeyPatch
STEPS_PER_EPOCH = 7


def make_metrics(value: float) -> dict[str, float]:
    return {"loss": value, "accuracy": 1 - value / 4, "recall/dog": 0.5}


def write_epochs(folder: Path, done: int | None, epochs: range, value: float) -> None:
    """Write as one attempt of a run would that went on after `done` epochs."""
    with closing(MetricsLogger(folder, None if done is None else STEPS_PER_EPOCH * done)) as logger:
        for epoch in epochs:
            step = STEPS_PER_EPOCH * epoch
            train = make_metrics(value + epoch / 100) | {"learning_rate": 0.1}
            logger.write_epoch(epoch, step, train, make_metrics(value + epoch / 10))


def age_events(folder: Path, seconds: int = 1000) -> None:
    """Rename event files as if written long ago: TensorBoard reads them by the time in the name."""
    for path in folder.glob("tensorboard/*/events.*"):
        parts = path.name.split(".")
        parts[3] = f"{int(parts[3]) - seconds:010}"
        path.rename(path.with_name(".".join(parts)))


def read_curves(folder: Path, split: str) -> dict[str, dict[int, float]]:
    events = EventAccumulator(str(folder / "tensorboard" / split))
    events.Reload()
    curves: dict[str, dict[int, float]] = {}
    for tag in events.Tags()["scalars"]:
        points = events.Scalars(tag)
        assert set(Counter(point.step for point in points).values()) == {1}, tag
        curves[tag] = {point.step: point.value for point in points}
    return curves


def test_train_and_val_share_their_tags_from_step_0_on(tmp_path: Path) -> None:
    write_epochs(tmp_path, None, range(3), 1.0)
    train, val = read_curves(tmp_path, "train"), read_curves(tmp_path, "val")
    assert train.keys() - val.keys() == {"learning_rate"}
    assert val.keys() == make_metrics(0).keys()
    assert train["loss"] == pytest.approx({0: 1.0, 7: 1.01, 14: 1.02})
    assert val["loss"] == pytest.approx({0: 1.0, 7: 1.1, 14: 1.2})
    rows = read_rows(tmp_path)
    assert [(row["epoch"], row["step"]) for row in rows] == [(0, 0), (1, 7), (2, 14)]
    assert rows[1]["val"] == make_metrics(1.1)
    assert rows[1]["train"] == make_metrics(1.01) | {"learning_rate": 0.1}


@pytest.mark.fault("R26")
def test_a_resumed_run_replaces_what_was_written_after_its_checkpoint(tmp_path: Path) -> None:
    write_epochs(tmp_path, None, range(4), 1.0)  # cut off: only epoch 1 was saved
    for path in tmp_path.glob("tensorboard/*/events.*"):
        path.write_bytes(path.read_bytes()[:-1])
    age_events(tmp_path)
    write_epochs(tmp_path, 1, range(2, 5), 3.0)
    rows = read_rows(tmp_path)
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4]
    expected = [1.0, 1.1, 3.2, 3.3, 3.4]
    assert [row["val"]["loss"] for row in rows] == pytest.approx(expected)
    curve = read_curves(tmp_path, "val")["loss"]
    assert list(curve) == [0, 7, 14, 21, 28]
    assert list(curve.values()) == pytest.approx(expected)
    assert list(read_curves(tmp_path, "train")["learning_rate"]) == [0, 7, 14, 21, 28]


@pytest.mark.fault("R20")
def test_a_clock_that_was_set_back_costs_no_curves(tmp_path: Path) -> None:
    """R20: TensorBoard would read the newer file first, and drop what it purges."""
    write_epochs(tmp_path, None, range(4), 1.0)
    age_events(tmp_path, -3600)
    write_epochs(tmp_path, 1, range(2, 5), 3.0)
    age_events(tmp_path, -7200)
    write_epochs(tmp_path, 3, range(4, 6), 5.0)
    curve = read_curves(tmp_path, "val")["loss"]
    expected = {0: 1.0, 7: 1.1, 14: 3.2, 21: 3.3, 28: 5.4, 35: 5.5}
    assert curve == pytest.approx(expected)


def test_lost_rows_of_earlier_epochs_cost_neither_curves_nor_the_run(tmp_path: Path) -> None:
    write_epochs(tmp_path, None, range(3), 1.0)
    age_events(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("{half a row")
    with log_to_folder(tmp_path):
        write_epochs(tmp_path, 1, range(2, 4), 3.0)
    assert "metrics.jsonl: cannot be read" in (tmp_path / "log.txt").read_text()
    assert [row["epoch"] for row in read_rows(tmp_path)] == [2, 3]
    assert list(read_curves(tmp_path, "val")["loss"]) == [0, 7, 14, 21]


def test_a_run_cut_off_before_its_first_checkpoint_begins_its_curves_anew(tmp_path: Path) -> None:
    write_epochs(tmp_path, None, range(1), 1.0)
    age_events(tmp_path)
    write_epochs(tmp_path, None, range(2), 3.0)
    assert [row["epoch"] for row in read_rows(tmp_path)] == [0, 1]
    assert read_curves(tmp_path, "train")["loss"] == pytest.approx({0: 3.0, 7: 3.01})


def use_all(logger: MetricsLogger) -> None:
    """Write everything that a run writes."""
    with closing(logger):
        logger.add("train", lambda writer: writer.add_text("config", "name: test", 0))
        logger.add("val", lambda writer: writer.add_custom_scalars({}))
        for epoch in range(3):
            logger.write_epoch(epoch, epoch, make_metrics(1.0), make_metrics(1.0))
        logger.add("train", lambda writer: writer.add_text("config", "name: test", 0))


def assert_warned_once(log: Path) -> None:
    text = log.read_text()  # tracebacks of writers' threads too, if a command set their hook
    assert text.count("curves can no longer be written") == 1
    assert text.count("training continues") == 1


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_costs_rows_but_does_not_raise(tmp_path: Path, monkeypatch: Patch) -> None:
    before = threading.active_count()
    monkeypatch.setattr(files, "write_atomic", full_disk)
    with log_to_folder(tmp_path):
        use_all(MetricsLogger(tmp_path, None))
    assert_warned_once(tmp_path / "log.txt")
    assert threading.active_count() == before  # no writer lives on


def test_a_full_disk_costs_events_but_no_rows(tmp_path: Path, monkeypatch: Patch) -> None:
    ended: list[object] = []
    monkeypatch.setattr(threading, "excepthook", ended.append)  # whoever set one before
    logger = MetricsLogger(tmp_path, None)
    monkeypatch.setattr(RecordWriter, "write", full_disk)
    with log_to_folder(tmp_path):
        use_all(logger)
    assert_warned_once(tmp_path / "log.txt")
    assert [row["epoch"] for row in read_rows(tmp_path)] == [0, 1, 2]
    assert ended


@pytest.mark.fault("R25")
def test_without_tensorboard_there_are_rows_all_the_same(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with log_to_folder(tmp_path):
        use_all(MetricsLogger(tmp_path, None))
    assert_warned_once(tmp_path / "log.txt")
    assert [row["epoch"] for row in read_rows(tmp_path)] == [0, 1, 2]


def test_a_folder_that_cannot_be_made_costs_curves_but_no_rows(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    with log_to_folder(tmp_path):
        use_all(MetricsLogger(tmp_path, None))
    assert_warned_once(tmp_path / "log.txt")
    assert [row["epoch"] for row in read_rows(tmp_path)] == [0, 1, 2]


def test_all_ranks_but_rank_0_write_nothing(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)
    use_all(MetricsLogger(None, None))
    assert list(tmp_path.iterdir()) == []
