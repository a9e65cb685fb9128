import json
from pathlib import Path

import pytest

from neither.runtime.errors import OutputError
from neither.runtime.files import is_complete, output_folder

NAME, RECORD = "record.json", {"version": 1, "kinds": ["a", "b"]}


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def make(folder: Path) -> None:
    with output_folder(folder, NAME, RECORD) as partial:
        (partial / "image").write_text("pixels")


def test_the_folder_exists_only_when_it_is_complete(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "folder"
    with output_folder(folder, NAME, RECORD) as partial:
        assert not folder.exists()
        assert partial.parent == folder.parent
        assert partial.name.startswith(".")
        (partial / "image").write_text("pixels")
    assert names(tmp_path / "deep") == ["folder", "folder/image", "folder/record.json"]
    assert json.loads((folder / NAME).read_text()) == RECORD


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("defect"), OutputError("told")])
def test_whatever_goes_wrong_leaves_nothing(tmp_path: Path, error: BaseException) -> None:

    def fail_halfway() -> None:
        with output_folder(tmp_path / "folder", NAME, RECORD) as partial:
            (partial / "image").write_text("half")
            raise error

    with pytest.raises(type(error)) as caught:
        fail_halfway()
    assert caught.value is error
    assert names(tmp_path) == []


def test_a_full_disk_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    full = OSError(28, "No space left on device", "somewhere/image")
    with (
        pytest.raises(OutputError, match=r"^somewhere/image: No space left on device"),
        output_folder(tmp_path / "folder", NAME, RECORD),
    ):
        raise full
    assert names(tmp_path) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        make(tmp_path / "file" / "folder")


def test_the_current_folder_can_be_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    make(Path())
    assert names(tmp_path) == ["here", "here/image", "here/record.json"]
    assert names(Path()) == ["image", "record.json"]  # not a folder that took its place
    assert is_complete(Path(), NAME, RECORD)


def test_somebody_elses_folder_made_meanwhile_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "folder"

    def fill_slowly() -> None:
        with output_folder(folder, NAME, RECORD):
            folder.mkdir()
            (folder / "mine.txt").write_text("precious")

    with pytest.raises(OutputError):
        fill_slowly()
    assert names(tmp_path) == ["folder", "folder/mine.txt"]


def test_a_missing_or_empty_folder_is_not_finished(tmp_path: Path) -> None:
    assert not is_complete(tmp_path / "folder", NAME, RECORD)
    (tmp_path / "folder").mkdir()
    assert not is_complete(tmp_path / "folder", NAME, RECORD)


def test_a_finished_folder_is_known_by_its_record(tmp_path: Path) -> None:
    make(tmp_path / "folder")
    assert is_complete(tmp_path / "folder", NAME, RECORD)
    assert is_complete(tmp_path / "folder", NAME, {"version": 1})
    (tmp_path / "link").symlink_to("folder")
    assert is_complete(tmp_path / "link", NAME, RECORD)
    for other in ({"version": 2}, {"mode": "links"}):
        with pytest.raises(OutputError, match="exists already"):
            is_complete(tmp_path / "folder", NAME, other)


@pytest.mark.parametrize("record", [None, "{}", "[]", "not json", '{"version": 1}'])
def test_a_folder_of_others_is_refused(tmp_path: Path, record: str | None) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "mine.txt").write_text("precious")
    if record is not None:
        (folder / NAME).write_text(record)
    with pytest.raises(OutputError, match="exists already"):
        is_complete(folder, NAME, RECORD)
    assert (folder / "mine.txt").read_text() == "precious"


def test_a_file_or_a_link_to_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    for name in ("file", "link"):
        with pytest.raises(OutputError, match="exists already"):
            is_complete(tmp_path / name, NAME, RECORD)
