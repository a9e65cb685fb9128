from collections.abc import Callable
from pathlib import Path

import pytest

from images import make_splits
from neither.data.layout import (
    Found,
    ImageFile,
    find_scored_images,
    find_training_images,
    find_unseen_images,
)
from neither.errors import DataError, UsageError

CLASSES = ("dog", "human")
Draw = Callable[..., Path]


def lay_out(root: Path, *names: str) -> Path:
    """Make empty files; finding them does not open them, as they have a suffix."""
    for name in names:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return root


def training(root: Path, ignored: tuple[str, ...] = ()) -> Found:
    return find_training_images(root, CLASSES, ignored)


def refused(root: Path, ignored: tuple[str, ...] = ()) -> str:
    with pytest.raises(DataError) as caught:
        training(root, ignored)
    return str(caught.value)


def test_class_folders_without_splits(tmp_path: Path) -> None:
    lay_out(tmp_path, "human/2.jpg", "dog/b.jpg", "dog/a.jpg", "dog/more/c.jpg")
    found = training(tmp_path)
    assert found.images == [
        ImageFile("dog/a.jpg", "dog"),
        ImageFile("dog/b.jpg", "dog"),
        ImageFile("dog/more/c.jpg", "dog"),
        ImageFile("human/2.jpg", "human"),
    ]
    assert (found.root, found.notes) == (tmp_path, [])


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_split_folders(tmp_path: Path, val: str) -> None:
    lay_out(tmp_path, *[f"{split}/{name}/{split}.jpg" for split in ("train", val, "test")
                        for name in CLASSES])  # fmt: skip
    assert training(tmp_path).images == [
        ImageFile(f"{folder}/{name}/{folder}.jpg", name, split)
        for split, folder in (("train", "train"), ("val", val), ("test", "test"))
        for name in CLASSES
    ]


def test_train_alone_is_enough(tmp_path: Path) -> None:
    lay_out(tmp_path, "train/dog/a.jpg", "train/human/a.jpg")
    assert {image.split for image in training(tmp_path).images} == {"train"}


def test_other_folders_beside_the_splits_are_named_in_one_line_and_not_read(
    tmp_path: Path,
) -> None:
    lay_out(tmp_path, "train/dog/a.jpg", "train/human/a.jpg", "unseen/cup/a.jpg", "dog/x.jpg")
    found = training(tmp_path)
    assert [image.path for image in found.images] == ["train/dog/a.jpg", "train/human/a.jpg"]
    assert found.notes == [f"{tmp_path}: not read, as no split has this name: dog, unseen"]


@pytest.mark.parametrize("others", [("val",), ("test",), ("valid", "test")])
def test_splits_without_train_are_refused(tmp_path: Path, others: tuple[str, ...]) -> None:
    lay_out(tmp_path, *[f"{split}/{name}/a.jpg" for split in others for name in CLASSES])
    assert f"there is {', '.join(others)} but no train folder" in refused(tmp_path)


def test_two_folders_for_one_split_are_refused(tmp_path: Path) -> None:
    lay_out(tmp_path, *[f"{split}/{name}/a.jpg" for split in ("train", "val", "valid")
                        for name in CLASSES])  # fmt: skip
    assert "val, valid both name the val split; keep one" in refused(tmp_path)


@pytest.mark.parametrize("near", ["Dog", "DOG", "dogs", "Dogs", "dog "])
def test_a_near_miss_is_named_and_never_guessed(tmp_path: Path, near: str) -> None:
    lay_out(tmp_path, f"{near}/a.jpg", "human/a.jpg")
    said = refused(tmp_path)
    assert f"folder {near}: did you mean dog?" in said
    assert "no folder for class dog" in said


def test_missing_empty_and_extra_folders_are_named_all_at_once(tmp_path: Path) -> None:
    lay_out(tmp_path, "dog/", "dog/notes.txt", "dog/deep/", "teapot/a.jpg")
    said = refused(tmp_path)
    assert said.startswith(f"{tmp_path}: want one folder for each of dog, human\n")
    assert "no folder for class human" in said
    assert "the folder of class dog holds no images" in said
    assert "data.ignored_folders=[teapot]" in said


def test_a_near_miss_beside_the_right_folder_is_an_extra_one(tmp_path: Path) -> None:
    lay_out(tmp_path, "dog/a.jpg", "dogs/a.jpg", "human/a.jpg")
    said = refused(tmp_path)
    assert "data.ignored_folders=[dogs]" in said
    assert "did you mean" not in said


def test_an_ignored_folder_is_left_out_on_purpose(tmp_path: Path) -> None:
    lay_out(tmp_path, "dog/a.jpg", "human/a.jpg", "neither/a.jpg", "Dogs/a.jpg")
    found = training(tmp_path, ("neither", "Dogs", "not there"))
    assert [image.path for image in found.images] == ["dog/a.jpg", "human/a.jpg"]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_each_split_must_have_every_class_and_no_other(tmp_path: Path, split: str) -> None:
    splits = ["train", *({split} - {"train"})]
    lay_out(tmp_path, *[f"{each}/{name}/a.jpg" for each in splits for name in CLASSES])
    assert training(tmp_path).images
    (tmp_path / split / "human/a.jpg").unlink()
    assert f"{tmp_path / split}: want one folder for each" in refused(tmp_path)
    assert "the folder of class human holds no images" in refused(tmp_path)
    lay_out(tmp_path, f"{split}/human/a.jpg", f"{split}/cup/a.jpg")
    assert "folder cup: no class has this name" in refused(tmp_path)
    assert training(tmp_path, ("cup",)).images


def test_images_beside_the_class_folders_belong_to_no_class(tmp_path: Path) -> None:
    lay_out(tmp_path, "a.jpg", "dog/a.jpg", "human/a.jpg")
    assert [image.path for image in training(tmp_path).images] == ["dog/a.jpg", "human/a.jpg"]


def test_hidden_folders_and_litter_are_no_classes(tmp_path: Path) -> None:
    lay_out(tmp_path, "dog/a.jpg", "human/a.jpg", ".cache/a.jpg", "__MACOSX/dog/a.jpg")
    assert len(training(tmp_path).images) == 2


def test_other_files_are_counted_in_a_note(tmp_path: Path) -> None:
    lay_out(tmp_path, "dog/a.jpg", "dog/a.txt", "dog/b/c.mp4", "human/a.jpg")
    assert training(tmp_path).notes == [f"{tmp_path / 'dog'}: 2 other files are not read"]


def test_images_come_in_the_order_of_the_classes(tmp_path: Path) -> None:
    lay_out(tmp_path, "dog/a.jpg", "human/a.jpg")
    found = find_training_images(tmp_path, ("human", "dog"), ())
    assert [image.label for image in found.images] == ["human", "dog"]


def test_folders_that_would_drive_a_terminal_are_escaped(tmp_path: Path) -> None:
    lay_out(tmp_path, "dog/a.jpg", "human/a.jpg", "\x1b[31mred/a.jpg")
    assert r"folder \x1b[31mred: " in refused(tmp_path)
    assert "\x1b" not in refused(tmp_path)


@pytest.mark.parametrize("find", [
    lambda path: find_training_images(path, CLASSES, ()),
    lambda path: find_scored_images(path, CLASSES, None),
    lambda path: find_unseen_images(path, CLASSES),
])  # fmt: skip
def test_a_path_that_does_not_exist_is_refused_with_the_nearest(
    tmp_path: Path, find: Callable[[Path], Found]
) -> None:
    lay_out(tmp_path, "photos/dog/a.jpg")
    with pytest.raises(UsageError, match=r"no such file or folder; did you mean .*/photos\?"):
        find(tmp_path / "fotos")
    with pytest.raises(UsageError, match=r"no such file or folder$"):
        find(tmp_path / "x/y/z")


def test_training_on_a_file_is_refused(tmp_path: Path) -> None:
    lay_out(tmp_path, "a.jpg")
    with pytest.raises(UsageError, match=r"a\.jpg: not a folder"):
        training(tmp_path / "a.jpg")


def scored(root: Path, split: str | None = None) -> list[tuple[str, str]]:
    found = find_scored_images(root, CLASSES, split)
    return [(image.path, image.label) for image in found.images]


def test_a_file_is_scored_without_a_label(tmp_path: Path) -> None:
    lay_out(tmp_path, "dog/a.xyz")
    found = find_scored_images(tmp_path / "dog/a.xyz", CLASSES, None)
    assert (found.root, found.images) == (tmp_path / "dog", [ImageFile("a.xyz", "")])


def test_a_folder_without_class_folders_is_unlabelled_and_read_at_any_depth(
    tmp_path: Path,
) -> None:
    lay_out(tmp_path, "a.jpg", "cup/b.jpg", "cup/dog/c.jpg")
    assert scored(tmp_path) == [("a.jpg", ""), ("cup/b.jpg", ""), ("cup/dog/c.jpg", "")]


def test_one_class_folder_makes_a_folder_labelled_and_the_others_foreign(tmp_path: Path) -> None:
    lay_out(tmp_path, "dog/a.jpg", "dog/more/b.jpg", "teapot/c.jpg", "stray.jpg", "Human/d.jpg")
    assert scored(tmp_path) == [
        ("Human/d.jpg", "Human"),
        ("dog/a.jpg", "dog"),
        ("dog/more/b.jpg", "dog"),
        ("stray.jpg", ""),
        ("teapot/c.jpg", "teapot"),
    ]


def test_near_misses_of_an_unlabelled_folder_are_noted(tmp_path: Path) -> None:
    lay_out(tmp_path, "Dogs/a.jpg", "cup/b.jpg")
    found = find_scored_images(tmp_path, CLASSES, None)
    assert {image.label for image in found.images} == {""}
    assert found.notes == [
        f"{tmp_path / 'Dogs'}: not read as dog: the name must be the same",
    ]


def test_test_is_scored_where_there_are_splits(tmp_path: Path) -> None:
    lay_out(tmp_path, "train/dog/a.jpg", "valid/dog/b.jpg", "test/dog/c.jpg", "test/cup/d.jpg")
    assert scored(tmp_path) == [("cup/d.jpg", "cup"), ("dog/c.jpg", "dog")]
    assert scored(tmp_path, "val") == [("dog/b.jpg", "dog")]
    assert scored(tmp_path, "train") == [("dog/a.jpg", "dog")]
    assert find_scored_images(tmp_path, CLASSES, None).root == tmp_path / "test"


def test_a_split_that_is_not_there_is_refused_and_never_replaced(tmp_path: Path) -> None:
    lay_out(tmp_path, "train/dog/a.jpg", "val/dog/b.jpg")
    with pytest.raises(UsageError, match="no test split here; name another: --split train, val"):
        scored(tmp_path)
    with pytest.raises(UsageError, match="no test split here"):
        scored(tmp_path, "test")
    with pytest.raises(UsageError, match="--split val: this folder has no split folders"):
        scored(tmp_path / "train", "val")


@pytest.mark.parametrize("names", [[], ["dog/"], ["dog/a.txt"], ["test/dog/", "train/dog/a.jpg"]])
def test_a_folder_without_images_is_refused(tmp_path: Path, names: list[str]) -> None:
    lay_out(tmp_path, *names)
    with pytest.raises(DataError, match="no images here"):
        scored(tmp_path)


def test_unseen_folders_are_foreign_each_by_its_name(tmp_path: Path) -> None:
    lay_out(tmp_path, "cup/a.jpg", "tree/oak/b.jpg", "stray.jpg", "train/c.jpg")
    found = find_unseen_images(tmp_path, CLASSES)
    assert [(image.path, image.label) for image in found.images] == [
        ("cup/a.jpg", "cup"),
        ("stray.jpg", tmp_path.name),
        ("train/c.jpg", "train"),
        ("tree/oak/b.jpg", "tree"),
    ]


def test_unseen_folders_that_are_classes_or_empty_are_refused(tmp_path: Path) -> None:
    lay_out(tmp_path, "cup/notes.txt")
    with pytest.raises(DataError, match="no images here for --unseen"):
        find_unseen_images(tmp_path, CLASSES)
    lay_out(tmp_path, "dog/a.jpg")
    with pytest.raises(DataError, match="--unseen is for other kinds, but dog is a class"):
        find_unseen_images(tmp_path, CLASSES)


def test_a_link_to_another_class_or_split_gives_no_image_a_second_label(tmp_path: Path) -> None:
    root = make_splits(tmp_path / "images", classes=CLASSES)
    plain = find_training_images(root, CLASSES, []).images
    (root / "train" / "dog" / "up").symlink_to("..")
    (root / "train" / "dog" / "test").symlink_to("../../test")
    (root / "train" / "dog" / "other").symlink_to("../human")
    assert find_training_images(root, CLASSES, []).images == plain


def test_one_image_has_no_splits(tmp_path: Path) -> None:
    root = make_splits(tmp_path / "images", classes=CLASSES)
    with pytest.raises(UsageError, match="one image has no splits"):
        find_scored_images(root / "test" / "dog" / "000.png", CLASSES, "val")
