import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from images import touch
from neither.data.manifest import (
    find_evaluation_rows,
    find_training_rows,
    given_splits,
    is_manifest,
    read_manifest,
)
from neither.data.scan import ImageTable
from neither.data.split_file import csv_line
from neither.runtime.errors import DataError, UsageError
from records import rows

CLASSES = ("dog", "human")
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a manifest: its lines, or its bytes."""

    def write_lines(*lines: str | bytes) -> Path:
        content = [line.encode() if isinstance(line, str) else line for line in lines]
        path = tmp_path / "photos.csv"
        path.write_bytes(b"".join(line + b"\n" for line in content))
        return path

    return write_lines


def training(path: Path, ignored: tuple[str, ...] = (), **aliases: str) -> ImageTable:
    return find_training_rows(path, CLASSES, ignored, aliases)


def error_of(path: Path, ignored: tuple[str, ...] = (), **aliases: str) -> str:
    """Return the error message, with @ for the path."""
    with pytest.raises(DataError) as caught:
        training(path, ignored, **aliases)
    return str(caught.value).replace(str(path), "@")


def common_error(path: Path) -> str:
    """Return the error message that every reader raises for this manifest."""
    message = error_of(path)
    for read in (read_manifest, lambda path: find_evaluation_rows(path, None)):
        with pytest.raises(DataError) as caught:
            read(path)
        assert str(caught.value).replace(str(path), "@") == message
    return message


def test_paths_start_at_the_folder_of_the_manifest(tmp_path: Path, write: Write) -> None:
    path = write("path,label", "b.jpg,human", "deep/a.jpg,dog")
    table = training(path)
    assert (table.root, table.source) == (tmp_path, path)
    assert rows(table) == [("b.jpg", "human", ""), ("deep/a.jpg", "dog", "")]
    assert (table.notes, table.unreadable_folders) == ([], [])


def test_columns_may_have_any_order_and_be_among_others(write: Write) -> None:
    path = write("split,by,label,path", "train,me,dog,a.jpg", "valid,you,human,b.jpg",
                 "test,,human,c.jpg", "validation,,dog,d.jpg")  # fmt: skip
    assert rows(training(path)) == [
        ("a.jpg", "dog", "train"),
        ("b.jpg", "human", "val"),
        ("c.jpg", "human", "test"),
        ("d.jpg", "dog", "val"),
    ]


def test_paths_are_relative_or_absolute_and_normalized(tmp_path: Path, write: Write) -> None:
    path = write("path,label", "./a.jpg,dog", "x/../b.jpg,dog", f"{tmp_path}/c.jpg,human",
                 "../up.jpg,human", "x//y/./d.jpg,dog")  # fmt: skip
    table = training(path)
    assert table.paths == ["a.jpg", "b.jpg", f"{tmp_path}/c.jpg", "../up.jpg", "x/y/d.jpg"]
    assert table.root / table.paths[2] == tmp_path / "c.jpg"


@pytest.mark.parametrize("row", ["a.jpg,human,train", "a.jpg,dog,val", "./a.jpg,human,val"])
def test_one_image_with_two_labels_or_splits_is_an_error(write: Write, row: str) -> None:
    path = write("path,label,split", "a.jpg,dog,train", "b.jpg,human,train", row)
    assert common_error(path).startswith("@:4: a.jpg is listed before")


@pytest.mark.parametrize(
    "first",
    ["", "a.jpg,dog", "path", "path;Label", "path,Label", " path,label", "path,label,Split",
     "path,label, split", "path,label,path", "path,label,label", "path,label,split,split", "label",
     "PATH,LABEL", "path,label,Source", "path,label,source,source"],
)  # fmt: skip
def test_a_first_line_without_the_columns_is_an_error(write: Write, first: str) -> None:
    message = common_error(write(first, *([] if not first else ["a.jpg,dog", "b.jpg,human"])))
    assert message.startswith("@: want a first line")
    assert message.endswith(f"; got {first or 'nothing'}")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("c.jpg", "1 cells, want 3"),
        ("c.jpg,dog", "2 cells, want 3"),
        ("c.jpg,dog,train,", "4 cells, want 3"),
        ("a,b.jpg,dog,train", "4 cells, want 3"),
        ("  ", "1 cells, want 3"),
        (",dog,train", "the path is empty or not a path"),
        ("a\0.jpg,dog,train", "the path is empty or not a path"),
        ("c.jpg,dog,trian", "split trian, want train, val or test"),
        ("c.jpg,dog,Train", "split Train, want train, val or test"),
        ("c.jpg,dog,\x1b[31m", r"split \x1b[31m, want train, val or test"),
        ('"c.jpg,dog,train', "not a CSV file: unexpected end of data"),
        ('"c"d,dog,train', "not a CSV file: ',' expected after '\"'"),
        (f"{'x' * 200_000},dog,train", "not a CSV file: field larger than field limit (131072)"),
    ],
    ids=lambda text: text[:30],
)
def test_a_malformed_row_is_an_error_with_its_line(write: Write, row: str, message: str) -> None:
    path = write("path,label,split", '"a\n.jpg",dog,train', "", row)
    assert common_error(path) == f"@:5: {message}"


@pytest.mark.parametrize("lines", [["path,label"], ["path,label", "", ""], []])
def test_a_manifest_without_images_is_an_error(write: Write, lines: list[str]) -> None:
    message = common_error(write(*lines))
    assert message == "@: no images are listed here" if lines else "got nothing" in message


def test_unknown_labels_are_reported_with_their_first_line(write: Write) -> None:
    path = write("path,label", "a.jpg,dogs", "b.jpg,human", "c.jpg,cup", "d.jpg,dogs", "e.jpg,",
                 "f.jpg,\x1b[1m")  # fmt: skip
    assert error_of(path).split("\n       ")[1:6] == [
        "no image for class dog",
        "line 2: label dogs: did you mean dog?",
        "line 4: label cup: no class has this name",
        "line 6: label (empty): no class has this name",
        r"line 7: label \x1b[1m: no class has this name",
    ]
    many = [f"{number}.jpg,{number}" for number in range(1000)]
    assert error_of(write("path,label", *many)).count("no class has this name") == 10


def test_splits_for_some_images_only_are_an_error(write: Write) -> None:
    path = write("path,label,split", "a.jpg,dog,train", "b.jpg,human,train", "c.jpg,dog,")
    assert "line 4: no split, though other lines have one" in error_of(path)
    path = write("path,label,split", "a.jpg,dog,", "b.jpg,human,")
    assert training(path).splits == ["", ""]
    path = write("path,label,split", "a.jpg,dog,val", "b.jpg,human,test")
    assert "no image is in the split train" in error_of(path)


def test_ignored_labels_are_not_read(write: Write) -> None:
    path = write("path,label,split", "a.jpg,dog,train", "b.jpg,human,train", "c.jpg,cup,",
                 "d.jpg,jar,test")  # fmt: skip
    assert "label cup" in error_of(path, ("jar",))
    assert training(path, ("cup", "jar")).paths == ["a.jpg", "b.jpg"]


def test_an_alias_has_the_label_of_its_class(write: Write) -> None:
    path = write("path,label", "a.jpg,dog", "b.jpg,person", "c.jpg,people")
    assert "label person" in error_of(path, people="human")
    assert training(path, person="human", people="human").labels == ["dog", "human", "human"]
    path = write("path,label", "a.jpg,person", "./a.jpg,human", "b.jpg,dog")
    assert training(path, person="human").paths == ["a.jpg", "b.jpg"]


def test_paths_may_hold_bytes_that_are_not_utf_8(write: Write) -> None:
    path = write("path,label", b"caf\xe9.jpg,dog", "caf\u00e9.jpg,dog", "b.jpg,human")
    assert [os.fsencode(name) for name in training(path).paths] == [
        b"caf\xe9.jpg", b"caf\xc3\xa9.jpg", b"b.jpg",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "content",
    ["path,label\na.jpg,dog\n".encode("utf-32"), b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
     b"PK\x03\x04\x14\0\x06\0", b"\0" * 1000, b'"' * 999],
)  # fmt: skip
def test_other_content_is_an_error_of_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "photos.csv"
    path.write_bytes(content)
    message = common_error(path)
    assert message.startswith("@")
    assert all(letter.isprintable() for letter in message)


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "dangling link", "device"])
def test_an_irregular_file_is_an_error(tmp_path: Path, kind: str, watchdog: None) -> None:
    path = tmp_path / "photos.csv"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)  # opening it would block
    elif kind == "device":
        path.symlink_to("/dev/zero")  # reading it would never end
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    with pytest.raises(UsageError, match=r"photos\.csv: no such file; want a CSV file"):
        training(path)
    assert is_manifest(path) == (kind != "folder")


def test_a_manifest_is_recognized_by_its_suffix(tmp_path: Path) -> None:
    for name, known in (("a.csv", True), ("a.CSV", True), ("a.tsv", False), ("csv", False)):
        (tmp_path / name).touch()
        assert is_manifest(tmp_path / name) == known
    (tmp_path / "folder.csv").mkdir()
    assert not is_manifest(tmp_path / "folder.csv")


def evaluation(path: Path, split: str | None = None, **aliases: str) -> list[tuple[str, str]]:
    table = find_evaluation_rows(path, split, aliases)
    return list(zip(table.paths, table.labels, strict=True))


def test_rows_of_any_label_are_evaluated(write: Write) -> None:
    path = write("path,label", "a.jpg,dog", "b.jpg,teapot", "c.jpg,", "d.jpg,person")
    assert evaluation(path, person="human") == [
        ("a.jpg", "dog"), ("b.jpg", "teapot"), ("c.jpg", ""), ("d.jpg", "human"),
    ]  # fmt: skip


def test_the_test_split_is_the_default(write: Write) -> None:
    path = write("path,label,split", "a.jpg,dog,train", "b.jpg,dog,valid", "c.jpg,dog,test",
                 "d.jpg,teapot,test", "e.jpg,dog,")  # fmt: skip
    assert evaluation(path) == [("c.jpg", "dog"), ("d.jpg", "teapot")]
    assert evaluation(path, "val") == [("b.jpg", "dog")]
    assert evaluation(path, "train") == [("a.jpg", "dog")]


def test_a_missing_split_is_an_error(write: Write) -> None:
    path = write("path,label,split", "a.jpg,dog,train", "b.jpg,dog,val")
    for split in (None, "test"):
        with pytest.raises(UsageError, match=r"split test; .*: --split train, val"):
            evaluation(path, split)
    with pytest.raises(UsageError, match="split val; it has no splits"):
        evaluation(write("path,label", "a.jpg,dog"), "val")


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9)


# A path that begins with a backslash is absolute: that of "\\" alone exists.
PATHS = CELLS.filter(lambda text: text and not text.startswith("\\"))


@given(st.lists(st.tuples(PATHS, st.sampled_from(CLASSES)), max_size=6))
def test_any_text_in_a_cell_is_read_back(write: Write, rows: list[tuple[str, str]]) -> None:
    rows = list(dict([*rows, ("a", "dog"), ("b", "human")]).items())
    path = write(*[csv_line(list(row)).decode().rstrip("\n") for row in [("path", "label"), *rows]])
    labels: dict[str, set[str]] = {}
    for name, label in rows:
        labels.setdefault(os.path.normpath(name), set()).add(label)
    if any(len(both) > 1 for both in labels.values()):
        assert "is listed before with another label" in error_of(path)
    else:
        table = training(path)
        assert dict(zip(table.paths, table.labels, strict=True)) == {
            name: min(both) for name, both in labels.items()
        }


def test_given_splits(tmp_path: Path, write: Write) -> None:
    assert given_splits(write("path,label", "a.jpg,dog"), CLASSES) == set()
    lines = "a.jpg,dog,train", "b.jpg,dog,validation", "c.jpg,dog,"
    assert given_splits(write("path,label,split", *lines), CLASSES) == {"train", "val"}
    flat = touch(tmp_path / "flat", "dog/a.jpg", "test/b.jpg")
    assert given_splits(flat, CLASSES) == set()
    split = touch(tmp_path / "split", "train/hound/", "valid/", "x/")
    assert given_splits(split, CLASSES, {"hound": "dog"}) == {"train", "val"}


@pytest.mark.parametrize("separator", [";", "\t"])
def test_the_separators_of_spreadsheets_are_read(write: Write, separator: str) -> None:
    lines = [["path", "label", "split"], ['"a,1.jpg"', "dog", "train"], ["b.jpg", "human", "train"]]
    path = write("\ufeff" + separator.join(lines[0]), *[separator.join(line) for line in lines[1:]])
    expected = [("a,1.jpg", "dog", "train"), ("b.jpg", "human", "train")]
    assert rows(training(path)) == rows(read_manifest(path)) == expected
    quoted = write(separator.join(['"path"', '"label"']), f"a.jpg{separator}dog")
    assert evaluation(quoted) == [("a.jpg", "dog")]


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;\r"])
def test_the_separator_that_excel_names_is_read(write: Write, first: str) -> None:
    path = write(first, "path;label", '"a,path,label.jpg";dog', "b.jpg;human")
    expected = [("a,path,label.jpg", "dog", ""), ("b.jpg", "human", "")]
    assert rows(training(path)) == rows(read_manifest(path)) == expected
    assert error_of(write(first, "path;label", "a.jpg;dog;more")).startswith("@:3:")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_the_unicode_text_of_excel_is_read_and_empty_rows_are_skipped(
    write: Write, encoding: str
) -> None:
    path = write("path,label")
    path.write_bytes("\ufeffpath\tlabel\r\n\u00e4.jpg\tdog\r\n\t\r\n".encode(encoding))
    assert evaluation(path) == [("\u00e4.jpg", "dog")]


def test_backslashes_separate_the_parts_of_a_path_if_such_a_file_exists(
    tmp_path: Path, write: Write
) -> None:
    touch(tmp_path, "x/a.jpg", "x/c.jpg", "odd\\b.jpg")
    absolute = str(tmp_path / "x" / "c.jpg").replace("/", "\\")
    path = write("path,label", "x\\a.jpg,dog", "x/a.jpg,dog", "odd\\b.jpg,human",
                 f"{absolute},dog", "gone\\d.jpg,dog")  # fmt: skip
    assert training(path).paths == [
        "x/a.jpg", "odd\\b.jpg", f"{tmp_path}/x/c.jpg", "gone\\d.jpg",
    ]  # fmt: skip


@pytest.mark.parametrize(("ours", "theirs"), [("\u00e4", "a\u0308"), ("a\u0308", "\u00e4")])
def test_labels_and_paths_are_the_same_in_every_unicode_form(
    tmp_path: Path, write: Write, ours: str, theirs: str
) -> None:
    touch(tmp_path, f"{theirs}/{theirs}.jpg")
    path = write("path,label", f"{ours}/{ours}.jpg,{theirs}", "b.jpg,dog", f"c.jpg,{theirs}2")
    table = find_training_rows(path, (ours, "dog"), (ours + "2",))
    assert table.paths == [f"{theirs}/{theirs}.jpg", "b.jpg"]
    assert table.labels == [ours, "dog"]
    table = find_evaluation_rows(path, None, {ours + "2": "dog"}, (ours, "dog"))
    assert table.labels == [ours, "dog", "dog"]


def test_rows_that_are_not_evaluated_are_named(write: Write) -> None:
    path = write("path,label,split", "a.jpg,dog,train", "b.jpg,dog,train", "c.jpg,dog,test",
                 "d.jpg,dog,")  # fmt: skip
    (note,) = find_evaluation_rows(path, None, {}, ("dog",)).notes
    assert note.endswith("not 1 of no split, 2 of train")
    assert find_evaluation_rows(write("path,label", "a.jpg,dog"), None).notes == []


def test_a_column_names_the_sources(write: Write) -> None:
    path = write("source,path,label,split", "phone,a.jpg,dog,train", ",b.jpg,human,train",
                 "cafe\u0301,c.jpg,dog,test", "phone,./a.jpg,dog,train")  # fmt: skip
    expected = ["phone", "", "caf\u00e9"]
    assert training(path).sources == read_manifest(path).sources == expected
    assert find_evaluation_rows(path, None, {}, ("dog",)).sources == ["caf\u00e9"]
    assert training(write("path,label", "a.jpg,dog", "b.jpg,human")).sources == ["", ""]
    twice = write("path,label,source", "a.jpg,dog,phone", "a.jpg,dog,camera")
    assert common_error(twice).startswith("@:3: a.jpg is listed before")
