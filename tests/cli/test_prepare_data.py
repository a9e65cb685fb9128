import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest

from archives import publish, write_archives
from calls import Call, Done
from coco_set import CocoSet
from neither.cli import prepare_data
from neither.datasets import cifar
from neither.runtime.errors import OutputError

Patch = pytest.MonkeyPatch


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: Patch) -> Path:
    """Return the empty download folder of small CIFAR sets that no server has."""
    (tmp_path / "published").mkdir()
    publish(monkeypatch, write_archives(tmp_path / "published"), "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "neither" / "cifar"
    folder.mkdir(parents=True)
    return folder


def test_cifar_is_made_once(cache: Path, tmp_path: Path, call: Call, monkeypatch: Patch) -> None:
    shutil.copytree(tmp_path / "published", cache, dirs_exist_ok=True)  # as by hand
    output = tmp_path / "deep" / "cifar"
    done = call("prepare_data", "cifar", "--output-dir", output)
    assert (done.code, done.out) == (0, f"CIFAR images: {output}\n")
    names = {"cifar.json", "test", "train", "unseen", "val"}
    assert {path.name for path in output.iterdir()} == names

    monkeypatch.setattr(cifar, "fetch_sets", None)  # the archives are not read again
    done = call("prepare_data", "cifar", "--output-dir", output)
    assert (done.code, done.out) == (0, f"CIFAR images: {output}\n")
    assert call("prepare_data", "cifar", "--output-dir", output / "train").code == 6


def test_cifar_checks_the_installation(tmp_path: Path, call: Call, monkeypatch: Patch) -> None:
    error = OutputError("another torchvision")
    monkeypatch.setattr(prepare_data, "check_installation", Mock(side_effect=error))
    done = call("prepare_data", "cifar", "--output-dir", tmp_path / "cifar")
    assert (done.code, done.err) == (6, "error: another torchvision\n")


@pytest.fixture
def coco(tmp_path: Path, call: Call, monkeypatch: Patch) -> Call:
    """Make a set with a dog, a human, and one image of both; return a function that sorts it."""
    made = CocoSet()
    for name, kinds in (("a.jpg", ["dog"]), ("b.jpg", ["person"]), ("c.jpg", ["dog", "person"])):
        image = made.add_image(name, 100, 100)
        for kind in kinds:
            made.add_box(image, kind, (0, 0, 50, 50))
    made.write(tmp_path)
    monkeypatch.chdir(tmp_path)

    def run(*more: str, annotations: str = "instances.json") -> Done:
        inputs = ("--annotations", annotations, "--images", "images")
        return call("prepare_data", "coco", *inputs, *more)

    return run


def test_coco_images_are_sorted_once_and_counted(coco: Call, tmp_path: Path) -> None:
    done = coco("--output-dir", "sorted")
    assert done.code == 0, done.err
    rows = [[cell.strip() for cell in line.split("│")[1:3]] for line in done.out.splitlines()]
    counts = [int(row[1]) for row in rows if row]
    assert counts == [1, 1, 0, 1, 0, 0]
    assert [row[0] for row in rows if row][:3] == ["dog", "human", "neither"]
    assert done.out.endswith("COCO images: sorted\n")
    assert "warning: " in done.err  # there is no image of neither
    assert (tmp_path / "sorted" / "dog" / "a.jpg").is_symlink()
    done = coco("--output-dir", "sorted")
    assert (done.code, done.out, done.err) == (0, "COCO images: sorted\n", "")
    (tmp_path / "bad.json").write_text('{"images": [')
    done = coco("--output-dir", "other", annotations="bad.json")
    assert (done.code, done.out) == (3, "")
    assert "bad.json" in done.err.splitlines()[-1]
    assert not (tmp_path / "other").exists()
