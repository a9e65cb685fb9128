"""What many rows need."""

import shutil
from pathlib import Path

import pytest

from calls import calling
from faults.tiny import TINY
from images import make_splits


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Make a folder of images in three splits."""
    return make_splits(tmp_path / "images")


@pytest.fixture
def config(images: Path, tmp_path: Path) -> Path:
    """Write a config that trains on it within a second."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.replace("ROOT", str(images)))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `images`, `tiny.yaml` and the finished `run`; for reading."""
    home = tmp_path_factory.mktemp("trained")
    root = make_splits(home / "images")
    (home / "tiny.yaml").write_text(TINY.replace("ROOT", str(root)))
    with pytest.MonkeyPatch.context() as patch, calling(patch, None) as call:
        assert call("train", home / "tiny.yaml", "--output-dir", home / "run").code == 0
    return home


@pytest.fixture
def home(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of it, to be spoiled."""
    shutil.copytree(trained / "run", tmp_path / "home" / "run")
    (tmp_path / "home" / "images").symlink_to(trained / "images")
    shutil.copy(trained / "tiny.yaml", tmp_path / "home")
    return tmp_path / "home"
