"""Predict: nothing dropped, nothing shifted, nothing overwritten."""

import csv
import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from calls import Call
from images import CLASSES, draw_shape
from scripts import ROOT

GOLDEN = ROOT / "tests" / "model" / "golden" / "schema_5.pt"


def make(folder: Path, num: int = 3, bad: int = 0) -> Path:
    """Make `folder/<n>/NNN.png` and some files that are no images."""
    for number in range(num):
        path = folder / str(number % 2) / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_shape(CLASSES[number % 3], number).save(path)
    for number in range(bad):
        (folder / "0" / f"{number:03}x.jpg").write_text("no picture")
    return folder


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_a_folder_gives_a_row_for_each_file_in_order(call: Call, tmp_path: Path) -> None:
    folder = make(tmp_path / "in", 5, bad=1)
    done = call("predict", GOLDEN, folder, "--format", "csv")
    assert done.code == 3, done.err
    found = rows(done.out)
    assert [row["path"] for row in found] == [
        str(folder / name) for name in ("0/000.png", "0/000x.jpg", "0/002.png", "0/004.png",
                                        "1/001.png", "1/003.png")
    ]  # fmt: skip
    assert [row["status"] for row in found].index("unreadable") == 1
    assert found[1]["error"].startswith("not a JPEG")
    for row in found[:1] + found[2:]:
        assert sum(float(row[f"prob_{name}"]) for name in CLASSES) == pytest.approx(1, abs=2e-6)
        assert row["decision"] in (*CLASSES, "unsure")
        assert row["reason"]
    assert "6 images: " in done.err
    assert "unreadable 1" in done.err
    assert "Traceback" not in done.err


def test_predict_and_evaluate_say_the_same(call: Call, tmp_path: Path) -> None:
    folder = make(tmp_path / "in", 7)
    predicted = rows(call("predict", GOLDEN, folder, "--format", "csv").out)
    assert call("evaluate", GOLDEN, folder, "--output-dir", tmp_path / "out").code == 0
    scored = rows((tmp_path / "out" / "predictions.csv").read_text())
    for one, other in zip(predicted, scored, strict=True):
        assert Path(one.pop("path")) == folder / other.pop("path")
        assert one == other


def test_the_formats_say_the_same(call: Call, tmp_path: Path) -> None:
    folder = make(tmp_path / "in", 4, bad=1)
    table = call("predict", GOLDEN, folder).out.splitlines()
    found = rows(call("predict", GOLDEN, folder, "--format", "csv").out)
    objects = [json.loads(line) for line in
               call("predict", GOLDEN, folder, "--format", "jsonl").out.splitlines()]  # fmt: skip
    assert len(table) == len(found) == len(objects) == 5
    for line, row, each in zip(table, found, objects, strict=True):
        assert row["path"] == each["path"]
        assert row["path"] in line
        if row["status"] == "unreadable":
            assert line.startswith("unreadable")
            assert each == {key: row[key] for key in ("path", "status", "error")}
        else:
            assert line.startswith(row["decision"])
            assert each["decision"] == row["decision"]
            assert each["probabilities"] == {name: float(row[f"prob_{name}"]) for name in CLASSES}


def test_files_folders_and_standard_input_come_in_the_order_given(tmp_path: Path) -> None:
    folder = make(tmp_path / "in", 4)
    listed = f"{folder}/1/003.png\n\n{folder}/gone.png\r\n{folder}/0/000.png"
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "predict.py", GOLDEN, folder / "0" / "002.png", "-",
         folder / "1", "--format", "csv"],
        input=listed, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    found = rows(done.stdout)
    assert [Path(row["path"]).name for row in found] == [
        "002.png", "003.png", "gone.png", "000.png", "001.png", "003.png",
    ]  # fmt: skip
    assert found[2]["error"] == "no such file or directory"


def test_another_mix_of_classes_shifts_the_probabilities(call: Call, tmp_path: Path) -> None:
    folder = make(tmp_path / "in")
    plain, rare = (
        [float(row["prob_dog"]) for row in
         rows(call("predict", GOLDEN, folder, "--format", "csv", *more).out)]
        for more in ((), ("--priors", "dog=0.01,human=0.49,neither=0.5"))
    )  # fmt: skip
    assert all(one >= other for one, other in zip(plain, rare, strict=True))
    assert sum(plain) > sum(rare)
    assert call("predict", GOLDEN, folder, "--priors", "dog=1").code == 2


def test_copies_go_where_they_were_decided_to_belong(call: Call, tmp_path: Path) -> None:
    folder = make(tmp_path / "in", 6, bad=2)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for _ in range(2):  # the second time changes nothing
        done = call("predict", GOLDEN, folder, "--format", "csv", "--sort-into", tmp_path / "out")
        expected = {
            f"{row['decision'] or 'unreadable'}/{Path(row['path']).relative_to(folder)}":
                Path(row["path"]).read_bytes() for row in rows(done.out)
        }  # fmt: skip
        copied = {str(path.relative_to(tmp_path / "out")): path.read_bytes()
                  for path in (tmp_path / "out").rglob("*") if path.is_file()}  # fmt: skip
        assert copied == expected
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_copies_and_maps_never_go_among_the_images(call: Call, tmp_path: Path) -> None:
    folder = make(tmp_path / "in")
    for flag in ("--sort-into", "--explain"):
        done = call("predict", GOLDEN, folder, flag, folder / "out")
        assert done.code == 2
        assert "is inside the image folder" in done.err
    assert not (folder / "out").exists()


def test_a_path_that_leads_upwards_is_copied_by_its_name(tmp_path: Path) -> None:
    folder = make(tmp_path / "in", 2)
    (tmp_path / "work").mkdir()
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "predict.py", GOLDEN, "-", "--sort-into", "out"],
        input="../in/0/000.png\n", cwd=tmp_path / "work", capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (copied,) = (path for path in tmp_path.rglob("000.png") if not path.is_relative_to(folder))
    assert copied.parent.parent == tmp_path / "work" / "out"


def test_heat_maps_are_drawn_for_what_could_be_read(call: Call, tmp_path: Path) -> None:
    folder = make(tmp_path / "in", 2, bad=1)
    assert call("predict", GOLDEN, folder, "--explain", tmp_path / "maps").code == 3
    drawn = sorted(str(path.relative_to(tmp_path / "maps"))
                   for path in (tmp_path / "maps").rglob("*.png"))  # fmt: skip
    assert drawn == ["0/000.png.png", "1/001.png.png"]


def test_what_is_not_there_is_a_slip_and_an_empty_folder_an_error(
    call: Call, tmp_path: Path
) -> None:
    done = call("predict", GOLDEN, tmp_path / "no.jpg")
    assert (done.code, "no such file or folder" in done.err) == (2, True)
    (tmp_path / "empty").mkdir()
    done = call("predict", GOLDEN, tmp_path / "empty")
    assert (done.code, "no images here" in done.err) == (3, True)
    done = call("predict", tmp_path / "no.pt", tmp_path / "empty")
    assert (done.code, "no such run or checkpoint" in done.err) == (2, True)


def test_rows_come_while_others_are_still_to_be_named(tmp_path: Path) -> None:
    """A list may be long, or be made by a program that has not ended yet."""
    folder = make(tmp_path / "in", 6)
    with subprocess.Popen(
        [sys.executable, ROOT / "scripts" / "predict.py", GOLDEN, "-", "--format", "csv"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        names = sorted(map(str, folder.rglob("*.png")))
        for number in range(1200):
            process.stdin.write(names[number % 6] + "\n")
        process.stdin.flush()
        header, first = process.stdout.readline(), process.stdout.readline()
        assert header.startswith("path,")
        assert first.startswith(names[0])
        process.stdin.close()
        assert len(process.stdout.readlines()) == 1199
        ends = time.monotonic() + 60
        assert process.wait(timeout=max(1, ends - time.monotonic())) == 0


def test_a_reader_who_leaves_does_not_end_the_sorting(tmp_path: Path) -> None:
    folder = make(tmp_path / "in", 5)
    arguments = [sys.executable, str(ROOT / "scripts" / "predict.py"), str(GOLDEN), str(folder),
                 "--format", "csv", "--sort-into", str(tmp_path / "sorted")]  # fmt: skip
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(timeout=60) == 0
    assert len([path for path in (tmp_path / "sorted").rglob("*") if path.is_file()]) == 5
