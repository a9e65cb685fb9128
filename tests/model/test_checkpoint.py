"""A checkpoint comes back to the bit, can be used alone, and cannot run code."""

import codecs
import errno
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neither.config import Model
from neither.data.preprocessing import Preprocessing
from neither.errors import CheckpointError, UsageError
from neither.model.checkpoint import (
    SCHEMA_VERSION,
    Checkpoint,
    find_checkpoint,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from neither.model.network import build_network

MODEL = Model(width=8)


def make_network(seed: int = 5) -> nn.Module:
    """Build a network whose norms have seen images, so that each tensor tells something."""
    network = build_network(MODEL, 3, 32, seed)
    network(make_images())
    return network


def make_images() -> Tensor:
    return torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@cache
def make_checkpoint() -> Checkpoint:
    return Checkpoint(
        classes=("dog", "human", "neither"),
        reject_class="neither",
        model=MODEL,
        preprocessing=Preprocessing(32, "pad"),
        weights=make_network().state_dict(),
        mirrored=False,
        temperature=1.25,
        threshold=0.5,
        shares=(0.25, 0.5, 0.25),
        config={"name": "test", "train": {"lr": 0.1, "epochs": 3}, "classes": ["dog", "human"]},
        epoch=2,
        step=34,
        metrics={"loss": 1.1, "macro_recall": 0.1 + 0.2},
        training={"step_in_epoch": 3, "optimizer": {"state": {0: {"momentum": torch.ones(2)}}}},
    )


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("checkpoint") / "best.pt"
    save_checkpoint(path, make_checkpoint())
    return path.read_bytes()


@pytest.fixture
def saved(content: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "best.pt"
    path.write_bytes(content)
    return path


def change(path: Path, **values: Any) -> None:  # noqa: ANN401
    """Write a checkpoint file again with other values in it."""
    torch.save(torch.load(path, weights_only=True) | values, path)


def assert_refused(path: Path, match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as refused:
        load_checkpoint(path)
    assert str(path) in str(refused.value)
    assert refused.value.exit_code == 5


def test_a_checkpoint_comes_back_to_the_bit(saved: Path) -> None:
    expected, found = dict(vars(make_checkpoint())), vars(load_checkpoint(saved))
    expected_weights, weights = expected.pop("weights"), found.pop("weights")
    assert list(weights) == list(expected_weights)
    for name, tensor in expected_weights.items():
        assert weights[name].dtype == tensor.dtype, name
        assert torch.equal(weights[name], tensor), name
    momenta = expected.pop("training"), found.pop("training")
    assert torch.equal(*(each["optimizer"]["state"][0]["momentum"] for each in momenta))
    assert momenta[1]["step_in_epoch"] == 3
    assert found == expected


def test_a_checkpoint_classifies_by_itself_in_a_fresh_process(saved: Path) -> None:
    program = """
import sys, torch
from pathlib import Path
from neither.model.checkpoint import load_checkpoint
images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    print(load_checkpoint(Path(sys.argv[1])).build()(images).tolist())
"""
    done = subprocess.run(
        [sys.executable, "-c", program, saved],
        capture_output=True, text=True, check=True, cwd=saved.parent,
    )  # fmt: skip
    with torch.no_grad():
        expected = make_network().eval()(make_images())
    torch.testing.assert_close(torch.tensor(eval(done.stdout)), expected, rtol=1e-5, atol=1e-6)  # noqa: S307


def test_a_built_network_is_ready_to_evaluate(saved: Path) -> None:
    network = load_checkpoint(saved).build()
    assert not any(module.training for module in network.modules())
    with torch.no_grad():
        assert torch.equal(network(make_images()), make_network().eval()(make_images()))


def test_a_mirrored_checkpoint_answers_for_mirror_images_too() -> None:
    network, images = replace(make_checkpoint(), mirrored=True).build(), make_images()
    assert not network.training
    with torch.no_grad():
        torch.testing.assert_close(network(images), network(images.flip(3)))


class Attack:
    """What calls a function with arguments as soon as it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


ATTACKS: dict[str, Callable[[Path], object]] = {
    "os.system": lambda canary: Attack(os.system, f"touch '{canary}'"),
    "eval": lambda canary: Attack(eval, f"open({str(canary)!r}, 'w').close()"),
    "nested": lambda canary: (
        vars(make_checkpoint())
        | {"schema_version": 1, "config": {"a": [Attack(Path.touch, Path(canary))]}}
    ),
    "codecs": lambda canary: Attack(codecs.open, str(canary), "w"),
}


@pytest.mark.parametrize("write", [torch.save, pickle.dump], ids=["torch", "pickle"])
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_a_checkpoint_runs_no_code(
    attack: Callable[[Path], object], write: Callable[..., None], tmp_path: Path
) -> None:
    canary, path = tmp_path / "canary", tmp_path / "evil.pt"
    with path.open("wb") as file:
        write(attack(canary), file)
    assert_refused(path, "cannot be read")
    assert not canary.exists()


@pytest.mark.filterwarnings("ignore")
def test_the_attacks_above_would_work(tmp_path: Path) -> None:
    """The negative twin: read carelessly, each makes its canary."""
    for name, attack in ATTACKS.items():
        canary, path = tmp_path / f"canary of {name}", tmp_path / "evil.pt"
        torch.save(attack(canary), path)
        torch.load(path, weights_only=False)
        assert canary.exists(), name


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "text": lambda _: b"not a checkpoint\n",
    "another zip": lambda _: b"PK\5\6" + bytes(18),
    "cut in half": lambda content: content[: len(content) // 2],
    "last byte missing": lambda content: content[:-1],
    "first half missing": lambda content: content[len(content) // 2 :],
    "garbage at the end": lambda content: content + b"garbage",
    "much garbage at the end": lambda content: content + bytes(100_000),
    "one bit of a weight flipped": lambda content: flip_a_bit(content, len(content) // 2),
}


def flip_a_bit(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_file_is_refused(damage: Callable[[bytes], bytes], saved: Path) -> None:
    saved.write_bytes(damage(saved.read_bytes()))
    assert_refused(saved, "damaged or not one of ours")


@pytest.mark.parametrize("content", [{"weight": torch.ones(2)}, torch.ones(2), [1, 2]],
                         ids=["state_dict", "tensor", "list"])  # fmt: skip
def test_a_file_of_another_program_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pt")
    assert_refused(tmp_path / "other.pt", "not a checkpoint of this project")


def test_another_schema_version_is_named(saved: Path) -> None:
    change(saved, schema_version=SCHEMA_VERSION + 1)
    assert_refused(saved, f"schema {SCHEMA_VERSION + 1} is not {SCHEMA_VERSION}.*install")


@pytest.mark.parametrize(
    "values",
    [{"model": {"name": "resnet"}}, {"preprocessing": {}}, {"extra": 1}, {"model": None}],
    ids=["unknown network", "no image size", "unknown part", "no network"],
)
def test_wrong_parts_are_refused(values: dict[str, Any], saved: Path) -> None:
    change(saved, **values)
    assert_refused(saved, "parts of this checkpoint are missing or wrong")


def test_weights_of_another_network_are_refused_naming_the_first_differences(saved: Path) -> None:
    wider = replace(load_checkpoint(saved), model=Model(width=16))
    with pytest.raises(CheckpointError) as refused:
        wider.build()
    assert str(refused.value) == (
        "the weights fit another network: "
        "head.weight: (3, 64) in the checkpoint, (3, 128) wanted; "
        "stages.0.first.0.weight: (16, 8, 3, 3) in the checkpoint, (32, 16, 3, 3) wanted; "
        "stages.0.first.1.bias: (16,) in the checkpoint, (32,) wanted"
    )


def test_missing_and_unknown_weights_are_named() -> None:
    with pytest.raises(CheckpointError, match=r"bias: nothing in the checkpoint, \(2,\) wanted; "
                       r"scale: \(1,\) in the checkpoint, nothing wanted$"):  # fmt: skip
        load_weights(nn.Linear(3, 2), {"weight": torch.zeros(2, 3), "scale": torch.ones(1)})


def test_refused_weights_leave_the_network_as_it_was() -> None:
    network = nn.Linear(3, 2)
    before = network.weight.clone()
    with pytest.raises(CheckpointError):
        load_weights(network, {"weight": torch.full((2, 3), 9.0)})
    assert torch.equal(network.weight, before)


def test_a_full_disk_leaves_the_old_file_whole(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(saved, replace(make_checkpoint(), epoch=99))
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.skipif(os.name != "posix", reason="Windows has no umask")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_file_mode_follows_the_umask(umask: int, mode: int, tmp_path: Path) -> None:
    old = os.umask(umask)
    try:
        save_checkpoint(tmp_path / "best.pt", make_checkpoint())
    finally:
        os.umask(old)
    assert (tmp_path / "best.pt").stat().st_mode & 0o777 == mode


def test_the_folder_of_a_run_means_its_best_checkpoint(tmp_path: Path) -> None:
    best = tmp_path / "checkpoints" / "best.pt"
    best.parent.mkdir()
    save_checkpoint(best, make_checkpoint())
    save_checkpoint(best.with_name("last.pt"), replace(make_checkpoint(), epoch=7))
    assert find_checkpoint(tmp_path) == best
    assert load_checkpoint(tmp_path).epoch == 2
    assert load_checkpoint(best.with_name("last.pt")).epoch == 7


@pytest.mark.parametrize("name", ["missing.pt", "folder"])
def test_a_path_without_checkpoint_is_a_usage_error(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=name) as refused:
        load_checkpoint(tmp_path / name)
    assert refused.value.exit_code == 2


def test_a_checkpoint_of_another_decoder_is_refused(saved: Path) -> None:
    change(saved, preprocessing=vars(load_checkpoint(saved).preprocessing) | {"decoder": 1})
    assert_refused(saved, "trained on images of decoder 1")
