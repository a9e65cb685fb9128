import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from hostile import photo
from images import encode
from neither.data.dataset_report import (
    InspectedFile,
    find_shortcuts,
    inspect_images,
    predict_from_metadata,
    report_dataset,
)
from neither.data.fingerprints import FINGERPRINT, KNOWN_FORMATS, ImageFlag
from neither.data.layout import find_all_images
from neither.runtime.errors import DataError, UsageError

SPLITS = ("train", "val", "test")
LABELS = ("dog", "human", "neither")
NUM = 5  # images of each class and split


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make a folder without problems, small enough to be decoded in this process."""
    number = 0
    for split in SPLITS:
        for label in LABELS:
            (tmp_path / "photos" / split / label).mkdir(parents=True)
            for _ in range(NUM):
                number += 1
                path = tmp_path / "photos" / split / label / f"{number:03}.png"
                photo(number).save(path)
    return tmp_path / "photos"


def put(root: Path, path: str, content: bytes) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(content)


def test_a_folder_without_problems_has_no_errors_and_no_warnings(root: Path) -> None:
    report = report_dataset(root)
    assert (report["errors"], report["warnings"]) == ([], [])
    assert report["counts"] == {split: dict.fromkeys(LABELS, NUM) for split in SPLITS}
    assert report["classes"] == list(LABELS)
    assert (report["num_images"], report["num_unreadable"]) == (9 * NUM, 0)
    assert report["formats"] == {"PNG": 9 * NUM}
    assert report["modes"] == {"RGB": 9 * NUM}
    assert report["short_side"] == {"min": 120, "median": 120, "max": 120}
    assert report["long_side"] == {"min": 160, "median": 160, "max": 160}
    for key in ("unreadable", "exact_duplicates", "near_duplicates", "dark", "single_color"):
        assert report[key] == [], key
    assert json.loads(json.dumps(report)) == report


def test_dark_blurred_and_single_color_images_are_named(root: Path) -> None:
    dark = photo(300).point(lambda value: value // 6)
    put(root, "train/dog/dark.png", encode(dark, "PNG"))
    put(root, "train/dog/red.png", encode(Image.new("RGB", (90, 90), "red"), "PNG"))
    blurred = photo(301).resize((400, 300)).filter(ImageFilter.GaussianBlur(9))
    put(root, "train/dog/blurred.png", encode(blurred, "PNG"))
    report = report_dataset(root)
    assert report["dark"] == ["train/dog/dark.png"]
    assert report["single_color"] == ["train/dog/red.png"]
    assert "train/dog/blurred.png" in report["blurred"]
    assert "train/dog/red.png" not in report["blurred"]


def test_duplicates_are_grouped_and_reported_across_splits_and_classes(root: Path) -> None:
    first = sorted((root / "train" / "dog").iterdir())[0]
    put(root, "test/dog/copy.png", first.read_bytes())
    with Image.open(first) as image:
        put(root, "val/human/twin.jpg", encode(image, "JPEG", quality=70))
    report = report_dataset(root)
    copies = [f"train/dog/{first.name}", "test/dog/copy.png"]
    (exact,) = report["exact_duplicates"]
    assert (sorted(exact["paths"]), exact["splits"]) == (sorted(copies), ["test", "train"])
    (near,) = report["near_duplicates"]
    assert sorted(near["paths"]) == sorted([*copies, "val/human/twin.jpg"])
    assert near["labels"] == ["dog", "human"]
    assert len(report["warnings"]) == 5  # both groups; in several splits; in several classes
    assert report["errors"] == []


def errors(root: Path) -> str:
    return "\n".join(report_dataset(root)["errors"])


def test_all_errors_are_reported_together(root: Path) -> None:
    for number in range(3):
        put(root, f"train/dog/bad{number}.jpg", b"no image")
    for path in (root / "val" / "human").iterdir():
        path.unlink()
    message = errors(root)
    assert "3 of 43 images are unreadable" in message
    assert "the folder of class human holds no images" in message


def test_the_same_bytes_in_two_classes_are_an_error(root: Path) -> None:
    first = sorted((root / "train" / "dog").iterdir())[0]
    put(root, "train/human/copy.png", first.read_bytes())
    assert "the same bytes as one of another class" in errors(root)


def test_a_class_of_only_one_split_is_an_error(root: Path) -> None:
    put(root, "val/Dog/a.png", encode(photo(400), "PNG"))
    report = report_dataset(root)
    assert "class Dog" in "\n".join(report["errors"])
    assert any("classes Dog and dog" in warning for warning in report["warnings"])


def test_a_folder_of_one_class_or_none_is_an_error(root: Path) -> None:
    assert "want two classes or more" in errors(root / "train" / "dog")
    assert report_dataset(root / "train" / "dog")["counts"] == {"all": {"unlabelled": NUM}}
    for label in ("human", "neither"):
        for path in (root / "train" / label).iterdir():
            path.unlink()
        (root / "train" / label).rmdir()
    assert "want two classes or more" in errors(root / "train")


@pytest.mark.fault("D34")
def test_a_format_that_predicts_a_class_is_a_warning(root: Path) -> None:
    for path in sorted(root.glob("*/dog/*.png")):
        with Image.open(path) as image:
            image.save(path.with_suffix(".jpg"), quality=95)
        path.unlink()
    report = report_dataset(root)
    assert any("class dog is predictable from metadata" in each for each in report["warnings"])
    assert report["macro_recall_from_metadata"] > 0.6


def test_a_manifest_is_checked_like_a_folder(root: Path) -> None:
    rows = [f"{path.relative_to(root)},{path.parent.name},{path.parent.parent.name}\n"
            for path in sorted(root.rglob("*.png"))]  # fmt: skip
    manifest = root.parent / "list.csv"
    manifest.write_text("path,label,split\n" + "".join(f"photos/{row}" for row in rows))
    report = report_dataset(manifest)
    assert report["counts"] == {split: dict.fromkeys(LABELS, NUM) for split in SPLITS}
    assert (report["errors"], report["warnings"]) == ([], [])
    (root / rows[0].partition(",")[0]).unlink()
    assert "1 of 45 images are unreadable" in errors(manifest)
    assert report_dataset(manifest)["unreadable"][0]["reason"] == "no such file or directory"


def test_a_source_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        report_dataset(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no images here"):
        report_dataset(tmp_path)


@pytest.fixture
def few(tmp_path: Path) -> Path:
    for number in range(3):
        for label in ("dog", "human"):
            (tmp_path / label).mkdir(exist_ok=True)
            photo(10 * number + len(label)).save(tmp_path / label / f"{number}.png")
    return tmp_path


def inspect(root: Path) -> dict[str, InspectedFile]:
    table = find_all_images(root)
    return dict(zip(table.paths, inspect_images(table), strict=True))


def test_sharpness_falls_with_blur_and_spread_with_contrast(few: Path) -> None:
    random = np.random.default_rng(0)
    sharp = Image.fromarray(random.integers(0, 256, (200, 200, 3), dtype=np.uint8))
    for radius in (0, 1, 2, 4):
        sharp.filter(ImageFilter.GaussianBlur(radius)).save(few / "dog" / f"blur {radius}.png")
    Image.new("RGB", (40, 40), "red").save(few / "dog" / "red.png")
    files = inspect(few)
    falling = [files[f"dog/blur {radius}.png"].sharpness for radius in (0, 1, 2, 4)]
    assert falling == sorted(falling, reverse=True)
    assert falling[0] > 1000 > 12 > falling[3]
    assert files["dog/red.png"].spread == 0


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 900), (900, 1), (3, 3)])
def test_the_smallest_images_have_no_sharpness(few: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, "red").save(few / "dog" / "tiny.png")
    files = inspect(few)
    assert files["dog/tiny.png"].sharpness == 0


def test_a_large_jpeg_is_decoded_at_full_size(few: Path) -> None:
    x, y = np.indices((1600, 1600))
    stripes = np.where((x // 8 + y // 8) % 2, 255, 0).astype(np.uint8)
    Image.fromarray(stripes).convert("RGB").save(few / "dog" / "large.jpg", quality=90)
    files = inspect(few)
    assert files["dog/large.jpg"].spread > 100


LABEL_OF_EACH = np.array(["dog", "human", "neither"] * 100)
RGB = np.array(["RGB"] * 3000)


def unrelated_fingerprints(num: int, seed: int = 0) -> NDArray[np.void]:
    """Make fingerprints without a relation between traits and classes."""
    random = np.random.default_rng(seed)
    records = np.zeros(num, FINGERPRINT)
    records["sha256"] = random.integers(1, 256, (num, 32))
    records["width"] = random.integers(100, 1000, num)
    records["height"] = random.integers(100, 1000, num)
    records["format"] = random.integers(0, 2, num)
    return records


def traits(
    records: NDArray[np.void], labels: NDArray[np.str_], modes: NDArray[np.str_] = RGB
) -> set[str]:
    shortcuts = find_shortcuts(records, modes[: len(labels)], labels)
    return {f"{each.label}: {each.trait}" for each in shortcuts}


@pytest.mark.parametrize("seed", range(9))
def test_unrelated_traits_are_no_shortcuts(seed: int) -> None:
    records = unrelated_fingerprints(300, seed)
    assert find_shortcuts(records, RGB[:300], LABEL_OF_EACH) == []
    assert predict_from_metadata(records, RGB[:300], LABEL_OF_EACH) < 0.45


def test_a_class_of_another_format_is_a_shortcut() -> None:
    records = unrelated_fingerprints(300)
    records["format"] = LABEL_OF_EACH == "dog"
    first = find_shortcuts(records, RGB[:300], LABEL_OF_EACH)[0]
    assert first == ("dog", KNOWN_FORMATS[1], 1.0, 0.0, 1.0)
    recall = predict_from_metadata(records, RGB[:300], LABEL_OF_EACH)
    assert recall == pytest.approx(2 / 3, abs=0.12)
    assert find_shortcuts(records[:9], RGB[:9], np.array(["dog"] * 9)) == []


def test_size_shape_grayscale_and_mode_are_traits() -> None:
    human = LABEL_OF_EACH == "human"
    records = unrelated_fingerprints(300)
    records["width"][human] //= 4
    assert {"human: taller than wide", "human: short side under"} <= {
        name.partition(" 1")[0].partition(" 2")[0] for name in traits(records, LABEL_OF_EACH)
    }
    records = unrelated_fingerprints(300)
    records["flags"][human] = ImageFlag.GRAYSCALE
    assert traits(records, LABEL_OF_EACH) == {"human: grayscale"}
    modes = np.where(human, "L", "RGB")
    assert "human: mode L" in traits(unrelated_fingerprints(300), LABEL_OF_EACH, modes)
    records = unrelated_fingerprints(300)
    records["width"][human] = records["height"][human]
    assert "human: exactly square" in traits(records, LABEL_OF_EACH)


def test_a_difference_must_be_significant() -> None:
    records = unrelated_fingerprints(30)
    records["flags"][:2] = ImageFlag.GRAYSCALE  # two of ten dogs
    labels = np.repeat(["dog", "human"], [10, 20])
    assert "dog: grayscale" not in traits(records, labels)
    records = unrelated_fingerprints(3000)
    records["flags"][:90] = ImageFlag.GRAYSCALE  # of 1,000
    records["flags"][1000:1030] = ImageFlag.GRAYSCALE  # of 2,000
    assert "human: grayscale" in traits(records, np.repeat(["human", "dog"], [1000, 2000]))


def test_images_are_predicted_from_other_folds() -> None:
    """Every image has its own size, which would predict it perfectly in its own fold."""
    records = unrelated_fingerprints(90)
    records["width"] = 2 ** np.arange(90 // 3).repeat(3)[:90] % 2**31
    records["height"] = records["width"]
    assert predict_from_metadata(records, RGB[:90], LABEL_OF_EACH[:90]) < 0.5
