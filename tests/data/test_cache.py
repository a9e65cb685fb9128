import errno
import fcntl
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import PIL
import pytest
from numpy.typing import NDArray

from neither.data import store as module
from neither.data.fingerprints import FINGERPRINT
from neither.data.preprocessing import Preprocessing
from neither.data.store import Cache, DecodedImages, file_keys, open_cache
from neither.runtime import signals
from neither.runtime.errors import OutputError
from neither.runtime.signals import Stopped

SIZE = 4
PREPROCESSING = Preprocessing(SIZE)
DAY = 86_400


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of all caches, of this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/neither/images"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of shards, without what opens it."""
    (tmp_path / "shards").mkdir()
    return tmp_path / "shards"


def keys(*numbers: int) -> NDArray[np.bytes_]:
    return np.array([b"%d" % number if number else b"" for number in numbers], "S16")


def images(*numbers: int, reasons: dict[int, str] | None = None) -> DecodedImages:
    """Return an image for each number, which is its key, hash and colour."""
    fingerprints = np.zeros(len(numbers), FINGERPRINT)
    fingerprints["sha256"] = np.array(numbers)[:, None]
    pixels = np.stack([np.full((SIZE, SIZE, 3), number, np.uint8) for number in numbers])
    texts = [(reasons or {}).get(number, "") for number in numbers]
    return DecodedImages(keys(*numbers), fingerprints, texts, pixels)


def make(folder: Path, *numbers: int) -> Cache:
    cache = Cache(folder, SIZE)
    cache.add([images(*numbers)])
    return cache


def check(cache: Cache, *numbers: int) -> None:
    """Require that each image is found, with its own pixels and fingerprint."""
    found = cache.find(keys(*numbers))
    assert (found >= 0).all()
    pixels = np.concatenate([shard.pixels for shard in cache.shards])
    fingerprints = np.concatenate([shard.fingerprints for shard in cache.shards])
    assert (pixels[found] == np.array(numbers)[:, None, None, None]).all()
    assert (fingerprints["sha256"][found] == np.array(numbers)[:, None]).all()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Keys of files


def test_a_file_keeps_its_key_and_each_path_has_its_own(tmp_path: Path) -> None:
    odd = os.fsdecode(b"dog \xff.jpg")
    for name in ("a", "b", odd):
        (tmp_path / name).write_bytes(b"the same")
    before = file_keys(tmp_path, ["a", "b", odd])
    assert len(set(before.tolist()) - {b""}) == 3
    assert np.array_equal(file_keys(tmp_path, [odd, "b", "a"])[::-1], before)
    (tmp_path / "a").rename(tmp_path / "c")
    assert file_keys(tmp_path, ["c"])[0] not in before
    assert file_keys(tmp_path, []).shape == (0,)


def test_each_of_size_inode_and_times_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    status = SimpleNamespace(st_size=1, st_ino=11, st_mtime_ns=111, st_ctime_ns=1111)
    monkeypatch.setattr(os, "stat", lambda _: status)
    seen = {file_keys(Path(), ["a"])[0]}
    for name in vars(status):
        setattr(status, name, getattr(status, name) + 1)
        seen.add(file_keys(Path(), ["a"])[0])
    status.st_size, status.st_ino = 21, 2  # the same digits
    seen.add(file_keys(Path(), ["a"])[0])
    assert len(seen) == 6


@pytest.mark.parametrize("name", ["gone", "file/below", "a\0b", "\ud800", "x" * 300])
def test_without_a_file_the_key_is_empty(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    assert (file_keys(tmp_path, [name, "file"]) == b"").tolist() == [True, False]


# Shards


def test_images_are_found_again_through_all_shards(folder: Path) -> None:
    assert Cache(folder, SIZE).find(keys(4)).tolist() == [-1]
    cache = make(folder, 5, 3, 9)
    cache.add([images(7, 1), images(2)])
    for each in (cache, Cache(folder, SIZE)):
        check(each, 2, 3, 9, 1, 5, 7, 3)
        assert each.find(keys(4, 6, 10)).tolist() == [-1] * 3
        assert each.find(keys()).tolist() == []
        assert (len(each), len(each.shards)) == (6, 2)
    assert len(names(folder)) == 2


def test_images_without_a_key_are_kept_for_this_run_alone(folder: Path) -> None:
    cache = Cache(folder, SIZE)
    cache.add([images(0, 0, reasons={0: "permission denied"})])
    assert names(folder) == []
    cache.add([images(1, 0)])
    assert [len(shard.keys) for shard in cache.shards] == [2, 2]
    again = Cache(folder, SIZE)
    assert again.find(keys(0, 1)).tolist() == [-1, 0]


def test_pixels_can_not_be_written_and_outlive_their_files(folder: Path) -> None:
    cache = make(folder, 1, 2)
    with pytest.raises(ValueError, match="read-only"):
        cache.shards[0].pixels[0] = 9
    shutil.rmtree(folder)
    check(cache, 1, 2)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "text": lambda _: b"not a shard",
    "no pixels": lambda content: content[: -3 * SIZE * SIZE * 3],
    "a byte less": lambda content: content[:-1],
    "a byte more": lambda content: content + b"\0",
    "without a start": lambda content: content[100:],
    "zeros": lambda content: bytes(len(content)),
    "a hole": lambda content: content[:500] + bytes(300) + content[800:],
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_shard_is_ignored_and_no_other(folder: Path, kind: str) -> None:
    make(folder, 1, 2, 3)
    (path,) = folder.iterdir()
    make(folder, 8, 9)
    path.write_bytes(DAMAGE[kind](path.read_bytes()))
    cache = Cache(folder, SIZE)
    check(cache, 8, 9)
    assert cache.find(keys(1, 2, 3)).tolist() == [-1] * 3
    cache.add([images(1, 3)])
    check(Cache(folder, SIZE), 1, 3, 8, 9)


def test_a_flipped_bit_in_a_header_never_goes_unnoticed(folder: Path) -> None:
    sound = make(folder, 1, 2, 3).shards[0]
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    header = len(whole) - sound.pixels.nbytes
    for index in [*range(100), *range(100, header, 5)]:
        path.write_bytes(
            whole[:index] + bytes([whole[index] ^ 1 << index % 8]) + whole[index + 1 :]
        )
        for shard in Cache(folder, SIZE).shards:
            assert shard.reasons == sound.reasons, index
            for name in ("keys", "fingerprints", "pixels"):
                assert np.array_equal(getattr(shard, name), getattr(sound, name)), (name, index)


def test_a_shard_of_another_kind_is_ignored(folder: Path) -> None:
    make(folder, 1, 2, 3)
    assert len(Cache(folder, 2 * SIZE)) == 0
    cache = Cache(folder, SIZE)
    good = images(4, 5)
    for other in (
        good._replace(fingerprints=good.fingerprints[["sha256"]]),
        good._replace(fingerprints=good.fingerprints[:1]),
        good._replace(reasons=["one"]),
        good._replace(keys=np.array([b"4", b"5"], "S8")),
        good._replace(pixels=good.pixels[:1]),
    ):
        with pytest.raises(ValueError, match="not a shard"):
            cache.add([other])
    check(Cache(folder, SIZE), 1, 2, 3)
    assert len(Cache(folder, SIZE)) == 3


# A full disk, a deleted cache


@contextmanager
def no_file_larger_than(num_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_an_error_with_a_remedy_and_harms_nothing(folder: Path) -> None:
    cache = make(folder, 1, 2)
    with no_file_larger_than(1000), pytest.raises(OutputError) as caught:
        cache.add([images(3, 4, 5)])
    assert caught.value.exit_code == 6
    assert str(folder) in str(caught.value)
    assert "XDG_CACHE_HOME" in str(caught.value)
    assert len(names(folder)) == 1
    check(Cache(folder, SIZE), 1, 2)


def test_a_cache_that_is_deleted_meanwhile_is_an_error(folder: Path) -> None:
    cache = make(folder, 1, 2)
    shutil.rmtree(folder)
    with pytest.raises(OutputError, match="the cache was deleted"):
        cache.add([images(3)])


# Where it is


def opened(source: Path, spare: Path, preprocessing: Preprocessing = PREPROCESSING) -> Path:
    with open_cache(source, preprocessing, spare) as cache:
        return cache.folder


def test_each_source_and_way_to_decode_has_a_folder_of_its_own(
    home: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spare = tmp_path / "spare"
    first = opened(photos, spare)
    assert first.parent == home
    assert first.name.startswith("photos-")
    (tmp_path / "link").symlink_to(photos)
    monkeypatch.chdir(tmp_path)
    for same in (tmp_path / "link", Path("photos"), photos / "../photos"):
        assert opened(same, spare) == first
    assert opened(photos, spare, replace(PREPROCESSING, mean=(0, 0, 0), std=(1, 1, 1))) == first
    others = [
        opened(photos, spare, replace(PREPROCESSING, image_size=5)),
        opened(photos, spare, replace(PREPROCESSING, resize="pad")),
        opened(photos, spare, replace(PREPROCESSING, decoder=PREPROCESSING.decoder + 1)),
        opened(tmp_path / "elsewhere/photos", spare),
    ]
    monkeypatch.setattr(PIL, "__version__", "99.0")
    others.append(opened(photos, spare))
    monkeypatch.setattr(module, "_FORMAT", 99)
    others.append(opened(photos, spare))
    assert len({first, *others}) == 7
    assert not spare.exists()
    assert names(photos) == []


def test_where_the_cache_cannot_be_written_the_spare_folder_is_used(
    home: Path, photos: Path, tmp_path: Path, messages: Callable[[], str]
) -> None:
    home.parent.mkdir(parents=True)
    home.touch()
    with open_cache(photos, PREPROCESSING, tmp_path / "spare/cache") as cache:
        cache.add([images(1)])
    check(Cache(tmp_path / "spare/cache", SIZE), 1)
    assert str(home) in messages()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        opened(photos, tmp_path / "file")


@pytest.mark.usefixtures("watchdog")
def test_a_cache_that_another_machine_has_locked_is_left_to_it(
    home: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    messages: Callable[[], str],
) -> None:  # fmt: skip
    folder, spare = opened(photos, tmp_path / "spare"), tmp_path / "spare"
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=OSError(errno.ENOLCK, "No locks")))
    monkeypatch.setattr("neither.runtime.locks.time.sleep", lambda _: None)
    assert opened(photos, spare) == folder
    lock_file = folder / ".lock.owner"
    lock_file.write_text("7\nnode7\n5\n")
    assert opened(photos, spare) == spare
    assert str(lock_file) in messages()
    assert folder.parent == home
    shutil.copy(lock_file, spare)
    with pytest.raises(OutputError, match=str(spare / ".lock.owner")):
        opened(photos, spare)


@pytest.mark.parametrize("inside", [".", "a/b"])
def test_a_cache_among_the_images_is_never_used(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str
) -> None:
    (tmp_path / "link").symlink_to(photos)
    for above in (photos, tmp_path / "link"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(above / inside))
        assert opened(photos, tmp_path / "spare") == tmp_path / "spare"
        assert names(photos) == []


@pytest.mark.usefixtures("watchdog", "home")
def test_one_run_at_a_time_and_a_signal_ends_the_wait(photos: Path, tmp_path: Path) -> None:
    with signals.installed(), open_cache(photos, PREPROCESSING, tmp_path / "spare"):
        other = replace(PREPROCESSING, image_size=5)
        assert opened(photos, tmp_path / "spare", other).exists()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped):
            opened(photos, tmp_path / "spare")
    assert opened(photos, tmp_path / "spare").exists()


# What is unused for a month


def age(folder: Path, days: float) -> None:
    then = time.time() - days * DAY
    for path in folder.iterdir():
        os.utime(path, (then, then), follow_symlinks=False)


@pytest.fixture
def entry(home: Path, tmp_path: Path) -> Path:
    """Return the cache of other images, with two shards."""
    with open_cache(tmp_path / "others", PREPROCESSING, tmp_path / "spare") as cache:
        cache.add([images(1, 2)])
        cache.add([images(3)])
    assert cache.folder.parent == home
    return cache.folder


@pytest.mark.parametrize(("days", "stays"), [(29, True), (31, False)])
def test_a_cache_unused_for_a_month_is_deleted(
    entry: Path, photos: Path, tmp_path: Path, days: float, stays: bool
) -> None:
    age(entry, days)
    assert opened(photos, tmp_path / "spare").exists()
    assert entry.exists() == stays


def test_a_shard_unused_for_a_month_is_deleted_and_no_other(
    entry: Path, photos: Path, tmp_path: Path
) -> None:
    age(entry, 31)
    with open_cache(tmp_path / "others", PREPROCESSING, tmp_path / "spare") as cache:
        cache.find(keys(2, 7))
    opened(photos, tmp_path / "spare")
    again = Cache(entry, SIZE)
    check(again, 1, 2)
    assert len(again) == 2
