from pathlib import Path

import pytest

from cli.runs import train_flat


@pytest.fixture(scope="package")
def flat(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """Return a folder of 60 images, a run trained on it, and the command that evaluates it."""
    return train_flat(tmp_path_factory.mktemp("flat"))
