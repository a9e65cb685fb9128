import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neither import terminal
from neither.config import Data
from neither.data.dataset import Dataset, Split, load_dataset
from neither.data.decode import Preprocessing, decode
from neither.data.splits import read_splits
from neither.errors import DataError, UsageError

CLASSES = ("dog", "human")
PREPROCESSING = Preprocessing(16)
Draw = Callable[..., Path]


@pytest.fixture
def root(tmp_path: Path, draw: Draw) -> Path:
    """Lay out 12 different pictures a class, in no splits."""
    root = tmp_path / "photos"
    for offset, label in enumerate(CLASSES):
        for number in range(12):
            draw(root / label / f"{number:02}.png", 100 * offset + number)
    return root


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.fixture
def messages(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    log = terminal._log
    before, level = list(log.handlers), log.level
    terminal.open_terminal()
    yield lambda: capsys.readouterr().err
    log.handlers[:] = before
    log.setLevel(level)


def load(root: Path, run: Path, seed: int = 0, **settings: Any) -> Dataset:  # noqa: ANN401
    chosen = {"val_fraction": 0.3, "test_fraction": 0.2} | settings
    return load_dataset(Data(root=str(root), **chosen), CLASSES, seed, PREPROCESSING, run)


def into_splits(root: Path, draw: Draw, *splits: str, num: int = 4) -> Path:
    for place, split in enumerate(splits):
        for offset, label in enumerate(CLASSES):
            for number in range(num):
                draw(root / split / label / f"{number}.png", 1000 * place + 100 * offset + number)
    return root


def check_pixels(dataset: Dataset, root: Path, split: Split) -> None:
    for path, row, label in zip(split.paths, split.rows, split.labels, strict=True):
        content = (root / path).read_bytes()
        assert np.array_equal(dataset.pixels[row].numpy(), decode(content, PREPROCESSING))
        assert f"/{CLASSES[int(label)]}/" in f"/{path}"


def snapshot(root: Path) -> dict[str, tuple[bytes, int]]:
    return {str(path): (path.read_bytes() if path.is_file() else b"", path.stat().st_mtime_ns)
            for path in [root, *root.rglob("*")]}  # fmt: skip


def test_every_image_is_in_its_split_with_its_own_pixels_and_label(root: Path, run: Path) -> None:
    dataset = load(root, run)
    rows = read_splits(run / "splits.csv")
    assert len(rows) == 24
    for name, split in (("train", dataset.train), ("val", dataset.val)):
        assert split.paths == [row.path for row in rows if row.split == name]
        assert len(split.paths) > 0
        check_pixels(dataset, root, split)
    assert dataset.pixels.shape == (24, 16, 16, 3)
    assert not {*dataset.train.rows.tolist()} & {*dataset.val.rows.tolist()}


def test_labels_follow_the_order_of_the_classes_and_not_of_the_names(root: Path, run: Path) -> None:
    settings = Data(root=str(root), val_fraction=0.3)
    dataset = load_dataset(settings, ("human", "dog"), 0, PREPROCESSING, run)
    for path, label in zip(dataset.train.paths, dataset.train.labels.tolist(), strict=True):
        assert path.startswith(("human", "dog")[label])


def test_test_images_are_not_even_in_the_store(tmp_path: Path, run: Path, draw: Draw) -> None:
    root = into_splits(tmp_path / "photos", draw, "train", "val", "test")
    dataset = load(root, run)
    assert dataset.pixels.shape[0] == 16
    rows = read_splits(run / "splits.csv")
    assert sum(row.split == "test" for row in rows) == 8
    for path in (root / "test").rglob("*.png"):
        pixels = torch.tensor(decode(path.read_bytes(), PREPROCESSING))
        assert not (dataset.pixels == pixels).flatten(1).all(1).any()
    check_pixels(dataset, root, dataset.train)
    check_pixels(dataset, root, dataset.val)


def test_without_a_val_folder_val_comes_from_train_and_never_from_test(
    tmp_path: Path, run: Path, draw: Draw
) -> None:
    root = into_splits(tmp_path / "photos", draw, "train", "test", num=12)
    dataset = load(root, run)
    assert dataset.val.paths
    assert all(path.startswith("train/") for path in dataset.val.paths + dataset.train.paths)


def test_a_class_without_val_images_is_refused_and_no_splits_are_written(
    tmp_path: Path, run: Path, draw: Draw
) -> None:
    root = into_splits(tmp_path / "photos", draw, "train", "val", num=2)
    for path in (root / "val/human").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(DataError, match="class human has no readable image in val"):
        load(root, run)
    assert list(run.iterdir()) == []


def test_unreadable_images_are_left_out_listed_and_counted(
    root: Path, run: Path, messages: Callable[[], str]
) -> None:
    (root / "dog/bad.jpg").write_bytes(b"no picture")
    (root / "human/00a.png").touch()
    dataset = load(root, run)
    assert dataset.pixels.shape[0] == 24
    check_pixels(dataset, root, dataset.train)
    check_pixels(dataset, root, dataset.val)
    bad = {row.path: row.reason for row in read_splits(run / "splits.csv") if not row.split}
    assert set(bad) == {"dog/bad.jpg", "human/00a.png"}
    assert bad["human/00a.png"] == "empty file"
    said = messages()
    assert "2 unreadable images are left out" in said
    assert "human/00a.png: empty file" in said


def test_only_some_unreadable_images_are_named_on_the_screen(
    root: Path, run: Path, messages: Callable[[], str]
) -> None:
    for number in range(30):
        (root / f"dog/bad{number:02}.jpg").touch()
    load(root, run)
    said = messages()
    assert "30 unreadable images are left out" in said
    assert said.count("empty file") == 10


def test_the_counts_of_each_split_and_class_are_told(
    tmp_path: Path, run: Path, draw: Draw, messages: Callable[[], str]
) -> None:
    root = into_splits(tmp_path / "photos", draw, "train", "val", "unseen")
    load(root, run)
    said = messages()
    assert "train       8 images: dog 4, human 4" in said
    assert "val         8 images: dog 4, human 4" in said
    assert "test        0 images: dog 0, human 0" in said
    assert "not read, as no split has this name: unseen" in said


def same(one: Dataset, other: Dataset) -> bool:
    return (
        torch.equal(one.pixels, other.pixels)
        and one.train.paths == other.train.paths
        and torch.equal(one.train.rows, other.train.rows)
        and torch.equal(one.val.labels, other.val.labels)
        and one.fingerprint == other.fingerprint
    )


def test_memory_and_disk_give_the_same_dataset(root: Path, run: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    memory = load(root, run, store="memory")
    assert same(memory, load(root, tmp_path / "other", store="disk"))


def test_a_run_that_goes_on_keeps_to_its_splits(root: Path, run: Path) -> None:
    first = load(root, run)
    content = (run / "splits.csv").read_bytes()
    # Neither another seed nor other shares count any more.
    assert same(first, load(root, run, seed=5, val_fraction=0.6))
    assert (run / "splits.csv").read_bytes() == content


def test_images_added_since_are_told_and_left_out(
    root: Path, run: Path, draw: Draw, messages: Callable[[], str]
) -> None:
    first = load(root, run)
    messages()
    draw(root / "dog/00 new.png", 77)  # before all others by name
    again = load(root, run)
    assert "1 images added since this run began are left out, dog/00 new.png" in messages()
    assert (again.train.paths, again.fingerprint) == (first.train.paths, first.fingerprint)
    check_pixels(again, root, again.train)
    check_pixels(again, root, again.val)


@pytest.mark.parametrize("path", ["dog/03.png", "human/11.png"])
def test_images_missing_or_changed_since_are_refused(
    root: Path, run: Path, draw: Draw, path: str
) -> None:
    load(root, run)
    draw(root / path, 999)
    with pytest.raises(DataError, match=f"1 images of this run are changed, among them {path}"):
        load(root, run)
    (root / path).unlink()
    with pytest.raises(DataError, match=f"1 images of this run are missing, among them {path}"):
        load(root, run)


def test_a_test_image_that_changed_is_refused_too(tmp_path: Path, run: Path, draw: Draw) -> None:
    root = into_splits(tmp_path / "photos", draw, "train", "val", "test")
    load(root, run)
    draw(root / "test/dog/0.png", 999)
    with pytest.raises(DataError, match="changed, among them test/dog/0"):
        load(root, run)


def test_the_fingerprint_tells_every_change(root: Path, run: Path, draw: Draw) -> None:
    def fingerprint(**settings: Any) -> str:  # noqa: ANN401
        (run / "splits.csv").unlink(missing_ok=True)
        return load(root, run, **settings).fingerprint

    first = fingerprint()
    assert fingerprint() == first
    seen = {first, fingerprint(seed=1)}
    draw(root / "dog/03.png", 999)
    seen.add(fingerprint())
    (root / "dog/03.png").rename(root / "dog/03b.png")
    seen.add(fingerprint())
    (root / "dog/03b.png").rename(root / "human/03b.png")
    seen.add(fingerprint())
    assert len(seen) == 5


def test_odd_file_names_train_and_resume(root: Path, run: Path) -> None:
    odd = [b"=1+1.png", b"a,b.png", b'say "x".png', b"new\nline.png", b"re\rturn.png", b"\xff.png"]
    for number, name in enumerate(odd):
        (root / f"dog/{number:02}.png").rename(root / "dog" / os.fsdecode(name))
    first = load(root, run)
    assert len({row.path for row in read_splits(run / "splits.csv")}) == 24
    assert same(first, load(root, run))


def test_the_users_folder_is_never_written_to(root: Path, run: Path) -> None:
    (root / "dog/bad.jpg").write_bytes(b"no picture")
    before = snapshot(root)
    for store in ("memory", "disk"):
        load(root, run, store=store)
    assert snapshot(root) == before


def test_a_root_may_begin_with_the_home_folder(
    root: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(root.parent))
    assert len(load(Path("~/photos"), run).train.paths) > 0


def test_a_root_that_is_gone_is_refused(root: Path, run: Path) -> None:
    load(root, run)
    shutil.rmtree(root)
    with pytest.raises(UsageError, match="no such file or folder"):
        load(root, run)
