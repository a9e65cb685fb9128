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
from neither.data.scan import ImageRow, ImageTable
from neither.runtime.errors import DataError, UsageError

CLASSES = ("dog", "human")


def training(root: Path, ignored: tuple[str, ...] = (), **aliases: str) -> ImageTable:
    return find_training_images(root, CLASSES, ignored, aliases)


def refused(root: Path, ignored: tuple[str, ...] = (), **aliases: str) -> str:
    with pytest.raises(DataError) as caught:
        training(root, ignored, **aliases)
    return str(caught.value)


def test_class_folders_without_splits(tmp_path: Path) -> None:
    touch(tmp_path, "human/2.jpg", "dog/b.jpg", "dog/a.jpg", "dog/more/c.jpg")
    table = training(tmp_path)
    assert table.images == [
        ImageRow("dog/a.jpg", "dog"),
        ImageRow("dog/b.jpg", "dog"),
        ImageRow("dog/more/c.jpg", "dog"),
        ImageRow("human/2.jpg", "human"),
    ]
    assert (table.root, table.notes) == (tmp_path, [])


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_split_folders(tmp_path: Path, val: str) -> None:
    touch(tmp_path, *[f"{split}/{name}/{split}.jpg" for split in ("train", val, "test")
                        for name in CLASSES])  # fmt: skip
    assert training(tmp_path).images == [
        ImageRow(f"{folder}/{name}/{folder}.jpg", name, split)
        for split, folder in (("train", "train"), ("val", val), ("test", "test"))
        for name in CLASSES
    ]


def test_other_folders_beside_the_splits_are_named_in_one_line_and_not_read(
    tmp_path: Path,
) -> None:
    touch(tmp_path, "train/dog/a.jpg", "train/human/a.jpg", "unseen/cup/a.jpg", "dog/x.jpg")
    table = training(tmp_path)
    assert [image.path for image in table.images] == ["train/dog/a.jpg", "train/human/a.jpg"]
    assert table.notes == [f"{tmp_path}: not read, as no split has this name: dog, unseen"]


def test_a_split_folder_that_is_nearly_right_is_reported(tmp_path: Path) -> None:
    touch(tmp_path, "train/dog/a.jpg", "train/human/a.jpg", "Test/dog/a.jpg", "cups/a.jpg")
    (note,) = training(tmp_path).notes
    assert note.endswith("no split has this name: Test, cups; did you mean test?")


@pytest.mark.parametrize("others", [("val",), ("test",), ("valid", "test")])
def test_splits_without_train_are_refused(tmp_path: Path, others: tuple[str, ...]) -> None:
    touch(tmp_path, *[f"{split}/{name}/a.jpg" for split in others for name in CLASSES])
    assert f"there is {', '.join(others)} but no train folder" in refused(tmp_path)


def test_two_folders_for_one_split_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, *[f"{split}/{name}/a.jpg" for split in ("train", "val", "valid")
                        for name in CLASSES])  # fmt: skip
    assert "val, valid both name the val split; keep one" in refused(tmp_path)


@pytest.mark.parametrize("near", ["Dog", "DOG", "dogs", "Dogs", "dog "])
def test_a_near_miss_is_named_and_never_guessed(tmp_path: Path, near: str) -> None:
    touch(tmp_path, f"{near}/a.jpg", "human/a.jpg")
    message = refused(tmp_path)
    assert f"folder {near}: did you mean dog?" in message
    assert "no folder for class dog" in message


def test_missing_empty_and_extra_folders_are_named_all_at_once(tmp_path: Path) -> None:
    touch(tmp_path, "dog/", "dog/notes.txt", "dog/deep/", "teapot/a.jpg")
    message = refused(tmp_path)
    assert message.startswith(f"{tmp_path}: want one folder for each of dog, human\n")
    assert "no folder for class human" in message
    assert "the folder of class dog holds no images" in message
    assert "data.ignored_folders=[teapot]" in message


def test_a_near_miss_beside_the_right_folder_is_an_extra_one(tmp_path: Path) -> None:
    touch(tmp_path, "dog/a.jpg", "dogs/a.jpg", "human/a.jpg")
    message = refused(tmp_path)
    assert "data.ignored_folders=[dogs]" in message
    assert "did you mean" not in message


def test_an_ignored_folder_is_left_out_on_purpose(tmp_path: Path) -> None:
    touch(tmp_path, "dog/a.jpg", "human/a.jpg", "neither/a.jpg", "Dogs/a.jpg")
    table = training(tmp_path, ("neither", "Dogs", "not there"))
    assert [image.path for image in table.images] == ["dog/a.jpg", "human/a.jpg"]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_each_split_must_have_every_class_and_no_other(tmp_path: Path, split: str) -> None:
    splits = ["train", *({split} - {"train"})]
    touch(tmp_path, *[f"{each}/{name}/a.jpg" for each in splits for name in CLASSES])
    assert training(tmp_path).images
    (tmp_path / split / "human/a.jpg").unlink()
    assert f"{tmp_path / split}: want one folder for each" in refused(tmp_path)
    assert "the folder of class human holds no images" in refused(tmp_path)
    touch(tmp_path, f"{split}/human/a.jpg", f"{split}/cup/a.jpg")
    assert "folder cup: no class has this name" in refused(tmp_path)
    assert training(tmp_path, ("cup",)).images


def test_images_beside_the_class_folders_belong_to_no_class_and_are_counted(
    tmp_path: Path,
) -> None:
    touch(tmp_path, "a.jpg", "b", "c.txt", "dog/a.jpg", "human/a.jpg")
    table = training(tmp_path)
    assert table.paths == ["dog/a.jpg", "human/a.jpg"]
    assert table.notes == [f"{tmp_path}: 1 images beside the class folders are not read"]


def test_images_beside_the_split_folders_belong_to_no_split_and_are_counted(
    tmp_path: Path,
) -> None:
    touch(tmp_path, "a.jpg", "b.jpg", "train/dog/a.jpg", "train/human/a.jpg", "train/c.jpg")
    table = training(tmp_path)
    assert table.paths == ["train/dog/a.jpg", "train/human/a.jpg"]
    assert table.notes == [
        f"{tmp_path}: 2 images beside the split folders are not read",
        f"{tmp_path / 'train'}: 1 images beside the class folders are not read",
    ]


def test_two_folders_feed_one_class_by_aliases(tmp_path: Path) -> None:
    touch(tmp_path, "dog/a.jpg", "human/b.jpg", "person/c.jpg", "people/deep/d.jpg")
    assert "folder people: no class has this name" in refused(tmp_path)
    table = training(tmp_path, person="human", people="human", unused="dog")
    assert table.images == [
        ImageRow("dog/a.jpg", "dog"),
        ImageRow("human/b.jpg", "human"),
        ImageRow("people/deep/d.jpg", "human"),
        ImageRow("person/c.jpg", "human"),
    ]


def test_an_alias_stands_for_the_folder_of_its_class_in_every_split(tmp_path: Path) -> None:
    touch(tmp_path, "train/hound/a.jpg", "train/human/b.jpg", "val/dog/c.jpg", "val/human/d.jpg")
    assert "no folder for class dog" in refused(tmp_path)
    assert training(tmp_path, hound="dog").images == [
        ImageRow("train/hound/a.jpg", "dog", "train"),
        ImageRow("train/human/b.jpg", "human", "train"),
        ImageRow("val/dog/c.jpg", "dog", "val"),
        ImageRow("val/human/d.jpg", "human", "val"),
    ]


def test_a_class_is_empty_only_if_all_its_folders_are(tmp_path: Path) -> None:
    touch(tmp_path, "dog/", "hound/a.jpg", "human/b.jpg")
    assert training(tmp_path, hound="dog").paths == ["hound/a.jpg", "human/b.jpg"]
    (tmp_path / "hound/a.jpg").unlink()
    assert "the folder of class dog holds no images" in refused(tmp_path, hound="dog")


@pytest.mark.parametrize("name", ["humans", "people"])
def test_an_extra_folder_is_reported_with_the_alias_that_may_be_meant(
    tmp_path: Path, name: str
) -> None:
    touch(tmp_path, "dog/a.jpg", "human/a.jpg", f"{name}/a.jpg")
    meant = {"humans": "human", "people": "CLASS"}[name]  # never a guess
    assert f"'data.aliases={{{name}: {meant}}}'" in refused(tmp_path)


def test_advice_on_extra_folders_keeps_those_that_are_ignored_already(tmp_path: Path) -> None:
    touch(tmp_path, "dog/a.jpg", "human/a.jpg", "cup/a.jpg", "jar/a.jpg")
    assert "'data.ignored_folders=[cup, jar]'" in refused(tmp_path, ("cup",))


def test_images_come_in_the_order_of_the_classes(tmp_path: Path) -> None:
    touch(tmp_path, "dog/a.jpg", "human/a.jpg")
    table = find_training_images(tmp_path, ("human", "dog"), ())
    assert [image.label for image in table.images] == ["human", "dog"]


def test_folders_that_would_drive_a_terminal_are_escaped(tmp_path: Path) -> None:
    touch(tmp_path, "dog/a.jpg", "human/a.jpg", "\x1b[31mred/a.jpg")
    assert r"folder \x1b[31mred: " in refused(tmp_path)
    assert "\x1b" not in refused(tmp_path)


def test_training_on_a_file_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    with pytest.raises(UsageError, match=r"a\.jpg: not a folder"):
        training(tmp_path / "a.jpg")


def test_a_link_to_another_class_or_split_gives_no_image_a_second_label(tmp_path: Path) -> None:
    root = make_splits(tmp_path / "images", classes=CLASSES)
    plain = find_training_images(root, CLASSES, []).images
    (root / "train" / "dog" / "up").symlink_to("..")
    (root / "train" / "dog" / "test").symlink_to("../../test")
    (root / "train" / "dog" / "other").symlink_to("../human")
    assert find_training_images(root, CLASSES, []).images == plain


def test_a_class_folder_may_itself_be_a_link(tmp_path: Path) -> None:
    root = touch(tmp_path / "photos", "human/a.jpg")
    touch(tmp_path, "elsewhere/b.jpg")
    (root / "dog").symlink_to("../elsewhere")
    assert training(root).paths == ["dog/b.jpg", "human/a.jpg"]


def test_paths_share_the_text_of_their_label_and_split(tmp_path: Path) -> None:
    """A hundred thousand images have few labels: one text each is enough."""
    names = [f"train/{label}/{number}.jpg" for label in CLASSES for number in range(20)]
    table = training(touch(tmp_path, *names))
    assert len({id(label) for label in table.labels}) == len(CLASSES)
    assert len({id(split) for split in table.splits}) == 1


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
    table = find_evaluation_images(root, CLASSES, split)
    return [(image.path, image.label) for image in table.images]


def test_a_file_is_scored_without_a_label(tmp_path: Path) -> None:
    touch(tmp_path, "dog/a.xyz")
    table = find_evaluation_images(tmp_path / "dog/a.xyz", CLASSES, None)
    assert (table.root, table.images) == (tmp_path / "dog", [ImageRow("a.xyz", "")])


def test_a_folder_without_class_folders_is_unlabelled_and_read_at_any_depth(
    tmp_path: Path,
) -> None:
    touch(tmp_path, "a.jpg", "cup/b.jpg", "cup/dog/c.jpg")
    assert scored(tmp_path) == [("a.jpg", ""), ("cup/b.jpg", ""), ("cup/dog/c.jpg", "")]


def test_one_class_folder_makes_a_folder_labelled_and_the_others_unseen(tmp_path: Path) -> None:
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
    table = find_evaluation_images(tmp_path, CLASSES, None)
    assert {image.label for image in table.images} == {""}
    assert table.notes == [
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


def test_unseen_folders_are_unseen_each_by_its_name(tmp_path: Path) -> None:
    touch(tmp_path, "cup/a.jpg", "tree/oak/b.jpg", "stray.jpg", "train/c.jpg")
    table = find_unseen_images(tmp_path, CLASSES)
    assert [(image.path, image.label) for image in table.images] == [
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
    table = find_evaluation_images(tmp_path, CLASSES, None)
    every = len(table.paths)
    for outside in (tmp_path, tmp_path.parent, tmp_path.parent / "other"):
        table.exclude(outside)
        assert len(table.paths) == every
    table.exclude(tmp_path / "dog" / ".." / "unseen")
    assert [(image.path, image.label) for image in table.images] == [
        ("dog/a.jpg", "dog"), ("human/unseen/d.jpg", "human"), ("unseen2/c.jpg", "unseen2"),
    ]  # fmt: skip


def test_one_image_has_no_splits(tmp_path: Path) -> None:
    root = make_splits(tmp_path / "images", classes=CLASSES)
    with pytest.raises(UsageError, match="one image has no splits"):
        find_evaluation_images(root / "test" / "dog" / "000.png", CLASSES, "val")


def test_folders_with_other_names_for_a_class_have_its_label(tmp_path: Path) -> None:
    touch(tmp_path, "people/a.jpg", "human/b.jpg", "dog/c.jpg", "cup/d.jpg", "humans/e.jpg")
    table = find_evaluation_images(tmp_path, CLASSES, None, {"people": "human", "unused": "dog"})
    assert [(image.path, image.label) for image in table.images] == [
        ("cup/d.jpg", "cup"),
        ("dog/c.jpg", "dog"),
        ("human/b.jpg", "human"),
        ("humans/e.jpg", "humans"),
        ("people/a.jpg", "human"),
    ]
    assert table.notes == []  # no class lacks a folder, so none was misnamed


def test_another_name_for_a_class_makes_a_folder_labelled(tmp_path: Path) -> None:
    touch(tmp_path, "people/a.jpg", "cup/b.jpg")
    assert scored(tmp_path) == [("cup/b.jpg", ""), ("people/a.jpg", "")]
    table = find_evaluation_images(tmp_path, CLASSES, None, {"people": "human"})
    assert table.labels == ["cup", "human"]


@pytest.mark.parametrize("name", ["pipe.jpg", "zero.jpg", "gone.jpg"])
def test_what_is_no_file_is_refused_and_never_opened(
    tmp_path: Path, name: str, watchdog: None
) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    with pytest.raises(UsageError, match=f"{name}: (not a folder|no such file or folder)"):
        find_evaluation_images(tmp_path / name, CLASSES, None)


def test_images_of_a_folder_that_is_a_class_are_not_unseen(tmp_path: Path) -> None:
    touch(tmp_path / "dog", "a.jpg", "cup/b.jpg")
    with pytest.raises(DataError, match="--unseen is for other kinds, but dog is a class"):
        find_unseen_images(tmp_path / "dog", CLASSES)
    (tmp_path / "dog/a.jpg").unlink()
    assert find_unseen_images(tmp_path / "dog", CLASSES).labels == ["cup"]


def test_all_images_are_found_with_whatever_their_folders_say(tmp_path: Path) -> None:
    flat = touch(tmp_path / "flat", "dog/a.jpg", "cup/deep/b.jpg", "c.jpg", "dog/.d.jpg")
    (flat / "cup/dog").symlink_to("../dog")  # gives no image a second label
    table = find_all_images(flat)
    assert table.images == [ImageRow("cup/deep/b.jpg", "cup"), ImageRow("dog/a.jpg", "dog")]
    assert table.notes == [f"{flat}: 1 images beside the class folders are not read"]
    assert table.listing.num_hidden == 1
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
