import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO

import numpy as np
import pytest

import builds
from clock import fake_clock
from neither.data import decode, store, workers
from neither.data.decode import DecodedFile, decode_file
from neither.data.fingerprints import compute_fingerprints
from neither.data.preprocessing import Preprocessing
from neither.data.scan import ImageTable
from neither.data.store import ImageStore, build_store
from neither.runtime import signals
from neither.runtime.errors import DataError
from neither.runtime.signals import Stopped

Draw = Callable[..., Path]
SMALL = Preprocessing(8)
NAMES = [f"{number}.png" for number in range(6)]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of all caches, of this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/neither/images"


@pytest.fixture
def photos(tmp_path: Path, draw: Draw) -> Path:
    for number, name in enumerate(NAMES):
        draw(tmp_path / "photos" / name, number)
    return tmp_path / "photos"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the files that are decoded, in this process, in order."""
    names: list[str] = []

    def logged(path: Path, preprocessing: Preprocessing, *, with_traits: bool) -> DecodedFile:
        names.append(path.name)
        return decode_file(path, preprocessing, with_traits=with_traits)

    monkeypatch.setattr(store, "decode_file", logged)
    return names


def build(
    photos: Path, names: list[str], preprocessing: Preprocessing = SMALL, max_unreadable: float = 1
) -> ImageStore:
    table = ImageTable(photos, photos)
    table.add(names, "", "")
    return build_store(table, preprocessing, photos.parent / "spare", max_unreadable)


def check(
    built: ImageStore, photos: Path, names: list[str], preprocessing: Preprocessing = SMALL
) -> None:
    """Require for each file what decoding it alone gives."""
    assert len(built.fingerprints) == len(built.is_readable) == len(names)
    for index, name in enumerate(names):
        alone = decode_file(photos / name, preprocessing, with_traits=True)
        assert built.reasons.get(index, "") == alone.reason
        assert built.fingerprints["sha256"][index].tobytes() == alone.sha256.ljust(32, b"\0")
        assert built.is_readable[index] == (alone.pixels is not None)
        if alone.pixels is not None and alone.traits is not None:
            assert np.array_equal(built.gather(np.array([index]))[0], alone.pixels)
            fingerprint = compute_fingerprints([alone.traits], [alone.sha256])[0]
            assert built.fingerprints[index] == fingerprint


# What is built


def test_each_image_has_its_own_pixels_and_fingerprint(photos: Path) -> None:
    (photos / "bad.jpg").write_bytes(b"no picture")
    (photos / "empty.jpg").touch()
    names = ["3.png", "bad.jpg", "gone.jpg", *NAMES[:3], "empty.jpg", "5.png", "1.png", "4.png"]
    for _ in range(2):
        built = build(photos, names)
        check(built, photos, names)
        pixels = built.gather(np.array([7, 0, 7]))
        assert pixels.dtype == np.uint8
        assert pixels.shape == (3, 8, 8, 3)
        assert np.array_equal(pixels[0], pixels[2])
        assert sorted(built.reasons) == [1, 2, 6]
        assert built.fingerprints["sha256"][1].tobytes() == sha256(b"no picture").digest()
        assert not built.fingerprints["sha256"][2].any()


@pytest.mark.fault("R22")
def test_many_images_are_decoded_in_processes_in_order(
    tmp_path: Path, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "num_cores", lambda: 2)
    monkeypatch.setattr(store, "_SHARD_BYTES", 100 * 8 * 8 * 3)
    names = [f"{number % 3}/{number}.png" for number in range(300)]
    for number, name in enumerate(names):
        draw(tmp_path / "photos" / name, number)
    for number in range(0, 300, 70):
        (tmp_path / "photos" / names[number]).write_bytes(b"no picture")
    built = build(tmp_path / "photos", names)
    assert len(built.shards) == 3
    check(built, tmp_path / "photos", names)


# What is decoded again


def test_a_second_build_decodes_nothing(photos: Path, decoded: list[str]) -> None:
    (photos / "bad.jpg").write_bytes(b"no picture")
    names = ["bad.jpg", *NAMES]
    build(photos, names)
    assert decoded == names
    for order in (names, names[::-1], names[2:5], ["1.png", "2.png", "1.png"]):
        check(build(photos, order), photos, order)
    assert decoded == names


def test_images_that_were_added_make_one_small_shard(
    photos: Path, draw: Draw, decoded: list[str]
) -> None:
    build(photos, NAMES[1:])
    decoded.clear()
    draw(photos / "new.png", 99)
    names = ["new.png", *NAMES]
    for _ in range(2):
        built = build(photos, names)
        check(built, photos, names)
        assert sorted(map(len, built.shards)) == [2, 5]
    assert decoded == ["new.png", "0.png"]


def test_a_changed_image_is_decoded_anew_and_no_other(photos: Path, decoded: list[str]) -> None:
    paths = [photos / name for name in NAMES]
    size = max(path.stat().st_size for path in paths)
    for path in paths:  # PNG does not mind what comes behind it
        path.write_bytes(path.read_bytes().ljust(size, b"\0"))
        os.utime(path, (1, 1))
    build(photos, NAMES)
    decoded.clear()
    with paths[2].open("r+b") as file:
        file.write(paths[3].read_bytes())
    os.utime(paths[2], (1, 1))
    built = build(photos, NAMES)
    check(built, photos, NAMES)
    assert np.array_equal(*built.gather(np.array([2, 3])))
    assert decoded == ["2.png"]


def test_what_can_not_be_read_today_is_tried_again_tomorrow(
    photos: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(decode, "_load_upright", refuse)
        for _ in range(2):
            assert build(photos, NAMES[:1]).reasons == {0: "too large for the memory"}
    assert not list(home.glob("*/*.shard"))
    check(build(photos, NAMES), photos, NAMES)


# Too many that are unreadable


def damage(photos: Path, *names: str) -> None:
    for name in names:
        (photos / name).write_bytes(b"no picture")


def test_as_many_unreadable_images_as_are_allowed_stop_nothing(photos: Path) -> None:
    damage(photos, "1.png", "4.png")
    for _ in range(2):
        assert len(build(photos, NAMES, max_unreadable=2 / 6).reasons) == 2
        with pytest.raises(DataError, match=r"^2 of 6 images .*0\.33, "):
            build(photos, NAMES, max_unreadable=0.33)
    assert build(photos, NAMES[2:4], max_unreadable=0).reasons == {}


def test_too_many_are_named_each_with_its_reason_but_no_more_than_ten(photos: Path) -> None:
    damage(photos, "1.png")
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
    monkeypatch.setattr(store, "_CHUNK_IMAGES", 4)
    names = [f"{number:02}.png" for number in range(40)]
    for number, name in enumerate(names):
        draw(photos / name, number)
    damage(photos, names[1], names[9])
    with pytest.raises(DataError, match=r"2 of the first 12 images \(40 in all\) are"):
        build(photos, names, max_unreadable=0.04)
    assert decoded == names[:12]
    decoded.clear()
    check(build(photos, names, max_unreadable=0.05), photos, names)
    assert decoded == names[12:]


# An early end


@pytest.mark.parametrize("by_signal", [True, False])
def test_what_was_decoded_is_kept_whatever_ends_the_work(
    photos: Path, monkeypatch: pytest.MonkeyPatch, by_signal: bool
) -> None:
    monkeypatch.setattr(store, "_CHUNK_IMAGES", 2)
    done: list[str] = []

    def interrupt(path: Path, preprocessing: Preprocessing, *, with_traits: bool) -> DecodedFile:
        done.append(path.name)
        if len(done) == 5 and by_signal:
            os.kill(os.getpid(), signal.SIGINT)
        elif len(done) == 5:
            raise ZeroDivisionError
        return decode_file(path, preprocessing, with_traits=with_traits)

    monkeypatch.setattr(store, "decode_file", interrupt)
    with signals.installed(), pytest.raises(Stopped if by_signal else ZeroDivisionError):
        build(photos, NAMES)
    check(build(photos, NAMES), photos, NAMES)
    assert done == [*NAMES[:5], *NAMES[4:]]


# Several processes, and ones that are killed


@pytest.fixture
def many(tmp_path: Path, draw: Draw) -> Path:
    for number in range(40):
        draw(tmp_path / "many" / f"{number:03}.png", number)
    (tmp_path / "many/bad.jpg").write_bytes(b"no picture")
    return tmp_path / "many"


@contextmanager
def started(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Run builds.py; kill it at the end."""
    with subprocess.Popen(
        [sys.executable, builds.__file__, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


def line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline()


def test_a_build_that_is_killed_at_any_moment_leaves_nothing_wrong(many: Path) -> None:
    with started("kill", many) as process:
        out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert int(out) >= 40  # steps: else little was tried


def test_a_build_in_processes_that_is_killed_leaves_nothing_wrong(many: Path, draw: Draw) -> None:
    for number in range(40, 200):
        draw(many / f"{number:03}.png", number)
    with started("pool", many) as process:
        for _ in range(4):
            assert line(process.stdout) == "published\n"
        process.kill()
        process.communicate(timeout=60)  # which ends when all its processes have
    builds.check(builds.build(many), many)


@pytest.mark.usefixtures("watchdog")
def test_two_builds_at_once_are_both_right_and_decode_each_file_once(
    many: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with started("build", many, log) as first:
        assert line(first.stdout) == "decoding\n"
        with started("build", many, log) as second:
            assert "another run is decoding these images" in line(second.stderr)
            assert not log.exists()
            assert first.communicate("\n", timeout=60)[0] == "right\n"
            assert second.communicate("\n", timeout=60)[0] == "right\n"
    assert sorted(log.read_text().split()) == builds.names_in(many)


@pytest.mark.usefixtures("decoded")
def test_the_time_left_counts_what_is_not_cached(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(photos, NAMES[:2])
    clock = fake_clock(monkeypatch)

    def slow(path: Path, preprocessing: Preprocessing, *, with_traits: bool) -> DecodedFile:
        clock.now += 4 if clock.now else 12
        return decode_file(path, preprocessing, with_traits=with_traits)

    monkeypatch.setattr(store, "decode_file", slow)
    monkeypatch.setattr(store, "_CHUNK_IMAGES", 1)
    build(photos, NAMES)
    clock.check(12, 12 + 3 * 4)
    assert clock.estimates()[0][1] == 1
