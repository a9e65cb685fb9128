import csv
import io
import os
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neither.data.scan import ImageTable
from neither.data.split_file import (
    count_added,
    data_fingerprint,
    holds_split,
    match_splits,
    read_hashes,
    read_split,
    safe_cell,
    write_splits,
)
from neither.data.splits import SplitAssignment
from neither.data.store import ImageStore
from neither.runtime.errors import DataError
from records import make_dhash, make_fingerprints, make_store, make_table

NAMES = ["dog/a.jpg", "dog/b.jpg", "human/c.jpg", "human/d.jpg"]
REASON = "the same bytes as dog/a.jpg, which is in train"


def make(
    names: Sequence[str] = NAMES, splits: Sequence[int] = (1, 2, 3, 0), reason: str = REASON
) -> tuple[ImageTable, ImageStore, SplitAssignment]:
    """Return images in these splits; the excluded ones have the reason."""
    records = make_fingerprints([make_dhash(number) for number in range(len(names))])
    reasons = {index: reason for index, side in enumerate(splits) if not side}
    return (
        make_table(names),
        make_store(records),
        SplitAssignment(np.array(splits, np.int8), reasons),
    )


def read_rows(path: Path) -> list[dict[str, str]]:
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "splits.csv"


def test_the_file_has_a_row_for_each_image(path: Path) -> None:
    table, store, assignment = make()
    store.fingerprints["sha256"][3] = 0  # could not be read
    write_splits(path, table, store, assignment)
    hashes = [bytes(store.fingerprints["sha256"][index]).hex() for index in range(3)]
    assert path.read_text() == (
        "path,label,split,sha256,reason\n"
        f"dog/a.jpg,dog,train,{hashes[0]},\n"
        f"dog/b.jpg,dog,val,{hashes[1]},\n"
        f"human/c.jpg,human,test,{hashes[2]},\n"
        f'human/d.jpg,human,,,"{REASON}"\n'
    )


def test_images_keep_their_splits_in_any_order(path: Path) -> None:
    table, store, assignment = make()
    write_splits(path, table, store, assignment)
    again, added = match_splits(path, table, store)
    assert (again.split_indices.tolist(), again.reasons, added) == ([1, 2, 3, 0], {3: REASON}, [])
    reversed_table = make_table(NAMES[::-1])
    again, added = match_splits(path, reversed_table, make_store(store.fingerprints[::-1]))
    assert (again.split_indices.tolist(), again.reasons, added) == ([0, 3, 2, 1], {0: REASON}, [])


def test_added_images_are_returned_and_excluded(path: Path) -> None:
    write_splits(path, *make())
    names = ["dog/0.jpg", *NAMES, "human/new.jpg"]
    records = make_fingerprints([make_dhash(number) for number in range(6)])
    records[1:5] = make()[1].fingerprints
    again, added = match_splits(path, make_table(names), make_store(records))
    assert added == ["dog/0.jpg", "human/new.jpg"]
    assert again.split_indices.tolist() == [0, 1, 2, 3, 0, 0]
    since = "added since this run began"
    assert again.reasons == {0: since, 4: REASON, 5: since}


@pytest.mark.parametrize("index", [0, 1, 2])
def test_images_that_changed_are_an_error(path: Path, index: int) -> None:
    table, store, assignment = make()
    write_splits(path, table, store, assignment)
    name, others = NAMES[index], [number for number in range(4) if number != index]

    changed = store.fingerprints.copy()
    changed["sha256"][index, 31] ^= 1
    labels = [*table.labels]
    labels[index] = "neither"
    for problem, present, contents in (
        ("missing", make_table([NAMES[number] for number in others]),
         make_store(store.fingerprints[others])),
        ("changed", table, make_store(changed)),
        ("unreadable", table, make_store(store.fingerprints, {index: "permission denied"})),
        ("of another label now", replace(table, labels=labels), store),
    ):  # fmt: skip
        with pytest.raises(DataError, match=f"1 images of this run are {problem}, .* {name}"):
            match_splits(path, present, contents)
    with pytest.raises(DataError, match="3 images of this run are missing"):
        match_splits(path, make_table(NAMES[3:]), make_store(store.fingerprints[3:]))


def test_excluded_images_may_be_missing_or_changed(path: Path) -> None:
    table, store, assignment = make()
    write_splits(path, table, store, assignment)
    again, added = match_splits(path, make_table(NAMES[:3]), make_store(store.fingerprints[:3]))
    assert (again.split_indices.tolist(), again.reasons, added) == ([1, 2, 3], {}, [])
    store.fingerprints["sha256"][3] ^= 1
    assert match_splits(path, table, store)[0].reasons == {3: REASON}
    assert match_splits(path, table, make_store(store.fingerprints, {3: "damaged"}))[1] == []


UNUSUAL = ["a,b.jpg", 'say "x".jpg', "new\nline.jpg", "re\rturn.jpg", "\r\n.jpg", "=1+1.jpg", "+a",
       "-a", "@a", "\ta", "\x01", " lead", "trail ", "ä😀.jpg", os.fsdecode(b"\xff\xfe.jpg"), "'",
       "dog/=x.jpg", "#a", '"', ";", ".jpg", "...jpg", "/absolute.jpg", "../up.jpg",
       "caf\u00e9.jpg", "cafe\u0301.jpg", "CAFE.jpg", "cafe.jpg", "\u202egpj.exe"]  # fmt: skip


def test_unusual_names_are_read_back(path: Path) -> None:
    table, store, assignment = make(UNUSUAL, [1] * len(UNUSUAL))
    table.labels[:] = UNUSUAL[::-1]  # a label is the name of a folder
    write_splits(path, table, store, assignment)
    assert match_splits(path, table, store)[0].split_indices.tolist() == [1] * len(UNUSUAL)
    again = read_split(path, Path("photos"), "train")
    assert (again.paths, again.labels) == (table.paths, table.labels)


PATHS = st.binary(min_size=1, max_size=20).map(os.fsdecode).filter(
    lambda path: "\0" not in path and not path.startswith("./")
)  # fmt: skip


@given(st.data())
def test_any_assignment_is_read_back(path: Path, data: st.DataObject) -> None:
    names = data.draw(st.lists(PATHS, min_size=1, max_size=6, unique=True))
    num = len(names)
    splits = data.draw(st.lists(st.integers(0, 3), min_size=num, max_size=num))
    table, store, assignment = make(names, splits, data.draw(PATHS))
    table.labels[:] = data.draw(st.lists(PATHS, min_size=num, max_size=num))
    write_splits(path, table, store, assignment)
    again, added = match_splits(path, table, store)
    assert (again.split_indices.tolist(), again.reasons, added) == (splits, assignment.reasons, [])
    assert data_fingerprint(table, store, again) == data_fingerprint(table, store, assignment)


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r", "\n", "\x01"])
def test_no_path_is_read_as_a_formula(path: Path, first: str) -> None:
    assert safe_cell(f"{first}x") == f"./{first}x"
    assert safe_cell(f"a{first}x") == f"a{first}x"
    write_splits(path, *make([f"{first}x"], [1]))
    assert [row["path"] for row in read_rows(path)] == [f"./{first}x"]


def test_the_hashes_and_images_of_a_split_are_read(path: Path) -> None:
    table, store, assignment = make([*NAMES, "dog/e.jpg"], [1, 2, 3, 0, 1])
    write_splits(path, table, store, assignment)
    hashes = [bytes(digest).hex() for digest in store.fingerprints["sha256"]]
    assert read_hashes(path, "train") == {hashes[0], hashes[4]}
    assert read_hashes(path, "val") == {hashes[1]}
    folder = path.parent / "photos"
    folder.mkdir()
    train = read_split(path, folder, "train")
    assert (train.root, train.source) == (folder, folder)
    assert (train.paths, train.labels) == (["dog/a.jpg", "dog/e.jpg"], ["dog", "dog"])
    assert (train.splits, train.hashes) == (["train", "train"], [hashes[0], hashes[4]])
    (path.parent / "photos.csv").touch()
    test = read_split(path, path.parent / "photos.csv", "test")
    assert (test.root, test.paths) == (path.parent, ["human/c.jpg"])
    write_splits(path, *make(splits=[1, 2, 1, 2]))
    with pytest.raises(DataError, match="no image is in the split test"):
        read_split(path, folder, "test")


def test_the_fingerprint_changes_with_the_images_used() -> None:
    table, store, assignment = make()
    first = data_fingerprint(table, store, assignment)
    assert data_fingerprint(*make()) == first
    seen = {first}
    seen.add(data_fingerprint(*make(["dog/a.png", *NAMES[1:]])))
    seen.add(data_fingerprint(*make(splits=(2, 2, 3, 0))))
    seen.add(data_fingerprint(*make(splits=(1, 2, 3, 1))))
    seen.add(data_fingerprint(*make(splits=(1, 2, 0, 0))))
    labels = ["human", *table.labels[1:]]
    seen.add(data_fingerprint(replace(table, labels=labels), store, assignment))
    records = store.fingerprints.copy()
    records["sha256"][2, 0] ^= 1
    seen.add(data_fingerprint(table, make_store(records), assignment))
    assert len(seen) == 7


def test_the_fingerprint_does_not_depend_on_excluded_images() -> None:
    first = data_fingerprint(*make())
    assert data_fingerprint(*make(reason="another")) == first
    assert data_fingerprint(*make([*NAMES, "dog/e.jpg"], [1, 2, 3, 0, 0])) == first


def test_a_folder_is_recognised_by_paths_and_hashes_wherever_it_is(path: Path) -> None:
    table, store, assignment = make()
    for index, name in enumerate(NAMES):
        digest = sha256(name.encode()).digest()
        store.fingerprints["sha256"][index] = np.frombuffer(digest, np.uint8)
    write_splits(path, table, store, assignment)
    folder = path.parent / "moved"
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    assert [holds_split(path, folder, split) for split in ("train", "val", "test")] == [True] * 3
    assert not holds_split(path, path.parent, "val")
    (folder / "photos.csv").write_text("path,label\ndog/b.jpg,dog\n")
    assert holds_split(path, folder / "photos.csv", "val")
    assert not holds_split(path, folder / "photos.csv", "test")  # there, but not listed
    (folder / NAMES[2]).write_bytes(b"another image under this name")
    assert not holds_split(path, folder, "test")
    write_splits(path, *make(splits=[1, 2, 1, 2]))
    assert not holds_split(path, folder, "test")


NFC, NFD = "M\u00e4dchen/\u00e4.jpg", "Ma\u0308dchen/a\u0308.jpg"


@pytest.mark.parametrize(("before", "now"), [(NFC, NFD), (NFD, NFC)])
def test_images_keep_their_splits_in_every_unicode_form(path: Path, before: str, now: str) -> None:
    table, store, assignment = make([before, "dog/b.jpg"], [1, 2])
    write_splits(path, table, store, assignment)
    again, added = match_splits(path, make_table([now, "dog/b.jpg"]), store)
    assert (again.split_indices.tolist(), again.reasons, added) == ([1, 2], {}, [])
    assert count_added(path, make_table([now, "dog/b.jpg", "dog/c.jpg", "dog/d.jpg"])) == 2
    (path.parent / now).parent.mkdir()
    (path.parent / now).touch()
    assert read_split(path, path.parent, "train").paths == [now]


def test_two_names_that_differ_in_their_unicode_form_are_two_images(path: Path) -> None:
    table, store, assignment = make([NFC, NFD], [1, 2])
    write_splits(path, table, store, assignment)
    assert match_splits(path, table, store)[0].split_indices.tolist() == [1, 2]


HEADER = b"path,label,split,sha256,reason\n"


@pytest.mark.parametrize(
    "content",
    [None, b"", b"path,label\na,b\n", HEADER + b"a,b\n", b"\xff\xfe", HEADER + b"a,b,c,d,e,f\n",
     HEADER + b"a,b,trian,d,e\n", HEADER + b'"a', HEADER + b"a" * 200_000],
    ids=range(9),
)  # fmt: skip
def test_a_missing_or_malformed_file_is_an_error(path: Path, content: bytes | None) -> None:
    if content is not None:
        path.write_bytes(content)
    table, store, _ = make()
    for read in (
        lambda: match_splits(path, table, store),
        lambda: read_hashes(path, "train"),
        lambda: read_split(path, Path("photos"), "train"),
    ):
        with pytest.raises(DataError, match=r"cannot be read back: .* --fresh"):
            read()


def test_sources_are_a_last_column_that_readers_ignore(path: Path) -> None:
    table, store, assignment = make()
    before = data_fingerprint(table, store, assignment)
    table.sources = ["phone", "", "=1", "phone"]
    write_splits(path, table, store, assignment)
    assert [row["source"] for row in read_rows(path)] == ["phone", "", "./=1", "phone"]
    again, added = match_splits(path, table, store)
    assert (again.split_indices.tolist(), again.reasons, added) == ([1, 2, 3, 0], {3: REASON}, [])
    assert data_fingerprint(table, store, assignment) != before
    path.write_text(path.read_text() + "a,b,train,d,e\n")
    with pytest.raises(DataError, match="cannot be read back"):
        match_splits(path, table, store)
