"""The rows of the fault matrix on configs, by the command that a user types."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from calls import Call, Done
from faults.tiny import assert_refused
from images import CLASSES, make_splits

Change = Callable[[str], str | bytes]


def put(old: str, new: str) -> Change:
    """Return a change of the config's text, which must have what is changed."""

    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return change


def train_with(call: Call, config: Path, change: Change, *more: str | Path) -> Done:
    changed = change(config.read_text())
    config.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
    return call("train", config, *more, "--output-dir", config.with_name("run"))


DEEP = "a: " + "[" * 900 + "]" * 900
LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\nb: {<<: *a, y: 2}\n"
REFUSED: list[tuple[str, Change, str]] = [
    ("C01", put("{epochs:", "{epoch:"), ":9 | train.epoch: | did you mean train.epochs"),
    ("C02", put("batch_size: 8", 'batch_size: "64"'), ":9 | train.batch_size | integer"),
    ("C02", put("batch_size: 8", "batch_size: 64.5"), ":9 | train.batch_size | 64.5"),
    ("C02", put("batch_size: 8", "batch_size: true"), ":9 | train.batch_size | true"),
    ("C04", put("lr: 0.01", "lr: abc"), ":9 | train.lr | abc"),
    ("C04", put("lr: 0.01", "lr: .nan"), ":9 | train.lr"),
    ("C04", put("lr: 0.01", "lr: .inf"), ":9 | train.lr"),
    ("C04", put("lr: 0.01", "lr: -1"), ":9 | train.lr | greater than 0"),
    ("C04", put("lr: 0.01", "lr: 0"), ":9 | train.lr | greater than 0"),
    ("C05", put("device: cpu", "device: cpu\ndevice: auto"), ":5 | device | tiny.yaml:4"),
    ("C06", put("train: {", "train:\n\tepochs: 1\nx: {"), ":10:1 | spaces"),
    ("C06", put("device: cpu", "  device: cpu"), ":4"),
    ("C07", lambda _: "", "mapping"),
    ("C07", lambda _: "- a\n- b\n", "mapping"),
    ("C07", lambda _: "just a word\n", "mapping"),
    ("C07", lambda text: f"{text}---\n{text}", "one document"),
    ("C08", lambda text: text.replace("tiny", "caf\u00e9").encode("latin-1"), "UTF-8 | :1:10:"),
    ("C08", lambda _: os.urandom(100) + b"\xff", ""),
    ("C08", put("name: tiny", "name: ti\0ny"), ""),
    ("C09", lambda text: text + LAUGHS, ":10 | alias"),
    ("C09", lambda text: text + MERGES, ":10 | alias"),
    ("C09", lambda text: text + "a: &a [*a]\n", ":10 | alias"),
    ("C10", lambda text: text + "# " + "x" * 70_000, "65,536 bytes"),
    ("C10", lambda _: DEEP, ":1 | deep"),
    ("C10", lambda _: "a: " + "x" * 20_000_000, "65,536 bytes"),
    ("C12", put("neither]\nr", "no]\nr"), ":2 | quote"),
    ("C13", put("[dog, human, neither]", "[dog, dog, neither]"), ":2 | dog appears twice"),
    ("C13", put("[dog, human, neither]", "[dog, '', neither]"), ":2 | classes"),
    ("C13", put("[dog, human, neither]", "[neither]"), ":2 | classes"),
    ("C13", put("[dog, human, neither]", "[1, 2, neither]"), ":2 | classes"),
    ("C13", put("[dog, human, neither]", "{1: dog, 2: neither}"), ":2 | classes"),
    ("C15", put("image_size: 8}", "image_size: 8, val_fraction: 1.0}"), "val_fraction"),
    ("C15", put("8}", "8, val_fraction: 0.5, test_fraction: 0.5}"), "val_fraction | test_fraction"),
    ("C15", put("epochs: 2,", "epochs: 2, warmup_epochs: 2,"), "warmup_epochs | train.epochs"),
    ("C15", put("softmax_regression", "small_cnn"), "data.image_size | model.name"),
    ("C18", put("device: cpu", "device: gpu"), ":4 | auto, cpu, cuda"),
    ("C19", put("root: /", "root: ~nobody-at-all/"), "data.root"),
    ("C19", put("name: tiny", 'name: "ti\\x1bny"'), ":1 | name"),
    ("C20", put("device: cpu", "seed: 1180591620717411303424"), ":4 | seed"),
    ("C20", put("image_size: 8", "image_size: 0"), "data.image_size"),
    ("C20", put("image_size: 8", "image_size: 100000"), "data.image_size"),
    ("C20", put("epochs: 2", "epochs: -1"), "train.epochs"),
]  # fmt: skip


@pytest.mark.fault("C01", "C02", "C04", "C05", "C06", "C07", "C08", "C09", "C10", "C12", "C13")
@pytest.mark.fault("C15", "C18", "C19", "C20")
@pytest.mark.parametrize(("row", "change", "said"), REFUSED)
def test_a_config_with_a_mistake_is_refused_before_anything_is_made(
    row: str, change: Change, said: str, config: Path, call: Call
) -> None:
    start = time.monotonic()
    done = train_with(call, config, change)
    assert_refused(done, 2, "tiny.yaml", *filter(None, said.split(" | ")))
    assert not config.with_name("run").exists(), row
    assert time.monotonic() - start < 60  # a watch for hangs; how fast it is, torture.py measures


@pytest.mark.fault("C03")
@pytest.mark.parametrize("text", ["1e-3", "1.e-3", ".001", "1E-3"])
def test_a_number_that_yaml_1_1_takes_for_text_is_a_number(
    text: str, config: Path, call: Call
) -> None:
    done = train_with(call, config, put("lr: 0.01", f"lr: {text}"), "train.epochs=0")
    assert done.code == 0, done.err
    assert "lr: 0.001\n" in (config.with_name("run") / "config.yaml").read_text()


@pytest.mark.fault("C08")
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_read_or_named(encoding: str, config: Path, call: Call) -> None:
    done = train_with(call, config, lambda text: text.encode(encoding), "train.epochs=0")
    if encoding == "utf-8-sig":
        assert done.code == 0, done.err
    else:
        assert_refused(done, 2, "tiny.yaml", "UTF-8")


@pytest.mark.fault("C11")
@pytest.mark.parametrize(
    "tag",
    ["!!python/object/apply:os.system ['touch CANARY']",
     "!!python/object/new:os.system ['touch CANARY']",
     "!!python/name:os.system", "!!python/module:os"],
)  # fmt: skip
def test_a_tag_runs_nothing(tag: str, config: Path, call: Call, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    tagged = tag.replace("CANARY", str(canary))
    assert_refused(train_with(call, config, put("tiny", tagged)), 2, "tiny.yaml:1")
    assert not canary.exists()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.fault("C14")
@pytest.mark.parametrize("make", [lambda _: None, Path.mkdir, pipe, loop],
                         ids=["missing", "folder", "pipe", "loop"])  # fmt: skip
def test_what_is_no_config_file_is_refused_at_once(
    make: Callable[[Path], None], call: Call, tmp_path: Path, watchdog: None
) -> None:
    make(tmp_path / "some.yaml")
    assert_refused(call("train", tmp_path / "some.yaml"), 2, "some.yaml")


@pytest.mark.fault("C16")
@pytest.mark.parametrize("size", [1000, 23], ids=["beyond all images", "one image is left over"])
def test_batches_fit_however_many_images_there_are(size: int, config: Path, call: Call) -> None:
    change = put("batch_size: 8", f"batch_size: {size}")
    done = train_with(call, config, change, "model.name=small_cnn", "data.image_size=32",
                      "model.width=8", "train.epochs=1")  # fmt: skip
    assert done.code == 0, done.err


@pytest.mark.fault("C17")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["train.epoch=1"], "did you mean train.epochs"), (["--epochs", "1"], "usage:"),
     (["train.epochs"], "train.epochs"), (["=1"], "=1")],
)  # fmt: skip
def test_a_slip_on_the_command_line_is_named(
    arguments: list[str], said: str, config: Path, call: Call
) -> None:
    assert_refused(call("train", config, *arguments), 2, said)


@pytest.mark.fault("C18")
@pytest.mark.parametrize("device", ["cuda:7", "cuda"])
def test_a_device_that_is_not_there_is_an_error_and_never_replaced(
    device: str, config: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    done = train_with(call, config, put("device: cpu", f"device: {device}"))
    assert_refused(done, 6, f"device: {device}", "choose auto or cpu")


@pytest.mark.fault("C19")
def test_paths_with_a_tilde_spaces_and_other_letters_lead_there(
    config: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "my home \N{DOG FACE} 'x'"
    shutil.copytree(tmp_path / "images", home / "images")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    for root in ("~/images", "images", home / "images"):
        done = call("train", config, f"data.root={root}", "train.epochs=0", "--output-dir",
                    tmp_path / "runs" / str(root).replace("/", "_"))  # fmt: skip
        assert done.code == 0, done.err


@pytest.mark.fault("C21", "K16")
def test_a_run_keeps_its_own_config_and_says_what_changed(config: Path, call: Call) -> None:
    run = config.with_name("run")
    assert train_with(call, config, lambda text: text).code == 0
    for key in ("train.lr=0.5", "train.epochs=1"):
        done = call("train", config, key, "--output-dir", run)
        name, _, value = key.partition("=")
        assert_refused(done, 2, f"{name}: ", f" became {value}", "--fresh")
    config.write_text("edited: away\n")
    assert call("train", run / "config.yaml", "--output-dir", run).code == 0


@pytest.mark.fault("C13")
def test_the_order_of_the_classes_is_the_configs_and_changes_the_run(
    config: Path, call: Call, tmp_path: Path
) -> None:
    assert train_with(call, config, lambda text: text).code == 0
    done = train_with(call, config, put("[dog, human, neither]", "[neither, dog, human]"))
    assert_refused(done, 2, "classes: ('dog', 'human', 'neither') became")


@pytest.mark.fault("R31")
@pytest.mark.parametrize(
    ("counts", "epochs", "code", "said"),
    [({"val": 0}, 1, 3, "val"), ({}, 0, 0, ""), ({"train": 1, "val": 1, "test": 1}, 1, 0, "")],
    ids=["no image in val", "no epoch", "one image a class"],
)
def test_very_small_runs(
    counts: dict[str, int], epochs: int, code: int, said: str,
    config: Path, call: Call, tmp_path: Path,
) -> None:  # fmt: skip
    root = make_splits(tmp_path / "few", **counts, classes=CLASSES)
    done = call("train", config, f"data.root={root}", f"train.epochs={epochs}", "--output-dir",
                tmp_path / "run")  # fmt: skip
    assert done.code == code, done.err
    assert said in done.err
    assert (tmp_path / "run" / "checkpoints" / "best.pt").exists() == (code == 0)
