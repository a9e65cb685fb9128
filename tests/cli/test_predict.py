"""Predict: one row for each file, in order; nothing is overwritten."""

import csv
import errno
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest

from calls import Call
from checkpoints import save_run
from images import CLASSES, draw_shape
from neither.cli.predict import copy_to_decision
from neither.inference.classifier import Classifier, FilePrediction
from neither.models.checkpoint import load_checkpoint, save_checkpoint
from neither.runtime.errors import DataError
from neither.runtime.locks import locked_file
from outputs import contents
from scripts import ROOT, permissions_apply

Patch = pytest.MonkeyPatch
PREDICT = [sys.executable, str(ROOT / "scripts" / "predict.py")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("model")
    return save_run(home / "run", home / "gone")


def make(folder: Path, num: int = 3, bad: int = 0) -> Path:
    """Make `folder/<0|1>/NNN.png` and some files that are not images."""
    for number in range(num):
        path = folder / str(number % 2) / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_shape(CLASSES[number % 3], number).save(path)
    for number in range(bad):
        (folder / "0" / f"{number:03}x.jpg").write_text("no image")
    return folder


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_each_file_of_a_folder_has_a_row_in_order(call: Call, tmp_path: Path, model: Path) -> None:
    folder = make(tmp_path / "in", 5, bad=1)
    done = call("predict", model, folder, "--format", "csv")
    assert done.code == 3, done.err
    predicted = rows(done.out)
    names = ("0/000.png", "0/000x.jpg", "0/002.png", "0/004.png", "1/001.png", "1/003.png")
    assert [row["path"] for row in predicted] == [str(folder / name) for name in names]
    assert predicted[1]["status"] == "unreadable"
    assert predicted[1]["error"].startswith("not a JPEG")
    for row in predicted[:1] + predicted[2:]:
        assert sum(float(row[f"prob_{name}"]) for name in CLASSES) == pytest.approx(1, abs=2e-6)
        assert row["decision"] in (*CLASSES, "unsure")
        assert row["reason"]
    assert "6 images: " in done.err
    assert "unreadable 1" in done.err


def test_the_formats_agree_with_evaluate(call: Call, tmp_path: Path, model: Path) -> None:
    folder = make(tmp_path / "in", 7, bad=1)
    table = call("predict", model, folder).out.splitlines()
    predicted = rows(call("predict", model, folder, "--format", "csv").out)
    lines = call("predict", model, folder, "--format", "jsonl").out.splitlines()
    for line, row, record in zip(table, predicted, map(json.loads, lines), strict=True):
        assert row["path"] == record["path"]
        assert row["path"] in line
        if row["status"] == "unreadable":
            assert line.startswith("unreadable")
            assert record == {key: row[key] for key in ("path", "status", "error")}
        else:
            assert line.startswith(row["decision"])
            assert record["decision"] == row["decision"]
            assert record["probabilities"] == {name: float(row[f"prob_{name}"]) for name in CLASSES}
    assert call("evaluate", model, folder, "--output-dir", tmp_path / "out").code == 3
    scored = rows((tmp_path / "out" / "predictions.csv").read_text())
    for one, other in zip(predicted, scored, strict=True):
        assert Path(one.pop("path")) == folder / other.pop("path")
        assert one == other


def test_the_order_of_inputs(call: Call, tmp_path: Path, model: Path, monkeypatch: Patch) -> None:
    folder = make(tmp_path / "in", 4)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    text = f"{folder}/1/003.png\n\n{folder}/gone.png\r\n../in/0/000.png"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    done = call("predict", model, folder / "0" / "002.png", "-", folder / "1",
                "--format", "csv", "--sort-into", "out")  # fmt: skip
    assert done.code == 3, done.err
    predicted = rows(done.out)
    names = ["002.png", "003.png", "gone.png", "000.png", "001.png", "003.png"]
    assert [Path(row["path"]).name for row in predicted] == names
    assert predicted[2]["error"] == "no such file or directory"
    # A path with .. is copied by its name.
    assert {path.name for path in (tmp_path / "work" / "out").glob("*/*.png")} >= {"000.png"}
    assert contents(folder).keys() == {"0/000.png", "0/002.png", "1/001.png", "1/003.png"}


def test_priors_change_the_probabilities(call: Call, tmp_path: Path, model: Path) -> None:
    folder = make(tmp_path / "in")
    plain, rare = (
        [float(row["prob_dog"]) for row in
         rows(call("predict", model, folder, "--format", "csv", *more).out)]
        for more in ((), ("--priors", "dog=0.01,human=0.49,neither=0.5"))
    )  # fmt: skip
    assert all(one >= other for one, other in zip(plain, rare, strict=True))
    assert sum(plain) > sum(rare)
    assert call("predict", model, folder, "--priors", "dog=1").code == 2


def test_files_are_sorted_and_heat_maps_drawn(call: Call, tmp_path: Path, model: Path) -> None:
    folder = make(tmp_path / "in", 6, bad=2)
    before = contents(folder)
    for _ in range(2):  # the second time changes nothing
        done = call("predict", model, folder, "--format", "csv",
                    "--sort-into", tmp_path / "out", "--explain", tmp_path / "maps")  # fmt: skip
        assert done.code == 3
        assert contents(tmp_path / "out") == {
            f"{row['decision'] or 'unreadable'}/{Path(row['path']).relative_to(folder)}":
                Path(row["path"]).read_bytes() for row in rows(done.out)
        }  # fmt: skip
        maps = contents(tmp_path / "maps").keys()
        assert maps == {f"{name}.png" for name in before if name.endswith(".png")}
    assert contents(folder) == before


def test_nothing_is_written_into_the_image_folder(call: Call, tmp_path: Path, model: Path) -> None:
    folder = make(tmp_path / "in")
    for flag in ("--sort-into", "--explain"):
        assert call("predict", model, folder, flag, folder / "out").code == 2
    assert not (folder / "out").exists()
    done = call("predict", model, folder, "--sort-into", model / "checkpoints" / "best.pt")
    assert done.code == 6


def test_missing_paths_exit_2_and_empty_folders_3(call: Call, tmp_path: Path, model: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert call("predict", model, tmp_path / "no.jpg").code == 2
    assert call("predict", model, tmp_path / "empty").code == 3
    assert call("predict", tmp_path / "no.pt", tmp_path / "empty").code == 2


def test_rows_are_printed_while_standard_input_is_open(tmp_path: Path, model: Path) -> None:
    folder = make(tmp_path / "in", 6)
    with subprocess.Popen(
        [*PREDICT, model, "-", "--format", "csv"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        names = sorted(map(str, folder.rglob("*.png")))
        for number in range(400):
            process.stdin.write(names[number % 6] + "\n")
        process.stdin.flush()
        header, first = process.stdout.readline(), process.stdout.readline()
        assert header.startswith("path,")
        assert first.startswith(names[0])
        process.stdin.close()
        assert len(process.stdout.readlines()) == 399
        assert process.wait(timeout=60) == 0


@pytest.mark.fault("R05")
def test_sorting_goes_on_when_standard_output_is_closed(tmp_path: Path, model: Path) -> None:
    folder = make(tmp_path / "in", 5)
    with subprocess.Popen(
        [*PREDICT, model, folder, "--format", "csv", "--sort-into", tmp_path / "sorted"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(timeout=60) == 0
    assert len(contents(tmp_path / "sorted")) == 5


def test_a_killed_output_is_continued_to_the_same_bytes(
    call: Call, tmp_path: Path, model: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr("neither.inference.prediction._BLOCK_ROWS", 2)
    folder, output = make(tmp_path / "in", 9, bad=2), tmp_path / "out" / "answers.csv"
    shutil.copy(folder / "0" / "000.png", folder / "0" / '"a",\nb.png')
    command = ("predict", model, folder, folder / "0" / "002.png", "--output", output)
    done = call(*command)
    assert (done.code, done.out) == (3, "")
    whole = output.read_bytes()
    assert whole == call(*command[:-2], "--format", "csv").out.encode()
    for end in [*range(0, len(whole), 149), len(whole)]:
        output.write_bytes(whole[:end])
        again = call(*command)
        assert (again.code, again.err) == (3, done.err)  # the counts are of all rows
        assert output.read_bytes() == whole, end
    draw_shape("dog", 50).save(folder / "0" / "new.png")
    assert call(*command).code == 3
    added = output.read_bytes().removeprefix(whole).decode().splitlines()
    assert [line.partition(",")[0] for line in added] == [f"{folder}/0/new.png"]


def test_an_output_of_something_else_is_refused_and_stays(
    call: Call, tmp_path: Path, model: Path
) -> None:
    folder, output = make(tmp_path / "in", 2), tmp_path / "answers.csv"
    command = ("predict", model, folder, "--output", output)
    assert call(*command).code == 0
    other = shutil.copytree(model, tmp_path / "other")
    checkpoint = replace(load_checkpoint(other), temperature=2.0)
    save_checkpoint(other / "checkpoints" / "best.pt", checkpoint)
    whole = output.read_bytes()
    priors, jsonl = ("--priors", "dog=0.2,human=0.4,neither=0.4"), ("--format", "jsonl")
    for more in (("predict", other, *command[2:]), (*command, *priors), (*command, *jsonl)):
        done = call(*more)
        assert (done.code, done.err.count("error: ")) == (2, 1)
    output.write_bytes(whole.replace(b"prob_dog", b"prob_cat", 1))
    assert call(*command).code == 2
    (tmp_path / "answers.csv.json").unlink()
    output.write_bytes(whole)
    assert call(*command).code == 2
    assert call(*command[:-1], folder / "answers.csv").code == 2  # never among the images
    assert output.read_bytes() == whole
    with locked_file(tmp_path / "new.csv", wait=False):
        assert call(*command[:-1], tmp_path / "new.csv").code == 6


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_copies_keep_their_path_below_the_decision(tmp_path: Path) -> None:
    copy = partial(copy_to_decision, tmp_path / "sorted" / "here")
    copy(write(tmp_path / "in" / "a.jpg", b"1"), "a.jpg", "dog")
    copy(write(tmp_path / "in" / "x" / "y" / "a.jpg", b"2"), "x/y/a.jpg", "unsure")
    name = os.fsdecode(b"\xff\n'.jpg")
    copy(write(tmp_path / "in" / name, b"3"), name, "dog")
    with pytest.raises(DataError):
        copy(tmp_path / "in" / "gone.jpg", "gone.jpg", "unreadable")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "in" / "a.jpg")
    copy(tmp_path / "link.jpg", "link.jpg", "dog")
    assert not (tmp_path / "sorted" / "here" / "dog" / "link.jpg").is_symlink()
    assert contents(tmp_path / "sorted" / "here") == {
        "dog/a.jpg": b"1", "unsure/x/y/a.jpg": b"2", f"dog/{name}": b"3", "dog/link.jpg": b"1",
    }  # fmt: skip


def test_copies_overwrite_nothing_and_are_made_once(tmp_path: Path) -> None:
    copy = partial(copy_to_decision, tmp_path / "sorted")
    for content in (b"1", b"2", b"1", b"3", b"2"):
        copy(write(tmp_path / "in" / "a.tar.jpg", content), "a.tar.jpg", "dog")
    assert contents(tmp_path / "sorted") == {
        "dog/a.tar.jpg": b"1", "dog/a.tar-2.jpg": b"2", "dog/a.tar-3.jpg": b"3",
    }  # fmt: skip


def test_what_cannot_be_copied_is_named_and_the_rest_is_done(
    call: Call, tmp_path: Path, model: Path, monkeypatch: Patch
) -> None:
    make(tmp_path / "in", 8)
    (tmp_path / "in" / "0" / "000.png").chmod(0)
    os.mkfifo(tmp_path / "in" / "pipe.jpg")
    longest = "x" * 251 + ".png"  # 255 bytes; its heat map would have 259
    draw_shape("dog", 20).save(tmp_path / "in" / longest)
    (tmp_path / "locked").mkdir(0)
    (tmp_path / "loop.png").symlink_to("loop.png")
    names = ["in", "in/0/000.png", "in/pipe.jpg", f"in/{longest}", "locked/a.png", "loop.png",
             "gone.png", "a\0b.png", "y" * 300, "in/1", "/dev/zero", "/proc/self/mem", "",
             "in/0/002.png", "in/1/001.png", "in/0/000.png/x", "in/1/003.png"]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(names).encode())))
    with permissions_apply():
        done = call("predict", model, "locked", "locked/a.png", "-", "in/1/005.png",
                    "--format", "csv", "--sort-into", "out", "--explain", "maps")  # fmt: skip
    (tmp_path / "locked").chmod(0o700)
    assert done.code == 3, done.err
    given = ["locked/a.png", *filter(None, names), "in/1/005.png"]
    predicted = rows(done.out)
    assert [row["path"] for row in predicted] == given
    readable = {row["path"] for row in predicted if row["status"] == "ok"}
    images = {"in/0/002.png", "in/1/001.png", "in/1/003.png"}
    assert readable == {*images, f"in/{longest}", "in/1/005.png"}
    copied = {path.partition("/")[2] for path in contents(tmp_path / "out")}
    assert copied == {*images, f"in/{longest}", "005.png"}
    assert set(contents(tmp_path / "maps")) == {*(f"{name}.png" for name in images), "005.png.png"}
    assert "out/unreadable/mem" not in done.err  # the source failed, not the copy
    warned = [line for line in done.err.splitlines() if line.startswith("warning: ")]
    for name in {*given} - readable | {"locked", f"in/{longest}"}:
        named = name.replace("\0", r"\x00")
        assert any(line.startswith(f"warning: {named}: ") for line in warned), named


@pytest.mark.parametrize(
    ("target", "number"),
    [("os.fsync", errno.ENOSPC), ("os.open", errno.EROFS), ("Path.replace", errno.EPERM)],
)
def test_a_target_that_takes_no_file_stops_with_one_message(
    call: Call, tmp_path: Path, model: Path, monkeypatch: Patch, target: str, number: int
) -> None:
    folder = make(tmp_path / "in", 5)
    error = OSError(number, os.strerror(number))
    monkeypatch.setattr(f"neither.runtime.files.{target}", Mock(side_effect=error))
    for flag in ("--sort-into", "--explain"):
        done = call("predict", model, folder, flag, tmp_path / "out")
        assert done.code == 6
        (line,) = [each for each in done.err.splitlines() if os.strerror(number) in each]
        assert str(tmp_path / "out") in line
        assert not contents(tmp_path / "out")


@pytest.mark.parametrize("is_file", [True, False])
def test_a_decision_folder_that_cannot_be_written_stops_only_its_files(
    call: Call, tmp_path: Path, model: Path, is_file: bool
) -> None:
    folder = make(tmp_path / "in", 6, bad=2)
    (tmp_path / "out").mkdir()
    refused = tmp_path / "out" / "unreadable"
    if is_file:
        refused.write_text("in the way")
    else:
        refused.mkdir(0o555)
    with permissions_apply():
        done = call("predict", model, folder, "--sort-into", tmp_path / "out")
    assert done.code == 3, done.err
    for name in ("000x.jpg", "001x.jpg"):
        assert f"warning: {folder / '0' / name}: " in done.err
    assert len(contents(tmp_path / "out")) == 6 + is_file


@pytest.mark.parametrize("flag", ["--sort-into", "--explain"])
def test_an_image_that_vanishes_is_named(
    call: Call, tmp_path: Path, model: Path, monkeypatch: Patch, flag: str
) -> None:
    folder = make(tmp_path / "in", 4)
    predict_files = Classifier.predict_files

    def removing(self: Classifier, paths: Iterable[Path]) -> Iterator[FilePrediction]:
        for index, result in enumerate(predict_files(self, paths)):
            if index in (0, 2):
                Path(result.prediction.path).unlink()
            yield result

    monkeypatch.setattr(Classifier, "predict_files", removing)
    done = call("predict", model, folder, flag, tmp_path / "out")
    assert done.code == 3
    assert len(done.out.splitlines()) == 4
    for name in ("0/000.png", "1/001.png"):
        assert f"warning: {folder / name}: " in done.err
    assert len(contents(tmp_path / "out")) == 2
