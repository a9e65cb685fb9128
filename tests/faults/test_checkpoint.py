"""The rows of the fault matrix on checkpoints; tests/models/test_checkpoint.py has more of each."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from calls import Call, Done
from faults.tiny import assert_refused, read_probabilities
from neither.models.checkpoint import load_checkpoint, read_archive, write_archive
from neither.runtime import files


def evaluate(call: Call, home: Path, model: Path | None = None) -> Done:
    return call("evaluate", model or home / "run", home / "images", "--output-dir", home / "out")


def predict(call: Call, home: Path, model: Path | None = None) -> dict[str, tuple[str, ...]]:
    done = evaluate(call, home, model)
    assert done.code == 0, done.err
    return read_probabilities(home / "out")


def resume(call: Call, home: Path, *more: str) -> Done:
    return call("train", home / "tiny.yaml", *more, "--output-dir", home / "run")


def write_changed(path: Path, **values: Any) -> None:  # noqa: ANN401
    content = read_archive(path)[0] | values
    write_archive(path, {key: value for key, value in content.items() if value is not ...})


def write_weights(path: Path, value: float) -> None:
    weights = read_archive(path)[0]["weights"]
    write_changed(path, weights={name: torch.full_like(weights[name], value) for name in weights})


UNUSABLE: dict[str, Callable[[Path], object]] = {
    "K01": lambda path: path.write_bytes(path.read_bytes()[:2000]),
    "K12": lambda path: write_weights(path, torch.nan),
    "E11": lambda path: write_weights(path, 3e38),  # finite, but logits are not
}


@pytest.mark.fault("K01", "K12", "E11")
@pytest.mark.parametrize("row", UNUSABLE)
def test_an_unusable_checkpoint_exits_5_without_results(row: str, home: Path, call: Call) -> None:
    for name in ("best.pt", "last.pt", "previous.pt"):
        UNUSABLE[row](home / "run" / "checkpoints" / name)
    assert_refused(evaluate(call, home), 5)
    assert not (home / "out" / "predictions.csv").exists()
    if row == "K01":
        assert_refused(resume(call, home), 5, "last.pt", "--fresh")


@pytest.mark.fault("K09", "E15")
def test_class_names_come_from_the_checkpoint_and_never_from_the_order_of_folders(
    home: Path, call: Call
) -> None:
    before = predict(call, home)
    best = home / "run" / "checkpoints" / "best.pt"
    weights = read_archive(best)[0]["weights"]
    write_changed(best, classes=("neither", "human", "dog"),
                  weights={name: tensor.flip(0) for name, tensor in weights.items()})  # fmt: skip
    assert predict(call, home) == before
    write_changed(best, classes=("Neither", "human", "dog"), reject_class=None)
    done = evaluate(call, home)
    assert done.code == 0, done.err
    assert f"{home / 'images' / 'test' / 'neither'}: " in done.err


@pytest.mark.fault("K17")
def test_a_reader_beside_a_writer_gets_one_whole_version(home: Path) -> None:
    last = home / "run" / "checkpoints" / "last.pt"
    content, _ = read_archive(last)
    write_archive(last, content | {"step": 0})
    done, seen = threading.Event(), []

    def read() -> None:
        while not done.is_set():
            seen.append(load_checkpoint(last).step)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for step in range(100):
            files.keep_copy(last.with_name("previous.pt"), last)
            write_archive(last, content | {"step": step})
    finally:
        done.set()
        reader.join()
    assert seen == sorted(seen)
    assert len(set(seen)) > 2


@pytest.mark.fault("K18")
def test_a_link_is_read_through_and_never_written_through(home: Path, call: Call) -> None:
    best = home / "run" / "checkpoints" / "best.pt"
    elsewhere = home / "elsewhere.pt"
    best.replace(elsewhere)
    best.symlink_to(elsewhere)
    elsewhere.chmod(0o444)
    before = elsewhere.read_bytes()
    assert evaluate(call, home).code == 0
    assert resume(call, home, "--fresh").code == 0
    assert elsewhere.read_bytes() == before
    assert not (home / "run" / "checkpoints" / "best.pt").is_symlink()


@pytest.mark.fault("K19")
def test_optimizer_state_of_other_parameters_is_refused(home: Path, call: Call) -> None:
    last = home / "run" / "checkpoints" / "last.pt"
    content, _ = read_archive(last)
    optimizer = content["training"]["optimizer"]
    state = optimizer["state"]
    swapped = dict(zip(state, reversed(state.values()), strict=True))
    wrong: list[dict[str, Any]] = [
        optimizer | {"state": swapped}, optimizer | {"param_groups": []}, {}
    ]  # fmt: skip
    for spoiled in wrong:
        training = content["training"] | {"optimizer": spoiled}
        write_archive(last, content | {"training": training, "epoch": 1})
        assert_refused(resume(call, home), 5)
