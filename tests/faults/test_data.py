"""The data rows of the fault matrix (D01 - D34), as a user meets them: by the commands."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from hostile import make_hostile, one_class, photo, readable, unreadable
from neither.data.split_file import safe_cell
from scripts import ROOT, run_script

CONFIG = "configs/photos_quick.yaml"
LIGHT = ["model.width=8", "data.image_size=32", "train.batch_size=32", "train.warmup_epochs=0"]
# A process of its own, as a child is charged with the memory of the one that started it.
MEASURE = """
import os, subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(os.wait4(child.pid, 0)[2].ru_maxrss)
"""
LEFT_OUT = {"train/dog/000.png": "the same bytes as val/dog/d25 copy.png",
            "train/dog/001.png": "nearly the same as val/dog/d25 twin.jpg"}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile") / "photos"
    make_hostile(root)
    return root


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """Train on the folder, faults and all, and leave the folder as it was."""
    run = folder.parent / "run"
    before = snapshot(folder)
    done = run_script("train", CONFIG, f"data.root={folder}", "data.max_unreadable=0.9",
                      "train.epochs=1", *LIGHT, "--output-dir", run)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "images beside the class folders are not read" in done.stderr
    assert "animated" not in done.stderr
    assert "with several frames or pages, of which the first counts: 4" in done.stderr
    assert "with an EXIF tag that makes no sense, which was ignored: 1" in done.stderr
    assert "turned upright by their EXIF tag: 7" in done.stderr
    assert snapshot(folder) == before
    return run


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns)
            for path in [folder, *folder.rglob("*")]}  # fmt: skip


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


@pytest.mark.fault(
    "D01",
    "D02",
    "D03",
    "D04",
    "D05",
    "D06",
    "D07",
    "D08",
    "D09",
    "D10",
    "D11",
    "D12",
    "D13",
    "D14",
    "D15",
    "D16",
    "D22",
    "D23",
    "D25",
    "D32",
    "D33",
)
def test_training_leaves_out_what_is_bad_and_uses_all_the_rest(run: Path) -> None:
    found = {row["path"].removeprefix("./"): row for row in rows(run / "splits.csv")}
    for name, (_, reason) in unreadable().items():
        row = found[f"train/dog/{name}"]
        assert (row["split"], bool(row["reason"])) == ("", True), name
        assert reason in row["reason"], name
    for name in readable():
        assert found[f"train/dog/{name}"]["split"] == "train", name
    assert {path: row["reason"].partition(", which")[0] for path, row in found.items()
            if not row["split"] and path.removeprefix("train/dog/") not in unreadable()
            } == LEFT_OUT  # fmt: skip
    num_sound = 3 * (40 + 10 + 10) + 2
    assert len(found) == len(readable()) + len(unreadable()) + num_sound


@pytest.mark.fault("D01", "D02")
def test_by_default_so_many_bad_files_stop_training(folder: Path, tmp_path: Path) -> None:
    done = run_script("train", CONFIG, f"data.root={folder}", "train.epochs=1", *LIGHT,
                      "--output-dir", tmp_path / "run")  # fmt: skip
    assert done.returncode == 3
    assert "images are unreadable, more than data.max_unreadable, 0.01, allows" in done.stderr
    assert not (tmp_path / "run" / "splits.csv").exists()


def test_check_data_names_every_fault_and_ends_with_3(folder: Path) -> None:
    before = snapshot(folder)
    done = run_script("check_data", folder, "--json")
    assert done.returncode == 3
    assert snapshot(folder) == before
    report = json.loads(done.stdout)
    bad = {each["path"].removeprefix("train/dog/"): each["reason"] for each in report["unreadable"]}
    assert set(bad) == set(unreadable())
    assert all(part in bad[name] for name, (_, part) in unreadable().items())
    assert report["exif_rotated"] == 7
    assert report["animated"] == 4
    assert report["other_files"] == {".txt": 1}
    assert report["num_hidden"] == 6
    odd = " ".join(report["irregular_files"])
    assert "d15 dangling.jpg: a broken link" in odd
    assert "d16 pipe.jpg: not a regular file" in odd
    (copies,) = report["exact_duplicates"]
    assert copies["paths"] == ["train/dog/000.png", "val/dog/d25 copy.png"]
    assert copies["splits"] == ["train", "val"]
    assert ["train/dog/001.png", "val/dog/d25 twin.jpg"] in [
        each["paths"] for each in report["near_duplicates"]
    ]
    assert any("data.max_unreadable" in error for error in report["errors"])
    shown = run_script("check_data", folder)
    assert shown.returncode == 3
    assert "Traceback" not in shown.stderr
    assert "d02 empty.jpg: empty file" in shown.stdout


@pytest.mark.fault("D13", "D33")
def test_evaluate_gives_every_file_one_row_and_ends_with_3(folder: Path, run: Path) -> None:
    done = run_script("evaluate", run, folder, "--split", "train")
    assert done.returncode == 3
    assert "were trained on" in done.stderr
    found = {
        row["path"]: row for row in rows(run / "evaluations" / "photos-train" / "predictions.csv")
    }
    for name in unreadable():
        row = found[safe_cell(f"dog/{name}")]
        assert (row["status"], row["prob_dog"], bool(row["error"])) == ("unreadable", "", True)
    for name in readable():
        row = found[safe_cell(f"dog/{name}")]
        assert row["status"] == "ok", name
        total = sum(float(row[f"prob_{label}"]) for label in ("dog", "human", "neither"))
        assert abs(total - 1) < 1e-5


@pytest.mark.fault("D03", "D04", "D09")
@pytest.mark.parametrize("command", ["train", "check_data", "evaluate"])
def test_memory_stays_below_a_gigabyte(
    command: str, folder: Path, run: Path, tmp_path: Path
) -> None:
    arguments: dict[str, list[str | Path]] = {
        "train": [CONFIG, f"data.root={folder}", "data.max_unreadable=0.9", "train.epochs=0",
                  *LIGHT, "--output-dir", tmp_path / "run"],
        "check_data": [folder],
        "evaluate": [run, folder, "--split", "train", "--output-dir", tmp_path],
    }  # fmt: skip
    script = [
        sys.executable,
        str(ROOT / "scripts" / f"{command}.py"),
        *map(str, arguments[command]),
    ]
    measured = subprocess.run(
        [sys.executable, "-c", MEASURE, *script], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)}, timeout=120, check=True,
    )  # fmt: skip
    # In kilobytes, of the largest of its processes; torch alone, on sound images, takes 0.9 GB.
    assert 50_000 < int(measured.stdout.split()[-1]) < 2**20


def trained(root: Path, *more: str) -> tuple[int, str]:
    done = run_script("train", CONFIG, f"data.root={root}", "train.epochs=1", *LIGHT, *more,
                      "--output-dir", root.parent / "run")  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


FLAT = ("dog", "human", "neither")


@pytest.mark.fault("D18", "D19", "D20", "D21")
def test_class_folders_that_are_not_right_stop_training_and_check(tmp_path: Path) -> None:
    """Empty, missing, extra, and nearly right."""
    root = one_class(photo, tmp_path / "photos", "dog", "Human", "cat", num=3)
    (root / "neither").mkdir()
    code, said = trained(root)
    assert code == 3
    assert "no folder for class human" in said
    assert "folder Human: did you mean human?" in said
    assert "folder cat: no class has this name" in said
    assert "class neither holds no images" in said
    assert run_script("check_data", root).returncode == 3


@pytest.mark.fault("D24")
def test_the_same_bytes_in_two_classes_stop_training_and_check(tmp_path: Path) -> None:
    root = one_class(photo, tmp_path / "photos", *FLAT, num=20)
    (root / "human" / "copy.png").write_bytes((root / "dog" / "07.png").read_bytes())
    code, said = trained(root)
    assert code == 3
    assert "dog/07.png and human/copy.png" in said
    done = run_script("check_data", root)
    assert done.returncode == 3
    assert "dog/07.png and human/copy.png" in done.stderr


@pytest.mark.fault("D28")
def test_a_class_with_one_image_stops_training_and_check(tmp_path: Path) -> None:
    root = one_class(photo, tmp_path / "photos", *FLAT, num=30)
    for path in sorted((root / "human").iterdir())[1:]:
        path.unlink()
    code, said = trained(root)
    assert code == 3
    assert "class human has no image in" in said
    assert run_script("check_data", root).returncode == 3


@pytest.mark.fault("D30")
def test_black_images_train_with_a_warning(tmp_path: Path) -> None:
    black = [f"{split}/{label}" for split in ("train", "val") for label in FLAT]
    root = one_class(lambda _: Image.new("RGB", (20, 20)), tmp_path / "photos", *black, num=10)
    code, said = trained(root)
    assert code == 0, said
    assert "their variance is zero" in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_class_folder_without_permission_stops_training(tmp_path: Path) -> None:
    root = one_class(photo, tmp_path / "photos", *FLAT, num=5)
    (root / "dog").chmod(0)
    try:
        code, said = trained(root)
    finally:
        (root / "dog").chmod(0o755)
    assert code == 3
    assert "permission denied" in said.lower()


@pytest.mark.fault("D34")
def test_a_class_that_its_format_gives_away_is_told(tmp_path: Path) -> None:
    root = one_class(photo, tmp_path / "photos", *FLAT, num=40)
    for path in sorted((root / "dog").iterdir()):
        with Image.open(path) as image:
            image.save(path.with_suffix(".jpg"), quality=95)
        path.unlink()
    done = run_script("check_data", root)
    assert done.returncode == 0, done.stderr
    assert "class dog is given away: 100 % of it is JPEG, and 0 % of the others" in done.stderr


@pytest.mark.fault("D31")
def test_a_read_only_folder_trains(tmp_path: Path) -> None:
    root = one_class(photo, tmp_path / "photos", *FLAT, num=30)
    folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    try:
        code, said = trained(root)
    finally:
        for path in folders:
            path.chmod(0o755)
    assert code == 0, said
