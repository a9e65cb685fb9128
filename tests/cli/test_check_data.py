import json
import shutil
from hashlib import sha256
from pathlib import Path

import pytest

from calls import Call
from images import draw_shape
from neither.data.corrections import DROPPED, Answer, AnswerFile


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for start, label in ((0, "dog"), (100, "neither")):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(60):
            image = draw_shape(label, start + number)
            image.save(tmp_path / "photos" / label / f"{number}.png")
    return tmp_path / "photos"


def test_a_folder_without_problems_exits_0(call: Call, root: Path) -> None:
    done = call("check_data", root)
    assert done.code == 0, done.err
    assert "120" in done.out
    assert "unreadable files: none" in done.out
    assert "error" not in done.err
    (root / "dog" / "copy.png").write_bytes((root / "dog" / "7.png").read_bytes())
    done = call("check_data", root, "--json")
    assert done.code == 0
    assert json.loads(done.out)["num_images"] == 121
    assert "warning: " in done.err


def test_unreadable_files_exit_3_and_are_all_listed(call: Call, root: Path) -> None:
    for number in range(30):
        (root / "dog" / f"{number}.png").write_bytes(b"")
        content = (root / "neither" / "31.png").read_bytes()
        (root / "neither" / f"{number}.png").write_bytes(content + bytes(number))
    (root / "dog" / "a\x1b[31m\nb.png").write_bytes(b"")
    done = call("check_data", root)
    assert done.code == 3
    assert "31 of 121 images are unreadable" in done.err
    assert done.out.count("empty file") == 31
    assert "a\\x1b[31m\\nb.png: empty file" in done.out
    assert "\x1b" not in done.out + done.err


def test_long_lists_are_cut(call: Call, root: Path) -> None:
    for number in range(30):
        black = draw_shape("neither", 100 + number).point(lambda value: value // 20)
        black.save(root / "neither" / f"{number}.png")
    assert "and 20 more; --json lists all" in call("check_data", root).out


def test_images_are_counted_by_class_and_source(call: Call, root: Path) -> None:
    done = call("check_data", root, "--sources", "([0-9])[.]", "--json")
    assert done.code == 0
    sources = json.loads(done.out)["sources"]
    assert sources == {str(digit): {"dog": 6, "neither": 6} for digit in range(10)}
    assert "source" not in done.err
    done = call("check_data", root, "--sources", "(dog|neither)/1")
    assert "readable images by source" in done.out
    assert "2 of 2 sources give their class away" in done.err
    assert json.loads(call("check_data", root, "--json").out)["sources"] == {}
    many = call("check_data", root, "--sources", "/([0-9]+)")
    assert "and 40 more; --json lists all" in many.out


def test_corrections_are_counted_and_dropped_images_no_duplicates(call: Call, root: Path) -> None:
    review = root.with_name("corrections.csv")
    files = [root / "dog" / "1.png", root / "dog" / "2.png", root / "neither" / "1.png"]
    shutil.copy(files[0], root / "dog" / "copy.png")
    labels = (DROPPED, "neither", "neither")
    answers = [Answer(sha256(file.read_bytes()).hexdigest(), "", "", label, "unsure")
               for file, label in zip(files, labels, strict=True)]  # fmt: skip
    AnswerFile(review, ("dog", "neither")).append(answers)
    done = call("check_data", root, "--json", "--corrections", review)
    report = json.loads(done.out)
    assert done.code == 0, done.err
    assert report["counts"] == {"all": {"dog": 58, "neither": 61}}
    assert report["dropped_in_review"] == ["dog/1.png", "dog/copy.png"]
    assert report["exact_duplicates"] == report["near_duplicates"] == []
    review.write_text(review.read_text().replace(",neither,unsure", ",cat,unsure"))
    done = call("check_data", root, "--corrections", review)
    assert (done.code, done.err.count("\n")) == (3, 1)


@pytest.mark.parametrize(("pattern", "code"), [("(", 2), ("(cam)", 0)])
def test_a_wrong_pattern_of_sources(call: Call, root: Path, pattern: str, code: int) -> None:
    done = call("check_data", root, "--sources", pattern)
    assert done.code == code
    assert "sources: " in done.err
    assert "Traceback" not in done.err
