"""The rows of the fault matrix on images; tests/data/ has more cases of each."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from calls import Call, Done, calling
from faults.tiny import assert_refused, read_rows
from hostile import make_hostile, one_class, photo, readable, unreadable
from images import CLASSES
from neither.data.split_file import safe_cell
from scripts import ROOT, permissions_apply

CONFIG = ROOT / "configs" / "demo.yaml"
LIGHT = ["model.width=8", "data.image_size=32", "train.batch_size=32", "train.warmup_epochs=0",
         "train.epochs=1"]  # fmt: skip
LEFT_OUT = {"train/dog/000.png": "the same bytes as val/dog/d25 copy.png",
            "train/dog/001.png": "nearly the same as val/dog/d25 twin.jpg"}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile") / "photos"
    make_hostile(root)
    return root


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """Train on the folder, which stays as it was."""
    run, before = folder.parent / "run", snapshot(folder)
    with pytest.MonkeyPatch.context() as patch, calling(patch, None) as call:
        done = call("train", CONFIG, f"data.root={folder}", "data.max_unreadable=0.9", *LIGHT,
                    "--output-dir", run)  # fmt: skip
    log = (run / "log.txt").read_text()
    assert done.code == 0, log
    assert "Traceback" not in log
    assert snapshot(folder) == before
    return run


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns)
            for path in [folder, *folder.rglob("*")]}  # fmt: skip


@pytest.mark.fault("D01", "D02", "D03", "D04", "D05", "D06", "D07", "D08", "D09", "D10", "D11")
@pytest.mark.fault("D12", "D13", "D14", "D15", "D16", "D22", "D23", "D25", "D32", "D33")
def test_training_leaves_out_what_is_bad_and_uses_all_the_rest(run: Path) -> None:
    rows = {row["path"].removeprefix("./"): row for row in read_rows(run / "splits.csv")}
    for name, (_, reason) in unreadable().items():
        row = rows[f"train/dog/{name}"]
        assert (row["split"], bool(row["reason"])) == ("", True), name
        assert reason in row["reason"], name
    for name in readable():
        assert rows[f"train/dog/{name}"]["split"] == "train", name
    assert {path: row["reason"].partition(", which")[0] for path, row in rows.items()
            if not row["split"] and path.removeprefix("train/dog/") not in unreadable()
            } == LEFT_OUT  # fmt: skip
    num_sound = 3 * (40 + 10 + 10) + 2
    assert len(rows) == len(readable()) + len(unreadable()) + num_sound


def train(call: Call, root: Path, *more: str) -> Done:
    done = call("train", CONFIG, f"data.root={root}", *LIGHT, *more, "--output-dir",
                root.parent / "new")  # fmt: skip
    assert "Traceback" not in done.err
    return done


@pytest.mark.fault("D01", "D02")
def test_by_default_so_many_bad_files_stop_training(run: Path, folder: Path, call: Call) -> None:
    assert_refused(train(call, folder), 3, "data.max_unreadable, 0.01")
    assert not (folder.parent / "new" / "splits.csv").exists()


@pytest.mark.fault("D07", "D08", "D12", "D15", "D16", "D25")
def test_check_data_lists_every_fault_and_exits_3(folder: Path, run: Path, call: Call) -> None:
    done = call("check_data", folder, "--json")
    assert done.code == 3
    report = json.loads(done.out)
    bad = {each["path"].removeprefix("train/dog/"): each["reason"] for each in report["unreadable"]}
    assert set(bad) == set(unreadable())
    assert all(part in bad[name] for name, (_, part) in unreadable().items())
    assert (report["exif_rotated"], report["animated"]) == (7, 4)
    assert report["other_files"] == {".txt": 1}
    assert report["num_hidden"] == 6
    irregular = " ".join(report["irregular_files"])
    assert "d15 dangling.jpg" in irregular
    assert "d16 pipe.jpg" in irregular
    (duplicates,) = report["exact_duplicates"]
    assert duplicates["paths"] == ["train/dog/000.png", "val/dog/d25 copy.png"]
    assert duplicates["splits"] == ["train", "val"]
    assert ["train/dog/001.png", "val/dog/d25 twin.jpg"] in [
        each["paths"] for each in report["near_duplicates"]
    ]
    assert any("data.max_unreadable" in error for error in report["errors"])


@pytest.mark.fault("D13", "D33")
def test_evaluate_gives_every_file_one_row_and_exits_3(folder: Path, run: Path, call: Call) -> None:
    assert call("evaluate", run, folder, "--split", "train").code == 3
    results = run / "evaluations" / "photos-train" / "predictions.csv"
    rows = {row["path"]: row for row in read_rows(results)}
    for name in unreadable():
        row = rows[safe_cell(f"dog/{name}")]
        assert (row["status"], row["prob_dog"], bool(row["error"])) == ("unreadable", "", True)
    for name in readable():
        row = rows[safe_cell(f"dog/{name}")]
        assert row["status"] == "ok", name
        assert abs(sum(float(row[f"prob_{label}"]) for label in CLASSES) - 1) < 1e-5


# Two processes: a child is charged with the memory of the process that starts it.
MEASURE = """
import os, subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_maxrss)
"""


@pytest.mark.fault("D03", "D04", "D09")
def test_memory_stays_below_a_gigabyte(folder: Path) -> None:
    """In check_data, which decodes every image at its full size."""
    command = [sys.executable, str(ROOT / "scripts" / "check_data.py"), str(folder)]
    measured = subprocess.run(
        [sys.executable, "-c", MEASURE, *command], capture_output=True, text=True, timeout=300,
        check=True,
    )  # fmt: skip
    code, kilobytes = map(int, measured.stdout.split())
    assert code == 3
    assert 50_000 < kilobytes < 2**20  # of the largest process


@pytest.mark.fault("D17", "D31")
def test_a_read_only_folder_trains_and_a_closed_class_folder_does_not(
    call: Call, tmp_path: Path
) -> None:
    root = one_class(photo, tmp_path / "photos", *CLASSES, num=30)
    folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    with permissions_apply():
        done = train(call, root)
        (root / "dog").chmod(0)
        closed = train(call, root, "--fresh")
    for path in folders:
        path.chmod(0o755)
    assert done.code == 0, done.err
    assert_refused(closed, 3, "dog", "ermission denied")
