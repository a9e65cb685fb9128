import json
from pathlib import Path

import pytest

from hostile import photo
from images import encode
from scripts import run_script


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for place, label in enumerate(("dog", "neither")):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(60):
            photo(100 * place + number).save(tmp_path / "photos" / label / f"{number}.png")
    return tmp_path / "photos"


def test_a_sound_folder_ends_with_0_and_a_table(root: Path) -> None:
    done = run_script("check_data", root)
    assert done.returncode == 0, done.stderr
    assert "120" in done.stdout
    assert "unreadable files: none" in done.stdout
    assert "error" not in done.stderr


def test_json_is_all_that_stands_on_standard_output(root: Path) -> None:
    (root / "dog" / "copy.png").write_bytes((root / "dog" / "7.png").read_bytes())
    done = run_script("check_data", root, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["num_images"] == 121
    assert "2 images with the same bytes" in done.stderr


def test_what_stops_training_ends_with_3_and_is_said(root: Path) -> None:
    for number in range(4):
        (root / "dog" / f"{number}.png").write_bytes(b"")
    done = run_script("check_data", root)
    assert done.returncode == 3
    assert "4 of 120 images are unreadable" in done.stderr
    assert done.stdout.count("empty file") == 4


def test_long_lists_are_cut_and_unreadable_files_are_not(root: Path) -> None:
    for number in range(30):
        (root / "dog" / f"{number}.png").write_bytes(b"")
        content = encode(
            photo(7).point(lambda value: value // 20), "PNG", compress_level=number % 9
        )
        (root / "neither" / f"{number}.png").write_bytes(content + bytes(number))
    done = run_script("check_data", root)
    assert done.stdout.count("empty file") == 30
    assert "and 20 more; --json lists all" in done.stdout


def test_a_path_that_does_not_exist_ends_with_2(tmp_path: Path) -> None:
    done = run_script("check_data", tmp_path / "nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_the_console_command_knows_it() -> None:
    from neither.cli.main import _COMMANDS

    assert "check_data" in _COMMANDS


def test_odd_names_do_not_drive_the_terminal(root: Path) -> None:
    (root / "dog" / "a\x1b[31m\nb.png").write_bytes(b"")
    done = run_script("check_data", root)
    assert "\x1b" not in done.stdout + done.stderr
    assert "a\\x1b[31m\\nb.png: empty file" in done.stdout
