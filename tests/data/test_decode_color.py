import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from images import SIZE, encode, photo, smooth
from neither.data.decode import (
    decode,
    decode_image,
    decode_with_traits,
    find_transform,
    make_thumbnail,
)
from neither.data.fingerprints import ImageFlag
from neither.data.preprocessing import Preprocessing
from profiles import SRGB, cmyk_profile, gray_profile, rgb_profile

SQUASH = Preprocessing(SIZE, "squash")
P3 = rgb_profile()
LCMS_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def in_p3(image: Image.Image) -> Image.Image:
    """Store an sRGB image as a phone does."""
    source, target = (ImageCms.ImageCmsProfile(io.BytesIO(each)) for each in (LCMS_SRGB, P3))
    converted = ImageCms.profileToProfile(image, source, target)
    assert converted is not None
    del converted.info["icc_profile"]
    return converted


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other).mean())


@pytest.mark.parametrize(("kind", "options"), [
    ("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 95}),
    ("AVIF", {"quality": 95}), ("HEIF", {"quality": 95}),
])  # fmt: skip
@pytest.mark.parametrize("resize", ["squash", "pad"])
def test_a_wide_gamut_image_gives_the_pixels_of_its_srgb_twin(
    kind: str, options: dict[str, Any], resize: str
) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    image = smooth(64, 48)
    content = encode(in_p3(image), kind, icc_profile=P3, **options)
    preprocessing = Preprocessing(SIZE, resize)  # type: ignore[arg-type]
    pixels, traits = decode_with_traits(content, preprocessing)
    wanted, wanted_traits = decode_with_traits(encode(image, "PNG"), preprocessing)
    assert distance(pixels, wanted) <= 1.5
    thumbnails = [np.frombuffer(each.thumbnail, np.uint8) for each in (traits, wanted_traits)]
    assert distance(*thumbnails) <= 1.5
    assert traits.flags == ImageFlag(0)
    with Image.open(io.BytesIO(content)) as file:
        assert np.array_equal(decode_image(file, preprocessing), pixels)
    ignored = decode(content, replace(preprocessing, decoder=2))
    stored = decode(encode(in_p3(image), "PNG"), preprocessing)
    assert distance(ignored, stored) <= 1.5
    assert distance(ignored, wanted) > 4


@pytest.mark.parametrize("profile", [LCMS_SRGB, rgb_profile(SRGB), gray_profile(None)])
def test_an_srgb_profile_changes_no_pixel_and_costs_nothing(
    profile: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = photo(0, 61, 43).convert("L" if b"GRAY" in profile else "RGB")
    content = encode(image, "PNG", icc_profile=profile)
    decode(content, SQUASH)  # compares the profile with sRGB, once for all images
    monkeypatch.delattr(ImageCms, "ImageCmsProfile")
    monkeypatch.delattr(ImageCms.ImageCmsTransform, "apply")
    pixels, traits = decode_with_traits(content, SQUASH)
    assert np.array_equal(pixels, decode(encode(image, "PNG"), SQUASH))
    assert traits.flags & ~ImageFlag.GRAYSCALE == 0


@pytest.mark.parametrize("mode", ["L", "LA", "I;16", "1"])
def test_a_gray_profile_is_applied_to_gray_pixels(mode: str) -> None:
    image = Image.new("L", (9, 9), 255 if mode == "1" else 128)
    if mode == "I;16":
        image = Image.fromarray(np.full((9, 9), 128 * 257, np.uint16))
    content = encode(image if mode == "I;16" else image.convert(mode), "PNG",
                     icc_profile=gray_profile(1.0))  # fmt: skip
    pixels, traits = decode_with_traits(content, SQUASH)
    assert np.abs(pixels.astype(int) - (255 if mode == "1" else 188)).max() <= 1  # 0.5 in sRGB
    assert not traits.flags & ImageFlag.INVALID_PROFILE


def test_an_rgb_profile_is_applied_to_gray_and_palette_images() -> None:
    linear = rgb_profile(SRGB, gamma=1.0)
    for mode in ("L", "P"):
        content = encode(Image.new("L", (9, 9), 128).convert(mode), "PNG", icc_profile=linear)
        assert np.abs(decode(content, SQUASH).astype(int) - 188).max() <= 1


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_a_cmyk_profile_is_applied_to_inks(kind: str, tmp_path: Path) -> None:
    image = Image.new("CMYK", (64, 64), (255, 0, 0, 0))  # cyan
    content = encode(image, kind, icc_profile=cmyk_profile())
    pixels, traits = decode_with_traits(content, SQUASH)
    assert np.ptp(pixels.astype(int), axis=2).max() <= 3  # that press prints it gray
    assert 150 < pixels.mean() < 220
    assert traits.flags & ~ImageFlag.GRAYSCALE == ImageFlag(0)
    ignored = decode(content, replace(SQUASH, decoder=2))
    assert np.array_equal(ignored, decode(encode(image, kind), SQUASH))
    (tmp_path / "image").write_bytes(content)
    with Image.open(io.BytesIO(make_thumbnail(tmp_path / "image", 32))) as thumbnail:
        assert np.ptp(np.asarray(thumbnail).astype(int), axis=2).max() <= 3


UNSUITABLE = [
    ("RGB", b"no profile"), ("RGB", P3[:300]), ("RGB", P3[:200] + bytes(388)),
    ("RGB", gray_profile(1.0)), ("RGB", cmyk_profile()), ("CMYK", P3), ("L", cmyk_profile()),
]  # fmt: skip


@pytest.mark.parametrize(("mode", "profile"), UNSUITABLE)
def test_a_damaged_or_unsuitable_profile_is_ignored_with_a_flag(mode: str, profile: bytes) -> None:
    image = photo(0, 61, 43).convert(mode)
    pixels, traits = decode_with_traits(encode(image, "TIFF", icc_profile=profile), SQUASH)
    assert np.array_equal(pixels, decode(encode(image, "TIFF"), SQUASH))
    assert traits.flags & ImageFlag.INVALID_PROFILE


@pytest.mark.parametrize("profile", [bytes(2**22 + 1), "text", (1, 2)])
def test_a_profile_of_another_type_or_a_huge_one_is_not_tried(profile: object) -> None:
    image = smooth()
    image.info["icc_profile"] = profile
    with pytest.raises(ValueError, match="profile"):
        find_transform(image)


@given(st.data())
def test_a_profile_with_changed_bytes_never_stops_a_decode(data: st.DataObject) -> None:
    mode, whole = data.draw(st.sampled_from(
        [("RGB", P3), ("L", gray_profile(1.0)), ("CMYK", cmyk_profile())]
    ))  # fmt: skip
    profile = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        profile[data.draw(st.integers(0, len(profile) - 1))] = data.draw(st.integers(0, 255))
    content = encode(smooth().convert(mode), "TIFF", icc_profile=bytes(profile))
    assert decode(content, SQUASH).shape == (SIZE, SIZE, 3)
