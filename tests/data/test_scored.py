import os
from collections.abc import Callable
from pathlib import Path

import pytest

from images import make_splits, touch
from neither.data.layout import (
    find_all_images,
    find_evaluation_images,
    find_training_images,
    find_unseen_images,
)
from neither.data.manifest import given_splits
from neither.data.scan import ImageRow, ImageTable
from neither.runtime.errors import DataError, UsageError

CLASSES = ("dog", "human")


@pytest.mark.parametrize("find", [
    lambda path: find_training_images(path, CLASSES, ()),
    lambda path: find_evaluation_images(path, CLASSES, None),
    lambda path: find_unseen_images(path, CLASSES),
])  # fmt: skip
def test_a_path_that_does_not_exist_is_refused_with_the_nearest(
    tmp_path: Path, find: Callable[[Path], ImageTable]
) -> None:
    touch(tmp_path, "photos/dog/a.jpg")
    with pytest.raises(UsageError, match=r"no such file or folder; did you mean .*/photos\?"):
        find(tmp_path / "fotos")
    with pytest.raises(UsageError, match=r"no such file or folder$"):
        find(tmp_path / "x/y/z")


def scored(root: Path, split: str | None = None) -> list[tuple[str, str]]:
    found = find_evaluation_images(root, CLASSES, split)
    return [(image.path, image.label) for image in found.images]


def test_a_file_is_scored_without_a_label(tmp_path: Path) -> None:
    touch(tmp_path, "dog/a.xyz")
    found = find_evaluation_images(tmp_path / "dog/a.xyz", CLASSES, None)
    assert (found.root, found.images) == (tmp_path / "dog", [ImageRow("a.xyz", "")])


def test_a_folder_without_class_folders_is_unlabelled_and_read_at_any_depth(
    tmp_path: Path,
) -> None:
    touch(tmp_path, "a.jpg", "cup/b.jpg", "cup/dog/c.jpg")
    assert scored(tmp_path) == [("a.jpg", ""), ("cup/b.jpg", ""), ("cup/dog/c.jpg", "")]


def test_one_class_folder_makes_a_folder_labelled_and_the_others_foreign(tmp_path: Path) -> None:
    touch(tmp_path, "dog/a.jpg", "dog/more/b.jpg", "teapot/c.jpg", "stray.jpg", "Human/d.jpg")
    assert scored(tmp_path) == [
        ("Human/d.jpg", "Human"),
        ("dog/a.jpg", "dog"),
        ("dog/more/b.jpg", "dog"),
        ("stray.jpg", ""),
        ("teapot/c.jpg", "teapot"),
    ]


def test_near_misses_of_an_unlabelled_folder_are_noted(tmp_path: Path) -> None:
    touch(tmp_path, "Dogs/a.jpg", "cup/b.jpg")
    found = find_evaluation_images(tmp_path, CLASSES, None)
    assert {image.label for image in found.images} == {""}
    assert found.notes == [
        f"{tmp_path / 'Dogs'}: not read as dog: the name must be the same, or one of the run's "
        "data.aliases",
    ]


def test_test_is_scored_where_there_are_splits(tmp_path: Path) -> None:
    touch(tmp_path, "train/dog/a.jpg", "valid/dog/b.jpg", "test/dog/c.jpg", "test/cup/d.jpg")
    assert scored(tmp_path) == [("cup/d.jpg", "cup"), ("dog/c.jpg", "dog")]
    assert scored(tmp_path, "val") == [("dog/b.jpg", "dog")]
    assert scored(tmp_path, "train") == [("dog/a.jpg", "dog")]
    assert find_evaluation_images(tmp_path, CLASSES, None).root == tmp_path / "test"


def test_a_split_that_is_not_there_is_refused_and_never_replaced(tmp_path: Path) -> None:
    touch(tmp_path, "train/dog/a.jpg", "val/dog/b.jpg")
    with pytest.raises(UsageError, match="no test split here; name another: --split train, val"):
        scored(tmp_path)
    with pytest.raises(UsageError, match="no test split here"):
        scored(tmp_path, "test")
    with pytest.raises(UsageError, match="--split val: this folder has no split folders"):
        scored(tmp_path / "train", "val")


@pytest.mark.parametrize("names", [[], ["dog/"], ["dog/a.txt"], ["test/dog/", "train/dog/a.jpg"]])
def test_a_folder_without_images_is_refused(tmp_path: Path, names: list[str]) -> None:
    touch(tmp_path, *names)
    with pytest.raises(DataError, match="no images here"):
        scored(tmp_path)


def test_unseen_folders_are_foreign_each_by_its_name(tmp_path: Path) -> None:
    touch(tmp_path, "cup/a.jpg", "tree/oak/b.jpg", "stray.jpg", "train/c.jpg")
    found = find_unseen_images(tmp_path, CLASSES)
    assert [(image.path, image.label) for image in found.images] == [
        ("cup/a.jpg", "cup"),
        ("stray.jpg", tmp_path.name),
        ("train/c.jpg", "train"),
        ("tree/oak/b.jpg", "tree"),
    ]


def test_unseen_folders_that_are_classes_or_empty_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "cup/notes.txt")
    with pytest.raises(DataError, match="no images here for --unseen"):
        find_unseen_images(tmp_path, CLASSES)
    touch(tmp_path, "dog/a.jpg")
    with pytest.raises(DataError, match="--unseen is for other kinds, but dog is a class"):
        find_unseen_images(tmp_path, CLASSES)


def test_splits_of_classes_are_not_unseen(tmp_path: Path) -> None:
    touch(tmp_path, "test/cup/a.jpg", "val/dog/b.jpg")
    with pytest.raises(DataError, match="val: --unseen is for other kinds, but dog is a class"):
        find_unseen_images(tmp_path, CLASSES)


def test_a_folder_inside_can_be_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "dog/a.jpg", "unseen/cup/b.jpg", "unseen2/c.jpg", "human/unseen/d.jpg")
    found = find_evaluation_images(tmp_path, CLASSES, None)
    every = len(found.paths)
    for outside in (tmp_path, tmp_path.parent, tmp_path.parent / "other"):
        found.exclude(outside)
        assert len(found.paths) == every
    found.exclude(tmp_path / "dog" / ".." / "unseen")
    assert [(image.path, image.label) for image in found.images] == [
        ("dog/a.jpg", "dog"), ("human/unseen/d.jpg", "human"), ("unseen2/c.jpg", "unseen2"),
    ]  # fmt: skip


def test_one_image_has_no_splits(tmp_path: Path) -> None:
    root = make_splits(tmp_path / "images", classes=CLASSES)
    with pytest.raises(UsageError, match="one image has no splits"):
        find_evaluation_images(root / "test" / "dog" / "000.png", CLASSES, "val")


def test_folders_with_other_names_for_a_class_have_its_label(tmp_path: Path) -> None:
    touch(tmp_path, "people/a.jpg", "human/b.jpg", "dog/c.jpg", "cup/d.jpg", "humans/e.jpg")
    found = find_evaluation_images(tmp_path, CLASSES, None, {"people": "human", "unused": "dog"})
    assert [(image.path, image.label) for image in found.images] == [
        ("cup/d.jpg", "cup"),
        ("dog/c.jpg", "dog"),
        ("human/b.jpg", "human"),
        ("humans/e.jpg", "humans"),
        ("people/a.jpg", "human"),
    ]
    assert found.notes == []  # no class lacks a folder, so none was misnamed


def test_another_name_for_a_class_makes_a_folder_labelled(tmp_path: Path) -> None:
    touch(tmp_path, "people/a.jpg", "cup/b.jpg")
    assert scored(tmp_path) == [("cup/b.jpg", ""), ("people/a.jpg", "")]
    found = find_evaluation_images(tmp_path, CLASSES, None, {"people": "human"})
    assert found.labels == ["cup", "human"]


def test_what_else_lies_there_is_told(tmp_path: Path) -> None:
    touch(tmp_path, "dog/a.jpg", "dog/a.txt", ".hidden", "b.md")
    (tmp_path / "dog/gone.jpg").symlink_to("nowhere")
    found = find_evaluation_images(tmp_path, CLASSES, None)
    assert (found.listing.others, found.listing.num_hidden) == ({".txt": 1, ".md": 1}, 1)
    assert found.notes == [
        f"{tmp_path}: 2 other files are not read",
        f"{tmp_path}: 1 entries with an image suffix are not image files, such as "
        f"{tmp_path}/dog/gone.jpg: a broken link",
    ]


@pytest.mark.parametrize("name", ["pipe.jpg", "zero.jpg", "gone.jpg"])
def test_what_is_no_file_is_refused_and_never_opened(
    tmp_path: Path, name: str, watchdog: None
) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    with pytest.raises(UsageError, match=f"{name}: (not a folder|no such file or folder)"):
        find_evaluation_images(tmp_path / name, CLASSES, None)


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["dog/a.jpg"], set()),
        (["train/dog/a.jpg"], {"train"}),
        (["train/", "valid/", "test/", "unseen/"], {"train", "val", "test"}),
    ],
)
def test_a_folder_tells_its_splits(tmp_path: Path, names: list[str], splits: set[str]) -> None:
    assert given_splits(touch(tmp_path, *names)) == splits


@pytest.mark.parametrize(
    ("content", "splits"),
    [
        ("path,label\na.jpg,dog\n", set()),
        ("path,label,split\na.jpg,dog,\n", set()),
        ("path,label,split\na.jpg,dog,train\nb.jpg,dog,validation\nc.jpg,dog,\n",
         {"train", "val"}),
    ],
)  # fmt: skip
def test_a_manifest_tells_its_splits(tmp_path: Path, content: str, splits: set[str]) -> None:
    (tmp_path / "photos.csv").write_text(content)
    assert given_splits(tmp_path / "photos.csv") == splits


def test_images_of_a_folder_that_is_a_class_are_not_unseen(tmp_path: Path) -> None:
    touch(tmp_path / "dog", "a.jpg", "cup/b.jpg")
    with pytest.raises(DataError, match="--unseen is for other kinds, but dog is a class"):
        find_unseen_images(tmp_path / "dog", CLASSES)
    (tmp_path / "dog/a.jpg").unlink()
    assert find_unseen_images(tmp_path / "dog", CLASSES).labels == ["cup"]


def test_all_images_are_found_with_whatever_their_folders_say(tmp_path: Path) -> None:
    flat = touch(tmp_path / "flat", "dog/a.jpg", "cup/deep/b.jpg", "c.jpg", "dog/.d.jpg")
    (flat / "cup/dog").symlink_to("../dog")  # gives no image a second label
    found = find_all_images(flat)
    assert found.images == [ImageRow("cup/deep/b.jpg", "cup"), ImageRow("dog/a.jpg", "dog")]
    assert found.notes == [f"{flat}: 1 images beside the class folders are not read"]
    assert found.listing.num_hidden == 1
    split = touch(tmp_path / "split", "train/dog/a.jpg", "valid/cup/b.jpg", "test/dog/c.jpg")
    assert find_all_images(split).images == [
        ImageRow("train/dog/a.jpg", "dog", "train"),
        ImageRow("valid/cup/b.jpg", "cup", "val"),
        ImageRow("test/dog/c.jpg", "dog", "test"),
    ]


def test_images_without_any_class_folder_are_found_without_labels(tmp_path: Path) -> None:
    assert find_all_images(touch(tmp_path, "a.jpg", "b.png")).images == [
        ImageRow("a.jpg", ""), ImageRow("b.png", ""),
    ]  # fmt: skip
    with pytest.raises(DataError, match="no images here"):
        find_all_images(touch(tmp_path / "empty", "dog/", "a.txt"))
    with pytest.raises(UsageError, match="no such file or folder"):
        find_all_images(tmp_path / "missing")
