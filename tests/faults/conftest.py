"""Fixtures: a tiny run, finished or about to start."""

import shutil
from pathlib import Path

import pytest

from calls import Call, calling
from faults.tiny import TINY, TinyRun
from images import make_splits


@pytest.fixture(scope="module", autouse=True)
def quick(no_plots: None) -> None:
    """Leave out the plots."""


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `images`, `tiny.yaml` and the finished `run`; not to be changed."""
    home = tmp_path_factory.mktemp("trained")
    root = make_splits(home / "images")
    (home / "tiny.yaml").write_text(TINY.replace("ROOT", str(root)))
    with pytest.MonkeyPatch.context() as patch, calling(patch, None) as call:
        assert call("train", home / "tiny.yaml", "--output-dir", home / "run").code == 0
    return home


@pytest.fixture
def home(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of it that may be changed, but for the images."""
    shutil.copytree(trained / "run", tmp_path / "home" / "run")
    (tmp_path / "home" / "images").symlink_to(trained / "images")
    shutil.copy(trained / "tiny.yaml", tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def config(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of the config, beside which a run can start."""
    return Path(shutil.copy(trained / "tiny.yaml", tmp_path))


@pytest.fixture
def tiny(trained: Path, config: Path, call: Call) -> TinyRun:
    """Return a run of the config that has not begun."""
    return TinyRun(config.with_name("run"), trained / "run", call)


@pytest.fixture
def images(trained: Path, config: Path, tmp_path: Path) -> Path:
    """Return a copy of the images that may be changed; the config names it."""
    folder = tmp_path / "images"
    shutil.copytree(trained / "images", folder)
    config.write_text(TINY.replace("ROOT", str(folder)))
    return folder
