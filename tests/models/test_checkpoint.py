"""A checkpoint comes back to the bit, can be used alone, and cannot run code."""

import errno
import math
import os
import subprocess
import sys
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neither.config.schema import Model
from neither.data.preprocessing import Preprocessing
from neither.models.checkpoint import (
    SCHEMA_VERSION,
    Checkpoint,
    find_checkpoint,
    load_checkpoint,
    load_weights,
    read_archive,
    save_checkpoint,
    write_archive,
)
from neither.models.networks import build_network
from neither.runtime.errors import CheckpointError, OutputError, UsageError

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
    write_archive(path, read_archive(path)[0] | values)


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


def test_a_network_that_nobody_has_is_refused(saved: Path) -> None:
    change(saved, model={"name": "resnet", "weights": "gone.pth"})
    with pytest.raises(CheckpointError, match=r"cannot be built: .* has no resnet among"):
        load_checkpoint(saved).build()


def test_a_newer_schema_is_refused_naming_its_maker(saved: Path) -> None:
    change(saved, schema_version=SCHEMA_VERSION + 1, made_by="99.5")
    assert_refused(
        saved, rf"made by neither 99\.5 with schema {SCHEMA_VERSION + 1}; this is .*install"
    )


WRONG: dict[str, dict[str, Any]] = {
    "no name of a network": {"model": {"name": "../x"}},
    "no network": {"model": None},
    "no image size": {"preprocessing": {}},
    "an image size of 0": {"preprocessing": {"image_size": 0}},
    "a mean that is no number": {"preprocessing": {"image_size": 32, "mean": (0.5, math.nan, 0.5)}},
    "a spread of nothing": {"preprocessing": {"image_size": 32, "std": (0.2, 0.0, 0.2)}},
    "another way to a square": {"preprocessing": {"image_size": 32, "resize": "stretch"}},
    "a temperature of 0": {"temperature": 0.0},
    "no temperature": {"temperature": None},
    "an endless temperature": {"temperature": math.inf},
    "a threshold above 1": {"threshold": 1.5},
    "a share below 0": {"shares": (-0.5, 0.5, 1.0)},
    "no classes": {"classes": ()},
    "a class that is a number": {"classes": (1, 2, 3)},
    "steps before the first": {"step": -1},
    "an unknown part": {"extra": 1},
}


@pytest.mark.fault("K13")
@pytest.mark.parametrize("values", WRONG.values(), ids=WRONG.keys())
def test_wrong_parts_are_refused(values: dict[str, Any], saved: Path) -> None:
    """Never set right in silence."""
    change(saved, **values)
    assert_refused(saved, f"{next(iter(values))}.* of this checkpoint is missing or wrong")


@pytest.mark.parametrize("part", [field.name for field in fields(Checkpoint)])
def test_a_missing_part_is_refused(part: str, saved: Path) -> None:
    content = read_archive(saved)[0]
    del content[part]
    write_archive(saved, content)
    if part == "training":  # what `best.pt` does without
        assert load_checkpoint(saved).training is None
    else:
        assert_refused(saved, f"{part} of this checkpoint is missing or wrong")


@pytest.mark.parametrize(
    "values",
    [{"classes": ("dog", "dog", "neither")}, {"reject_class": "cat"}, {"shares": (0.5, 0.5)}],
    ids=str,
)
def test_classes_that_contradict_each_other_are_refused(
    values: dict[str, Any], saved: Path
) -> None:
    change(saved, **values)
    assert_refused(saved, "the classes of this checkpoint contradict each other")


@pytest.mark.fault("K12")
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused_by_name(value: float, saved: Path) -> None:
    weights = dict(make_checkpoint().weights)
    weights["head.weight"] = weights["head.weight"].clone().index_fill(1, torch.tensor([7]), value)
    change(saved, weights=weights)
    assert_refused(saved, r"weights\.head\.weight holds numbers that are not finite")


def test_momenta_that_are_not_finite_are_refused_by_name(saved: Path) -> None:
    change(saved, training={"optimizer": {"state": {0: {"momentum": torch.tensor([math.nan])}}}})
    assert_refused(saved, r"training\.optimizer\.state\.0\.momentum holds numbers")


def test_negative_variances_are_refused(saved: Path) -> None:
    weights = dict(make_checkpoint().weights)
    name = next(name for name in weights if name.endswith("running_var"))
    change(saved, weights=weights | {name: -weights[name]})
    assert_refused(saved, "running_var holds negative variances")


GOLDEN = sorted((Path(__file__).parent / "golden").glob("schema_*.pt"))


def test_there_is_a_golden_file_of_each_schema() -> None:
    assert [path.stem for path in GOLDEN] == [f"schema_{n}" for n in range(4, SCHEMA_VERSION + 1)]


@pytest.mark.fault("K10")
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_checkpoint_of_each_schema_gives_the_same_probabilities(path: Path) -> None:
    """To the bit."""
    checkpoint = load_checkpoint(path)
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = checkpoint.build()(images)
        assert torch.equal(logits, load_checkpoint(GOLDEN[-1]).build()(images))
    # And by hand, in case all of them went wrong.
    weights = torch.linspace(-1, 1, 3 * 192).reshape(3, 192).roll(1, 0).cos()
    bias = torch.linspace(-1, 1, 3).roll(1, 0).cos()
    both = images.flatten(1), images.flip(3).flatten(1)
    expected = (both[0] @ weights.T + both[1] @ weights.T) / 2 + bias
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    assert (checkpoint.classes, checkpoint.reject_class, checkpoint.temperature) == (
        ("dog", "human", "neither"), "neither", 1.25,
    )  # fmt: skip
    assert (checkpoint.threshold, checkpoint.shares) == (0.75, (0.25, 0.25, 0.5))
    assert (checkpoint.epoch, checkpoint.step) == (1, 3)
    assert checkpoint.training is not None


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
    with pytest.raises(OutputError, match=r"0\.51 MB cannot be saved here: No space left"):
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


@pytest.mark.fault("K06")
def test_a_path_to_nothing_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"missing\.pt: no such run or checkpoint"):
        load_checkpoint(tmp_path / "missing.pt")


@pytest.mark.fault("K18")
def test_what_is_no_file_is_never_opened(tmp_path: Path, watchdog: None) -> None:
    """A pipe would be waited for, for ever."""
    os.mkfifo(tmp_path / "pipe.pt")
    assert_refused(tmp_path / "pipe.pt", "not a file")
    (tmp_path / "folder").mkdir()
    assert_refused(tmp_path / "folder", r"no checkpoints/best\.pt here")


def test_a_link_is_read_through_and_replaced_itself(saved: Path) -> None:
    before, link = saved.read_bytes(), saved.with_name("link.pt")
    link.symlink_to(saved)
    assert load_checkpoint(link).epoch == 2
    save_checkpoint(link, replace(make_checkpoint(), epoch=7))
    assert load_checkpoint(link).epoch == 7
    assert saved.read_bytes() == before


def test_a_checkpoint_of_another_decoder_is_refused(saved: Path) -> None:
    change(saved, preprocessing=vars(load_checkpoint(saved).preprocessing) | {"decoder": 1})
    assert_refused(saved, "trained on images of decoder 1")
