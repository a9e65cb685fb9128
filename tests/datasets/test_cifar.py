import os
import re
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from archives import NAMES10, NAMES100, planes_of
from neither.datasets.cifar import (
    HUMANS,
    UNSEEN,
    VAL_FRACTION,
    OfficialSet,
    choose_images,
    is_prepared,
    write_images,
)
from neither.runtime import signals
from neither.runtime.errors import OutputError

SPLITS = ("train", "val", "test")
Location = tuple[str, str, str, str, str, int]  # split, label, source, kind, official part, index


@pytest.fixture(scope="module")
def made(sets: list[OfficialSet], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "cifar"
    write_images(sets, folder)
    return folder


@pytest.fixture(scope="module")
def locations(made: Path) -> list[Location]:
    """Return what the path of each image says, of the splits and of the unseen kinds."""
    found = []
    for path in sorted(made.rglob("*.png")):
        split, label, name = path.relative_to(made).parts
        match = re.fullmatch(r"(cifar10|cifar100)_(\w+)_(train|test)_(\d{5})\.png", name)
        assert match, path
        source, kind, part, index = match.groups()
        found.append((split, label, source, kind, part, int(index)))
    return found


def contents(root: Path) -> dict[str, bytes]:
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_each_image_lies_where_its_kind_belongs(locations: list[Location]) -> None:
    for split, label, source, kind, part, _ in locations:
        assert kind in (NAMES10 if source == "cifar10" else NAMES100)
        assert (part == "test") == (split in ("test", "unseen"))
        if split == "unseen":
            assert label == kind
            continue
        is_dog = (source, kind) == ("cifar10", "dog")
        is_human = source == "cifar100" and kind in HUMANS
        assert label == ("dog" if is_dog else "human" if is_human else "neither")


def test_the_unseen_kinds_are_in_no_split(locations: list[Location]) -> None:
    assert len(set(UNSEEN)) == 20
    assert set(UNSEEN) < set(NAMES100) - set(HUMANS)
    assert {"wolf", "fox", "chimpanzee"} < set(UNSEEN)
    shown = {kind for split, _, _, kind, _, _ in locations if split != "unseen"}
    assert not shown & set(UNSEEN)
    unseen = Counter(kind for split, _, _, kind, _, _ in locations if split == "unseen")
    assert unseen == {kind: 4 for kind in UNSEEN}  # noqa: C420 - all that the test set has


@pytest.mark.parametrize("split", SPLITS)
def test_half_of_either_source_is_neither(locations: list[Location], split: str) -> None:
    quarters = Counter((source, label) for of, label, source, *_ in locations if of == split)
    expected = {("cifar10", "dog"), ("cifar10", "neither"), ("cifar100", "human"),
                ("cifar100", "neither")}  # fmt: skip
    assert set(quarters) == expected
    assert len(set(quarters.values())) == 1
    if split == "test":
        assert quarters["cifar10", "dog"] == 4 * len(HUMANS)  # every human there is


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("source", ["cifar10", "cifar100"])
def test_neither_comes_from_all_kinds_evenly(
    locations: list[Location], split: str, source: str
) -> None:
    kinds = Counter(
        kind
        for of, label, by, kind, *_ in locations
        if (of, label, by) == (split, "neither", source)
    )
    everything = NAMES10 if source == "cifar10" else NAMES100
    possible = set(everything) - {"dog", *UNSEEN, *HUMANS}
    assert len(possible) == (9 if source == "cifar10" else 75)
    counts = [kinds[kind] for kind in possible]
    assert max(counts) - min(counts) <= 1
    assert sum(counts) == kinds.total()


def test_where_a_kind_is_short_the_others_stand_in(sets: list[OfficialSet]) -> None:
    test = sets[3]
    things = ["apple", "bed", "bee", "bowl", "bus", "can"]
    kept = [index for index, kind in enumerate(test.kinds) if kind in (*HUMANS, *things[1:])]
    kept.append(test.kinds.index("apple"))  # 1 apple and 4 of each of the others, for 20 locations
    few = replace(test, pixels=test.pixels[kept], kinds=[test.kinds[index] for index in kept])
    names = [path for path in choose_images([*sets[:3], few]) if path.startswith("test/neither")]
    counts = Counter(path.split("_")[1] for path in names if "cifar100" in path)
    assert set(counts) == set(things)
    assert counts["apple"] == 1
    assert counts.total() == 20


def test_val_is_a_share_of_the_official_train_set_and_apart_from_train(
    made: Path, locations: list[Location]
) -> None:
    splits = {split: {place[2:] for place in locations if place[0] == split} for split in SPLITS}
    assert not splits["val"] & splits["train"]
    total = len(splits["val"]) + len(splits["train"])
    assert len(splits["val"]) / total == pytest.approx(VAL_FRACTION, abs=0.08)
    pixels = {split: set(contents(made / split).values()) for split in SPLITS}
    assert not pixels["val"] & pixels["train"]


def test_where_a_image_lies_depends_on_no_order(sets: list[OfficialSet]) -> None:
    def by_folder(chosen: list[OfficialSet]) -> set[tuple[str, bytes]]:
        found = choose_images(chosen)
        return {(str(Path(path).parent), pixels.tobytes()) for path, pixels in found.items()}

    turned = [
        replace(each, pixels=each.pixels[::-1], kinds=each.kinds[::-1]) for each in reversed(sets)
    ]
    assert by_folder(turned) == by_folder(sets)


def test_the_pixels_are_those_of_the_source(made: Path, locations: list[Location]) -> None:
    planes = {(s, p): planes_of(s, p) for s in ("cifar10", "cifar100") for p in ("train", "test")}
    for split, label, source, kind, part, index in locations:
        path = made / split / label / f"{source}_{kind}_{part}_{index:05d}.png"
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "RGB", (32, 32))
            pixels = np.asarray(image)
        expected = planes[source, part][index].reshape(3, 32, 32)
        assert np.array_equal(pixels.transpose(2, 0, 1), expected)


def test_two_runs_write_the_same_bytes(sets: list[OfficialSet], made: Path, tmp_path: Path) -> None:
    write_images(sets, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(made)


def test_what_is_made_is_known_and_what_is_not_is_refused(made: Path, tmp_path: Path) -> None:
    assert is_prepared(made)
    assert not is_prepared(tmp_path / "new")
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        is_prepared(tmp_path)


def test_a_stop_leaves_nothing(sets: list[OfficialSet], tmp_path: Path) -> None:
    calls: list[int] = []

    def interrupt(done: int, _: int) -> None:
        calls.append(done)
        os.kill(os.getpid(), signal.SIGTERM)

    with signals.installed(), pytest.raises(signals.Stopped):
        write_images(sets, tmp_path / "cifar", report=interrupt)
    assert calls == [50]
    assert not list(tmp_path.iterdir())


def test_report_ends_at_the_total(
    sets: list[OfficialSet], locations: list[Location], tmp_path: Path
) -> None:
    calls: list[tuple[int, int]] = []
    write_images(sets, tmp_path / "cifar", report=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (len(locations), len(locations))
