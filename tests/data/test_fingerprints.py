import io
import tracemalloc
from collections.abc import Callable, Sequence
from functools import cache, partial
from hashlib import sha256
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from images import encode, noise, photo, smooth
from neither.data.decode import decode_with_traits
from neither.data.fingerprints import (
    FINGERPRINT,
    KNOWN_FORMATS,
    MAX_DISTANCE,
    MAX_DISTANCE_FRACTION,
    MAX_LEVELS,
    ImageFlag,
    ImageTraits,
    compute_fingerprints,
    find_near_duplicates,
    group_exact_duplicates,
)
from neither.data.preprocessing import Preprocessing
from neither.demo.drawing import CLASSES, draw_image, draw_pair
from records import DHASH_BITS, make_dhash, make_fingerprints

SQUARE = Preprocessing(32)
NO_FLAGS = ImageFlag(0)
GOLDEN_DHASH = "adbc74fedff7bda9ad24fef7fdd7b88c"
GOLDEN_COARSE_HASH = 1740588265


def fingerprints_of(contents: Sequence[bytes]) -> NDArray[np.void]:
    traits = [decode_with_traits(content, SQUARE)[1] for content in contents]
    return compute_fingerprints(traits, [sha256(content).digest() for content in contents])


def fingerprint_of(image: Image.Image, kind: str = "PNG", **options: object) -> np.void:
    one: np.void = fingerprints_of([encode(image, kind, **options)])[0]
    return one


def from_thumbnail(thumbnail: NDArray[np.uint8], flags: ImageFlag = NO_FLAGS) -> np.void:
    """Return the fingerprint of an image with this thumbnail, (9, 9) gray or (9, 9, 3)."""
    colors = thumbnail if thumbnail.ndim == 3 else np.repeat(thumbnail[:, :, None], 3, axis=2)
    traits = ImageTraits(9, 9, "PNG", flags, colors.astype(np.uint8).tobytes())
    one: np.void = compute_fingerprints([traits], [bytes(32)])[0]
    return one


def test_fingerprints_do_not_depend_on_order_and_number() -> None:
    images = [smooth(30, 20), noise(9, 40), smooth(20, 30)]
    kinds = ["JPEG", "PNG", "WEBP"]
    contents = [encode(image, kind) for image, kind in zip(images, kinds, strict=True)]
    records = fingerprints_of(contents)
    assert records["width"].tolist() == [30, 9, 20]
    assert records["height"].tolist() == [20, 40, 30]
    assert [KNOWN_FORMATS[number] for number in records["format"]] == kinds
    assert [each.tobytes() for each in records["sha256"]] == [sha256(c).digest() for c in contents]
    assert np.array_equal(fingerprints_of(contents[::-1])[::-1], records)
    assert np.array_equal(fingerprints_of(contents[1:2]), records[1:2])


@pytest.mark.parametrize(
    ("color", "brightness"),
    [((0, 0, 0), 0), ((255, 255, 255), 255), ((200, 10, 30), 69), ((0, 255, 0), 150)],
)
def test_brightness_is_the_mean_luma(color: tuple[int, int, int], brightness: int) -> None:
    record = fingerprint_of(Image.new("RGB", (50, 20), color))
    assert (record["brightness"], record["contrast"]) == (brightness, 0)


def test_contrast_is_the_standard_deviation_of_the_thumbnail() -> None:
    thumbnail = np.zeros((9, 9), np.uint8)
    thumbnail[:, :4] = 255
    assert (from_thumbnail(thumbnail)["brightness"], from_thumbnail(thumbnail)["contrast"]) == (
        113,
        127,
    )


@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "CMYK"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_image_without_color_is_grayscale_in_any_mode(mode: str, kind: str) -> None:
    image = photo(0, 60, 50).convert("L").convert(mode)
    if (mode, kind) in (("LA", "JPEG"), ("CMYK", "PNG")):
        return
    assert fingerprint_of(image, kind)["flags"] & ImageFlag.GRAYSCALE


def test_an_image_with_a_little_color_is_not_grayscale() -> None:
    gray = np.full((9, 9, 3), 100, np.uint8)
    gray[2, 3] = (100, 106, 100)  # JPEG's rounding
    assert from_thumbnail(gray)["flags"] & ImageFlag.GRAYSCALE
    gray[2, 3] = (100, 107, 100)
    assert not from_thumbnail(gray)["flags"] & ImageFlag.GRAYSCALE
    assert not fingerprint_of(photo(0, 60, 50))["flags"] & ImageFlag.GRAYSCALE


def test_a_flat_image_has_no_hashes() -> None:
    even = np.full((9, 9), 100, np.uint8)
    even[::2] += 3  # a spread of 1.5 levels
    record = from_thumbnail(even)
    assert record["flags"] & ImageFlag.FLAT
    assert (record["dhash"].any(), record["coarse_hash"]) == (False, 0)
    every = ImageFlag.ROTATED | ImageFlag.INVALID_EXIF | ImageFlag.ANIMATED
    assert from_thumbnail(even, every)["flags"] == every | ImageFlag.GRAYSCALE | ImageFlag.FLAT
    even[::2] += 2  # of 2.5
    assert not from_thumbnail(even)["flags"] & ImageFlag.FLAT
    assert from_thumbnail(even)["coarse_hash"] > 0
    assert fingerprint_of(Image.new("RGB", (50, 20), "red"))["flags"] == ImageFlag.FLAT


def as_png(image: Image.Image) -> bytes:
    return encode(image, "PNG", compress_level=1)


def as_jpeg(image: Image.Image, quality: int = 80) -> bytes:
    return encode(image, "JPEG", quality=quality)


def resized(image: Image.Image, factor: float) -> Image.Image:
    size = round(image.width * factor), round(image.height * factor)
    return image.resize(size, Image.Resampling.LANCZOS)


COPIES: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG of quality 40": partial(as_jpeg, quality=40),
    "JPEG of quality 80": as_jpeg,
    "WebP": lambda image: encode(image, "WEBP", quality=60),
    "half": lambda image: as_png(resized(image, 0.5)),
    "double": lambda image: as_png(resized(image, 2)),
    "five times as a JPEG": lambda image: as_jpeg(resized(image, 5)),
    "gray": lambda image: as_png(image.convert("L")),
}


@cache
def originals() -> list[Image.Image]:
    drawn = [draw_image(0, "train", CLASSES[number % 3], number)[0] for number in range(48)]
    demo = [Image.open(io.BytesIO(content)).convert("RGB") for content in drawn]
    return [*demo, *(draw_pair(0, number) for number in range(12))]


@cache
def fingerprints_of_originals() -> NDArray[np.void]:
    return fingerprints_of([as_png(image) for image in originals()])


@pytest.mark.parametrize("kind", COPIES)
def test_most_copies_keep_their_hashes(kind: str) -> None:
    before = fingerprints_of_originals()
    copies = fingerprints_of([COPIES[kind](image) for image in originals()])
    distance = np.bitwise_count(before["dhash"] ^ copies["dhash"]).sum(axis=1)
    assert (distance <= MAX_DISTANCE).mean() >= 0.95
    if kind in ("JPEG of quality 80", "half", "double", "gray"):
        assert (copies["coarse_hash"] == before["coarse_hash"]).mean() >= 0.8


@pytest.mark.parametrize("is_dull", [False, True])
def test_different_images_have_different_hashes(is_dull: bool) -> None:
    levels = [180 + number // 18 if is_dull else number for number in range(256)] * 3
    records = fingerprints_of([as_png(image.point(levels)) for image in originals()])
    records = records[records["flags"] & ImageFlag.FLAT == 0]
    distance = np.bitwise_count(records["dhash"][:, None] ^ records["dhash"][None]).sum(axis=2)
    assert len(records) >= 20
    assert distance[np.triu_indices(len(records), 1)].min() > 2 * MAX_DISTANCE
    assert is_dull or len(np.unique(records["coarse_hash"])) >= 55


def pattern() -> NDArray[np.uint8]:
    y, x = np.mgrid[:9, :9]
    return np.stack([(37 * x + 11 * y * y) % 256, (91 * y + 5 * x * x) % 256, 28 * x], axis=2)


def test_the_hashes_are_stable() -> None:
    # Splits depend on them, and they are cached: when they change, raise DECODER_VERSION.
    record = from_thumbnail(pattern())
    assert record["dhash"].tobytes().hex() == GOLDEN_DHASH
    assert record["coarse_hash"] == GOLDEN_COARSE_HASH


@pytest.mark.parametrize("light", [0, 255])
def test_coarse_hashes_depend_on_position_and_brightness(light: int) -> None:
    scenes = set()
    for cell in range(9):
        for less in (0, 20):
            thumbnail = np.full((9, 9), 255 - light)
            row, column = divmod(cell, 3)
            thumbnail[3 * row : 3 * row + 3, 3 * column : 3 * column + 3] = abs(light - less)
            scenes.add(int(from_thumbnail(thumbnail)["coarse_hash"]))
    assert len(scenes) == 18


def with_hashes(hashes: NDArray[np.uint16]) -> NDArray[np.void]:
    records = np.zeros(len(hashes), FINGERPRINT)
    records["dhash"] = hashes
    return records


def by_brute_force(hashes: NDArray[np.uint16]) -> set[tuple[int, int]]:
    """Return the pairs of near hashes, found by comparing all."""
    words = hashes.view("<u8")
    distance = np.bitwise_count(words[:, None] ^ words[None]).sum(axis=2)
    used = hashes.any(axis=1)
    num_set = np.bitwise_count(words[:, None] | words[None]).sum(axis=2)
    alike = (distance <= MAX_DISTANCE) & (distance <= MAX_DISTANCE_FRACTION * num_set)
    near = np.triu(alike, 1) & np.outer(used, used)
    one, other = np.nonzero(near)
    return set(zip(one.tolist(), other.tolist(), strict=True))


def as_indices(numbers: NDArray[np.int64], pairs: NDArray[np.int64]) -> set[tuple[int, int]]:
    """Convert pairs of hashes to pairs of images."""
    near = set(map(tuple, pairs.tolist()))
    return {
        (one, other)
        for one, other in combinations(np.flatnonzero(numbers >= 0).tolist(), 2)
        if numbers[one] == numbers[other]
        or tuple(sorted((int(numbers[one]), int(numbers[other])))) in near
    }


def check(hashes: NDArray[np.uint16]) -> None:
    numbers, pairs = find_near_duplicates(with_hashes(hashes))
    assert as_indices(numbers, pairs) == by_brute_force(hashes)
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert len(np.unique(pairs, axis=0)) == len(pairs)
    assert ((numbers < 0) == ~hashes.any(axis=1)).all()
    assert set(numbers[numbers >= 0].tolist()) == set(range(int(numbers.max(initial=-1)) + 1))


FLIPS = st.lists(st.integers(0, DHASH_BITS - 1), max_size=2 * MAX_DISTANCE, unique=True)


@given(st.lists(st.tuples(st.integers(0, 2), FLIPS), max_size=30))
def test_clustered_hashes_are_found_as_by_brute_force(hashes: list[tuple[int, list[int]]]) -> None:
    made = [make_dhash(number, flips) for number, flips in hashes]
    check(np.stack(made) if made else np.zeros((0, 8), np.uint16))


@given(st.lists(st.sampled_from([0, 1, 2, 3, 0xFFFF]), min_size=8, max_size=240))
def test_hashes_of_few_bits_are_found_as_by_brute_force(words: list[int]) -> None:
    """Most bits are equal, as in drawn images, or zero, as in flat ones."""
    check(np.array(words[: len(words) // 8 * 8], np.uint16).reshape(-1, 8))


def test_one_bit_in_each_of_seven_bands_is_still_near() -> None:
    """The worst case of the search: only one of eight bands is the same."""
    for equal in range(8):
        flips = [16 * band + 3 for band in range(8) if band != equal]
        records = make_fingerprints([make_dhash(0), make_dhash(0, flips)])
        assert find_near_duplicates(records)[1].tolist() == [[0, 1]]


def test_thousands_of_equal_hashes_have_one_number() -> None:
    hashes = np.concatenate([np.tile(make_dhash(0), (5000, 1)), np.tile(make_dhash(1), (5000, 1))])
    numbers, pairs = find_near_duplicates(with_hashes(hashes))
    assert len(pairs) == 0  # the 50 million pairs of images are not listed
    assert np.array_equal(numbers, np.repeat([numbers[0], 1 - numbers[0]], 5000))


def test_125_000_pairs_are_found_in_bounded_memory() -> None:
    random = np.random.default_rng(0)
    bits = np.zeros((500, DHASH_BITS), np.uint8)
    for row in bits:
        row[random.choice(DHASH_BITS, 3, replace=False)] = 1
    hashes = np.packbits(bits, axis=1).view("<u2") ^ make_dhash(0)
    tracemalloc.start()
    numbers, pairs = find_near_duplicates(with_hashes(hashes))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    num = int(numbers.max()) + 1
    assert len(pairs) == num * (num - 1) // 2
    assert peak < 6 * pairs.nbytes


def test_files_with_the_same_bytes_have_one_number() -> None:
    records = make_fingerprints([make_dhash(number) for number in range(6)])
    records["sha256"][[1, 4]] = records["sha256"][0]
    records["sha256"][3] = 0  # could not be read
    numbers = group_exact_duplicates(records)
    assert numbers[0] == numbers[1] == numbers[4]
    assert numbers[3] == -1
    assert sorted({*numbers.tolist()}) == [-1, 0, 1, 2]
    for index in range(16):  # half of the hash is compared
        records["sha256"][:] = records["sha256"][0]
        records["sha256"][1, index] ^= 1
        assert group_exact_duplicates(records)[0] != group_exact_duplicates(records)[1]


@pytest.mark.parametrize("column", ["brightness", "contrast"])
def test_near_duplicates_have_similar_brightness_and_contrast(column: str) -> None:
    for levels in range(MAX_LEVELS + 3):
        records = make_fingerprints([make_dhash(0), make_dhash(0), make_dhash(1)])
        records[column] = 100
        records[column][1] += levels
        numbers, pairs = find_near_duplicates(records)
        assert (numbers[0] == numbers[1] or len(pairs) == 1) == (levels <= MAX_LEVELS)


def test_objects_on_white_are_not_near_duplicates() -> None:
    """The hashes of discs of any size, position and color have few bits set."""
    random = np.random.default_rng(0)
    traits, y, x = [], *np.mgrid[:90, :90]
    for _ in range(400):
        (left, top), radius = random.integers(30, 60, 2), random.integers(8, 25)
        disc = (x - left) ** 2 + (y - top) ** 2 < radius**2
        pixels = np.where(disc[:, :, None], random.integers(0, 200, 3), 255).astype(np.uint8)
        thumbnail = Image.fromarray(pixels).resize((9, 9), Image.Resampling.BOX).tobytes()
        traits.append(ImageTraits(90, 90, "PNG", ImageFlag(0), thumbnail))
    records = compute_fingerprints(
        traits, [bytes([1 + n // 250, 1 + n % 250]) * 16 for n in range(400)]
    )
    assert len(find_near_duplicates(records)[1]) < 80  # of 79,800 pairs
    _, sizes = np.unique(records["coarse_hash"], return_counts=True)
    assert sizes.max() < 40
