import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from torchvision.datasets import CIFAR10

from archives import publish, write_archives
from coco_set import CocoSet
from neither.cli import prepare_data
from neither.datasets import cifar
from neither.runtime.errors import OutputError
from scripts import run_script


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of downloads, empty, while the network holds small CIFAR sets: none."""
    (tmp_path / "published").mkdir()
    publish(monkeypatch, write_archives(tmp_path / "published"), "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "neither" / "cifar"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def prepare(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return the command, in this process, where the published sums are those of the tests."""

    def run(*arguments: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", ["prepare_data.py", *map(str, arguments)])
        return prepare_data.main()

    return run


def test_cifar_is_made_once(
    cache: Path,
    tmp_path: Path,
    prepare: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(tmp_path / "published", cache, dirs_exist_ok=True)  # put there by hand
    output = tmp_path / "deep" / "cifar"
    assert prepare("cifar", "--output-dir", output) == 0
    assert sorted(path.name for path in output.iterdir()) == [
        "cifar.json", "test", "train", "unseen", "val",
    ]  # fmt: skip
    assert capsys.readouterr().out == f"CIFAR images: {output}\n"

    def refuse(*_: object) -> None:
        raise AssertionError("must not read anything")

    monkeypatch.setattr(cifar, "fetch_sets", refuse)
    assert prepare("cifar", "--output-dir", output) == 0
    assert capsys.readouterr().out == f"CIFAR images: {output}\n"
    assert prepare("cifar", "--output-dir", output / "train") == 6
    assert "exists already" in capsys.readouterr().err


def test_cifar_without_a_network_is_one_line_and_leaves_nothing(
    cache: Path, tmp_path: Path, prepare: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare("cifar", "--output-dir", tmp_path / "cifar") == 6
    errors = [line for line in capsys.readouterr().err.splitlines() if "reading" not in line]
    (line,) = errors
    assert line.startswith(f"error: CIFAR10 cannot be downloaded from {CIFAR10.url} (")
    assert line.endswith(f"into {cache}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "published"]


def test_cifar_refuses_a_torchvision_that_does_not_fit(
    tmp_path: Path,
    prepare: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse() -> None:
        raise OutputError("torchvision does not fit")

    monkeypatch.setattr(prepare_data, "check_installation", refuse)
    assert prepare("cifar", "--output-dir", tmp_path / "cifar") == 6
    assert capsys.readouterr().err == "error: torchvision does not fit\n"


@pytest.fixture
def coco_set(tmp_path: Path) -> Path:
    """Return a folder with one dog, one human and one picture of both."""
    made = CocoSet()
    for name, kinds in (("a.jpg", ["dog"]), ("b.jpg", ["person"]), ("c.jpg", ["dog", "person"])):
        image = made.add_image(name, 100, 100)
        for kind in kinds:
            made.add_box(image, kind, (0, 0, 50, 50))
    made.write(tmp_path)
    return tmp_path


def coco(folder: Path, *more: str, annotations: str = "instances.json") -> tuple[int, str, str]:
    done = run_script(
        "prepare_data",
        "coco",
        "--annotations",
        annotations,
        "--images",
        "images",
        *more,
        cwd=folder,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def test_coco_tells_what_became_of_each_picture(coco_set: Path) -> None:
    code, out, err = coco(coco_set, "--output-dir", "sorted")
    assert code == 0, err
    rows = [[cell.strip() for cell in line.split("│")[1:3]] for line in out.splitlines()]
    assert [row for row in rows if row] == [
        ["dog", "1"],
        ["human", "1"],
        ["neither", "0"],
        ["left out: dog and person", "1"],
        ["left out: too small or a crowd", "0"],
        ["left out: file is missing", "0"],
    ]
    assert out.endswith("COCO images: sorted\n")
    assert "warning: no picture of neither" in err
    assert (coco_set / "sorted" / "dog" / "a.jpg").is_symlink()
    assert coco(coco_set, "--output-dir", "sorted") == (0, "COCO images: sorted\n", "")
    code, _, err = coco(coco_set, "--output-dir", "sorted", "--copy")
    assert (code, "exists already" in err) == (6, True)


def test_coco_refuses_with_one_line_and_the_right_code(coco_set: Path) -> None:
    (coco_set / "bad.json").write_text('{"images": [')
    for code, says, arguments, annotations in (
        (2, "no such file", ["--output-dir", "sorted"], "none.json"),
        (2, "is inside the image folder", ["--output-dir", "images/x"], "instances.json"),
        (3, "bad.json: is no JSON", ["--output-dir", "sorted"], "bad.json"),
    ):
        got, out, err = coco(coco_set, *arguments, annotations=annotations)
        assert (got, out) == (code, "")
        assert err.splitlines()[-1].startswith("error: ")
        assert says in err.splitlines()[-1]
    assert not (coco_set / "sorted").exists()
