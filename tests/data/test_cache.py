import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL
import pytest
from numpy.typing import NDArray

from neither.data import cache as module
from neither.data.cache import Cache, open_cache
from neither.data.fingerprints import FINGERPRINT
from neither.data.preprocessing import Preprocessing
from neither.runtime import signals
from neither.runtime.errors import OutputError
from neither.runtime.signals import Stopped

SIDE = 4
WAY = Preprocessing(SIDE)
DAY = 86_400


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/neither/images"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the user was told."""
    messages: list[str] = []
    monkeypatch.setattr(module, "say", messages.append)
    return messages


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of the cache, without what opens it."""
    (tmp_path / "entry").mkdir()
    return tmp_path / "entry"


def keys(*numbers: int) -> NDArray[np.uint64]:
    return np.array([(number, number) for number in numbers], np.uint64).reshape(-1, 2)


def pixels_of(*numbers: int) -> list[NDArray[np.uint8]]:
    return [np.full((SIDE, SIDE, 3), number, np.uint8) for number in numbers]


def add(cache: Cache, *numbers: int) -> None:
    """Keep an image for each number, whose pixels and facts are that number."""
    places = cache.index.extend(keys(*numbers))
    rows = cache.reserve(len(numbers))
    rows.write(pixels_of(*numbers))
    cache.index.rows[places] = rows.first + np.arange(len(numbers))
    cache.index.facts["sha256"][places] = np.array(numbers)[:, None]


def check(cache: Cache, *numbers: int) -> None:
    """Demand that each image is there, with its own pixels and facts."""
    places = cache.index.find(keys(*numbers))
    assert (places >= 0).all()
    assert np.array_equal(cache.pixels()[cache.index.rows[places]], pixels_of(*numbers))
    assert (cache.index.facts["sha256"][places] == np.array(numbers)[:, None]).all()


def made(folder: Path, *numbers: int) -> Cache:
    cache = Cache(folder, SIDE)
    add(cache, *numbers)
    cache.save()
    return cache


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# What is kept


def test_what_was_saved_is_there_again(folder: Path) -> None:
    made(folder, 5, 3, 9)
    cache = Cache(folder, SIDE)
    check(cache, 3, 9, 5)
    assert cache.index.find(keys(4)).tolist() == [-1]
    add(cache, 7, 1)
    cache.save()
    check(Cache(folder, SIDE), 1, 3, 5, 7, 9)
    assert names(folder) == ["index.npz", f"pixels-{cache.index.generation}.u8"]


def test_an_empty_cache_has_no_rows(folder: Path) -> None:
    cache = Cache(folder, SIDE)
    assert cache.pixels().shape == (0, SIDE, SIDE, 3)
    cache.save()
    assert Cache(folder, SIDE).pixels().shape == (0, SIDE, SIDE, 3)


def test_what_was_not_saved_is_forgotten_and_written_over(folder: Path) -> None:
    made(folder, 1, 2)
    killed = Cache(folder, SIDE)
    add(killed, 3, 4, 5)
    cache = Cache(folder, SIDE)
    assert cache.index.find(keys(3, 4, 5)).tolist() == [-1, -1, -1]
    add(cache, 6)
    cache.save()
    check(Cache(folder, SIDE), 1, 2, 6)


def test_a_damaged_file_is_remembered_with_its_reason(folder: Path) -> None:
    cache = made(folder, 1)
    place = cache.index.extend(keys(2))
    cache.index.rows[place] = cache.index.number("damaged")
    cache.index.facts["sha256"][place] = 7
    cache.save()
    index = Cache(folder, SIDE).index
    assert index.reasons[-1 - index.rows[index.find(keys(2))[0]]] == "damaged"


def test_what_could_not_be_read_or_has_no_key_is_not_remembered(folder: Path) -> None:
    cache = made(folder, 1)
    gone = cache.index.extend(keys(2))
    cache.index.rows[gone] = cache.index.number("permission denied")
    add(cache, 0)  # whose key is zero
    cache.index.facts["sha256"][-1] = 5
    cache.save()
    assert Cache(folder, SIDE).index.keys.tolist() == [[1, 1]]


def test_pixels_are_on_disk_before_the_index_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = made(folder, 1)
    pixels, index = folder / f"pixels-{cache.index.generation}.u8", folder / "index.npz"
    before, steps = index.stat().st_ino, []

    def fsync(handle: int) -> None:
        is_pixels = os.fstat(handle).st_ino == pixels.stat().st_ino
        steps.append((is_pixels, index.stat().st_ino == before))

    monkeypatch.setattr(os, "fsync", fsync)
    add(cache, 2)
    cache.save()
    assert steps[0] == (True, True)
    assert (False, False) in steps


# Damage


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "text": lambda _: b"no index",
    "cut": lambda content: content[: len(content) // 2],
    "cut at the end": lambda content: content[:-1],
    "without a start": lambda content: content[100:],
    "zeros": lambda content: bytes(len(content)),
    "a hole": lambda content: content[:500] + bytes(300) + content[800:],
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_index_is_built_anew(folder: Path, kind: str) -> None:
    made(folder, 1, 2, 3)
    index = folder / "index.npz"
    index.write_bytes(DAMAGE[kind](index.read_bytes()))
    cache = Cache(folder, SIDE)
    assert len(cache.index.keys) == cache.index.num_rows == 0
    add(cache, 8, 9)
    cache.save()
    check(Cache(folder, SIDE), 8, 9)
    assert len(names(folder)) == 2


def flip(path: Path, place: int, byte: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(bytes([byte]))


def test_a_flipped_bit_in_the_index_never_goes_unnoticed(folder: Path) -> None:
    sound = made(folder, 1, 2, 3).index
    whole = (folder / "index.npz").read_bytes()
    pixels = next(folder.glob("pixels-*"))
    kept = folder / "kept"
    os.link(pixels, kept)
    flips = {(place, 5 * place % 8) for place in range(len(whole))}
    digits = [place for place, byte in enumerate(whole) if byte in b"0123456789"]
    flips |= {(place, bit) for place in digits for bit in range(4)}  # which stay digits
    for place, bit in flips:
        flip(folder / "index.npz", place, whole[place] ^ (1 << bit))
        index = Cache(folder, SIDE).index
        flip(folder / "index.npz", place, whole[place])
        if not len(index.keys):
            os.link(kept, pixels)  # which were removed
            continue
        assert (index.num_rows, index.generation) == (sound.num_rows, sound.generation)
        for name in ("keys", "facts", "rows", "reasons"):
            assert np.array_equal(getattr(index, name), getattr(sound, name)), (place, name)


def rewrite(path: Path, **changed: NDArray[np.generic] | None) -> None:
    with np.load(path) as content:
        arrays = {name: content[name] for name in content.files} | changed
    kept = {name: array for name, array in arrays.items() if array is not None}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **kept)


FOREIGN: dict[str, dict[str, NDArray[np.generic] | None]] = {
    "without rows": {"rows": None},
    "fewer keys": {"keys": keys(1)},
    "fewer rows": {"rows": np.zeros(1, np.int64)},
    "fewer facts": {"facts": np.zeros(1, FINGERPRINT)},
    "other facts": {"facts": np.zeros(3, FINGERPRINT[["sha256", "dhash"]])},
    "signed keys": {"keys": np.zeros((3, 2), np.int64)},
    "short keys": {"keys": np.zeros((3, 1), np.uint64)},
    "rows as floats": {"rows": np.zeros(3)},
    "rows that are not there": {"rows": np.array([0, 1, 3])},
    "a reason that is not there": {"rows": np.array([0, 1, -1])},
    "reasons that are no texts": {"reasons": np.frombuffer(b"[5]", np.uint8)},
    "more rows than pixels": {"counts": np.array([4, 1])},
    "fewer rows than none": {"counts": np.array([-4, 1])},
    "no counts": {"counts": np.array([], np.int64)},
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_an_index_that_does_not_fit_is_built_anew(folder: Path, kind: str) -> None:
    made(folder, 1, 2, 3)
    rewrite(folder / "index.npz", **FOREIGN[kind])
    cache = Cache(folder, SIDE)
    assert len(cache.index.keys) == cache.index.num_rows == 0
    add(cache, 8, 9)
    cache.save()
    check(Cache(folder, SIDE), 8, 9)


def test_pickled_objects_in_an_index_are_not_loaded(folder: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return os.mkdir, (str(tmp_path / "canary"),)

    np.savez(folder / "index.npz", counts=np.array([Trap()], object))
    assert len(Cache(folder, SIDE).index.keys) == 0
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("left", [0, 1, 3 * SIDE * SIDE * 3 - 1, None])
def test_lost_pixels_are_noticed(folder: Path, left: int | None) -> None:
    made(folder, 1, 2, 3)
    pixels = next(folder.glob("pixels-*"))
    if left is None:
        pixels.unlink()
    else:
        os.truncate(pixels, left)
    cache = Cache(folder, SIDE)
    assert len(cache.index.keys) == 0
    add(cache, 8, 9)
    cache.save()
    check(Cache(folder, SIDE), 8, 9)


def test_the_index_of_another_size_is_not_taken(folder: Path) -> None:
    made(folder, 1, 2, 3)
    assert len(Cache(folder, 2 * SIDE).index.keys) == 0


def test_a_stranger_with_a_like_name_does_no_harm(folder: Path) -> None:
    (folder / "pixels-old.u8").write_bytes(b"mine")
    check(made(folder, 1, 2), 1, 2)
    check(Cache(folder, SIDE), 1, 2)
    assert (folder / "pixels-old.u8").read_bytes() == b"mine"


# Readers


def test_a_mapped_array_stays_as_it_is_whatever_happens_to_the_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SLACK_ROWS", 1)
    mapped = made(folder, *range(1, 10)).pixels()
    wanted = np.stack(pixels_of(*range(1, 10)))
    unsaved = Cache(folder, SIDE)
    add(unsaved, 20, 21)
    assert np.array_equal(mapped, wanted)
    cache = made(folder, 30, 31)
    assert np.array_equal(mapped, wanted)
    cache.drop_others(cache.index.find(keys(30, 2)))
    assert cache.index.num_rows == 2
    add(cache, *range(40, 60))
    cache.save()
    assert np.array_equal(mapped, wanted)
    (folder / "index.npz").write_bytes(b"damaged")
    made(folder, *range(70, 90))
    assert np.array_equal(mapped, wanted)
    shutil.rmtree(folder)
    assert np.array_equal(mapped, wanted)


def test_a_mapped_array_before_the_index_is_damaged_is_not_written_over(folder: Path) -> None:
    mapped = made(folder, 1, 2, 3).pixels()
    (folder / "index.npz").unlink()
    made(folder, 7, 8, 9)
    assert np.array_equal(mapped, pixels_of(1, 2, 3))


def test_whoever_writes_into_a_mapped_array_keeps_it_to_himself(folder: Path) -> None:
    mapped = made(folder, 1, 2).pixels()
    mapped[:] = 9
    check(Cache(folder, SIDE), 1, 2)


# Files that are gone


def test_rows_of_files_that_are_gone_are_dropped_once_they_are_many(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SLACK_ROWS", 3)
    cache = made(folder, *range(1, 14))
    cache.drop_others(cache.index.find(keys(2, 13, 4, 9, 8)))  # 13 rows, no more than 2 x 5 + 3
    assert cache.index.num_rows == 13
    bad = cache.index.extend(keys(99))
    cache.index.rows[bad] = cache.index.number("damaged")
    cache.index.facts["sha256"][bad] = 1
    cache.drop_others(cache.index.find(keys(13, 99, 2, 9, 4)))
    pixels = list(folder.glob("pixels-*"))
    assert [path.stat().st_size for path in pixels] == [4 * SIDE * SIDE * 3]
    for each in (cache, Cache(folder, SIDE)):
        check(each, 2, 4, 9, 13)
        assert (each.index.find(keys(1, 3, 8)) == -1).all()
        assert each.index.reasons[-1 - each.index.rows[each.index.find(keys(99))[0]]] == "damaged"


def test_what_a_killed_clean_up_left_is_removed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SLACK_ROWS", 1)
    cache = made(folder, *range(1, 10))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # as if killed before it
        cache.drop_others(cache.index.find(keys(2, 3)))
    assert len(list(folder.glob("pixels-*"))) == 2
    check(Cache(folder, SIDE), 2, 3)
    assert len(list(folder.glob("pixels-*"))) == 1


# A full disk


@contextmanager
def no_file_larger_than(num_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_an_error_with_a_remedy_and_harms_nothing(folder: Path) -> None:
    made(folder, 1, 2)
    cache = Cache(folder, SIDE)
    with (
        no_file_larger_than(3 * SIDE * SIDE * 3 + 7),
        pytest.raises(OutputError, match=r"cannot be kept here: .*XDG_CACHE_HOME") as caught,
    ):
        add(cache, 3, 4, 5)
    assert (caught.value.exit_code, str(folder) in str(caught.value)) == (6, True)
    again = Cache(folder, SIDE)
    check(again, 1, 2)
    add(again, 6, 7)
    again.save()
    check(Cache(folder, SIDE), 1, 2, 6, 7)


@pytest.mark.parametrize("failing", [1, 2])
def test_a_disk_that_is_full_as_it_is_saved_is_the_same_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    cache, calls = made(folder, 1, 2), []

    def fsync(handle: int) -> None:
        calls.append(handle)
        if len(calls) == failing:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        add(cache, 3)
        with pytest.raises(OutputError, match=r"No space left on device; .*XDG_CACHE_HOME"):
            cache.save()
    check(Cache(folder, SIDE), 1, 2)


# Where it lies


def opened(source: Path, spare: Path, way: Preprocessing = WAY) -> Path:
    with open_cache(source, way, spare) as cache:
        return cache.folder


def test_each_folder_of_images_and_way_to_decode_has_a_folder_of_its_own(
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
    assert opened(photos, spare, replace(WAY, mean=(0, 0, 0), std=(1, 1, 1))) == first
    others = [
        opened(photos, spare, replace(WAY, image_size=5)),
        opened(photos, spare, replace(WAY, resize="pad")),
        opened(photos, spare, replace(WAY, decoder=WAY.decoder + 1)),
        opened(tmp_path / "elsewhere/photos", spare),
    ]
    monkeypatch.setattr(PIL, "__version__", "99.0")
    others.append(opened(photos, spare))
    assert len({first, *others}) == 6
    assert not spare.exists()
    assert names(photos) == []


def test_odd_names_of_folders_do_no_harm(home: Path, tmp_path: Path) -> None:
    for name in ("a" * 200, "...", "my dogs\n;rm", os.fsdecode(b"\xff")):
        folder = opened(tmp_path / "x" / name, tmp_path / "spare")
        assert folder.parent == home
        assert len(folder.name) <= 60
        assert folder.name.isascii()
        assert folder.name.isprintable()


def test_without_a_variable_the_cache_lies_in_the_users_home(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert opened(photos, tmp_path / "spare").parent == tmp_path / "me/.cache/neither/images"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert opened(photos, tmp_path / "spare").parent == tmp_path / "me/.cache/neither/images"


def test_a_file_in_the_place_of_the_cache_lets_the_spare_folder_be_used(
    home: Path, photos: Path, tmp_path: Path, said: list[str]
) -> None:
    home.parent.mkdir(parents=True)
    home.touch()
    with open_cache(photos, WAY, tmp_path / "spare/cache") as cache:
        assert cache.folder == tmp_path / "spare/cache"
        add(cache, 1)
        cache.save()
    check(Cache(tmp_path / "spare/cache", SIDE), 1)
    assert len(said) == 1
    assert "cannot be written" in said[0]
    assert "keeps decoded images to itself" in said[0]


def test_a_user_without_a_home_gets_the_spare_folder(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: type[Path]) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", classmethod(refuse))
    assert opened(photos, tmp_path / "spare") == tmp_path / "spare"


@pytest.mark.parametrize("inside", [".", ".cache", "a/b"])
def test_a_cache_among_the_images_is_never_used(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str
) -> None:
    (tmp_path / "link").symlink_to(photos)
    for above in (photos, tmp_path / "link"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(above / inside))
        assert opened(photos, tmp_path / "spare") == tmp_path / "spare"
        assert names(photos) == []


def test_a_spare_folder_that_cannot_be_written_is_an_error(
    home: Path, photos: Path, tmp_path: Path, said: list[str]
) -> None:
    home.parent.mkdir(parents=True)
    home.touch()
    (tmp_path / "spare").touch()
    with pytest.raises(OutputError, match="spare: cannot make this folder"):
        opened(photos, tmp_path / "spare")
    assert said


def test_what_killed_writers_left_is_swept(home: Path, photos: Path, tmp_path: Path) -> None:
    folder = opened(photos, tmp_path / "spare")
    (folder / ".index.npz.4711.tmp").touch()
    assert opened(photos, tmp_path / "spare") == folder
    assert names(folder) == [".lock"]
    assert folder.parent == home


@pytest.mark.usefixtures("watchdog", "home")
def test_one_at_a_time_and_a_signal_ends_the_waiting(photos: Path, tmp_path: Path) -> None:
    with signals.installed(), open_cache(photos, WAY, tmp_path / "spare"):
        other = replace(WAY, image_size=5)
        assert opened(photos, tmp_path / "spare", other).exists()  # which nobody holds
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped):
            opened(photos, tmp_path / "spare")
    assert opened(photos, tmp_path / "spare").exists()


# What nobody has used for long


def age(folder: Path, days: float) -> None:
    then = time.time() - days * DAY
    for path in folder.iterdir():
        os.utime(path, (then, then), follow_symlinks=False)


@pytest.fixture
def entry(home: Path, tmp_path: Path) -> Path:
    """The folder of the cache of other images."""
    with open_cache(tmp_path / "others", WAY, tmp_path / "spare") as cache:
        add(cache, 1)
        cache.save()
    assert cache.folder.parent == home
    return cache.folder


@pytest.mark.parametrize(("days", "stays"), [(0, True), (29, True), (31, False), (400, False)])
def test_what_nobody_has_used_for_a_month_is_removed(
    entry: Path, photos: Path, tmp_path: Path, days: float, stays: bool
) -> None:
    age(entry, days)
    own = opened(photos, tmp_path / "spare")
    assert entry.exists() == stays
    assert own.exists()


def test_what_was_read_lately_stays(entry: Path, photos: Path, tmp_path: Path) -> None:
    age(entry, 31)
    assert opened(tmp_path / "others", tmp_path / "spare") == entry
    opened(photos, tmp_path / "spare")
    check(Cache(entry, SIDE), 1)


def test_what_is_being_built_stays_though_it_was_left_long_ago(
    entry: Path, photos: Path, tmp_path: Path
) -> None:
    (entry / "index.npz").unlink()  # by a run that was killed early
    age(entry, 31)
    with open_cache(tmp_path / "others", WAY, tmp_path / "spare") as cache:
        opened(photos, tmp_path / "spare")
        add(cache, 5)
        cache.save()
    check(Cache(entry, SIDE), 5)


def test_strangers_in_the_cache_stay_and_do_no_harm(
    entry: Path, photos: Path, tmp_path: Path, said: list[str]
) -> None:
    (entry.parent / "notes.txt").write_text("mine")
    (entry.parent / "empty").mkdir()
    (entry.parent / "link").symlink_to("nowhere")
    # As if another run replaced a file between the listing and the look at it.
    (entry / ".index.npz.4711.tmp").symlink_to("gone")
    age(entry.parent, 400)
    assert opened(photos, tmp_path / "spare").parent == entry.parent
    assert said == []
    assert {"notes.txt", "empty", "link"} <= set(names(entry.parent))
    check(Cache(entry, SIDE), 1)
