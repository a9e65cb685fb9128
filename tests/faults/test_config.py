"""The rows of the fault matrix on configs; tests/config/ has more cases of each."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from calls import Call, Done
from faults.tiny import TinyRun, assert_refused
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


@pytest.mark.fault("C01", "C08", "C11", "C15")
@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (put("{epochs:", "{epoch:"), [":9: train.epoch:", "train.epochs"]),
        (lambda text: text.replace("tiny", "caf\u00e9").encode("latin-1"), [":1:10:"]),
        (put("tiny", "!!python/object/apply:os.mkdir ['canary']"), [":1"]),
        (put("softmax_regression", "small_cnn"), ["data.image_size", "model.name"]),
    ],
)  # fmt: skip
def test_a_mistake_in_a_config_exits_2_before_a_folder_is_made(
    change: Change, parts: list[str], config: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(config.parent)
    assert_refused(train_with(call, config, change), 2, "tiny.yaml", *parts)
    assert [path.name for path in config.parent.iterdir()] == ["tiny.yaml"]


@pytest.mark.fault("C16")
@pytest.mark.parametrize("size", [1000, 23], ids=["beyond all images", "one image is left over"])
def test_any_batch_size_fits_any_number_of_images(size: int, config: Path, call: Call) -> None:
    change = put("batch_size: 8", f"batch_size: {size}")
    done = train_with(call, config, change, "model.name=small_cnn", "data.image_size=32",
                      "model.width=8", "train.epochs=1")  # fmt: skip
    assert done.code == 0, done.err


@pytest.mark.fault("C17")
def test_a_mistake_on_the_command_line_exits_2(config: Path, call: Call) -> None:
    assert_refused(call("train", config, "train.epoch=1"), 2, "train.epochs")
    assert_refused(call("train", config, "--epochs", "1"), 2, "usage:")


@pytest.mark.fault("C21")
def test_the_resolved_config_repeats_the_run(tiny: TinyRun) -> None:
    done = tiny.call("train", tiny.reference / "config.yaml", "--output-dir", tiny.folder)
    assert done.code == 0, done.err
    tiny.assert_same_weights()


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
