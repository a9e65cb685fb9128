import os
import signal
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neither.data import cache, decode, store, workers
from neither.data.decode import DecodedFile, decode_file_with_traits
from neither.data.fingerprints import compute_fingerprints
from neither.data.image_file import UnreadableError
from neither.data.preprocessing import Preprocessing
from neither.data.store import ImageStore, build_store
from neither.runtime import signals
from neither.runtime.errors import DataError, OutputError
from neither.runtime.signals import Stopped

Draw = Callable[..., Path]
SMALL = Preprocessing(8)
NAMES = [f"{number}.png" for number in range(6)]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/neither/images"


@pytest.fixture
def photos(tmp_path: Path, draw: Draw) -> Path:
    for number, name in enumerate(NAMES):
        draw(tmp_path / "photos" / name, number)
    return tmp_path / "photos"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were decoded, one after the other."""
    names: list[str] = []

    def spy(path: Path, preprocessing: Preprocessing) -> DecodedFile:
        names.append(path.name)
        return decode_file_with_traits(path, preprocessing)

    monkeypatch.setattr(store, "decode_file_with_traits", spy)
    return names


def build(
    photos: Path, names: list[str], preprocessing: Preprocessing = SMALL, max_unreadable: float = 1
) -> ImageStore:
    spare = photos.parent / "spare"
    return build_store(photos, names, photos, preprocessing, spare, max_unreadable)


def check(
    built: ImageStore, photos: Path, names: list[str], preprocessing: Preprocessing = SMALL
) -> None:
    """Demand for each file what decoding it alone gives."""
    assert len(built.rows) == len(built.fingerprints) == len(names)
    for place, name in enumerate(names):
        alone = decode_file_with_traits(photos / name, preprocessing)
        assert built.reasons.get(place, "") == alone.reason
        assert built.fingerprints["sha256"][place].tobytes() == alone.sha256.ljust(32, b"\0")
        if alone.pixels is None or alone.traits is None:
            assert built.rows[place] < 0
        else:
            assert np.array_equal(built.pixels[built.rows[place]], alone.pixels)
            assert (
                built.fingerprints[place] == compute_fingerprints([alone.traits], [alone.sha256])[0]
            )


# What is built


def test_each_image_has_its_own_pixels_and_facts_in_the_order_of_the_paths(photos: Path) -> None:
    (photos / "bad.jpg").write_bytes(b"no picture")
    (photos / "empty.jpg").touch()
    names = ["3.png", "bad.jpg", "gone.jpg", *NAMES[:3], "empty.jpg", "5.png", "4.png"]
    built = build(photos, names)
    check(built, photos, names)
    assert built.pixels.dtype == np.uint8
    assert built.pixels.shape[1:] == (8, 8, 3)
    assert len(set(built.rows[built.rows >= 0].tolist())) == 6
    assert built.reasons[2] == "no such file or directory"
    assert built.reasons[6] == "empty file"
    assert sorted(built.reasons) == [1, 2, 6]
    assert built.fingerprints["sha256"][1].tobytes() == sha256(b"no picture").digest()
    assert not built.fingerprints["sha256"][2].any()
    check(build(photos, names), photos, names)


def test_no_paths_and_no_readable_paths_give_an_empty_store(photos: Path) -> None:
    for _ in range(2):
        assert build(photos, []).pixels.shape[1:] == (8, 8, 3)
        built = build(photos, ["gone.jpg"])
        assert built.pixels.shape[1:] == (8, 8, 3)
        assert built.reasons == {0: "no such file or directory"}


def test_a_path_that_is_named_twice_is_there_twice(photos: Path) -> None:
    for _ in range(2):
        check(build(photos, ["1.png", "2.png", "1.png"]), photos, ["1.png", "2.png", "1.png"])


@pytest.mark.fault("R22")
def test_many_images_are_decoded_in_processes_in_order(
    tmp_path: Path, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "num_cores", lambda: 2)
    names = [f"{number % 3}/{number}.png" for number in range(300)]
    for number, name in enumerate(names):
        draw(tmp_path / "photos" / name, number)
    for number in range(0, 300, 70):
        (tmp_path / "photos" / names[number]).write_bytes(b"no picture")
    check(build(tmp_path / "photos", names), tmp_path / "photos", names)


def snapshot(folder: Path) -> dict[str, tuple[int, ...]]:
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns, path.stat().st_ctime_ns)
        for path in [folder, *folder.rglob("*")]
    }


def test_nothing_is_written_among_the_images(photos: Path, home: Path) -> None:
    before = snapshot(photos)
    build(photos, NAMES)
    assert snapshot(photos) == before
    assert len(list(home.iterdir())) == 1
    assert not (photos.parent / "spare").exists()


# What is decoded again


def test_a_second_build_decodes_nothing(photos: Path, decoded: list[str]) -> None:
    (photos / "bad.jpg").write_bytes(b"no picture")
    names = ["bad.jpg", *NAMES]
    first = build(photos, names)
    assert sorted(decoded) == sorted(names)
    decoded.clear()
    for order in (names, names[::-1], names[2:5]):
        check(build(photos, order), photos, order)
    assert decoded == []
    assert len(first.pixels) == len(names)


def test_images_that_were_added_are_decoded_and_no_others(
    photos: Path, draw: Draw, decoded: list[str]
) -> None:
    build(photos, NAMES[1:])
    decoded.clear()
    draw(photos / "new.png", 99)
    names = ["new.png", *NAMES]
    check(build(photos, names), photos, names)
    assert sorted(decoded) == ["0.png", "new.png"]


def test_a_changed_image_is_decoded_anew_and_no_other(photos: Path, decoded: list[str]) -> None:
    paths = [photos / name for name in NAMES]
    size = max(path.stat().st_size for path in paths)
    for path in paths:  # PNG does not mind what comes behind it
        path.write_bytes(path.read_bytes().ljust(size, b"\0"))
        os.utime(path, (1, 1))
    build(photos, NAMES)
    decoded.clear()
    status = paths[2].stat()
    with paths[2].open("r+b") as file:
        file.write(paths[3].read_bytes())
    os.utime(paths[2], (1, 1))
    after = paths[2].stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (
        status.st_size, status.st_mtime_ns, status.st_ino,
    )  # fmt: skip
    built = build(photos, NAMES)
    check(built, photos, NAMES)
    assert np.array_equal(built.pixels[built.rows[2]], built.pixels[built.rows[3]])
    assert decoded == ["2.png"]


def test_files_that_change_names_do_not_change_pixels(photos: Path) -> None:
    build(photos, NAMES)
    (photos / "0.png").rename(photos / "tmp")
    (photos / "1.png").rename(photos / "0.png")
    (photos / "tmp").rename(photos / "1.png")
    check(build(photos, NAMES), photos, NAMES)


@pytest.mark.parametrize("other", [Preprocessing(9), Preprocessing(8, "pad")])
def test_another_way_to_decode_has_pixels_of_its_own(
    photos: Path, decoded: list[str], other: Preprocessing
) -> None:
    build(photos, NAMES)
    check(build(photos, NAMES, other), photos, NAMES, other)
    assert len(decoded) == 2 * len(NAMES)
    check(build(photos, NAMES), photos, NAMES)
    check(build(photos, NAMES, other), photos, NAMES, other)
    assert len(decoded) == 2 * len(NAMES)


def test_pixels_from_before_a_change_are_dropped_and_readers_keep_theirs(
    photos: Path, home: Path, draw: Draw, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    monkeypatch.setattr(cache, "_SLACK_ROWS", 1)
    first = build(photos, NAMES)
    before = first.pixels.copy()
    for turn in range(1, 4):
        for number, name in enumerate(NAMES):
            draw(photos / name, 100 * turn + number)
        decoded.clear()
        check(build(photos, NAMES), photos, NAMES)
        assert decoded == NAMES
        (pixels,) = home.glob("*/pixels-*")
        assert pixels.stat().st_size <= (2 * len(NAMES) + 1) * 8 * 8 * 3
    assert np.array_equal(first.pixels, before)


def test_runs_on_parts_of_a_folder_do_not_drop_each_others_images(
    photos: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    monkeypatch.setattr(cache, "_SLACK_ROWS", 1)
    build(photos, NAMES)
    decoded.clear()
    for part in (NAMES[4:], NAMES[:1], NAMES):
        check(build(photos, part), photos, part)
    assert decoded == []


# What is not remembered


def test_a_file_that_was_gone_is_read_once_it_is_back(photos: Path) -> None:
    content = (photos / "1.png").read_bytes()
    (photos / "1.png").unlink()
    assert build(photos, NAMES).reasons == {1: "no such file or directory"}
    (photos / "1.png").write_bytes(content)
    check(build(photos, NAMES), photos, NAMES)


def failing(names: list[str], error: BaseException) -> Callable[[Path], bytes]:
    def read(path: Path) -> bytes:
        if path.name in names:
            raise error
        return path.read_bytes()

    return read


def test_a_file_that_could_not_be_read_is_tried_again(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        error = UnreadableError("permission denied")
        patch.setattr(decode, "read_file", failing(["1.png", "2.png"], error))
        assert build(photos, NAMES).reasons == {1: "permission denied", 2: "permission denied"}
    check(build(photos, NAMES), photos, NAMES)


def test_an_image_that_was_too_large_for_the_memory_is_tried_again(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(decode, "_load_upright", refuse)
        assert build(photos, NAMES[:1]).reasons == {0: "too large for the memory"}
    check(build(photos, NAMES), photos, NAMES)


def test_heic_is_read_as_soon_as_the_extra_is_installed(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pillow_heif
    from PIL import Image

    pillow_heif.from_pillow(Image.new("RGB", (64, 64), "red")).save(photos / "a.heic")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pillow_heif", None)
        assert "pip install 'neither[heic]'" in build(photos, ["a.heic"]).reasons[0]
    built = build(photos, ["a.heic"])
    assert built.reasons == {}
    check(built, photos, ["a.heic"])


# Too many that are unreadable


def damage(photos: Path, *names: str) -> None:
    for name in names:
        (photos / name).write_bytes(b"no picture")


def test_as_many_unreadable_images_as_are_allowed_stop_nothing(photos: Path) -> None:
    damage(photos, "1.png", "4.png")
    for _ in range(2):
        assert len(build(photos, NAMES, max_unreadable=2 / 6).reasons) == 2
        with pytest.raises(DataError, match=r"^2 of 6 images are unreadable, more than .*0\.33, "):
            build(photos, NAMES, max_unreadable=0.33)
    assert build(photos, NAMES[2:4], max_unreadable=0).reasons == {}


def test_too_many_are_named_each_with_its_reason_but_no_more_than_ten(
    photos: Path, draw: Draw
) -> None:
    damage(photos, "1.png")
    draw(photos / "2.png")
    names = ["1.png", "odd\n.png", *(f"gone {number}.png" for number in range(20))]
    with pytest.raises(DataError) as caught:
        build(photos, names, max_unreadable=0)
    assert caught.value.exit_code == 3
    named = [line.strip() for line in str(caught.value).splitlines()[1:-1]]
    assert len(named) == 10
    assert named[0].startswith("1.png: not a JPEG")
    assert named[1] == r"odd\n.png: no such file or directory"
    assert "check_data.py" in str(caught.value)
    assert "data.max_unreadable" in str(caught.value)


def test_too_many_stop_the_work_early_and_what_was_decoded_is_kept(
    photos: Path, draw: Draw, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    monkeypatch.setattr(workers, "num_cores", lambda: 1)
    monkeypatch.setattr(store, "_AT_ONCE", 4)
    names = [f"{number:02}.png" for number in range(40)]
    for number, name in enumerate(names):
        draw(photos / name, number)
    damage(photos, names[1], names[9])
    with pytest.raises(DataError, match="2 of 40 images are unreadable"):
        build(photos, names, max_unreadable=0.04)
    assert decoded == names[:12]
    decoded.clear()
    check(build(photos, names, max_unreadable=0.05), photos, names)
    assert decoded == names[12:]


# An early end


def test_a_signal_ends_the_work_and_what_was_decoded_is_kept(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "num_cores", lambda: 1)
    monkeypatch.setattr(store, "_AT_ONCE", 2)
    done: list[str] = []

    def interrupt(path: Path, preprocessing: Preprocessing) -> DecodedFile:
        done.append(path.name)
        if len(done) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return decode_file_with_traits(path, preprocessing)

    with monkeypatch.context() as patch, signals.installed():
        patch.setattr(store, "decode_file_with_traits", interrupt)
        with pytest.raises(Stopped):
            build(photos, NAMES)
    assert done == NAMES[:5]
    done.clear()
    monkeypatch.setattr(store, "decode_file_with_traits", interrupt)
    check(build(photos, NAMES), photos, NAMES)
    assert done == NAMES[4:]


def test_what_was_saved_now_and_then_is_kept_whatever_ends_the_work(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "num_cores", lambda: 1)
    monkeypatch.setattr(store, "_AT_ONCE", 2)
    monkeypatch.setattr(store, "_SAVE_EVERY_SECONDS", -1.0)
    done: list[str] = []

    def fail(path: Path, preprocessing: Preprocessing) -> DecodedFile:
        done.append(path.name)
        if len(done) == 5:
            raise ZeroDivisionError
        return decode_file_with_traits(path, preprocessing)

    monkeypatch.setattr(store, "decode_file_with_traits", fail)
    with pytest.raises(ZeroDivisionError):
        build(photos, NAMES)
    check(build(photos, NAMES), photos, NAMES)
    assert done == [*NAMES[:5], *NAMES[4:]]


def test_a_full_disk_is_an_error_and_the_next_build_is_right(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(OutputError, match="No space left on device") as caught:
            build(photos, NAMES)
    assert "XDG_CACHE_HOME" in str(caught.value)
    assert caught.value.exit_code == 6
    check(build(photos, NAMES), photos, NAMES)


def test_where_the_cache_cannot_be_written_a_run_keeps_its_images_to_itself(
    photos: Path, home: Path, decoded: list[str]
) -> None:
    home.parent.mkdir(parents=True)
    home.touch()
    for _ in range(2):
        check(build(photos, NAMES), photos, NAMES)
    assert decoded == NAMES
    assert (photos.parent / "spare/index.npz").exists()


def test_damage_to_the_cache_costs_time_and_no_pixel(
    photos: Path, home: Path, decoded: list[str]
) -> None:
    build(photos, NAMES)
    files: list[Any] = [*home.glob("*/index.npz"), *home.glob("*/pixels-*")]
    assert len(files) == 2
    for path in files:
        os.truncate(path, path.stat().st_size // 2)
        decoded.clear()
        check(build(photos, NAMES), photos, NAMES)
        assert decoded == NAMES
