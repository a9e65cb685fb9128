from collections.abc import Callable

import numpy as np

from neither.data.fingerprints import ImageFlag
from neither.data.splits import ADDED, SplitAssignment, log_split_summary
from records import make_dhash, make_fingerprints, make_store, make_table

Messages = Callable[[], str]


def tell(
    splits: list[int],
    reasons: dict[int, str] | None = None,
    unreadable: dict[int, str] | None = None,
    flags: int = 0,
) -> None:
    names = [f"{('dog', 'human')[place % 2]}/{place}.jpg" for place in range(len(splits))]
    records = make_fingerprints([make_dhash(number) for number in range(len(splits))])
    records["flags"] = flags
    left_out = {**(unreadable or {}), **(reasons or {})}
    assignment = SplitAssignment(np.array(splits, np.int8), left_out)
    log_split_summary(
        make_table(names), make_store(records, unreadable), assignment, ["dog", "human"]
    )


def test_the_counts_of_each_split_and_class_are_told(messages: Messages) -> None:
    tell([1] * 2000 + [2] * 10 + [3, 0, 3], {2011: "a copy"})
    lines = messages().splitlines()
    assert lines[:3] == [
        "train   2,000 images: dog 1,000, human 1,000",
        "val        10 images: dog 5, human 5",
        "test        2 images: dog 2, human 0",
    ]


def test_only_what_is_odd_is_told(messages: Messages) -> None:
    tell([1, 1, 2, 2])
    assert len(messages().splitlines()) == 3
    tell(
        [1, 1, 2, 0],
        unreadable={3: "damaged"},
        flags=ImageFlag.ROTATED | ImageFlag.ANIMATED | ImageFlag.GRAYSCALE,
    )
    said = messages()
    assert "images turned upright by their EXIF tag: 3" in said
    assert "images with several frames or pages, of which the first is used: 3" in said
    assert "invalid EXIF" not in said
    tell([1, 1, 2, 2], flags=ImageFlag.INVALID_EXIF)
    assert "images with an invalid EXIF orientation, which is ignored: 4" in messages()


def test_images_left_out_are_counted_and_named_with_their_reason(messages: Messages) -> None:
    tell([1, 1, 0, 0, 0], {3: "the same bytes as dog/0.jpg, which is in train"},
         {2: "empty file", 4: "damaged \x1b[1m"})  # fmt: skip
    said = messages()
    assert "warning: 2 unreadable images are left out; splits.csv lists each" in said
    assert "  dog/2.jpg: empty file\n" in said
    assert "  dog/4.jpg: damaged \\x1b[1m\n" in said
    assert "warning: 1 images " in said
    assert "  human/3.jpg: the same bytes as dog/0.jpg, which is in train\n" in said


def test_only_some_images_left_out_are_named(messages: Messages) -> None:
    tell([0] * 60, dict.fromkeys(range(30), "a copy"),
         dict.fromkeys(range(30, 60), "empty file"))  # fmt: skip
    said = messages()
    assert said.count(": a copy") == said.count(": empty file") == 10


def test_images_added_to_a_run_that_goes_on_are_not_told_again(messages: Messages) -> None:
    """They stand in no splits.csv."""
    tell([1, 1, 0, 0], {2: ADDED, 3: ADDED})
    assert "left out" not in messages()
