import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from neither.config.schema import Data
from neither.data import dataset
from neither.data.corrections import DROPPED, Answer, AnswerFile
from neither.data.dataset import Dataset, Split, load_dataset
from neither.data.decode import decode
from neither.data.preprocessing import Preprocessing
from neither.runtime.errors import DataError, UsageError

CLASSES = ("dog", "human")
PREPROCESSING = Preprocessing(16)
Draw = Callable[..., Path]


@pytest.fixture
def root(tmp_path: Path, draw: Draw) -> Path:
    """Return a folder of 12 different images a class, without splits."""
    root = tmp_path / "photos"
    for offset, label in enumerate(CLASSES):
        for number in range(12):
            draw(root / label / f"{number:02}.png", 100 * offset + number)
    return root


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def read_splits(run: Path) -> list[dict[str, str]]:
    with (run / "splits.csv").open(newline="", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def load(root: Path, run: Path, seed: int = 0, **settings: Any) -> Dataset:  # noqa: ANN401
    chosen = {"val_fraction": 0.3, "test_fraction": 0.2, "max_unreadable": 0.9} | settings
    chosen["manifest" if root.suffix == ".csv" else "root"] = str(root)
    return load_dataset(Data.model_validate(chosen), CLASSES, seed, PREPROCESSING, run)


def into_splits(root: Path, draw: Draw, *splits: str, num: int = 4) -> Path:
    for place, split in enumerate(splits):
        for offset, label in enumerate(CLASSES):
            for number in range(num):
                draw(root / split / label / f"{number}.png", 1000 * place + 100 * offset + number)
    return root


def check_pixels(dataset: Dataset, root: Path, split: Split) -> None:
    pixels = dataset.pixels[split.rows].numpy()
    for path, image, label in zip(split.paths, pixels, split.labels, strict=True):
        assert np.array_equal(image, decode((root / path).read_bytes(), PREPROCESSING))
        assert f"/{CLASSES[int(label)]}/" in f"/{path}"


def test_every_image_is_in_its_split_with_its_own_pixels_and_label(root: Path, run: Path) -> None:
    dataset = load(root, run)
    rows = read_splits(run)
    assert len(rows) == 24
    for name, split in (("train", dataset.train), ("val", dataset.val)):
        assert split.paths == [row["path"] for row in rows if row["split"] == name]
        assert len(split.paths) > 0
        check_pixels(dataset, root, split)
    assert dataset.pixels.shape[1:] == (16, 16, 3)
    assert dataset.pixels[dataset.val.rows].dtype == torch.uint8
    assert not {*dataset.train.rows.tolist()} & {*dataset.val.rows.tolist()}


def test_labels_follow_the_order_of_the_classes_and_not_of_the_names(root: Path, run: Path) -> None:
    settings = Data(root=str(root), val_fraction=0.3)
    dataset = load_dataset(settings, ("human", "dog"), 0, PREPROCESSING, run)
    for path, label in zip(dataset.train.paths, dataset.train.labels.tolist(), strict=True):
        assert path.startswith(("human", "dog")[label])


@pytest.mark.parametrize("store", ["memory", "disk"])
def test_test_images_can_not_be_gathered(tmp_path: Path, run: Path, draw: Draw, store: str) -> None:
    root = into_splits(tmp_path / "photos", draw, "train", "val", "test")
    dataset = load(root, run, store=store)
    assert isinstance(dataset.pixels, Tensor) == (store == "memory")
    assert dataset.pixels.shape[0] == 16
    every = dataset.pixels[torch.arange(16)]
    rows = read_splits(run)
    assert sum(row["split"] == "test" for row in rows) == 8
    for path in (root / "test").rglob("*.png"):
        pixels = torch.tensor(decode(path.read_bytes(), PREPROCESSING))
        assert not (every == pixels).flatten(1).all(1).any()
    check_pixels(dataset, root, dataset.train)
    check_pixels(dataset, root, dataset.val)


@pytest.mark.parametrize(("ranks", "free", "fits"), [
    ("1", 2 * 24 * 768, True), ("1", 2 * 24 * 768 - 1, False), ("1", 0, False),
    ("2", 4 * 24 * 768, True), ("2", 4 * 24 * 768 - 1, False),
])  # fmt: skip
def test_pixels_are_kept_in_memory_if_half_of_what_is_free_holds_them(
    root: Path, run: Path, monkeypatch: pytest.MonkeyPatch, ranks: str, free: int, fits: bool
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    monkeypatch.setattr(dataset, "free_memory", lambda: free)
    pixels = load(root, run, test_fraction=0.0).pixels
    assert isinstance(pixels, Tensor) == fits


def test_a_class_without_val_images_is_refused_and_no_splits_are_written(
    tmp_path: Path, run: Path, draw: Draw
) -> None:
    root = into_splits(tmp_path / "photos", draw, "train", "val", num=2)
    for path in (root / "val/human").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"human has no image in val .*\(2 .* not a JPEG"):
        load(root, run)
    assert not (run / "splits.csv").exists()


def same(one: Dataset, other: Dataset) -> bool:
    return one.fingerprint == other.fingerprint and all(
        torch.equal(one.pixels[left.rows], other.pixels[right.rows])
        and torch.equal(left.labels, right.labels)
        and left.paths == right.paths
        for left, right in ((one.train, other.train), (one.val, other.val))
    )


def test_memory_and_disk_give_the_same_dataset(root: Path, run: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    memory = load(root, run, store="memory")
    assert same(memory, load(root, tmp_path / "other", store="disk"))


def test_a_run_that_goes_on_keeps_to_its_splits(root: Path, run: Path) -> None:
    first = load(root, run)
    content = (run / "splits.csv").read_bytes()
    # Another seed and other fractions count no more.
    for number, path in enumerate(sorted(root.rglob("*.png"))):  # nor do dates
        os.utime(path, (0, 0) if number % 2 else (2**33, 2**33))
    assert same(first, load(root, run, seed=5, val_fraction=0.6))
    assert (run / "splits.csv").read_bytes() == content


def test_images_added_since_are_named_and_left_out(
    root: Path, run: Path, draw: Draw, messages: Callable[[], str]
) -> None:
    first = load(root, run)
    messages()
    draw(root / "dog/00 new.png", 77)  # before all others by name
    again = load(root, run)
    assert "dog/00 new.png" in messages()
    assert (again.train.paths, again.fingerprint) == (first.train.paths, first.fingerprint)
    check_pixels(again, root, again.train)
    check_pixels(again, root, again.val)


def write_manifest(root: Path, *more: str, columns: str = "path,label") -> Path:
    rows = [f"photos/{path.parent.name}/{path.name},{path.parent.name}"
            for path in sorted(root.rglob("*.png"))]  # fmt: skip
    path = root.parent / "photos.csv"
    path.write_text("\n".join([columns, *rows, *more]) + "\n")
    return path


def test_a_manifest_gives_the_same_dataset_as_its_folder(
    root: Path, run: Path, tmp_path: Path
) -> None:
    (root / "dog/link.png").symlink_to("00.png")
    by_folder = load(root, run)
    (tmp_path / "other").mkdir()
    by_manifest = load(write_manifest(root), tmp_path / "other")
    for one, other in ((by_folder.train, by_manifest.train), (by_folder.val, by_manifest.val)):
        assert [f"photos/{path}" for path in one.paths] == other.paths
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(by_folder.pixels[one.rows], by_manifest.pixels[other.rows])


def test_images_carry_their_source_into_train_and_val(
    root: Path, run: Path, tmp_path: Path
) -> None:
    by_path = load(root, run, sources="/([0-9])[02468]")
    for split in (by_path.train, by_path.val):
        assert split.sources == [
            path.split("/")[1][0] if int(path[-5]) % 2 == 0 else "" for path in split.paths
        ]
    manifest = tmp_path / "photos.csv"
    rows = [f"photos/{path.parent.name}/{path.name},{path.parent.name},{path.stem[0]}"
            for path in sorted(root.rglob("*.png"))]  # fmt: skip
    manifest.write_text("\n".join(["path,label,source", *rows]))
    (tmp_path / "other").mkdir()
    by_column = load(manifest, tmp_path / "other")
    assert by_column.train.sources == [Path(path).name[0] for path in by_column.train.paths]
    assert {*by_column.train.sources} == {"0", "1"}


def test_corrections_replace_labels_and_drop_images_but_move_none(
    root: Path, run: Path, tmp_path: Path
) -> None:
    load(root, run)
    before = read_splits(run)
    train = [row for row in before if row["split"] == "train"]
    val = [row for row in before if row["split"] == "val"]

    def review(row: dict[str, str], new: str) -> None:
        queue = "label issues"
        answer = Answer(row["sha256"], row["path"], row["label"], new, queue)
        AnswerFile(tmp_path / "corrections.csv", CLASSES).append([answer])

    other = {"dog": "human", "human": "dog"}
    review(train[0], DROPPED)
    review(train[1], other[train[1]["label"]])
    review(val[0], other[val[0]["label"]])  # alone it does not count
    (run / "splits.csv").unlink()
    dataset = load(root, run, corrections=str(tmp_path / "corrections.csv"))
    changes = {train[0]["path"]: {"split": "", "reason": "dropped in a review"},
               train[1]["path"]: {"label": other[train[1]["label"]]}}  # fmt: skip
    assert read_splits(run) == [row | changes.get(row["path"], {}) for row in before]
    assert dataset.train.paths == [row["path"] for row in train[1:]]
    assert CLASSES[int(dataset.train.labels[0])] == other[train[1]["label"]]

    review(train[1], train[1]["label"])
    review(train[2], DROPPED)  # while it trains: the run keeps to its splits.csv
    resumed = load(root, run, corrections=str(tmp_path / "corrections.csv"))
    assert resumed.fingerprint == dataset.fingerprint
    assert torch.equal(resumed.train.labels, dataset.train.labels)
    with pytest.raises(DataError, match="of another label now"):
        load(root, run)


def read_unlabelled(run: Path) -> dict[str, dict[str, str]]:
    with (run / "unlabelled.csv").open(newline="") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def test_images_without_labels_are_trained_on_but_for_duplicates_of_val_and_test(
    tmp_path: Path, run: Path, draw: Draw, messages: Callable[[], str]
) -> None:
    root, more = into_splits(tmp_path / "photos", draw, "train", "val", "test"), tmp_path / "more"
    for number in range(3):
        draw(more / "day one" / f"{number}.png", 5000 + number)
    draw(more / "train.png", 0)  # as train/dog/0.png
    draw(more / "val.png", 1000)  # as val/dog/0.png
    draw(more / "test.png", 2100)  # as test/human/0.png
    with Image.open(more / "test.png") as image:
        image.save(more / "test.bmp")
    (more / "broken.jpg").write_bytes(b"no picture")
    plain = load(root, run)
    splits = (run / "splits.csv").read_bytes()
    (run / "splits.csv").unlink()
    messages()
    dataset = load(root, run, unlabelled=str(more))
    text = messages()
    assert "3 images of" in text
    assert "1 images of" in text
    rows = read_unlabelled(run)
    used = ["day one/0.png", "day one/1.png", "day one/2.png", "train.png"]
    assert [path for path, row in rows.items() if row["split"] == "train"] == used
    assert not any(row["label"] for row in rows.values())
    assert rows["val.png"]["reason"] == "the same bytes as val/dog/0.png, which is in val"
    assert rows["test.bmp"]["reason"] == "nearly the same as test/human/0.png, which is in test"
    assert rows["broken.jpg"]["reason"]
    assert dataset.unlabelled.paths == used
    assert dataset.unlabelled.labels.tolist() == [-1] * 4
    for path, image in zip(used, dataset.pixels[dataset.unlabelled.rows].numpy(), strict=True):
        assert np.array_equal(image, decode((more / path).read_bytes(), PREPROCESSING))
    assert (run / "splits.csv").read_bytes() == splits  # and nothing else knows of them
    for one, other in ((plain.train, dataset.train), (plain.val, dataset.val)):
        assert one.paths == other.paths
        assert torch.equal(plain.pixels[one.rows], dataset.pixels[other.rows])
    assert plain.fingerprint != dataset.fingerprint
    draw(more / "added.png", 7000)
    assert load(root, run, unlabelled=str(more)).fingerprint == dataset.fingerprint
    draw(more / "train.png", 7001)
    with pytest.raises(DataError, match=r"data\.unlabelled: .*changed.*train\.png"):
        load(root, run, unlabelled=str(more))


@pytest.mark.parametrize(("folder", "error", "text"), [
    ("gone", UsageError, "no such"), ("empty", DataError, "no images"),
    ("photos/dog", UsageError, "not apart"), (".", UsageError, "not apart"),
    ("broken", DataError, "unreadable"),
])  # fmt: skip
def test_a_folder_of_unlabelled_images_that_cannot_be_used_is_named(
    root: Path, run: Path, folder: str, error: type[Exception], text: str
) -> None:
    for name in ("empty", "broken"):
        (root.parent / name).mkdir()
    (root.parent / "broken/one.jpg").write_bytes(b"no picture")
    with pytest.raises(error, match=f"^data.unlabelled: .*{text}"):
        load(root, run, unlabelled=str(root.parent / folder))
