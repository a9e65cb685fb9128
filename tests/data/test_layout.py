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
    labels_by_name,
)
from neither.data.scan import ImageTable, nfc
from neither.runtime.errors import DataError, UsageError
from records import rows
from scripts import permissions_apply

CLASSES = ("dog", "human")


def training(root: Path, ignored: tuple[str, ...] = (), **aliases: str) -> ImageTable:
    return find_training_images(root, CLASSES, ignored, aliases)


def error_of(root: Path, ignored: tuple[str, ...] = (), **aliases: str) -> str:
    with pytest.raises(DataError) as caught:
        training(root, ignored, **aliases)
    return str(caught.value)


def test_class_folders_without_splits(tmp_path: Path) -> None:
    touch(tmp_path, "human/2.jpg", "dog/b.jpg", "dog/a.jpg", "dog/more/c.jpg")
    table = training(tmp_path)
    assert rows(table) == [
        ("dog/a.jpg", "dog", ""),
        ("dog/b.jpg", "dog", ""),
        ("dog/more/c.jpg", "dog", ""),
        ("human/2.jpg", "human", ""),
    ]
    assert (table.root, table.notes) == (tmp_path, [])


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_split_folders(tmp_path: Path, val: str) -> None:
    touch(tmp_path, *[f"{split}/{name}/{split}.jpg" for split in ("train", val, "test")
                        for name in CLASSES])  # fmt: skip
    assert rows(training(tmp_path)) == [
        (f"{folder}/{name}/{folder}.jpg", name, split)
        for split, folder in (("train", "train"), ("val", val), ("test", "test"))
        for name in CLASSES
    ]


def test_other_folders_beside_the_splits_are_noted_and_not_read(tmp_path: Path) -> None:
    touch(tmp_path, "train/dog/a.jpg", "train/human/a.jpg", "unseen/cup/a.jpg", "dog/x.jpg")
    table = training(tmp_path)
    assert table.paths == ["train/dog/a.jpg", "train/human/a.jpg"]
    (note,) = table.notes
    assert note.endswith(": dog, unseen")
    touch(tmp_path, "Test/dog/a.jpg")
    (note,) = training(tmp_path).notes
    assert note.endswith(": Test, dog, unseen; did you mean test?")


@pytest.mark.parametrize("others", [("val",), ("test",), ("valid", "test")])
def test_splits_without_train_are_an_error(tmp_path: Path, others: tuple[str, ...]) -> None:
    touch(tmp_path, *[f"{split}/{name}/a.jpg" for split in others for name in CLASSES])
    assert "no train folder" in error_of(tmp_path)


def test_two_folders_for_one_split_are_an_error(tmp_path: Path) -> None:
    touch(tmp_path, *[f"{split}/{name}/a.jpg" for split in ("train", "val", "valid")
                        for name in CLASSES])  # fmt: skip
    assert "val, valid both name the val split" in error_of(tmp_path)


@pytest.mark.fault("D21")
@pytest.mark.parametrize("near", ["Dog", "DOG", "dogs", "Dogs", "dog "])
def test_a_near_miss_is_an_error_that_names_the_class(tmp_path: Path, near: str) -> None:
    touch(tmp_path, f"{near}/a.jpg", "human/a.jpg")
    message = error_of(tmp_path)
    assert f"folder {near}: did you mean dog?" in message
    assert "no folder for class dog" in message


@pytest.mark.fault("D18", "D19", "D20")
def test_missing_empty_and_extra_folders_are_reported_together(tmp_path: Path) -> None:
    touch(tmp_path, "dog/", "dog/notes.txt", "dog/deep/", "dogs/a.jpg", "jar/a.jpg")
    message = error_of(tmp_path, ("jar",))
    assert message.startswith(f"{tmp_path}: ")
    assert "no folder for class human" in message
    assert "the folder of class dog holds no images" in message
    assert "data.ignored_folders=[jar, dogs]" in message
    assert "did you mean" not in message  # dogs is an extra folder, as dog exists


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_each_split_must_have_every_class_and_no_other(tmp_path: Path, split: str) -> None:
    splits = ["train", *({split} - {"train"})]
    touch(tmp_path, *[f"{each}/{name}/a.jpg" for each in splits for name in CLASSES])
    assert training(tmp_path).paths
    (tmp_path / split / "human/a.jpg").unlink()
    assert f"{tmp_path / split}: want one folder for each" in error_of(tmp_path)
    assert "the folder of class human holds no images" in error_of(tmp_path)
    touch(tmp_path, f"{split}/human/a.jpg", f"{split}/cup/a.jpg")
    assert "folder cup: no class has this name" in error_of(tmp_path)
    assert training(tmp_path, ("cup", "not there")).paths


def test_images_beside_split_and_class_folders_are_counted_and_not_read(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg", "train/dog/a.jpg", "train/human/a.jpg", "train/c.jpg")
    table = training(tmp_path)
    assert table.paths == ["train/dog/a.jpg", "train/human/a.jpg"]
    assert table.notes == [
        f"{tmp_path}: 2 images beside the split folders are not read",
        f"{tmp_path / 'train'}: 1 images beside the class folders are not read",
    ]


def test_an_alias_may_replace_the_folder_of_its_class_in_any_split(tmp_path: Path) -> None:
    touch(tmp_path, "train/hound/a.jpg", "train/human/b.jpg", "val/dog/c.jpg", "val/human/d.jpg")
    assert "no folder for class dog" in error_of(tmp_path)
    assert rows(training(tmp_path, hound="dog")) == [
        ("train/hound/a.jpg", "dog", "train"),
        ("train/human/b.jpg", "human", "train"),
        ("val/dog/c.jpg", "dog", "val"),
        ("val/human/d.jpg", "human", "val"),
    ]


def test_a_class_is_empty_only_if_all_its_folders_are(tmp_path: Path) -> None:
    touch(tmp_path, "dog/", "hound/a.jpg", "human/b.jpg")
    assert training(tmp_path, hound="dog").paths == ["hound/a.jpg", "human/b.jpg"]
    (tmp_path / "hound/a.jpg").unlink()
    assert "the folder of class dog holds no images" in error_of(tmp_path, hound="dog")


@pytest.mark.parametrize("name", ["humans", "people"])
def test_an_extra_folder_is_reported_with_a_possible_alias(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "dog/a.jpg", "human/a.jpg", f"{name}/a.jpg")
    meant = {"humans": "human", "people": "CLASS"}[name]
    assert f"'data.aliases={{{name}: {meant}}}'" in error_of(tmp_path)


def test_control_characters_are_escaped(tmp_path: Path) -> None:
    touch(tmp_path, "dog/a.jpg", "human/a.jpg", "\x1b[31mred/a.jpg")
    assert r"folder \x1b[31mred: " in error_of(tmp_path)
    assert "\x1b" not in error_of(tmp_path)


def test_a_link_to_another_class_or_split_gives_no_image_a_second_label(tmp_path: Path) -> None:
    root = make_splits(tmp_path / "images", classes=CLASSES)
    plain = find_training_images(root, CLASSES)
    (root / "train" / "dog" / "up").symlink_to("..")
    (root / "train" / "dog" / "test").symlink_to("../../test")
    (root / "train" / "dog" / "other").symlink_to("../human")
    assert find_training_images(root, CLASSES).paths == plain.paths


def test_a_class_folder_may_itself_be_a_link(tmp_path: Path) -> None:
    root = touch(tmp_path / "photos", "human/a.jpg")
    touch(tmp_path, "elsewhere/b.jpg")
    (root / "dog").symlink_to("../elsewhere")
    assert training(root).paths == ["dog/b.jpg", "human/a.jpg"]


@pytest.mark.parametrize("find", [
    lambda path: find_training_images(path, CLASSES, ()),
    lambda path: find_evaluation_images(path, CLASSES, None),
    lambda path: find_unseen_images(path, CLASSES),
])  # fmt: skip
def test_a_missing_folder_is_an_error_with_a_similar_name(
    tmp_path: Path, find: Callable[[Path], ImageTable]
) -> None:
    touch(tmp_path, "photos/dog/a.jpg")
    with pytest.raises(UsageError, match=r"no such file or folder; did you mean .*/photos\?"):
        find(tmp_path / "fotos")
    with pytest.raises(UsageError, match=r"no such file or folder$"):
        find(tmp_path / "x/y/z")


def test_training_on_a_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a\.jpg: not a folder"):
        training(touch(tmp_path, "a.jpg") / "a.jpg")


def evaluation(root: Path, split: str | None = None) -> list[tuple[str, str]]:
    table = find_evaluation_images(root, CLASSES, split)
    return [*zip(table.paths, table.labels, strict=True)]


def test_a_folder_without_class_folders_is_unlabelled_and_read_at_any_depth(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "cup/b.jpg", "cup/dog/c.jpg")
    assert evaluation(tmp_path) == [("a.jpg", ""), ("cup/b.jpg", ""), ("cup/dog/c.jpg", "")]


def test_one_class_folder_makes_all_folder_names_labels(tmp_path: Path) -> None:
    touch(tmp_path, "dog/a.jpg", "dog/more/b.jpg", "teapot/c.jpg", "stray.jpg", "Human/d.jpg")
    assert evaluation(tmp_path) == [
        ("Human/d.jpg", "Human"),
        ("dog/a.jpg", "dog"),
        ("dog/more/b.jpg", "dog"),
        ("stray.jpg", ""),
        ("teapot/c.jpg", "teapot"),
    ]


def test_near_misses_of_an_unlabelled_folder_are_noted(tmp_path: Path) -> None:
    touch(tmp_path, "Dogs/a.jpg", "cup/b.jpg")
    table = find_evaluation_images(tmp_path, CLASSES, None)
    assert {*table.labels} == {""}
    (note,) = table.notes
    assert note.startswith(f"{tmp_path / 'Dogs'}: not read as dog: ")


def test_the_test_split_is_the_default(tmp_path: Path) -> None:
    touch(tmp_path, "train/dog/a.jpg", "valid/dog/b.jpg", "test/dog/c.jpg", "test/cup/d.jpg")
    assert evaluation(tmp_path) == [("cup/d.jpg", "cup"), ("dog/c.jpg", "dog")]
    assert evaluation(tmp_path, "val") == [("dog/b.jpg", "dog")]
    assert evaluation(tmp_path, "train") == [("dog/a.jpg", "dog")]
    assert find_evaluation_images(tmp_path, CLASSES, None).root == tmp_path / "test"


def test_a_missing_split_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "train/dog/a.jpg", "val/dog/b.jpg")
    for split in (None, "test"):
        with pytest.raises(UsageError, match=r"no test split here; .*: --split train, val"):
            evaluation(tmp_path, split)
    with pytest.raises(UsageError, match="--split val: this folder has no split folders"):
        evaluation(tmp_path / "train", "val")


@pytest.mark.parametrize("names", [[], ["dog/"], ["dog/a.txt"], ["test/dog/", "train/dog/a.jpg"]])
def test_a_folder_without_images_is_an_error(tmp_path: Path, names: list[str]) -> None:
    touch(tmp_path, *names)
    with pytest.raises(DataError, match="no images here"):
        evaluation(tmp_path)


def test_unseen_images_have_the_names_of_their_folders(tmp_path: Path) -> None:
    touch(tmp_path, "cup/a.jpg", "tree/oak/b.jpg", "stray.jpg", "train/c.jpg")
    table = find_unseen_images(tmp_path, CLASSES)
    assert [*zip(table.paths, table.labels, strict=True)] == [
        ("cup/a.jpg", "cup"),
        ("stray.jpg", tmp_path.name),
        ("train/c.jpg", "train"),
        ("tree/oak/b.jpg", "tree"),
    ]


def test_unseen_folders_without_images_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--unseen: no images here"):
        find_unseen_images(touch(tmp_path, "cup/notes.txt"), CLASSES)


@pytest.mark.parametrize("name", ["x/dog/a.jpg", "x/val/dog/b.jpg", "dog/a.jpg"])
def test_unseen_images_of_a_class_are_an_error(tmp_path: Path, name: str) -> None:
    root = touch(tmp_path, "x/cup/a.jpg", name) / name.partition("/")[0]
    with pytest.raises(DataError, match="--unseen is for other kinds, but dog is a class"):
        find_unseen_images(root, CLASSES)


def test_an_unseen_folder_may_have_the_name_of_a_class_if_no_image_takes_it(tmp_path: Path) -> None:
    assert find_unseen_images(touch(tmp_path / "dog", "cup/b.jpg"), CLASSES).labels == ["cup"]


def test_a_folder_inside_can_be_excluded(tmp_path: Path) -> None:
    touch(tmp_path, "dog/a.jpg", "unseen/cup/b.jpg", "unseen2/c.jpg", "human/unseen/d.jpg")
    table = find_evaluation_images(tmp_path, CLASSES, None)
    num = len(table.paths)
    for outside in (tmp_path, tmp_path.parent, tmp_path.parent / "other"):
        table.exclude(outside)
        assert len(table.paths) == num
    table.exclude(tmp_path / "dog" / ".." / "unseen")
    assert [*zip(table.paths, table.labels, strict=True)] == [
        ("dog/a.jpg", "dog"), ("human/unseen/d.jpg", "human"), ("unseen2/c.jpg", "unseen2"),
    ]  # fmt: skip


def test_a_file_has_neither_label_nor_splits(tmp_path: Path) -> None:
    touch(tmp_path, "dog/a.xyz")
    table = find_evaluation_images(tmp_path / "dog/a.xyz", CLASSES, None)
    assert (table.root, rows(table)) == (tmp_path / "dog", [("a.xyz", "", "")])
    with pytest.raises(UsageError, match="one image has no splits"):
        find_evaluation_images(tmp_path / "dog/a.xyz", CLASSES, "val")


def test_a_folder_with_an_alias_has_the_label_of_its_class(tmp_path: Path) -> None:
    aliases = {"people": "human", "unused": "dog"}
    touch(tmp_path, "people/a.jpg", "cup/d.jpg")
    assert find_evaluation_images(tmp_path, CLASSES, None, aliases).labels == ["cup", "human"]
    touch(tmp_path, "human/b.jpg", "dog/c.jpg", "humans/e.jpg")
    table = find_evaluation_images(tmp_path, CLASSES, None, aliases)
    assert table.labels == ["cup", "dog", "human", "humans", "human"]
    assert table.notes == []  # every class has a folder, so no name is a near miss


@pytest.mark.parametrize("name", ["pipe.jpg", "zero.jpg", "gone.jpg"])
def test_an_irregular_file_is_an_error_and_never_opened(
    tmp_path: Path, name: str, watchdog: None
) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    with pytest.raises(UsageError, match=f"{name}: (not a folder|no such file or folder)"):
        find_evaluation_images(tmp_path / name, CLASSES, None)


def test_all_images_are_found_with_the_labels_of_their_folders(tmp_path: Path) -> None:
    flat = touch(tmp_path / "flat", "dog/a.jpg", "cup/deep/b.jpg", "c.jpg", "dog/.d.jpg")
    (flat / "cup/dog").symlink_to("../dog")  # gives no image a second label
    table = find_all_images(flat)
    assert rows(table) == [("cup/deep/b.jpg", "cup", ""), ("dog/a.jpg", "dog", "")]
    assert len(table.notes) == 1
    assert table.listing.num_hidden == 1
    split = touch(tmp_path / "split", "train/dog/a.jpg", "valid/cup/b.jpg", "test/dog/c.jpg")
    assert rows(find_all_images(split)) == [
        ("train/dog/a.jpg", "dog", "train"),
        ("valid/cup/b.jpg", "cup", "val"),
        ("test/dog/c.jpg", "dog", "test"),
    ]


def test_images_without_any_class_folder_are_found_without_labels(tmp_path: Path) -> None:
    assert rows(find_all_images(touch(tmp_path, "a.jpg", "b.png"))) == [
        ("a.jpg", "", ""), ("b.png", "", ""),
    ]  # fmt: skip
    with pytest.raises(DataError, match="no images here"):
        find_all_images(touch(tmp_path / "empty", "dog/", "a.txt"))
    with pytest.raises(UsageError, match="no such file or folder"):
        find_all_images(tmp_path / "missing")


HOLIDAYS: list[tuple[str, ...]] = [
    ("beach/a.jpg", "test/b.jpg", "c.jpg"),
    ("beach/a.jpg", "val/day 1/b.jpg"),
    ("beach/a.jpg", "train/b.jpg"),
    ("test/a.jpg", "train/b.jpg"),
    ("valid/a.jpg", "validation/b.jpg", "x.jpg"),
    ("test/beach/a.jpg", "beach/b.jpg"),
]


@pytest.mark.parametrize("names", HOLIDAYS)
def test_a_folder_named_like_a_split_is_none_without_class_folders(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    touch(tmp_path, *names)
    assert evaluation(tmp_path) == [(name, "") for name in sorted(names)]
    (note,) = find_evaluation_images(tmp_path, CLASSES, None).notes
    assert "--split" in note


@pytest.mark.parametrize("names", HOLIDAYS)
def test_all_images_are_counted_once_or_named_as_not_read(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    touch(tmp_path, *names, "notes.txt")
    table = find_all_images(tmp_path)
    assert len({*table.paths}) == len(table.paths)
    num_loose = sum("/" not in name for name in {*names} - {*table.paths})
    assert len(table.paths) + num_loose == len(names)
    assert ("1 images beside" in "".join(table.notes)) == bool(num_loose)


def test_what_is_read_after_all_is_not_noted_as_not_read(tmp_path: Path) -> None:
    touch(tmp_path, "test/a.jpg", "b.jpg", "empty/", "notes.txt")
    touch(tmp_path, "train/dog/")
    table = find_all_images(tmp_path)
    assert table.paths == ["b.jpg", "test/a.jpg"]
    assert "images beside" not in "".join(table.notes)
    assert "as no split has this name" not in "".join(table.notes)
    assert table.listing.others.total() == 1


def test_class_folders_beside_a_folder_named_like_a_split(tmp_path: Path) -> None:
    touch(tmp_path, "dog/a.jpg", "human/b.jpg", "test/c.jpg")
    assert evaluation(tmp_path) == [
        ("dog/a.jpg", "dog"), ("human/b.jpg", "human"), ("test/c.jpg", "test"),
    ]  # fmt: skip
    assert evaluation(tmp_path, "test") == [("c.jpg", "")]  # whoever asks for it gets it alone
    assert "folder test: no class has this name" in error_of(tmp_path)
    assert training(tmp_path, ("test",)).paths == ["dog/a.jpg", "human/b.jpg"]


def test_what_is_beside_the_evaluated_split_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "test/dog/a.jpg", "cup/b.jpg", "dog/c.jpg", "val/d.jpg", "e.jpg")
    table = find_evaluation_images(tmp_path, CLASSES, None)
    assert table.paths == ["dog/a.jpg"]
    (note,) = table.notes
    assert note.endswith("not cup, dog, val, 1 images")
    assert evaluation(touch(tmp_path / "near", "x/a.jpg", "test/Dogs/b.jpg")) == [
        ("Dogs/b.jpg", "")
    ]


def test_a_closed_split_that_is_not_evaluated_does_not_matter(tmp_path: Path) -> None:
    touch(tmp_path, "train/dog/a.jpg", "test/dog/b.jpg")
    (tmp_path / "train").chmod(0)
    with permissions_apply():
        found = evaluation(tmp_path)
    (tmp_path / "train").chmod(0o700)
    assert found == [("dog/b.jpg", "dog")]


@pytest.mark.parametrize("folder", ["", "train/"])
def test_images_in_no_class_folder_are_reported_with_a_missing_class(
    tmp_path: Path, folder: str
) -> None:
    touch(tmp_path, f"{folder}human/a.jpg", f"{folder}b.jpg", f"{folder}c.jpg")
    message = error_of(tmp_path)
    assert "no folder for class dog" in message
    assert f"{tmp_path / folder}: 2 images beside" in message


NFC, NFD = "M\u00e4dchen", "Ma\u0308dchen"


def test_class_names_and_aliases_are_found_in_any_form_and_given_as_the_classes_spell_them() -> (
    None
):
    for spelling in (NFC, NFD):
        labels = labels_by_name(["dog", spelling], {NFD + "2": NFC, "hound": "dog"})
        assert [labels.get(nfc(name)) for name in (NFC, NFD, NFD + "2", "hound", "cup")] == [
            spelling, spelling, spelling, "dog", None,
        ]  # fmt: skip


@pytest.mark.parametrize(("ours", "on_disk"), [(NFC, NFD), (NFD, NFC)])
def test_names_are_the_same_in_every_unicode_form(tmp_path: Path, ours: str, on_disk: str) -> None:
    classes = ("dog", ours)
    root = touch(tmp_path / "photos", f"train/{on_disk}/a.jpg", "train/dog/b.jpg")
    table = find_training_images(root, classes)
    assert rows(table) == [
        ("train/dog/b.jpg", "dog", "train"), (f"train/{on_disk}/a.jpg", ours, "train"),
    ]  # fmt: skip
    assert find_evaluation_images(root, classes, "train").labels == [ours, "dog"]
    assert find_evaluation_images(root / "train", classes, None).labels == [ours, "dog"]
    with pytest.raises(DataError, match="is a class"):
        find_unseen_images(root / "train", (ours,))
    assert find_training_images(root / "train", ("dog", "human"), (), {ours: "human"}).labels == [
        "dog", "human",
    ]  # fmt: skip
    assert find_training_images(root / "train", ("dog",), (ours,)).labels == ["dog"]
    with pytest.raises(DataError, match=f"folder {on_disk}s: did you mean {ours}"):
        find_training_images(touch(tmp_path / "near", f"{on_disk}s/a.jpg", "dog/a.jpg"), classes)
    touch(root, f"val/{ours}/c.jpg", "val/dog/d.jpg")
    assert {*find_all_images(root).labels} == {"dog", NFC}
