import json
import os
import signal
from collections.abc import Callable

import pytest

from coco_set import CocoSet
from neither.datasets.coco import AnnotatedImage, read_annotations
from neither.runtime import signals
from neither.runtime.errors import DataError


def read(content: bytes) -> list[AnnotatedImage]:
    return read_annotations(content, "set.json", ("person", "dog"))


def refusal(content: bytes) -> str:
    with pytest.raises(DataError) as caught:
        read(content)
    text = str(caught.value)
    assert text.startswith("set.json: ")
    assert "\n" not in text
    return text


def test_boxes_belong_to_their_pictures() -> None:
    coco = CocoSet()
    first, second = coco.add_image("b.jpg", 200, 100), coco.add_image("a.jpg", 50, 50)
    coco.add_box(first, "person", (10, 20, 100, 50))
    coco.add_box(first, "dog", (0, 0, 20, 10), crowd=True)
    coco.add_box(first, "teapot", (0, 0, 200, 100))
    coco.add_box(second, "person", (0, 0, 50, 25))
    a, b = read(coco.content())
    assert (a.file_name, b.file_name) == ("a.jpg", "b.jpg")
    assert [(box.share, box.is_crowd) for box in b.boxes["person"]] == [(0.25, False)]
    assert [(box.share, box.is_crowd) for box in b.boxes["dog"]] == [(0.01, True)]
    assert [box.share for box in a.boxes["person"]] == [0.5]
    assert a.boxes["dog"] == []


@pytest.mark.parametrize(
    ("box", "share"),
    [
        ((0, 0, 100, 100), 1.0),
        ((-50, -50, 100, 100), 0.25),
        ((50, 0, 1000, 100), 0.5),
        ((200, 200, 50, 50), 0.0),
        ((10, 10, -5, 50), 0.0),
        ((10, 10, -5, -5), 0.0),
        ((0, 0, 0, 40), 0.0),
        ((1e308, 0, 1e308, 10), 0.0),
        ((0.5, 0.25, 20.0, 50.0), 0.1),
    ],
)
def test_only_what_lies_in_the_picture_counts(
    box: tuple[float, float, float, float], share: float
) -> None:
    coco = CocoSet()
    coco.add_box(coco.add_image("a.jpg", 100, 100), "dog", box)
    (picture,) = read(coco.content())
    assert picture.boxes["dog"][0].share == pytest.approx(share)


def test_a_name_of_a_category_may_stand_twice_and_iscrowd_may_be_absent() -> None:
    coco = CocoSet()
    coco.document["categories"].append({"id": 99, "name": "dog"})
    coco.add_box(coco.add_image("a.jpg", 10, 10), "dog", (0, 0, 5, 5))
    del coco.document["annotations"][0]["iscrowd"]
    coco.document["annotations"][0]["category_id"] = 99
    assert len(read(coco.content())[0].boxes["dog"]) == 1


def test_text_may_begin_with_a_byte_order_mark() -> None:
    coco = CocoSet()
    coco.add_image("ä.jpg", 10, 10)
    assert read("\ufeff".encode() + coco.content())[0].file_name == "ä.jpg"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is no JSON"),
        (b'{"images": [', "is no JSON"),
        (b"\xff\xfe\x00", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b'{"images": ' + b"9" * 5000 + b"}", "is no JSON"),
        (b"[]", "want an object"),
        (b"7", "want an object"),
        (b"{}", "no list categories"),
        (b'{"images": {}, "categories": "x"}', "no list categories"),
    ],
    ids=str,
)
def test_what_is_no_annotations_is_refused(content: bytes, says: str) -> None:
    assert says in refusal(content)


def test_categories_that_are_absent_are_named_with_those_present() -> None:
    coco = CocoSet()
    coco.document["categories"] = [{"id": 1, "name": "person"}, {"id": 2, "name": "Dog"}]
    assert refusal(coco.content()) == "set.json: no category dog; the categories are: Dog, person"
    coco.document["categories"] = []
    assert "no category person and no category dog" in refusal(coco.content())


def change(key: str, **values: object) -> Callable[[CocoSet], None]:
    """Change keys of the second entry of a list; None removes one."""

    def apply(coco: CocoSet) -> None:
        entry = coco.document[key][1]
        entry |= values
        for name in [name for name, value in values.items() if value is None]:
            del entry[name]

    return apply


def replace_entry(key: str, value: object) -> Callable[[CocoSet], None]:
    def apply(coco: CocoSet) -> None:
        coco.document[key][1] = value

    return apply


def drop_list(key: str) -> Callable[[CocoSet], None]:
    def apply(coco: CocoSet) -> None:
        del coco.document[key]

    return apply


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (drop_list("images"), "no list images"),
        (drop_list("annotations"), "no list annotations"),
        (replace_entry("images", "x.jpg"), "images[1]: want an object"),
        (replace_entry("annotations", None), "annotations[1]: want an object"),
        (replace_entry("categories", 7), "categories[1]: want an object"),
        (change("images", id=None), "images[1]: no id"),
        (change("images", id=True), "images[1]: id: want"),
        (change("images", id=[1]), "images[1]: id: want"),
        (change("images", id=1), "images[1]: id: 1 stands twice"),
        (change("categories", id=1), "categories[1]: id: 1 stands twice"),
        (change("categories", name=None), "categories[1]: no name"),
        (change("categories", name=3), "categories[1]: name: want text, got 3"),
        (change("images", width=None), "images[1]: no width"),
        (change("images", height=None), "images[1]: no height"),
        (change("images", height=0), "images[1]: height: want"),
        (change("images", height=-5), "images[1]: height: want"),
        (change("images", width="640"), "images[1]: width: want"),
        (change("images", width=True), "images[1]: width: want"),
        (change("images", width=float("nan")), "images[1]: width: want"),
        (change("images", file_name=None), "images[1]: no file_name"),
        (change("images", file_name=""), "images[1]: file_name: want"),
        (change("images", file_name=5), "images[1]: file_name: want"),
        (change("images", file_name="a.jpg"), "images[1]: file_name: the same as in images[0]"),
        (change("images", file_name="./a.jpg"), "images[1]: file_name: the same as in images[0]"),
        (change("annotations", image_id=None), "annotations[1]: no image_id"),
        (change("annotations", image_id=77), "annotations[1]: image_id: no image has the id 77"),
        (change("annotations", image_id="1"), "annotations[1]: image_id: no image has the id 1"),
        (change("annotations", category_id=None), "annotations[1]: no category_id"),
        (change("annotations", category_id=77), "category_id: no category has the id 77"),
        (change("annotations", bbox=None), "annotations[1]: no bbox"),
        (change("annotations", bbox=[1, 2, 3]), "annotations[1]: bbox: want four finite numbers"),
        (change("annotations", bbox=[1, 2, 3, 4, 5]), "bbox: want four finite numbers"),
        (change("annotations", bbox=[1, 2, 3, 4, "5"]), "bbox: want four finite numbers"),
        (change("annotations", bbox={"x": 1}), "bbox: want four finite numbers"),
        (change("annotations", bbox=[1, 2, 3, "4"]), "bbox: want four finite numbers"),
        (change("annotations", bbox=[1, 2, 3, True]), "bbox: want four finite numbers"),
        (change("annotations", bbox=[1, 2, 3, float("nan")]), "bbox: want four finite numbers"),
        (change("annotations", bbox=[1, 2, 3, float("inf")]), "bbox: want four finite numbers"),
        (change("annotations", bbox=[1, 2, 3, 10**400]), "bbox: want four finite numbers"),
        (change("annotations", iscrowd=2), "annotations[1]: iscrowd: want 0 or 1, got 2"),
        (change("annotations", iscrowd="0"), "annotations[1]: iscrowd: want 0 or 1, got '0'"),
        (change("annotations", iscrowd=[]), "annotations[1]: iscrowd: want 0 or 1"),
    ],
)
def test_an_entry_that_is_wrong_is_named(spoil: Callable[[CocoSet], None], says: str) -> None:
    coco = CocoSet()
    for name in ("a.jpg", "b.jpg"):
        coco.add_box(coco.add_image(name, 100, 100), "dog", (0, 0, 50, 50))
    assert len(read(coco.content())) == 2
    spoil(coco)
    assert says in refusal(coco.content())


@pytest.mark.parametrize(
    "name",
    ["../a.jpg", "x/../../a.jpg", "..", "/etc/passwd", "\\a.jpg", "..\\a.jpg", "C:\\a.jpg",
     "c:/a.jpg", "//host/a.jpg", "a\0.jpg"],
)  # fmt: skip
def test_a_name_that_leads_out_of_the_folder_is_refused(name: str) -> None:
    coco = CocoSet()
    coco.add_image(name, 10, 10)
    assert "images[0]: file_name: want a relative path without .." in refusal(coco.content())


def test_a_signal_ends_the_reading() -> None:
    coco = CocoSet()
    coco.add_image("a.jpg", 10, 10)
    with signals.installed():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(signals.Stopped):
            read(coco.content())


def test_names_with_folders_and_odd_letters_are_kept() -> None:
    coco = CocoSet()
    names = ["train2017/000.jpg", "a..b.jpg", "x y.jpg", "12:30.jpg", "-f.jpg"]
    for name in names:
        coco.add_image(name, 10, 10)
    assert [picture.file_name for picture in read(coco.content())] == sorted(names)


def test_a_message_cannot_drive_the_terminal() -> None:
    coco = CocoSet()
    coco.document["categories"] = [{"id": 1, "name": "\x1b[2Jcat"}]
    assert "\x1b" not in refusal(coco.content())
    content = json.dumps({"\x1b[2J\n": 1}).encode()
    assert "\x1b" not in refusal(content)
