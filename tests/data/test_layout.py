import errno
import os
from pathlib import Path

import pytest

from images import make_splits, touch
from neither.data.layout import find_training_images
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
    found = training(tmp_path)
    assert found.images == [
        ImageRow("dog/a.jpg", "dog"),
        ImageRow("dog/b.jpg", "dog"),
        ImageRow("dog/more/c.jpg", "dog"),
        ImageRow("human/2.jpg", "human"),
    ]
    assert (found.root, found.notes) == (tmp_path, [])


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_split_folders(tmp_path: Path, val: str) -> None:
    touch(tmp_path, *[f"{split}/{name}/{split}.jpg" for split in ("train", val, "test")
                        for name in CLASSES])  # fmt: skip
    assert training(tmp_path).images == [
        ImageRow(f"{folder}/{name}/{folder}.jpg", name, split)
        for split, folder in (("train", "train"), ("val", val), ("test", "test"))
        for name in CLASSES
    ]


def test_train_alone_is_enough(tmp_path: Path) -> None:
    touch(tmp_path, "train/dog/a.jpg", "train/human/a.jpg")
    assert {image.split for image in training(tmp_path).images} == {"train"}


def test_other_folders_beside_the_splits_are_named_in_one_line_and_not_read(
    tmp_path: Path,
) -> None:
    touch(tmp_path, "train/dog/a.jpg", "train/human/a.jpg", "unseen/cup/a.jpg", "dog/x.jpg")
    found = training(tmp_path)
    assert [image.path for image in found.images] == ["train/dog/a.jpg", "train/human/a.jpg"]
    assert found.notes == [f"{tmp_path}: not read, as no split has this name: dog, unseen"]


def test_a_split_folder_that_is_nearly_right_is_told(tmp_path: Path) -> None:
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
    said = refused(tmp_path)
    assert f"folder {near}: did you mean dog?" in said
    assert "no folder for class dog" in said


def test_missing_empty_and_extra_folders_are_named_all_at_once(tmp_path: Path) -> None:
    touch(tmp_path, "dog/", "dog/notes.txt", "dog/deep/", "teapot/a.jpg")
    said = refused(tmp_path)
    assert said.startswith(f"{tmp_path}: want one folder for each of dog, human\n")
    assert "no folder for class human" in said
    assert "the folder of class dog holds no images" in said
    assert "data.ignored_folders=[teapot]" in said


def test_a_near_miss_beside_the_right_folder_is_an_extra_one(tmp_path: Path) -> None:
    touch(tmp_path, "dog/a.jpg", "dogs/a.jpg", "human/a.jpg")
    said = refused(tmp_path)
    assert "data.ignored_folders=[dogs]" in said
    assert "did you mean" not in said


def test_an_ignored_folder_is_left_out_on_purpose(tmp_path: Path) -> None:
    touch(tmp_path, "dog/a.jpg", "human/a.jpg", "neither/a.jpg", "Dogs/a.jpg")
    found = training(tmp_path, ("neither", "Dogs", "not there"))
    assert [image.path for image in found.images] == ["dog/a.jpg", "human/a.jpg"]


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
    found = training(tmp_path)
    assert found.paths == ["dog/a.jpg", "human/a.jpg"]
    assert found.notes == [f"{tmp_path}: 1 images beside the class folders are not read"]


def test_images_beside_the_split_folders_belong_to_no_split_and_are_counted(
    tmp_path: Path,
) -> None:
    touch(tmp_path, "a.jpg", "b.jpg", "train/dog/a.jpg", "train/human/a.jpg", "train/c.jpg")
    found = training(tmp_path)
    assert found.paths == ["train/dog/a.jpg", "train/human/a.jpg"]
    assert found.notes == [
        f"{tmp_path}: 2 images beside the split folders are not read",
        f"{tmp_path / 'train'}: 1 images beside the class folders are not read",
    ]


def test_hidden_folders_and_litter_are_no_classes(tmp_path: Path) -> None:
    touch(tmp_path, "dog/a.jpg", "human/a.jpg", ".cache/a.jpg", "__MACOSX/dog/a.jpg")
    assert len(training(tmp_path).images) == 2


def test_other_files_are_counted_in_a_note(tmp_path: Path) -> None:
    touch(tmp_path, "dog/a.jpg", "dog/a.txt", "dog/b/c.mp4", "human/a.jpg")
    assert training(tmp_path).notes == [f"{tmp_path / 'dog'}: 2 other files are not read"]


def test_what_else_lies_in_the_class_folders_is_added_up(tmp_path: Path) -> None:
    touch(tmp_path, "train/dog/a.jpg", "train/dog/a.txt", "train/human/b/a.jpg",
            "train/human/b/.hidden", "val/dog/a.jpg", "val/human/a.jpg", "val/human/n.txt",
            "val/human/Thumbs.db")  # fmt: skip
    os.mkfifo(tmp_path / "val/dog/pipe.jpg")
    found = training(tmp_path)
    assert found.listing.others == {".txt": 2}
    assert found.listing.num_hidden == 2
    assert found.listing.irregular == [f"{tmp_path}/val/dog/pipe.jpg: not a regular file"]
    (note,) = [note for note in found.notes if "not image files" in note]
    assert note == (
        f"{tmp_path}/val/dog: 1 entries with an image suffix are "
        f"not image files, such as {tmp_path}/val/dog/pipe.jpg: not a regular file"
    )


def test_a_folder_named_like_an_image_is_read_as_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "dog/x.jpg/a.jpg", "human/a.jpg", "y.jpg/")
    assert "folder y.jpg: no class has this name" in refused(tmp_path)
    assert training(tmp_path, ("y.jpg",)).paths == ["dog/x.jpg/a.jpg", "human/a.jpg"]


def test_two_folders_feed_one_class_by_aliases(tmp_path: Path) -> None:
    touch(tmp_path, "dog/a.jpg", "human/b.jpg", "person/c.jpg", "people/deep/d.jpg")
    assert "folder people: no class has this name" in refused(tmp_path)
    found = training(tmp_path, person="human", people="human", unused="dog")
    assert found.images == [
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
def test_an_extra_folder_is_told_with_the_alias_that_may_be_meant(
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
    found = find_training_images(tmp_path, ("human", "dog"), ())
    assert [image.label for image in found.images] == ["human", "dog"]


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


def test_loops_and_links_out_of_the_root_count_no_image_twice(
    tmp_path: Path, watchdog: None
) -> None:
    root = touch(tmp_path / "photos", "dog/a.jpg", "dog/deep/b.jpg", "human/c.jpg")
    touch(tmp_path, "elsewhere/d.jpg")
    (root / "dog/deep/loop").symlink_to("..")
    (root / "dog/root").symlink_to(root)
    (root / "human/one").symlink_to("../../elsewhere")
    (root / "human/two").symlink_to("one")
    (root / "human/gone.jpg").symlink_to("nowhere")
    (root / "human/link.jpg").symlink_to("c.jpg")  # a file with two names is two files
    found = training(root)
    assert found.paths == [
        "dog/a.jpg", "dog/deep/b.jpg", "human/c.jpg", "human/link.jpg", "human/one/d.jpg",
    ]  # fmt: skip
    assert found.listing.irregular == [f"{root}/human/gone.jpg: a broken link"]


def test_a_class_folder_may_itself_be_a_link(tmp_path: Path) -> None:
    root = touch(tmp_path / "photos", "human/a.jpg")
    touch(tmp_path, "elsewhere/b.jpg")
    (root / "dog").symlink_to("../elsewhere")
    assert training(root).paths == ["dog/b.jpg", "human/a.jpg"]


def test_a_class_folder_that_is_closed_to_us_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "dog/a.jpg", "human/a.jpg")
    scandir = os.scandir

    def scan(path: Path) -> "os._ScandirIterator[str]":
        if str(path).rstrip("/") == str(tmp_path / "human"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    assert refused(tmp_path) == f"{tmp_path}/human: this folder cannot be read: Permission denied"


def test_paths_share_the_text_of_their_label_and_split(tmp_path: Path) -> None:
    """A hundred thousand images have few labels: one text each is enough."""
    names = [f"train/{label}/{number}.jpg" for label in CLASSES for number in range(20)]
    found = training(touch(tmp_path, *names))
    assert len({id(label) for label in found.labels}) == len(CLASSES)
    assert len({id(split) for split in found.splits}) == 1
