import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from neither.demo import drawing, folder
from neither.demo.dog import draw_dog
from neither.demo.drawing import CLASSES, UNSEEN, draw_image, draw_pair, kinds_of_neither
from neither.demo.folder import draw_demo
from neither.demo.sketch import Sketch
from neither.runtime.errors import OutputError
from outputs import contents


def draw_small(root: Path, seed: int = 0, num_train: int = 4) -> dict[str, bytes]:
    draw_demo(root, num_train=num_train, num_val=2, num_test=1, num_unseen=1, seed=seed)
    return contents(root)


def decoded(split: str, label: str, index: int) -> Image.Image:
    image = Image.open(io.BytesIO(draw_image(0, split, label, index)[0]))
    image.load()
    return image


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    assert draw_small(tmp_path / "a") == draw_small(tmp_path / "b")


def test_counts_add_images_and_change_none(tmp_path: Path) -> None:
    small, large = draw_small(tmp_path / "a"), draw_small(tmp_path / "b", num_train=6)
    del small["demo.json"], large["demo.json"]
    assert small.items() < large.items()


def test_processes_draw_what_one_process_draws(tmp_path: Path) -> None:
    draw_demo(tmp_path / "a", num_train=30, num_val=0, num_test=0, num_unseen=0)
    for label in CLASSES:
        content, suffix = draw_image(0, "train", label, 29)
        assert (tmp_path / f"a/train/{label}/0029{suffix}").read_bytes() == content


def test_images_differ_by_seed_split_label_and_index() -> None:
    places = [(0, "train", "dog", 0), (1, "train", "dog", 0), (0, "val", "dog", 0),
              (0, "train", "human", 0), (0, "train", "dog", 1)]  # fmt: skip
    assert len({draw_image(*place)[0] for place in places}) == len(places)


def test_layout(tmp_path: Path) -> None:
    names = [Path(name) for name in draw_small(tmp_path / "demo") if name != "demo.json"]
    counted = Counter(str(name.parent) for name in names)
    expected = {
        f"{split}/{label}": count
        for split, count in (("train", 4), ("val", 2), ("test", 1))
        for label in CLASSES
    }
    assert counted == expected | {f"unseen/{kind}": 1 for kind in UNSEEN}
    assert {name.suffix for name in names} == {".jpg", ".png"}
    assert sorted(name.stem for name in names if name.parts[:2] == ("train", "dog")) == [
        "0000", "0001", "0002", "0003",
    ]  # fmt: skip
    assert not (tmp_path / "demo.partial").exists()
    assert json.loads((tmp_path / "demo/demo.json").read_text())["num_val"] == 2


def test_report_ends_at_the_total(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    draw_demo(tmp_path / "a", 1, 1, 1, 1, report=lambda done, total: calls.append((done, total)))
    total = 3 * len(CLASSES) + len(UNSEEN)
    assert calls[-1] == (total, total)


def test_second_call_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = draw_small(tmp_path / "demo")

    def refuse(*_: object) -> None:
        raise AssertionError("must not draw")

    monkeypatch.setattr(folder, "parallel_map", refuse)
    assert draw_small(tmp_path / "demo") == before


@pytest.mark.parametrize("record", [None, "{}", "not json"])
def test_foreign_folder_is_refused(tmp_path: Path, record: str | None) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/mine.txt").write_text("precious")
    if record is not None:
        (tmp_path / "demo/demo.json").write_text(record)
    before = contents(tmp_path)
    with pytest.raises(OutputError, match="exists already"):
        draw_small(tmp_path / "demo")
    assert contents(tmp_path) == before


def test_sizes_formats_and_colors_are_alike_in_every_class() -> None:
    num = 80
    shares, means = [], []
    for label in CLASSES:
        images = [decoded("train", label, index) for index in range(num)]
        assert all(80 <= side <= 240 for image in images for side in image.size)
        assert all(image.mode == "RGB" for image in images)
        shares.append(
            [
                sum(image.format == "PNG" for image in images) / num,
                sum(image.width > image.height for image in images) / num,
                sum(image.width < image.height for image in images) / num,
                sum(image.width * image.height > 150 * 150 for image in images) / num,
            ]
        )
        means.append(np.mean([np.asarray(image).mean(axis=(0, 1)) for image in images], axis=0))
    assert np.ptp(shares, axis=0).max() < 0.25  # three standard errors
    assert np.ptp(means, axis=0).max() < 25


def test_no_image_is_blank() -> None:
    neither = [(split, "neither", len(kinds_of_neither(split))) for split in ("train", "val")]
    for split, label, num in (*neither, *(("unseen", kind, 2) for kind in UNSEEN)):
        for index in range(num):
            assert np.asarray(decoded(split, label, index)).std() > 4


def test_val_and_test_hold_four_kinds_that_train_lacks_and_no_split_an_unseen_one() -> None:
    train, val, test = (kinds_of_neither(split) for split in ("train", "val", "test"))
    assert val == test
    held_out = set(val) - set(train)
    assert len(held_out) == 4
    assert sum(kind in held_out for kind in val) * 6 == len(val) == len(train)
    assert not {*train, *val} & set(UNSEEN.values())


def test_an_image_of_neither_shows_the_kinds_of_its_split(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def kinds(split: str) -> list[Callable[[Random], Sketch]]:
        def draw(rng: Random) -> Sketch:
            drawn.append(split)
            return draw_dog(rng)

        return [draw]

    monkeypatch.setattr(drawing, "kinds_of_neither", kinds)
    for split in ("train", "val"):
        draw_image(0, split, "neither", 5)
    assert drawn == ["train", "val"]


def test_pair_is_one_scene_by_seed_and_index() -> None:
    pair = draw_pair(0, 0)
    assert (pair.mode, pair.size) == ("RGB", (240, 180))
    assert pair.tobytes() == draw_pair(0, 0).tobytes()
    assert pair.tobytes() != draw_pair(0, 1).tobytes()
    assert pair.tobytes() != draw_pair(1, 0).tobytes()


def test_a_sketch_fills_the_box_it_is_painted_into() -> None:
    canvas = Image.new("RGB", (200, 200), (0, 255, 0))
    dog = draw_dog(Random("any"))  # noqa: S311 - no secrets here
    dog.grounded = False
    dog.paint(canvas, (50, 50, 150, 150), outline=0.0)
    ys, xs = np.nonzero((np.asarray(canvas) != (0, 255, 0)).any(axis=2))
    assert min(xs.min(), ys.min()) >= 45
    assert max(xs.max(), ys.max()) <= 155
    assert max(np.ptp(xs), np.ptp(ys)) >= 98
