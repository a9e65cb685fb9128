from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageFilter

from hostile import exif, photo
from images import encode
from neither.data.dataset_report import report_dataset
from neither.runtime.errors import DataError, UsageError

SPLITS = ("train", "val", "test")
LABELS = ("dog", "human", "neither")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make a sound folder with splits."""
    number = 0
    for split in SPLITS:
        for label in LABELS:
            (tmp_path / "photos" / split / label).mkdir(parents=True)
            for _ in range(7):
                number += 1
                path = tmp_path / "photos" / split / label / f"{number:03}.png"
                photo(number).save(path)
    return tmp_path / "photos"


def put(root: Path, path: str, content: bytes) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(content)


def test_a_sound_folder_has_no_errors_and_no_warnings(root: Path) -> None:
    report = report_dataset(root)
    assert (report["errors"], report["warnings"]) == ([], [])
    assert report["counts"] == {split: dict.fromkeys(LABELS, 7) for split in SPLITS}
    assert report["classes"] == list(LABELS)
    assert (report["num_images"], report["num_unreadable"]) == (63, 0)
    assert report["formats"] == {"PNG": 63}
    assert report["modes"] == {"RGB": 63}
    assert report["short_side"] == {"min": 120, "median": 120, "max": 120}
    assert report["long_side"] == {"min": 160, "median": 160, "max": 160}
    for key in ("unreadable", "exact_duplicates", "near_duplicates", "dark", "single_color"):
        assert report[key] == [], key


def test_a_folder_without_splits_is_counted_as_one(root: Path) -> None:
    report = report_dataset(root / "train")
    assert report["counts"] == {"all": dict.fromkeys(LABELS, 7)}


def test_what_is_odd_about_images_is_counted(root: Path) -> None:
    put(root, "train/dog/a.jpg", encode(photo(200), "JPEG", exif=exif(6)))
    put(root, "train/dog/b.jpg", encode(photo(201), "JPEG", exif=exif(42)))
    put(root, "train/dog/c.gif", encode(photo(202), "GIF", save_all=True,
                                        append_images=[photo(203)]))  # fmt: skip
    put(root, "train/dog/d.png", encode(photo(204).convert("L"), "PNG"))
    put(root, "train/dog/e.heic", b"\0\0\0\x18ftypheic" + bytes(40))
    put(root, "train/dog/f.avif", b"x")
    put(root, "train/dog/.hidden.jpg", b"x")
    report = report_dataset(root)
    assert (report["exif_rotated"], report["exif_invalid"], report["animated"]) == (1, 1, 1)
    assert report["grayscale"] == 1
    assert report["formats"] == {"PNG": 64, "JPEG": 2, "GIF": 1}
    assert report["other_files"] == {".avif": 1}
    assert report["num_hidden"] == 1
    assert [each["path"] for each in report["unreadable"]] == ["train/dog/e.heic"]


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


def test_copies_are_grouped_and_told_across_splits_and_classes(root: Path) -> None:
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
    said = " ".join(report["warnings"])
    assert "2 images with the same bytes, in 1 groups" in said
    assert "1 groups of images that are near-duplicates are in several classes" in said
    assert report["errors"] == []


def errors(root: Path) -> str:
    return "\n".join(report_dataset(root)["errors"])


def test_all_that_stops_training_is_an_error_at_once(root: Path) -> None:
    for number in range(3):
        put(root, f"train/dog/bad{number}.jpg", b"no picture")
    for path in (root / "val" / "human").iterdir():
        path.unlink()
    said = errors(root)
    assert "3 of 59 images are unreadable" in said
    assert "the folder of class human holds no images" in said


def test_the_same_bytes_in_two_classes_are_an_error(root: Path) -> None:
    first = sorted((root / "train" / "dog").iterdir())[0]
    put(root, "train/human/copy.png", first.read_bytes())
    assert "the same bytes as one of another class" in errors(root)


def test_a_class_that_only_one_split_has_is_an_error(root: Path) -> None:
    put(root, "val/Dog/a.png", encode(photo(400), "PNG"))
    said = report_dataset(root)
    assert "folder Dog" in "\n".join(said["errors"]) or "no folder for class Dog" in "\n".join(
        said["errors"]
    )
    assert any("classes Dog and dog" in warning for warning in said["warnings"])


def test_a_folder_of_one_class_or_none_is_an_error(root: Path) -> None:
    assert "want two classes or more" in errors(root / "train" / "dog")
    assert report_dataset(root / "train" / "dog")["counts"] == {"all": {"unlabelled": 7}}
    for label in ("human", "neither"):
        for path in (root / "train" / label).iterdir():
            path.unlink()
        (root / "train" / label).rmdir()
    assert "want two classes or more" in errors(root / "train")


def test_a_format_that_gives_a_class_away_is_a_warning(root: Path) -> None:
    for path in sorted(root.glob("*/dog/*.png")):
        with Image.open(path) as image:
            image.save(path.with_suffix(".jpg"), quality=95)
        path.unlink()
    report = report_dataset(root)
    assert (
        "class dog is predictable from metadata: 100 % of it is JPEG, and 0 % of the others"
        in report["warnings"]
    )
    assert report["macro_recall_from_metadata"] > 0.6


def test_a_manifest_is_checked_like_a_folder(root: Path) -> None:
    rows = [f"{path.relative_to(root)},{path.parent.name},{path.parent.parent.name}\n"
            for path in sorted(root.rglob("*.png"))]  # fmt: skip
    manifest = root.parent / "list.csv"
    manifest.write_text("path,label,split\n" + "".join(f"photos/{row}" for row in rows))
    report = report_dataset(manifest)
    assert report["counts"] == {split: dict.fromkeys(LABELS, 7) for split in SPLITS}
    assert (report["errors"], report["warnings"]) == ([], [])
    (root / rows[0].partition(",")[0]).unlink()
    assert "1 of 63 images are unreadable" in errors(manifest)
    assert report_dataset(manifest)["unreadable"][0]["reason"] == "no such file or directory"


def test_nothing_to_check_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        report_dataset(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no images here"):
        report_dataset(tmp_path)


def test_the_report_is_plain_data(root: Path) -> None:
    import json

    report: dict[str, Any] = report_dataset(root)
    assert json.loads(json.dumps(report)) == report
