"""The rows of the fault matrix on configs; tests/config/ has more cases of each."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from calls import Call, Done
from faults.tiny import assert_refused
from images import make_splits

Change = Callable[[str], str | bytes]


def put(old: str, new: str) -> Change:
    """Return a change of the config's text, which must contain what is replaced."""

    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return change


def train_with(call: Call, config: Path, change: Change, *more: str | Path) -> Done:
    changed = change(config.read_text())
    config.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
    return call("train", config, *more, "--output-dir", config.with_name("run"))


def row(name: str, change: Change, *parts: str) -> object:
    """Return a mistake and what its message contains: location, key, number."""
    return pytest.param(change, parts, id=f"{name} {parts}")


@pytest.mark.fault("C01", "C02", "C04", "C05", "C06", "C07", "C08", "C09", "C10", "C11", "C12")
@pytest.mark.fault("C13", "C15", "C18", "C19", "C20")
@pytest.mark.parametrize(
    ("change", "parts"),
    [
        row("C01", put("{epochs:", "{epoch:"), ":9: train.epoch:", "train.epochs"),
        row("C02", put("batch_size: 8", 'batch_size: "64"'), ":9: train.batch_size:", "'64'"),
        row("C04", put("lr: 0.01", "lr: .nan"), ":9: train.lr:"),
        row("C04", put("lr: 0.01", "lr: -1"), ":9: train.lr:", "-1"),
        row("C05", put("device: cpu", "device: cpu\ndevice: auto"), ":5: device:", "tiny.yaml:4"),
        row("C06", put("train: {", "train:\n\tepochs: 1\nx: {"), ":10:1:"),
        row("C06", put("device: cpu", "  device: cpu"), ":4"),
        row("C07", lambda _: "", ":1"),
        row("C07", lambda text: f"{text}---\n{text}", ":10"),
        row("C08", lambda text: text.replace("tiny", "caf\u00e9").encode("latin-1"), ":1:10:"),
        row("C08", lambda text: text.encode("utf-16"), ":1:1:"),
        row("C09", lambda text: f"{text}a: &a [x, x]\nb: [*a, *a]\n", ":10"),
        row("C09", lambda text: f"{text}a: &a {{x: 1}}\nb: {{<<: *a, y: 2}}\n", ":10"),
        row("C10", lambda _: "a: " + "x" * 20_000_000, "65,536"),
        row("C10", lambda _: "a: " + "[" * 900 + "]" * 900, ":1"),
        row("C11", put("tiny", "!!python/object/apply:os.mkdir ['canary']"), ":1"),
        row("C12", put("neither]\nr", "no]\nr"), ":2: classes.2:"),
        row("C13", put("[dog, human, neither]", "[dog, dog, neither]"), ":2: classes:", "dog"),
        row("C13", put("[dog, human, neither]", "[1, 2, neither]"), ":2: classes.0:"),
        row("C15", put("8}", "8, val_fraction: 0.5, test_fraction: 0.5}"),
            "data.val_fraction", "test_fraction"),
        row("C15", put("epochs: 2,", "epochs: 2, warmup_epochs: 2,"),
            "train.warmup_epochs", "train.epochs"),
        row("C15", put("softmax_regression", "small_cnn"), "data.image_size", "model.name"),
        row("C18", put("device: cpu", "device: gpu"), ":4: device:", "cuda:N"),
        row("C19", put("root: /", "root: ~nobody-at-all/"), ":5: data.root:"),
        row("C19", put("name: tiny", 'name: "ti\\x1bny"'), ":1: name:"),
        row("C20", put("device: cpu", "seed: 1180591620717411303424"), ":4: seed:"),
        row("C20", put("image_size: 8", "image_size: 100000"), ":5: data.image_size:"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_config_exits_2_before_a_folder_is_made(
    change: Change, parts: tuple[str, ...], config: Path, call: Call, watchdog: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(config.parent)
    done = train_with(call, config, change)
    assert_refused(done, 2, "tiny.yaml", *parts)
    assert [path.name for path in config.parent.iterdir()] == ["tiny.yaml"]


@pytest.mark.fault("C03", "C08")
@pytest.mark.parametrize("number", ["1e-3", "1.e-3", ".001", "1E-3"])
def test_any_notation_of_a_number_after_a_byte_order_mark_is_read(
    number: str, config: Path, call: Call
) -> None:
    change = put("lr: 0.01", f"lr: {number}")
    done = train_with(call, config, lambda text: b"\xef\xbb\xbf" + str(change(text)).encode(),
                      "train.epochs=0")  # fmt: skip
    assert done.code == 0, done.err
    assert "lr: 0.001\n" in (config.with_name("run") / "config.yaml").read_text()


@pytest.mark.fault("C14")
@pytest.mark.parametrize(
    "make",
    [lambda _: None, Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path)],
    ids=["missing", "folder", "pipe", "loop"],
)
def test_a_path_without_a_config_exits_2_at_once(
    make: Callable[[Path], object], call: Call, tmp_path: Path, watchdog: None
) -> None:
    make(tmp_path / "some.yaml")
    assert_refused(call("train", tmp_path / "some.yaml"), 2, "some.yaml")


@pytest.mark.fault("C16")
@pytest.mark.parametrize("size", [1000, 23], ids=["beyond all images", "one image is left over"])
def test_any_batch_size_fits_any_number_of_images(size: int, config: Path, call: Call) -> None:
    change = put("batch_size: 8", f"batch_size: {size}")
    done = train_with(call, config, change, "model.name=small_cnn", "data.image_size=32",
                      "model.width=8", "train.epochs=1")  # fmt: skip
    assert done.code == 0, done.err


@pytest.mark.fault("C17")
@pytest.mark.parametrize(
    ("arguments", "part"),
    [(["train.epoch=1"], "train.epochs"), (["--epochs", "1"], "usage:"),
     (["train.epochs"], "train.epochs"), (["=1"], "=1")],
)  # fmt: skip
def test_a_mistake_on_the_command_line_exits_2(
    arguments: list[str], part: str, config: Path, call: Call
) -> None:
    assert_refused(call("train", config, *arguments), 2, part)


@pytest.mark.fault("C18")
@pytest.mark.parametrize("device", ["cuda:7", "cuda"])
def test_a_missing_device_exits_6_and_is_never_replaced(
    device: str, config: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    done = train_with(call, config, put("device: cpu", f"device: {device}"))
    assert_refused(done, 6, f"device: {device}", "auto", "cpu")


@pytest.mark.fault("C19")
def test_paths_may_have_a_tilde_spaces_quotes_and_other_letters(
    trained: Path, config: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "my home \N{DOG FACE} 'x'"
    shutil.copytree(trained / "images", home / "images")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    for root in ("~/images", "images", home / "images"):
        done = call("train", config, f"data.root={root}", "train.epochs=0", "--output-dir",
                    tmp_path / "runs" / str(root).replace("/", "_"))  # fmt: skip
        assert done.code == 0, done.err


@pytest.mark.fault("C13", "C21", "K16")
def test_a_run_keeps_its_own_config_and_lists_what_changed(home: Path, call: Call) -> None:
    config, run = home / "tiny.yaml", home / "run"
    for key, old, new in (("train.lr", "0.01", "0.5"), ("train.epochs", "2", "1"),
                          ("classes", "('dog'", "[neither, dog, human]")):  # fmt: skip
        done = call("train", config, f"{key}={new}", "--output-dir", run)
        assert_refused(done, 2, f"{key}: {old}", "--fresh")
    config.write_text("edited: away\n")
    assert call("train", run / "config.yaml", "--output-dir", run).code == 0


@pytest.mark.fault("R31")
@pytest.mark.parametrize(
    ("counts", "epochs", "code", "part"),
    [({"val": 0}, 1, 3, "val"), ({}, 0, 0, ""), ({"train": 1, "val": 1, "test": 1}, 1, 0, "")],
    ids=["no image in val", "no epoch", "one image a class"],
)
def test_very_small_runs(
    counts: dict[str, int], epochs: int, code: int, part: str,
    config: Path, call: Call, tmp_path: Path,
) -> None:  # fmt: skip
    root = make_splits(tmp_path / "few", **counts)  # type: ignore[arg-type]
    done = call("train", config, f"data.root={root}", f"train.epochs={epochs}", "--output-dir",
                tmp_path / "run")  # fmt: skip
    assert done.code == code, done.err
    assert part in done.err
    assert (tmp_path / "run" / "checkpoints" / "best.pt").exists() == (code == 0)
