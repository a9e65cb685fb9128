"""Checkpoints come back to the bit, damage is detected, and no file runs code or grows."""

import errno
import io
import math
import os
import pickle
import zipfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from neither.config.schema import Model
from neither.data.preprocessing import Preprocessing
from neither.models.checkpoint import (
    SCHEMA_VERSION,
    Checkpoint,
    DecisionRule,
    checksum_trailer,
    find_checkpoint,
    load_checkpoint,
    load_weights,
    named_tensors,
    read_archive,
    save_checkpoint,
    write_archive,
)
from neither.models.networks import build_network
from neither.runtime.errors import CheckpointError, OutputError, UsageError

Patch = pytest.MonkeyPatch
MODEL = Model(width=8)
GOLDEN = sorted((Path(__file__).parent / "golden").glob("schema_*.pt"))
TRAILER_BYTES = 48
Change = Callable[[bytes], bytes]


def make_images() -> Tensor:
    return torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def make_network() -> nn.Module:
    """Build a network whose batch norms have statistics of images."""
    network = build_network(MODEL, 3, 32, seed=5)
    network(make_images())
    return network


@cache
def make_checkpoint() -> Checkpoint:
    return Checkpoint(
        classes=("dog", "human", "neither"),
        reject_class="neither",
        model=MODEL,
        preprocessing=Preprocessing(32, "pad"),
        weights=make_network().state_dict(),
        flip_tta=False,
        temperature=1.25,
        decision_rule=DecisionRule(0.9, 0.5, 0.25, False, 12, 3),
        calibrated_on="left-out sources",
        class_frequencies=(0.25, 0.5, 0.25),
        source="~/photos",
        aliases={"person": "human"},
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


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.pt"


def change(path: Path, **values: Any) -> None:  # noqa: ANN401
    """Write a checkpoint file again with other values in it."""
    write_archive(path, read_archive(path)[0] | values)


def assert_refused(path: Path, match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as refused:
        load_checkpoint(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.exit_code == 5


def is_refused(path: Path, content: bytes) -> bool:
    path.write_bytes(content)
    try:
        load_checkpoint(path)
    except CheckpointError:
        return True
    return False


# Checkpoints


def test_a_checkpoint_comes_back_to_the_bit(saved: Path) -> None:
    expected, found = deepcopy(vars(make_checkpoint())), vars(load_checkpoint(saved))
    tensors = [dict(named_tensors(each)) for each in (expected, found)]
    assert list(tensors[0]) == list(tensors[1])
    assert all(each.dtype == tensors[1][name].dtype for name, each in tensors[0].items())
    assert all(torch.equal(each, tensors[1][name]) for name, each in tensors[0].items())
    for values in (expected, found):
        del values["weights"], values["training"]["optimizer"]["state"][0]["momentum"]
    assert found == expected


def test_a_checkpoint_of_an_older_decoder_keeps_it(saved: Path) -> None:
    change(saved, preprocessing={"image_size": 32, "decoder": 2})
    preprocessing = load_checkpoint(saved).preprocessing
    assert (preprocessing.decoder, preprocessing.applies_profiles) == (2, False)


def test_a_built_network_is_ready_to_evaluate(saved: Path) -> None:
    network = load_checkpoint(saved).build()
    assert not any(module.training for module in network.modules())
    with torch.no_grad():
        assert torch.equal(network(make_images()), make_network().eval()(make_images()))
        both = replace(make_checkpoint(), flip_tta=True).build()
        assert not both.training
        torch.testing.assert_close(both(make_images()), both(make_images().flip(3)))


def test_an_unknown_network_is_refused(saved: Path) -> None:
    change(saved, model={"name": "resnet", "weights": "gone.pth"})
    with pytest.raises(CheckpointError, match="resnet"):
        load_checkpoint(saved).build()


@pytest.mark.fault("K13")
@pytest.mark.parametrize(("key", "value"), [
    ("model", {"name": "../x"}), ("preprocessing", {"image_size": 0}),
    ("preprocessing", {"image_size": 32, "std": (0.2, 0.0, 0.2)}), ("temperature", 0.0),
    ("decision_rule.threshold", 1.5), ("calibrated_on", "test"),
    ("class_frequencies", (-0.5, 0.5, 1.0)), ("classes", ()),
    ("aliases", {"a": 1}), ("step", -1), ("extra", 1),
])  # fmt: skip
def test_a_wrong_field_is_refused(key: str, value: object, saved: Path) -> None:
    section, _, name = key.partition(".")
    if name:
        value = read_archive(saved)[0][section] | {name: value}
    change(saved, **{section: value})
    assert_refused(saved, f"{key}.* of this checkpoint is missing or wrong")


@pytest.mark.fault("K11")
@pytest.mark.parametrize(("values", "message"), [
    ({"classes": ("dog", "dog", "neither")}, "contradict"), ({"reject_class": "cat"}, "contradict"),
    ({"class_frequencies": (0.5, 0.5)}, "contradict"),
    ({"preprocessing": {"image_size": 32, "decoder": 1}}, "decoder 1"),
    ({"schema_version": SCHEMA_VERSION + 1, "made_by": "99.5"},
     rf"neither 99\.5 with schema {SCHEMA_VERSION + 1};.*install"),
])  # fmt: skip
def test_unsuitable_content_is_refused(values: dict[str, Any], message: str, saved: Path) -> None:
    change(saved, **values)
    assert_refused(saved, message)


@pytest.mark.parametrize("name", [field.name for field in fields(Checkpoint)])
def test_a_missing_field_is_refused(name: str, saved: Path) -> None:
    content = read_archive(saved)[0]
    del content[name]
    write_archive(saved, content)
    if name == "training":  # which `best.pt` does not have
        assert load_checkpoint(saved).training is None
    else:
        assert_refused(saved, f"{name} of this checkpoint is missing or wrong")


@pytest.mark.fault("K12")
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused_by_name(value: float, saved: Path) -> None:
    weights = dict(make_checkpoint().weights)
    weights["head.weight"] = weights["head.weight"].clone().index_fill(1, torch.tensor([7]), value)
    change(saved, weights=weights)
    assert_refused(saved, r"weights\.head\.weight .*not finite")
    momentum = {"optimizer": {"state": {0: {"momentum": torch.tensor([value])}}}}
    change(saved, weights=make_checkpoint().weights, training=momentum)
    assert_refused(saved, r"training\.optimizer\.state\.0\.momentum .*not finite")


# Other schemas


def test_there_is_a_golden_file_of_each_schema() -> None:
    assert [path.stem for path in GOLDEN] == [f"schema_{n}" for n in range(4, SCHEMA_VERSION + 1)]


@pytest.mark.fault("K10", "E14")
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_checkpoint_of_each_schema_gives_the_same_logits(path: Path) -> None:
    """To the bit. Schemas 4 and 5 are of version 1.

    `schema_6.pt` and `schema_7.pt` are what `save_checkpoint` of their time made of `schema_5.pt`.
    Until schema 6 one threshold served the reject class too.
    """
    checkpoint = load_checkpoint(path)
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = checkpoint.build()(images)
        assert torch.equal(logits, load_checkpoint(GOLDEN[-1]).build()(images))
    # And by the formula, in case all of them are wrong.
    weights = torch.linspace(-1, 1, 3 * 192).reshape(3, 192).roll(1, 0).cos()
    bias = torch.linspace(-1, 1, 3).roll(1, 0).cos()
    both = images.flatten(1), images.flip(3).flatten(1)
    expected = (both[0] @ weights.T + both[1] @ weights.T) / 2 + bias
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    assert checkpoint.flip_tta
    assert checkpoint.training is not None
    assert checkpoint.model == Model(name="softmax_regression")
    assert checkpoint.config["augmentation"]["horizontal_flip"] is True
    assert {name: getattr(checkpoint, name) for name in (
        "classes", "reject_class", "temperature", "decision_rule", "calibrated_on",
        "class_frequencies", "source", "aliases", "epoch", "step",
    )} == {
        "classes": ("dog", "human", "neither"), "reject_class": "neither", "temperature": 1.25,
        "decision_rule": DecisionRule(0.98, 0.75, 0.75), "calibrated_on": "val",
        "class_frequencies": (0.25, 0.25, 0.5),
        "source": "images", "aliases": {}, "epoch": 1, "step": 3,
    }  # fmt: skip


@pytest.mark.parametrize("number", [1, -1])
def test_removed_keys_of_old_models_are_ignored(number: int, path: Path) -> None:
    content, _ = read_archive(GOLDEN[number])
    write_archive(path, content | {"model": content["model"] | {"backbone_lr": 0.25}})
    assert load_checkpoint(path).model == load_checkpoint(GOLDEN[number]).model


@pytest.mark.parametrize("config", [None, "text", {}, {"data": None}, {"data": {"root": "x"}}])
def test_a_wrong_config_of_version_1_is_refused(config: object, path: Path) -> None:
    write_archive(path, read_archive(GOLDEN[1])[0] | {"config": config})
    assert_refused(path, "config of this checkpoint is missing or wrong")


# Weights and paths


@pytest.mark.fault("K08")
def test_missing_and_unknown_weights_are_named_and_leave_the_network_unchanged() -> None:
    network = nn.Linear(3, 2)
    before = network.weight.clone()
    with pytest.raises(CheckpointError, match=r"bias: nothing in the checkpoint, \(2,\) wanted; "
                       r"scale: \(1,\) in the checkpoint, nothing wanted$"):  # fmt: skip
        load_weights(network, {"weight": torch.zeros(2, 3), "scale": torch.ones(1)})
    assert torch.equal(network.weight, before)


def test_a_full_disk_leaves_the_old_file_unchanged(saved: Path, monkeypatch: Patch) -> None:
    before = saved.read_bytes()
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(os, "fsync", Mock(side_effect=error))
    with pytest.raises(OutputError, match="No space left"):
        save_checkpoint(saved, replace(make_checkpoint(), epoch=99))
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_the_folder_of_a_run_means_its_best_checkpoint(tmp_path: Path, content: bytes) -> None:
    best = tmp_path / "checkpoints" / "best.pt"
    best.parent.mkdir()
    best.write_bytes(content)
    assert find_checkpoint(tmp_path) == best
    assert find_checkpoint(best) == best
    assert load_checkpoint(tmp_path).epoch == 2


@pytest.mark.fault("K06")
def test_a_missing_path_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"missing\.pt"):
        load_checkpoint(tmp_path / "missing.pt")


@pytest.mark.fault("K06")
def test_a_pipe_or_folder_is_refused_unread(tmp_path: Path, watchdog: None) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    assert_refused(tmp_path / "pipe.pt", "not a file")
    (tmp_path / "folder").mkdir()
    assert_refused(tmp_path / "folder", r"best\.pt")


# Damage. The golden file is small; `benchmarks/torture.py` tries every length and every bit.


@pytest.fixture(scope="module")
def whole() -> bytes:
    return GOLDEN[-1].read_bytes()


@pytest.mark.fault("K01", "K02", "K03")
def test_a_damaged_file_is_refused(path: Path, whole: bytes) -> None:
    """Cut or changed at some offsets, and at all near its end, where the trailer is; extended."""
    for offset in (*range(0, len(whole) - 60, 97), *range(len(whole) - 60, len(whole))):
        assert is_refused(path, whole[:offset]), offset
        flipped = bytearray(whole)
        flipped[offset] ^= 1 << offset % 8
        assert is_refused(path, bytes(flipped)), offset
    for number in (1, TRAILER_BYTES, 100_000):
        assert is_refused(path, whole + bytes(number)), number
        assert is_refused(path, bytes(number) + whole), number
    assert is_refused(path, whole + whole)


@pytest.mark.fault("K01", "K02", "K03", "K06")
@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda _: b"", "not one of ours"),
        (lambda _: b"not a checkpoint\n" * 100, "not one of ours"),
        (lambda whole: whole[: len(whole) // 2], "incomplete"),
        (lambda whole: whole[1:], r"damaged: [\d,]+ bytes instead of [\d,]+"),
        (lambda whole: whole[:200] + b"x" + whole[201:], "checksum differs"),
        (lambda whole: whole[:-TRAILER_BYTES], "checksum is missing"),
    ],
    ids=["empty", "text", "half", "short of a byte", "a byte changed", "no trailer"],
)
def test_damage_is_named(damage: Change, match: str, path: Path, whole: bytes) -> None:
    path.write_bytes(damage(whole))
    assert_refused(path, match)


def test_an_old_checkpoint_without_trailer_is_checked_too(path: Path) -> None:
    whole = GOLDEN[0].read_bytes()
    weights = load_checkpoint(GOLDEN[0]).weights["head.weight"]
    offset = whole.index(weights.numpy().tobytes())
    path.write_bytes(whole[:offset] + bytes(4) + whole[offset + 4 :])
    assert_refused(path, "checksum of .* differs")
    for number in (1, 1000):
        assert is_refused(path, whole + bytes(number))
        assert is_refused(path, whole[:-number])


# Files of other programs, and of attackers


@pytest.mark.fault("K07")
def test_a_file_of_another_program_is_refused(path: Path) -> None:
    for content in ({"weight": torch.ones(2)}, torch.ones(2)):
        torch.save(content, path)
        assert_refused(path, "not a checkpoint of this project")
    with zipfile.ZipFile(path, "w") as archive:  # as `torch.jit.save` does
        for name, text in (("data.pkl", pickle.dumps({})), ("code/__torch__.py", b"import os"),
                           ("constants.pkl", pickle.dumps(())), ("version", b"3")):  # fmt: skip
            archive.writestr(f"model/{name}", text)
    assert_refused(path, "not one of ours|not a checkpoint of this project")


class Attack:
    """Calls a function with an argument as soon as it is unpickled."""

    def __init__(self, function: Callable[..., object], argument: object) -> None:
        self.call = function, (argument,)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def add_trailer(path: Path) -> None:
    """Do as an attacker who knows the format."""
    path.write_bytes(path.read_bytes() + checksum_trailer(path.read_bytes()))


@pytest.mark.fault("K04")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("is_nested", [False, True])
def test_a_file_runs_no_code(is_nested: bool, path: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    attack: object = Attack(os.system, f"touch '{canary}'")
    if is_nested:
        attack = {"schema_version": 6, "config": {"a": [Attack(Path.touch, canary)]}}
    path.write_bytes(pickle.dumps(attack))
    assert_refused(path, "cannot be read")
    torch.save(attack, path)
    assert_refused(path, "cannot be read")
    add_trailer(path)
    assert_refused(path, "cannot be read")
    assert not canary.exists()
    torch.load(path, weights_only=False)
    assert canary.exists()  # the attack works on a careless reader


def write_compressed(path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(1000)}, buffer)
    with zipfile.ZipFile(buffer) as plain, zipfile.ZipFile(path, "w") as small:
        for part in plain.namelist():
            small.writestr(part, plain.read(part), zipfile.ZIP_DEFLATED)


def write_overlapping(path: Path) -> None:
    """Write an archive whose directory names one part a thousand times."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}))
        archive.writestr("a/data/0", bytes(2**20))
        archive.filelist += [archive.filelist[1]] * 1000


@pytest.mark.fault("K05")
@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (write_compressed, "compressed"),
        (write_overlapping, "overlaps"),
        (lambda path: torch.save({"text": "x" * 2**23}, path), "too many values"),
    ],
    ids=["compressed", "overlapping", "large pickle"],
)
def test_a_file_that_would_grow_is_not_loaded(
    write: Callable[[Path], None], reason: str, path: Path, monkeypatch: Patch
) -> None:
    write(path)
    monkeypatch.setattr(torch, "load", None)
    assert_refused(path, reason)
    add_trailer(path)
    assert_refused(path, reason)


@pytest.mark.fault("K05")
def test_a_tensor_of_more_numbers_than_the_file_is_refused(path: Path) -> None:
    """A hundred billion numbers, each of them the same four bytes."""
    torch.save({"weight": torch.zeros(1).expand(100_000_000_000)}, path)
    assert_refused(path, "more numbers than the file holds")
    add_trailer(path)
    assert_refused(path, "more numbers than the file holds")
