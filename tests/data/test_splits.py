import csv
import io
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neither.data.layout import ImageFile
from neither.data.splits import (
    Row,
    assign,
    check_counts,
    csv_line,
    match_again,
    read_splits,
    safe_cell,
    write_splits,
)
from neither.errors import DataError


def flat(num: int, label: str = "dog") -> tuple[list[ImageFile], list[str]]:
    """Make images without a split, and hashes of their content."""
    images = [ImageFile(f"{label}/{number}.jpg", label) for number in range(num)]
    return images, [f"hash of {label} {number}" for number in range(num)]


def split(
    images: list[ImageFile], hashes: list[str], val: float = 0.15, test: float = 0.15, seed: int = 0
) -> dict[str, str]:
    rows = assign(images, hashes, [""] * len(images), seed, val, test)
    return {row.path: row.split for row in rows}


def test_shares_hold_within_each_class() -> None:
    for label in ("dog", "human"):
        counts = Counter(split(*flat(4000, label), val=0.2, test=0.1).values())
        # Five standard deviations of a binomial count.
        for name, share in (("train", 0.7), ("val", 0.2), ("test", 0.1)):
            assert abs(counts[name] - 4000 * share) < 5 * (4000 * share * (1 - share)) ** 0.5


def test_another_seed_splits_otherwise() -> None:
    images, hashes = flat(200)
    assert split(images, hashes) == split(images, hashes)
    assert split(images, hashes, seed=1) != split(images, hashes)


def test_adding_images_moves_none() -> None:
    images, hashes = flat(300)
    few = split(images[100:200], hashes[100:200])
    assert few.items() < split(images, hashes).items()


def test_renaming_an_image_does_not_move_it() -> None:
    images, hashes = flat(200)
    renamed = [ImageFile(f"dog/new name {number}.png", "dog") for number in range(200)]
    assert list(split(renamed, hashes).values()) == list(split(images, hashes).values())


def test_copies_fall_on_the_same_side() -> None:
    images, hashes = flat(200)
    copies = [ImageFile(f"dog/copy of {number}.jpg", "dog") for number in range(200)]
    placed = split(images + copies, hashes * 2)
    assert all(placed[f"dog/{number}.jpg"] == placed[f"dog/copy of {number}.jpg"]
               for number in range(200))  # fmt: skip
    assert set(placed.values()) == {"train", "val", "test"}


@given(st.floats(0, 0.5), st.floats(0.01, 0.4), st.floats(0, 0.09))
@settings(deadline=None, max_examples=20)
def test_a_larger_val_only_takes_from_train(test: float, val: float, more: float) -> None:
    images, hashes = flat(100)
    small, large = split(images, hashes, val, test), split(images, hashes, val + more, test)
    moved = {(small[path], large[path]) for path in small if small[path] != large[path]}
    assert moved <= {("train", "val")}


def test_folders_decide_where_there_are_folders() -> None:
    images = [ImageFile(f"{name}/dog/{number}.jpg", "dog", name)
              for name in ("train", "val", "test") for number in range(50)]  # fmt: skip
    placed = split(images, [f"hash {number}" for number in range(150)], val=0.5, test=0.4)
    assert all(name == path.split("/")[0] for path, name in placed.items())


def test_a_missing_val_is_taken_from_train_and_never_from_test() -> None:
    images = [ImageFile(f"{name}/dog/{number}.jpg", "dog", name)
              for name in ("train", "test") for number in range(400)]  # fmt: skip
    placed = split(images, [f"hash {number}" for number in range(800)], val=0.25, test=0.5)
    moved = Counter((path.split("/")[0], name) for path, name in placed.items())
    assert set(moved) == {("train", "train"), ("train", "val"), ("test", "test")}
    assert 60 < moved["train", "val"] < 140


def test_an_unreadable_image_is_in_no_split_and_keeps_its_reason() -> None:
    images = [ImageFile("a", "dog"), ImageFile("b", "dog", "train"), ImageFile("c", "dog", "test")]
    rows = assign(images, ["", "h", "i"], ["damaged", "empty file", ""], 0, 0.5, 0.4)
    assert [(row.split, row.reason) for row in rows] == [
        ("", "damaged"), ("", "empty file"), ("test", ""),
    ]  # fmt: skip


@pytest.mark.parametrize("empty", ["train", "val"])
def test_a_class_with_nothing_to_learn_from_or_be_judged_by_is_refused(empty: str) -> None:
    rows = [Row(f"{name} {label}", label, name, "h") for name in ("train", "val")
            for label in ("dog", "human")]  # fmt: skip
    check_counts(rows, ["dog", "human"])
    left = [row for row in rows if (row.split, row.label) != (empty, "human")]
    left += [Row("x", "human", "", "h", "damaged"), Row("y", "human", "test", "h")]
    with pytest.raises(DataError, match=f"class human has no readable image in {empty}") as caught:
        check_counts(left, ["dog", "human"])
    assert ("data.val_fraction" in str(caught.value)) == (empty == "val")


ROWS = [Row("dog/a.jpg", "dog", "train", "h1"), Row("dog/b.jpg", "dog", "val", "h2"),
        Row("dog/c.jpg", "dog", "", "", "empty file")]  # fmt: skip
AGAIN = [ImageFile(row.path, row.label) for row in ROWS]


NO_REASONS = ["", "", "empty file"]


def test_the_same_images_keep_their_rows() -> None:
    again = match_again(ROWS, AGAIN[::-1], ["", "h2", "h1"], NO_REASONS[::-1])
    assert again == (ROWS, [])


def test_added_images_are_named_and_left_out() -> None:
    images = [*AGAIN, ImageFile("dog/new.jpg", "dog"), ImageFile("dog/0.jpg", "dog")]
    hashes = ["h1", "h2", "", "h1", "h4"]
    rows, added = match_again(ROWS, images, hashes, [*NO_REASONS, "", ""])
    assert (rows, added) == (ROWS, ["dog/new.jpg", "dog/0.jpg"])


@pytest.mark.parametrize("place", [0, 1])
def test_missing_changed_and_unreadable_images_are_refused(place: int) -> None:
    hashes, reasons = [row.sha256 for row in ROWS], list(NO_REASONS)
    path = ROWS[place].path
    others = [number for number in range(len(ROWS)) if number != place]
    with pytest.raises(DataError, match=f"1 images of this run are missing, among them {path}"):
        match_again(ROWS, [AGAIN[number] for number in others],
                    [hashes[number] for number in others], [""] * 2)  # fmt: skip
    hashes[place] = "another"
    with pytest.raises(DataError, match=f"1 images of this run are changed, among them {path}"):
        match_again(ROWS, AGAIN, hashes, reasons)
    hashes[place], reasons[place] = "", "permission denied"
    said = rf"are unreadable, among them {path} \(permission denied\)"
    with pytest.raises(DataError, match=said):
        match_again(ROWS, AGAIN, hashes, reasons)


def test_an_image_that_was_left_out_anyway_may_vanish_or_change() -> None:
    assert match_again(ROWS, AGAIN[:2], ["h1", "h2"], ["", ""]) == (ROWS, [])
    assert match_again(ROWS, AGAIN, ["h1", "h2", "mended"], ["", "", ""]) == (ROWS, [])


ODD = ["a,b.jpg", 'say "x".jpg', "new\nline.jpg", "re\rturn.jpg", "\r\n.jpg", "=1+1.jpg", "+a",
       "-a", "@a", "\ta", "\x01", " lead", "trail ", "ä😀.jpg", os.fsdecode(b"\xff\xfe.jpg"), "'",
       "dog/=x.jpg", "#a", '"', ";", ".jpg", "..", "...jpg"]  # fmt: skip


def test_odd_names_come_back_as_they_were(tmp_path: Path) -> None:
    rows = [Row(name, "dog", "train", "0" * 64) for name in ODD]
    write_splits(tmp_path / "splits.csv", rows)
    assert read_splits(tmp_path / "splits.csv") == rows


PATHS = st.binary(min_size=1, max_size=20).map(os.fsdecode).filter(
    lambda path: "\0" not in path and not path.startswith("./")
)  # fmt: skip


SPLITS = st.sampled_from(["train", "val", "test", ""])
REASONS = st.sampled_from(["", "damaged, quite"])


@given(st.lists(st.builds(Row, PATHS, PATHS, SPLITS, st.text("0123456789abcdef"), REASONS)))
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_rows_read_back_as_they_were_written(tmp_path: Path, rows: list[Row]) -> None:
    write_splits(tmp_path / "splits.csv", rows)
    assert read_splits(tmp_path / "splits.csv") == rows


def test_the_file_has_the_columns_of_the_design(tmp_path: Path) -> None:
    write_splits(tmp_path / "splits.csv", ROWS)
    assert (tmp_path / "splits.csv").read_text() == (
        "path,label,split,sha256,reason\ndog/a.jpg,dog,train,h1,\ndog/b.jpg,dog,val,h2,\n"
        "dog/c.jpg,dog,,,empty file\n"
    )


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r", "\n", "\x01"])
def test_no_path_is_read_as_a_formula(tmp_path: Path, first: str) -> None:
    assert safe_cell(f"{first}x") == f"./{first}x"
    write_splits(tmp_path / "splits.csv", [Row(f"{first}x", "dog", "train", "h")])
    with (tmp_path / "splits.csv").open(newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == [f"./{first}x"]


@pytest.mark.parametrize("path", ["a", "a=b", "ä", "1", " a", "dog/-x"])
def test_an_ordinary_path_is_written_as_it_is(path: str) -> None:
    assert safe_cell(path) == path


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
                min_size=2))  # fmt: skip
@settings(deadline=None)
def test_a_line_holds_its_cells_whatever_they_hold(cells: list[str]) -> None:
    line = csv_line(cells)
    assert line.endswith("\n")
    assert not line.endswith("\r\n")
    assert list(csv.reader(io.StringIO(line * 2, newline=""))) == [cells, cells]


@pytest.mark.parametrize(
    "content",
    [b"", b"path,label\na,b\n", b"path,label,split,sha256,reason\na,b\n", b"\xff\xfe",
     b"path,label,split,sha256,reason\na,b,c,d,e,f\n", b'path,label,split,sha256,reason\n"a'],
)  # fmt: skip
def test_a_file_of_another_form_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "splits.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be read back: .*; start over with --fresh"):
        read_splits(tmp_path / "splits.csv")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read back"):
        read_splits(tmp_path / "splits.csv")
