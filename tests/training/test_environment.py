"""A run says what its figures hang on, and when that changes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from neither.config.schema import Config
from neither.data.preprocessing import Preprocessing
from neither.runtime.console import log_to_folder
from neither.runtime.devices import Compute
from neither.training.run_folder import RunFolder, write_environment
from neither.training.state import build_state

CPU = torch.device("cpu")


def read(run: RunFolder) -> dict[str, object]:
    content: dict[str, object] = json.loads((run.folder / "environment.json").read_text())
    return content


def test_environment_says_what_the_figures_hang_on(tmp_path: Path) -> None:
    import sys

    run = RunFolder(tmp_path, None)
    write_environment(run, Compute(CPU, "bfloat16"), "abc123")
    environment = read(run)
    assert environment["torch"] == torch.__version__
    assert environment["precision"] == "bfloat16"
    assert str(environment["device"]).startswith("cpu: ")
    assert environment["threads"] == torch.get_num_threads()
    assert environment["command"] == sys.argv
    assert environment["data_fingerprint"] == "abc123"
    assert None not in environment.values()


@pytest.fixture
def begun(tmp_path: Path, make_config: Callable[..., Config]) -> RunFolder:
    """Return a run that goes on after a break."""
    state = build_state(make_config(), Preprocessing(32), Compute(CPU, "float32"))
    run = RunFolder(tmp_path, None)
    (tmp_path / "checkpoints").mkdir()
    state.metrics = {"loss": 1.0}
    state.save(run.best, to_go_on=True)
    write_environment(run, Compute(CPU, "float32"), "abc123")
    return replace(run, resumed=run.read_best())


def test_going_on_in_the_same_environment_needs_no_word(begun: RunFolder, tmp_path: Path) -> None:
    with log_to_folder(tmp_path):
        write_environment(begun, Compute(CPU, "float32"), "abc123")
    assert (tmp_path / "log.txt").read_text() == ""


@pytest.mark.fault("R23", "K14")
def test_going_on_in_another_environment_is_told(begun: RunFolder, tmp_path: Path) -> None:
    path = tmp_path / "environment.json"
    path.write_text(json.dumps(read(begun) | {"threads": 99, "torch": "2.99.0", "python": "3.99"}))
    with log_to_folder(tmp_path):
        write_environment(begun, Compute(CPU, "bfloat16"), "abc123")
    (line,) = (tmp_path / "log.txt").read_text().splitlines()
    assert "not to the same bits" in line
    assert "torch 2.99.0 became " in line
    assert "precision float32 became bfloat16" in line
    assert "threads 99 became " in line
    assert "python" not in line


@pytest.mark.parametrize("content", ["", "[]", "{half"])
def test_an_environment_that_cannot_be_read_stops_nothing(
    content: str, begun: RunFolder, tmp_path: Path
) -> None:
    (tmp_path / "environment.json").write_text(content)
    write_environment(begun, Compute(CPU, "float32"), "abc123")
    assert read(begun)["precision"] == "float32"
