from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from hostile import photo
from neither.data.dataset_report import Inspection, inspect_images
from neither.data.fingerprints import ImageFlag
from neither.data.layout import find_all_images

Draw = Callable[..., Path]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(3):
        for label in ("dog", "human"):
            (tmp_path / label).mkdir(exist_ok=True)
            photo(10 * number + len(label)).save(tmp_path / label / f"{number}.png")
    return tmp_path


def inspect(root: Path) -> tuple[dict[str, int], Inspection]:
    found = find_all_images(root)
    return {path: place for place, path in enumerate(found.paths)}, inspect_images(found)


def test_each_image_has_its_facts_mode_and_figures(root: Path) -> None:
    photo(50).convert("L").save(root / "dog" / "grey.png")
    places, seen = inspect(root)
    grey = places["dog/grey.png"]
    assert seen.modes[grey] == "L"
    assert seen.store.fingerprints["flags"][grey] & ImageFlag.GRAYSCALE
    assert {seen.modes[place] for path, place in places.items() if path != "dog/grey.png"} == {
        "RGB"
    }
    assert (seen.store.fingerprints["width"] == 160).all()
    assert (seen.spread > 10).all()
    assert seen.store.is_readable.all()


def test_a_bad_file_has_a_reason_and_stands_in_its_place(root: Path) -> None:
    (root / "dog" / "1.png").write_bytes((root / "dog" / "2.png").read_bytes()[:-200])
    places, seen = inspect(root)
    bad = places["dog/1.png"]
    assert list(seen.store.reasons) == [bad]
    assert not seen.store.is_readable[bad]
    assert (seen.store.fingerprints["width"][bad], seen.modes[bad]) == (0, "")
    others = [place for place in places.values() if place != bad]
    assert (seen.store.fingerprints["width"][others] == 160).all()
    assert len(np.unique(seen.store.fingerprints["sha256"], axis=0)) == len(places)


def test_sharpness_falls_with_blur_and_spread_with_contrast(root: Path) -> None:
    random = np.random.default_rng(0)
    sharp = Image.fromarray(random.integers(0, 256, (200, 200, 3), dtype=np.uint8))
    for radius in (0, 1, 2, 4):
        sharp.filter(ImageFilter.GaussianBlur(radius)).save(root / "dog" / f"blur {radius}.png")
    Image.new("RGB", (40, 40), "red").save(root / "dog" / "red.png")
    places, seen = inspect(root)
    falling = [seen.sharpness[places[f"dog/blur {radius}.png"]] for radius in (0, 1, 2, 4)]
    assert falling == sorted(falling, reverse=True)
    assert falling[0] > 1000 > 12 > falling[3]
    assert seen.spread[places["dog/red.png"]] == 0


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 900), (900, 1), (3, 3)])
def test_the_smallest_images_have_figures_too(root: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, "red").save(root / "dog" / "tiny.png")
    places, seen = inspect(root)
    assert seen.sharpness[places["dog/tiny.png"]] == 0


def test_a_large_jpeg_is_decoded_fully(root: Path) -> None:
    """Read at an eighth of its size, this would look smooth."""
    x, y = np.indices((1600, 1600))
    stripes = np.where((x // 8 + y // 8) % 2, 255, 0).astype(np.uint8)
    Image.fromarray(stripes).convert("RGB").save(root / "dog" / "large.jpg", quality=90)
    places, seen = inspect(root)
    assert seen.spread[places["dog/large.jpg"]] > 100
