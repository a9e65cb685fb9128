import json
import math
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import Mock

import pytest

from coco_set import CocoSet
from moments import before, terminate
from neither.data.scan import list_images
from neither.datasets import coco
from neither.datasets.coco import (
    BOTH,
    MISSING,
    SMALL,
    AnnotatedImage,
    choose_label,
    read_annotations,
    sort_images,
)
from neither.runtime import signals
from neither.runtime.console import ProgressBar
from neither.runtime.errors import DataError, OutputError, UsageError

Patch = pytest.MonkeyPatch

LARGE, TINY, CROWD = 0.04, 0.0399, 0.0
AREAS = [
    ((0, 0, 100, 100), 1.0), ((-50, -50, 100, 100), 0.25), ((50, 0, 1000, 100), 0.5),
    ((200, 200, 50, 50), 0.0), ((10, 10, -5, 50), 0.0), ((10, 10, -5, -5), 0.0),
    ((0, 0, 0, 40), 0.0), ((1e308, 0, 1e308, 10), 0.0), ((0.5, 0.25, 20.0, 50.0), 0.1),
]  # fmt: skip


def read(content: bytes) -> list[AnnotatedImage]:
    return read_annotations(content, "set.json")


def error_of(content: bytes) -> str:
    with pytest.raises(DataError) as caught:
        read(content)
    text = str(caught.value)
    assert text.startswith("set.json: ")
    assert "\n" not in text
    return text.removeprefix("set.json: ")


def test_boxes_are_those_of_their_image() -> None:
    coco = CocoSet()
    first, second = coco.add_image("b.jpg", 200, 100), coco.add_image("a.jpg", 50, 50)
    coco.add_box(first, "person", (10, 20, 100, 50))
    coco.add_box(first, "dog", (0, 0, 20, 10), crowd=True)
    coco.add_box(first, "teapot", (0, 0, 200, 100))
    coco.add_box(second, "person", (0, 0, 50, 25))
    a, b = read(coco.content())
    assert (a.file_name, b.file_name) == ("a.jpg", "b.jpg")
    assert (b.boxes["person"], b.boxes["dog"]) == ([0.25], [0.0])
    assert a.boxes == {"person": [0.5], "dog": []}


def test_only_the_part_inside_the_image_counts() -> None:
    coco = CocoSet()
    for number, (box, _) in enumerate(AREAS):
        coco.add_box(coco.add_image(f"{number}.jpg", 100, 100), "dog", box)
    areas = [image.boxes["dog"][0] for image in read(coco.content())]
    assert areas == pytest.approx([area for _, area in AREAS])


def test_unusual_files_are_read() -> None:
    """A category twice, no iscrowd, a byte order mark, odd file names."""
    coco = CocoSet()
    names = ["train2017/000.jpg", "a..b.jpg", "x y.jpg", "12:30.jpg", "-f.jpg", "ä.jpg"]
    coco.document["categories"].append({"id": 99, "name": "dog"})
    for name in names:
        coco.add_box(coco.add_image(name, 10, 10), "dog", (0, 0, 5, 5))
    del coco.document["annotations"][0]["iscrowd"]
    coco.document["annotations"][0]["category_id"] = 99
    images = read("\ufeff".encode() + coco.content())
    assert [image.file_name for image in images] == sorted(names)
    assert [len(image.boxes["dog"]) for image in images] == [1] * len(names)


@pytest.mark.parametrize(("content", "where"), [
    (b"", "line 1 column 0"), (b'{"images": [', "line 1 column 12"),
    (b"\xff\xfe\x00", "line 1 column 1"), (b"[" * 100_000, "line 1 column"),
    (b'{"images": ' + b"9" * 5000 + b"}", "line 1 column"), (b"[]", "[]"), (b"{}", "categories: "),
    (b'{"images": {}, "categories": "x"}', "categories: "),
    (b'{"categories": [], "annotations": []}', "images: "),
    (b'{"categories": [], "images": []}', "annotations: "),
], ids=str)  # fmt: skip
def test_other_files_are_errors(content: bytes, where: str) -> None:
    assert where in error_of(content)


def test_missing_categories_are_named_with_those_present() -> None:
    coco = CocoSet()
    coco.document["categories"] = [{"id": 1, "name": "person"}, {"id": 2, "name": "Dog"}]
    text = error_of(coco.content())
    assert "no dog;" in text
    assert "Dog, person" in text
    coco.document["categories"] = []
    assert "no person and no dog" in error_of(coco.content())
    coco.document["categories"] = [{"id": 1, "name": "\x1b[2Jcat"}]
    assert "\x1b" not in error_of(coco.content())
    assert "\x1b" not in error_of(json.dumps({"\x1b[2J\n": 1}).encode())


WRONG: list[tuple[str, dict[str, list[object]]]] = [
    ("images", {"id": [None, True, [1], 1], "width": [None, 0, -5, "640", True, math.nan, math.inf],
                "height": [None], "file_name": [None, "", 5, "a.jpg", "./a.jpg"]}),
    ("categories", {"id": [1], "name": [None, 3, ""]}),
    ("annotations", {"image_id": [None, 77, "1"], "category_id": [None, 77],
                     "iscrowd": [2, "0", []],
                     "bbox": [None, [1, 2, 3], [1, 2, 3, 4, 5], {"x": 1}, [1, 2, 3, "4"],
                              [1, 2, 3, True], [1, 2, 3, math.nan], [1, 2, 3, 10**400]]}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "field", "value"), [
        (key, field, value)
        for key, fields in WRONG for field, values in fields.items() for value in values
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(key: str, field: str, value: object) -> None:
    """None stands for a missing key."""
    coco = CocoSet()
    for name in ("a.jpg", "b.jpg"):
        coco.add_box(coco.add_image(name, 100, 100), "dog", (0, 0, 50, 50))
    assert len(read(coco.content())) == 2
    entry = coco.document[key][1]
    entry[field] = value
    if value is None:
        del entry[field]
    assert error_of(coco.content()).startswith(f"{key}[1].{field}")
    coco.document[key][1] = "x"
    assert error_of(coco.content()).startswith(f"{key}[1]: ")


def test_a_path_out_of_the_image_folder_is_an_error() -> None:
    for name in ("../a.jpg", "x/../../a.jpg", "..", "/etc/passwd", "\\a.jpg", "..\\a.jpg",
                 "C:\\a.jpg", "c:/a.jpg", "//host/a.jpg", "a\0.jpg"):  # fmt: skip
        coco = CocoSet()
        coco.add_image(name, 10, 10)
        assert error_of(coco.content()).startswith("images[0].file_name: ")


@dataclass(frozen=True)
class Made:
    """A set on disk and the folder to make of it."""

    annotations: Path
    images: Path
    output: Path

    def sort(self, copy: bool = False) -> dict[str, int] | None:
        return sort_images(self.annotations, self.images, self.output, copy)


def test_a_label_follows_from_the_boxes() -> None:
    for people, dogs, label in (
        ([LARGE], [], "human"), ([TINY, CROWD, LARGE], [], "human"),
        ([], [LARGE], "dog"), ([], [CROWD, LARGE], "dog"), ([], [], "neither"),
        ([LARGE], [LARGE], BOTH), ([LARGE], [TINY], BOTH), ([TINY], [LARGE], BOTH),
        ([LARGE], [CROWD], BOTH), ([CROWD], [LARGE], BOTH), ([TINY], [TINY], BOTH),
        ([TINY], [], SMALL), ([], [TINY], SMALL), ([CROWD], [], SMALL), ([], [CROWD], SMALL),
        ([TINY, CROWD], [], SMALL),
    ):  # fmt: skip
        image = AnnotatedImage("a.jpg", {"person": people, "dog": dogs})
        assert choose_label(image) == label, image


def small_set() -> CocoSet:
    """Return a set with two images of each class and one or two left out for each reason."""
    made = CocoSet()
    for number in range(2):
        made.add_box(made.add_image(f"dog{number}.jpg", 100, 100), "dog", (0, 0, 20, 20))
        made.add_box(made.add_image(f"man{number}.jpg", 100, 100), "person", (0, 0, 50, 20))
        made.add_box(made.add_image(f"pot{number}.jpg", 100, 100), "teapot", (0, 0, 5, 5))
    both = made.add_image("both.jpg", 100, 100)
    made.add_box(both, "dog", (0, 0, 50, 50))
    made.add_box(both, "person", (0, 0, 5, 5))
    made.add_box(made.add_image("far.jpg", 100, 100), "person", (0, 0, 19, 20))
    crowd = made.add_image("crowd.jpg", 100, 100)
    made.add_box(crowd, "person", (0, 0, 100, 100), crowd=True)
    return made


def write(made: CocoSet, folder: Path) -> Made:
    return Made(*made.write(folder), folder / "sorted")


@pytest.fixture
def small(tmp_path: Path) -> Made:
    return write(small_set(), tmp_path)


COUNTS = {"dog": 2, "human": 2, "neither": 2, BOTH: 1, SMALL: 2, MISSING: 0}


def names(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()
    )


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return the times and contents that a write into a folder would change."""
    found = {".": (folder.stat().st_mtime_ns, b"")}
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (path.lstat().st_mtime_ns, content)
    return found


def test_images_are_sorted_by_class(small: Made) -> None:
    before = state(small.images)
    assert small.sort() == COUNTS
    assert names(small.output) == [
        "coco.json", "dog/dog0.jpg", "dog/dog1.jpg", "human/man0.jpg", "human/man1.jpg",
        "neither/pot0.jpg", "neither/pot1.jpg",
    ]  # fmt: skip
    assert state(small.images) == before
    record = json.loads((small.output / "coco.json").read_text())
    assert record["counts"] == COUNTS
    assert (record["min_share"], record["mode"]) == (0.04, "links")
    found = {label: len(list_images(small.output / label).paths) for label in coco.CLASSES}
    assert found == {"dog": 2, "human": 2, "neither": 2}  # as training reads them


@pytest.mark.parametrize("copy", [False, True])
def test_links_and_copies(small: Made, monkeypatch: Patch, tmp_path: Path, copy: bool) -> None:
    monkeypatch.chdir(tmp_path)
    sort_images(Path("instances.json"), Path("images"), Path("sorted"), copy)
    monkeypatch.chdir("/")
    for path in (small.output / "dog").iterdir():
        assert path.is_symlink() != copy
        assert copy or path.readlink() == small.images / path.name
        assert path.read_bytes() == (small.images / path.name).read_bytes()
        assert path.lstat().st_nlink == 1


def test_without_links_copy_is_named(small: Made, monkeypatch: Patch) -> None:
    error = OSError(1, "Operation not permitted")
    monkeypatch.setattr(Path, "symlink_to", Mock(side_effect=error))
    with pytest.raises(OutputError, match=r"--copy"):
        small.sort()
    assert not small.output.exists()
    assert small.sort(copy=True) == COUNTS


def test_missing_files_are_left_out_and_counted(small: Made) -> None:
    (small.images / "dog0.jpg").unlink()
    (small.images / "both.jpg").unlink()  # would be left out anyway
    (small.images / "man1.jpg").unlink()
    (small.images / "man1.jpg").mkdir()  # no file either
    (small.images / "pot1.jpg").unlink()
    (small.images / "pot1.jpg").symlink_to("nowhere")
    assert small.sort() == COUNTS | {"dog": 1, "human": 1, "neither": 1, MISSING: 3}
    assert names(small.output / "human") == ["man0.jpg"]


def test_names_that_no_file_can_have_are_missing_files(small: Made) -> None:
    listed = small_set()
    for name in ("x" * 5000 + ".jpg", ".", "dog0.jpg/x.jpg"):
        listed.add_image(name, 10, 10)
    small.annotations.write_bytes(listed.content())
    assert small.sort() == COUNTS | {MISSING: 3}


def test_names_with_folders_become_one_name_each(tmp_path: Path) -> None:
    listed = small_set()
    for name in ("x/a_1.jpg", "x_a/1.jpg", "x_a_1.jpg", "X_A_1.jpg", ".hidden/b.jpg"):
        listed.add_image(name, 10, 10)
    made = write(listed, tmp_path)
    made.sort()
    links = {path.name: path.readlink().relative_to(made.images).as_posix()
             for path in (made.output / "neither").iterdir()}  # fmt: skip
    assert links == {
        "X_A_1.jpg": "X_A_1.jpg", "x_a_1_2.jpg": "x/a_1.jpg", "x_a_1_3.jpg": "x_a/1.jpg",
        "x_a_1_4.jpg": "x_a_1.jpg", "_.hidden_b.jpg": ".hidden/b.jpg",
        "pot0.jpg": "pot0.jpg", "pot1.jpg": "pot1.jpg",
    }  # fmt: skip


def test_a_class_without_images_warns(tmp_path: Path, monkeypatch: Patch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(coco, "warn", warnings.append)
    listed = CocoSet()
    listed.add_box(listed.add_image("dog.jpg", 100, 100), "dog", (0, 0, 50, 50))
    assert write(listed, tmp_path).sort() == dict.fromkeys(COUNTS, 0) | {"dog": 1}
    found = [[name for name in coco.CLASSES if name in message] for message in warnings]
    assert found == [["human"], ["neither"]]
    assert (tmp_path / "sorted" / "human").is_dir()


def test_no_image_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"instances\.json"):
        write(CocoSet(), tmp_path).sort()
    annotations, _ = small_set().write(tmp_path)
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match=r"file is missing: 6.*other"):
        sort_images(annotations, tmp_path / "other", tmp_path / "sorted", copy=False)
    assert not (tmp_path / "sorted").exists()


def test_missing_paths_and_output_among_the_images(small: Made, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no\.json: no such file"):
        sort_images(tmp_path / "no.json", small.images, small.output, copy=False)
    with pytest.raises(UsageError, match=r"none: no such folder"):
        sort_images(small.annotations, tmp_path / "none", small.output, copy=False)
    before = state(small.images)
    for output in (small.images / "sorted", small.images):
        with pytest.raises(UsageError, match=r"sorted|images"):
            sort_images(small.annotations, small.images, output, copy=True)
    assert state(small.images) == before


def test_the_same_command_does_nothing(small: Made, tmp_path: Path, monkeypatch: Patch) -> None:
    small.sort()
    before = state(small.output)
    monkeypatch.setattr(coco, "read_annotations", None)  # is not read
    assert small.sort() is None
    with pytest.raises(OutputError):
        small.sort(copy=True)
    (tmp_path / "elsewhere").symlink_to("images")
    with pytest.raises(OutputError):
        sort_images(small.annotations, tmp_path / "elsewhere", small.output, copy=False)
    with small.annotations.open("a") as file:
        file.write("\n")
    with pytest.raises(OutputError):
        small.sort()
    assert state(small.output) == before


@pytest.mark.parametrize("copy", [False, True])
def test_a_stop_leaves_nothing(small: Made, tmp_path: Path, monkeypatch: Patch, copy: bool) -> None:
    listed = small_set()
    for number in range(60):
        (small.images / f"more{number}.jpg").write_bytes(b"x")
        listed.add_image(f"more{number}.jpg", 10, 10)
    small.annotations.write_bytes(listed.content())
    names = sorted(path.name for path in tmp_path.iterdir())
    before(ProgressBar, "advance", 50, terminate)(monkeypatch)
    with signals.installed(), pytest.raises(signals.Stopped):
        small.sort(copy)
    assert sorted(path.name for path in tmp_path.iterdir()) == names
