import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from neither.data import store
from neither.data.decode import Decoded, Preprocessing, decode
from neither.data.store import build_store

Draw = Callable[..., Path]
SMALL = Preprocessing(16)


@pytest.fixture
def paths(tmp_path: Path, draw: Draw) -> list[Path]:
    """Five pictures, and two files between them that are none."""
    (tmp_path / "images").mkdir()
    bad = [tmp_path / "images/bad.jpg", tmp_path / "images/gone.jpg"]
    bad[0].write_bytes(b"no picture")
    good = [draw(tmp_path / f"images/{number}.png", number) for number in range(5)]
    return [good[0], bad[0], *good[1:4], bad[1], good[4]]


@pytest.mark.parametrize("kind", ["auto", "memory", "disk"])
def test_readable_pictures_are_kept_in_the_order_of_their_paths(
    tmp_path: Path, paths: list[Path], kind: Literal["auto", "memory", "disk"]
) -> None:
    built = build_store(paths, SMALL, kind, tmp_path)
    good = [path for path in paths if path.suffix == ".png"]
    wanted = np.stack([decode(path.read_bytes(), SMALL) for path in good])
    assert built.pixels.dtype == np.uint8
    assert np.array_equal(built.pixels, wanted)


def test_every_path_gets_its_hash_and_reason(tmp_path: Path, paths: list[Path]) -> None:
    built = build_store(paths, SMALL, "memory", tmp_path)
    hashes = [sha256(path.read_bytes()).hexdigest() if path.exists() else "" for path in paths]
    assert [each.sha256 for each in built.decoded] == hashes
    assert [bool(each.reason) for each in built.decoded] == [
        path.suffix == ".jpg" for path in paths
    ]
    assert built.decoded[5] == Decoded(None, "", "no such file or directory")


def test_a_store_on_disk_leaves_nothing_behind(tmp_path: Path, paths: list[Path]) -> None:
    (tmp_path / "run").mkdir()
    built = build_store(paths, SMALL, "disk", tmp_path / "run")
    assert isinstance(built.pixels.base, np.memmap) or isinstance(built.pixels, np.memmap)
    assert os.listdir(tmp_path / "run") == []  # noqa: PTH208 - nothing at all, hidden or not
    assert built.pixels.sum() > 0


@pytest.mark.parametrize(("free", "on_disk"), [(0, True), (1, True), (2, False), (1000, False)])
def test_auto_takes_memory_if_the_pixels_fill_at_most_half_of_what_is_free(
    tmp_path: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch, free: int, on_disk: bool
) -> None:
    need = len(paths) * 16 * 16 * 3
    monkeypatch.setattr(store, "_free_memory", lambda: free * need)
    built = build_store(paths, SMALL, "auto", tmp_path)
    assert isinstance(built.pixels, np.memmap) == on_disk


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_no_path_and_no_readable_path_give_an_empty_store(
    tmp_path: Path, kind: Literal["memory", "disk"]
) -> None:
    assert build_store([], SMALL, kind, tmp_path).pixels.shape == (0, 16, 16, 3)
    built = build_store([tmp_path / "gone.jpg"], SMALL, kind, tmp_path)
    assert built.pixels.shape == (0, 16, 16, 3)
    assert [each.reason for each in built.decoded] == ["no such file or directory"]


def test_free_memory_is_less_than_all_memory() -> None:
    free = store._free_memory()
    assert free > 0
    if hasattr(os, "sysconf"):
        assert free <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_where_the_system_does_not_say_4_gigabytes_are_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: str) -> int:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "sysconf", refuse)
    assert store._free_memory() == 4 << 30
