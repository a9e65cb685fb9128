"""What an attempt showed after its last checkpoint is gone for every reader."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch.utils.tensorboard import SummaryWriter

from neither.training.tensorboard import drop_events_from


def write(folder: Path, steps: range) -> Path:
    writer = SummaryWriter(str(folder))
    for step in steps:
        writer.add_text("said", f"at {step}", step)
        writer.add_scalar("loss", step, step)
    writer.close()
    (path,) = folder.iterdir()
    return path


def read_steps(path: Path) -> list[int]:
    return [event.step for event in EventFileLoader(str(path)).Load() if event.summary.value]


def test_steps_from_one_on_are_dropped(tmp_path: Path) -> None:
    path = write(tmp_path, range(5))
    drop_events_from(tmp_path, 3)
    assert read_steps(path) == [0, 0, 1, 1, 2, 2]


def test_an_event_that_was_cut_off_is_dropped_too(tmp_path: Path) -> None:
    path = write(tmp_path, range(3))
    path.write_bytes(path.read_bytes()[:-1])
    drop_events_from(tmp_path, 9)
    assert read_steps(path) == [0, 0, 1, 1, 2]
    kept = path.read_bytes()
    path.write_bytes(kept + kept[:11])  # not even its length
    drop_events_from(tmp_path, 9)
    assert path.read_bytes() == kept


def test_nothing_to_drop_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = write(tmp_path, range(3))
    before = path.read_bytes(), path.stat().st_ino
    drop_events_from(tmp_path, 3)
    assert (path.read_bytes(), path.stat().st_ino) == before


def test_a_run_that_begins_anew_leaves_no_events(tmp_path: Path) -> None:
    write(tmp_path, range(3))
    drop_events_from(tmp_path, 0)
    assert not list(tmp_path.iterdir())


def test_a_file_of_another_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "events.out.tfevents.1.x").write_bytes(b"\4" + bytes(11) + b"\xff" * 4 + bytes(4))
    with pytest.raises(ValueError, match="not a file of TensorBoard's"):
        drop_events_from(tmp_path, 3)
