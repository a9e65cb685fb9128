"""A folder with every fault that pictures come with, made by code."""

import os
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from images import CLASSES, draw_shape, encode

# What must be said of each file in `unreadable`, by a part of its name.
NOT_IMAGE = "not a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF"


def photo(number: int, width: int = 160, height: int = 120) -> Image.Image:
    """Draw a picture with a look of its own, which JPEG keeps well."""
    random = np.random.default_rng([7, number])
    coarse = random.integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(width: int, height: int, rows: bytes = b"", extra: bytes = b"") -> bytes:
    """Write a grey PNG by hand, also one whose size is a lie."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + extra + body


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@cache
def readable() -> dict[str, bytes]:
    """Return odd files that must be read all the same, by name."""
    sixteen = Image.fromarray(np.arange(120 * 160).reshape(120, 160).astype(np.uint16) * 3)
    palette = photo(11).convert("P")
    text = PngImagePlugin.PngInfo()
    text.add_text("note", "x" * 1000)
    frames = [photo(20 + number) for number in range(3)]
    files = {
        "d05 16 bit.png": encode(sixteen, "PNG"),
        "d05 16 bit.tif": encode(sixteen, "TIFF"),
        "d06 cmyk.jpg": encode(photo(1).convert("CMYK"), "JPEG"),
        "d06 grey.jpg": encode(photo(2).convert("L"), "JPEG"),
        "d06 one bit.png": encode(photo(3).convert("1"), "PNG"),
        "d06 la.png": encode(photo(4).convert("LA"), "PNG"),
        "d06 palette.png": encode(palette, "PNG"),
        "d06 palette seen through.png": encode(palette, "PNG", transparency=bytes(range(256))),
        "d06 rgba.png": encode(photo(5).convert("RGBA"), "PNG"),
        "d07 corrupt exif.jpg": encode(photo(6), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"),
        "d07 orientation 99.jpg": encode(photo(7), "JPEG", exif=exif(99)),
        "d08 animated.gif": encode(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "d08 animated.webp": encode(photo(8), "WEBP", save_all=True, append_images=[photo(28)]),
        "d08 animated.png": encode(photo(9), "PNG", save_all=True, append_images=[photo(29)]),
        "d08 pages.tif": encode(photo(10), "TIFF", save_all=True, append_images=[photo(30)]),
        "d09 one pixel.png": encode(Image.new("RGB", (1, 1), "red"), "PNG"),
        "d09 wide.png": encode(photo(12, 30_000, 10), "PNG"),
        "d09 tall.png": encode(photo(13, 1, 65_500), "PNG"),
        "d10 a jpeg.png": encode(photo(14), "JPEG"),
        "d10 a tiff.jpg": encode(photo(15), "TIFF"),
        "D11.JPG": encode(photo(16), "JPEG"),
        "d11 no suffix": encode(photo(17), "JPEG"),
        "d13 a,b 'c' \"d\".jpg": encode(photo(31), "JPEG"),
        "d13 new\nline.jpg": encode(photo(32), "JPEG"),
        "d13 \N{DOG FACE} \u202eevil.jpg": encode(photo(33), "JPEG"),
        "-d13.jpg": encode(photo(34), "JPEG"),
        "=d13().jpg": encode(photo(35), "JPEG"),
        "d13 " + "x" * 247 + ".jpg": encode(photo(36), "JPEG"),
        os.fsdecode(b"d13 \xff.jpg"): encode(photo(37), "JPEG"),
        "d14 \u00e9.jpg": encode(photo(38), "JPEG"),
        "d14 e\u0301.jpg": encode(photo(39), "JPEG"),
        "d14 case.jpg": encode(photo(40), "JPEG"),
        "d14 CASE.jpg": encode(photo(41), "JPEG"),
        "d22/deep/er/x.jpg": encode(photo(42), "JPEG"),
        "d33 profile.png": encode(photo(43), "PNG", icc_profile=b"no profile", pnginfo=text),
    }
    for orientation in range(1, 9):
        files[f"d07 orientation {orientation}.jpg"] = encode(
            photo(50 + orientation), "JPEG", exif=exif(orientation)
        )
    return files


@cache
def unreadable() -> dict[str, tuple[bytes, str]]:
    """Return files that give no image, by name, each with a part of the reason."""
    jpeg, whole_png = encode(photo(60), "JPEG", quality=95), encode(photo(61), "PNG")
    gif = encode(Image.new("P", (1, 1)), "GIF")
    bomb = chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(200_000_000), 9))
    files = {
        "d02 empty.jpg": (b"", "empty file"),
        "d02 text.jpg": (b"no picture at all", NOT_IMAGE),
        "d02 page.jpg": (b"<html>404</html>", "HTML"),
        "d02 pointer.jpg": (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"),
        "d03 large.png": (png(20_000, 20_000), "pixels"),
        "d03 largest.png": (png(2**31 - 1, 2**31 - 1), ""),
        "d03 100 megapixels.png": (png(10_000, 10_000, bytes(10_001 * 10_000)), "pixels"),
        "d03 bomb.gif": (gif[:6] + struct.pack("<HH", 65_535, 65_535) + gif[10:], "pixels"),
        "d04 large file.bmp": (b"BM" + bytes(50_000_001), "larger than"),
        "d04 text bomb.png": (png(8, 8, bytes(72), bomb), ""),
        "d09 no pixels.png": (png(0, 0), ""),
        "d10 eps.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        "d10 pdf.jpg": (encode(photo(62), "PDF"), "PDF"),
        "d10 svg.jpg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "HTML or XML"),
        "d10 jpeg 2000.jpg": (encode(photo(63), "JPEG2000"), "JPEG 2000"),
    }
    for percent in range(1, 100, 7):
        files[f"d01 {percent}.jpg"] = (jpeg[: len(jpeg) * percent // 100], "")
        files[f"d01 {percent}.png"] = (whole_png[: len(whole_png) * percent // 100], "")
    return files


def make_hostile(root: Path, num: int = 40) -> None:
    """Make sound images of three classes in train, val and test, and all faults among train's dogs.

    Besides the files of `readable` and `unreadable`: litter, links, pipes, devices, copies.
    """
    for split, count in (("train", num), ("val", num // 4), ("test", num // 4)):
        for place, label in enumerate(CLASSES):
            folder = root / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                seed = 1000 * (place + 3 * len(split)) + number
                image = Image.blend(photo(seed), draw_shape(label, seed).resize((160, 120)), 0.5)
                image.save(folder / f"{number:03}.png")
    dogs = root / "train" / "dog"
    for name, content in readable().items() | {(n, c) for n, (c, _) in unreadable().items()}:
        path = dogs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._photo.jpg", "__MACOSX/a.jpg",
                 ".hidden/b.jpg", "notes.txt"):  # fmt: skip
        (dogs / name).parent.mkdir(exist_ok=True)
        (dogs / name).write_bytes(b"litter")
    (dogs / "d15 loop").symlink_to(dogs)
    (dogs / "d15 parent").symlink_to(root)
    (dogs / "d15 dangling.jpg").symlink_to(root / "nowhere.jpg")
    os.mkfifo(dogs / "d16 pipe.jpg")
    (dogs / "d16 device.jpg").symlink_to("/dev/zero")
    (dogs / "d16 folder.jpg").mkdir()
    (root / "train" / "d23 loose.jpg").write_bytes(encode(photo(70), "JPEG"))
    # D25: the same bytes, and the same picture encoded anew, in val.
    sound = dogs / "000.png"
    (root / "val" / "dog" / "d25 copy.png").write_bytes(sound.read_bytes())
    with Image.open(dogs / "001.png") as image:
        (root / "val" / "dog" / "d25 twin.jpg").write_bytes(encode(image, "JPEG", quality=80))
    os.utime(dogs / "002.png", (0, 0))  # D32
    os.utime(dogs / "003.png", (2**33, 2**33))


def one_class(draw: Callable[[int], Image.Image], root: Path, *folders: str, num: int = 12) -> Path:
    """Fill folders below a root with pictures."""
    for place, folder in enumerate(folders):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(num):
            draw(1000 * place + number).save(root / folder / f"{number:02}.png")
    return root
