import logging
import os
import socket
import sys
import threading
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image, features

from images import encode, smooth, touch
from neither.data.decode import decode
from neither.data.image_file import (
    MAX_BYTES,
    TransientReadError,
    UnreadableError,
    describe_others,
    identify,
    is_avif,
    is_heic,
    pillow_formats,
    read_file,
    silence_pillow,
    to_unreadable,
)
from neither.data.layout import find_all_images, find_evaluation_images, find_training_images
from neither.data.preprocessing import Preprocessing
from neither.data.scan import list_images
from neither.runtime.errors import DataError


def reason(path: Path) -> str:
    with pytest.raises(UnreadableError) as caught:
        read_file(path)
    return str(caught.value)


@pytest.mark.parametrize("content", [b"", b"a", bytes(range(256)) * 300])
def test_a_file_is_read_whole(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    (tmp_path / "link").symlink_to("file")
    assert read_file(tmp_path / "file") == content
    assert read_file(tmp_path / "link") == content


@pytest.fixture
def irregular(tmp_path: Path) -> Iterator[Path]:
    """Make a folder of irregular files with an image suffix."""
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link to pipe.jpg").symlink_to("pipe.jpg")
    (tmp_path / "zeros.jpg").symlink_to("/dev/zero")
    (tmp_path / "null.jpg").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "socket.jpg"))  # an address may be 107 bytes long
        yield tmp_path


@pytest.mark.usefixtures("watchdog")
@pytest.mark.parametrize("name", ["folder", "pipe", "link to pipe", "zeros", "null", "socket"])
def test_an_irregular_file_is_unreadable_and_never_opened(irregular: Path, name: str) -> None:
    assert reason(irregular / f"{name}.jpg") == "not a regular file"


def test_no_file_stays_open(irregular: Path) -> None:
    (irregular / "file").write_bytes(b"abc")
    before = os.dup(0)  # the lowest number that is free
    os.close(before)
    for path in [*irregular.iterdir(), irregular / "gone"]:
        try:
            read_file(path)
        except UnreadableError:
            continue
    after = os.dup(0)
    os.close(after)
    assert after == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.jpg", "no such file or directory"),
        ("dangling.jpg", "no such file or directory"),
        ("loop.jpg", "too many levels of symbolic links"),
        ("file/below.jpg", "not a directory"),
        ("x" * 300, "file name too long"),
        ("a\0b", "no file can have this name"),
        ("\ud800", "no file can have this name"),
    ],
)
def test_a_path_without_a_file_is_unreadable_with_the_reason(
    tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling.jpg").symlink_to("nowhere")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    assert reason(tmp_path / name) == message


@contextmanager
def not_root() -> Iterator[None]:
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_without_permission_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "secret.jpg"
    path.write_bytes(b"secret")
    path.chmod(0)
    with not_root():
        assert reason(path) == "permission denied"


def test_a_large_file_is_unreadable_and_memory_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(8 * MAX_BYTES)
    (tmp_path / "small").write_bytes(bytes(1000))
    tracemalloc.start()
    try:
        read_file(tmp_path / "small")
        assert tracemalloc.get_traced_memory()[1] < 200_000
        assert reason(path) == "larger than 50,000,000 bytes"
        assert tracemalloc.get_traced_memory()[1] < 1.1 * MAX_BYTES
    finally:
        tracemalloc.stop()
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    assert reason(path) == "larger than 50,000,000 bytes"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES)
    assert len(read_file(path)) == MAX_BYTES


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError("image file is truncated (5 bytes not processed)"), "truncated or damaged"),
        (OSError("broken data stream when reading image file"), "truncated or damaged"),
        (ValueError("Not Enough image data"), "truncated or damaged"),
        (SyntaxError("broken PNG file (chunk b'xxxx')"), "damaged"),
        (Image.DecompressionBombWarning("bomb"), "damaged"),
        (KeyError(5), "damaged"),
    ],
)
def test_errors_of_pillow_become_a_short_reason(error: Exception, message: str) -> None:
    explained = to_unreadable(error)
    assert str(explained) == message
    assert not isinstance(explained, TransientReadError)


def test_a_lack_of_memory_is_transient() -> None:
    explained = to_unreadable(MemoryError())
    assert str(explained) == "too large for the memory"
    assert isinstance(explained, TransientReadError)


def test_overlapping_threads_restore_the_warnings() -> None:
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with silence_pillow():
            inside.set()
            assert leave.wait(30)

    before, handlers = list(warnings.filters), list(logging.getLogger("PIL").handlers)
    thread = threading.Thread(target=other)
    with silence_pillow():
        thread.start()
        assert inside.wait(30)
        warnings.warn("suppressed", stacklevel=1)
    warnings.warn("suppressed: another thread is inside", stacklevel=1)
    leave.set()
    thread.join()
    assert warnings.filters == before
    assert logging.getLogger("PIL").handlers == handlers
    with pytest.warns(UserWarning, match="shown"):
        warnings.warn("shown", stacklevel=1)


# Formats


def ftyp(major: bytes, *compatible: bytes) -> bytes:
    """Return the start of an ISO media file."""
    content = b"ftyp" + major + bytes(4) + b"".join(compatible)
    return (4 + len(content)).to_bytes(4) + content + bytes(99)


@pytest.mark.parametrize("brand", ["heic", "heix", "hevc", "mif1", "msf1", "heim", "heis", "hevx"])
def test_heic_is_recognized_by_its_brand(brand: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = ftyp(brand.encode())
    assert is_heic(content)
    assert not is_avif(content)
    assert pillow_formats(content) == ("HEIF",)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(TransientReadError, match=r"HEIC.*neither\[heic\]"):
        decode(content, Preprocessing(8))


@pytest.mark.parametrize("brands", [(b"avif",), (b"avis", b"msf1"), (b"mif1", b"miaf", b"avif")])
def test_avif_is_recognized_by_its_brands(
    brands: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = ftyp(*brands)
    assert is_avif(content)
    assert not is_heic(content)
    assert pillow_formats(content) == ("AVIF",)
    monkeypatch.setattr(features, "check", lambda _: False)
    with pytest.raises(TransientReadError, match="AVIF"):
        pillow_formats(content)


@pytest.mark.parametrize(
    "content", [b"", b"\0\0\0\x18ftyp", ftyp(b"isom"), b"heic" * 9, b"\xff" * 4 + b"ftypisom"]
)
def test_other_content_is_neither(content: bytes) -> None:
    assert not is_heic(content)
    assert not is_avif(content)
    assert not {"HEIF", "AVIF"} & {*pillow_formats(content)}


OTHERS = [
    ("JPEG XL", b"\xff\x0a" + bytes(99)),
    ("JPEG XL", b"\0\0\0\x0cJXL \r\n\x87\n" + ftyp(b"jxl ")),
    ("JPEG 2000", encode(smooth(), "JPEG2000")),
    ("JPEG 2000", encode(smooth(), "JPEG2000", no_jp2=True)),
    ("camera raw", b"II*\0\x10\0\0\0CR\2\0" + bytes(99)),
    ("camera raw", ftyp(b"crx ")),
    ("camera raw", b"FUJIFILMCCD-RAW 0201"),
    ("camera raw", b"II*\0\x08\0\0\0\0\0" + bytes(99)),  # damaged, as far as Pillow can tell
    ("video", ftyp(b"isom", b"mp42")),
    ("video", ftyp(b"qt  ")),
    ("video", b"\0\0\0\x08wide" + bytes(99)),
    ("video", b"\x1aE\xdf\xa3" + bytes(99)),
    ("video", b"RIFF\0\0\0\0AVI LIST"),
    ("Photoshop", b"8BPS\0\1"),
    ("PDF", encode(smooth(), "PDF")),
    ("PostScript", encode(smooth(), "EPS")),
]


@pytest.mark.parametrize(("kind", "content"), OTHERS)
def test_a_file_that_is_not_read_is_named_for_what_it_is(kind: str, content: bytes) -> None:
    with pytest.raises(UnreadableError, match=kind):
        decode(content, Preprocessing(8))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_no_image_that_is_read_is_named_otherwise(kind: str) -> None:
    content = encode(smooth(), kind)
    assert identify(content) in ("", "video")  # AVIF is of the same family
    assert decode(content, Preprocessing(8)).shape == (8, 8, 3)


def test_damaged_avif_and_heic_are_named_damaged() -> None:
    for content in (ftyp(b"avif"), ftyp(b"heic"), encode(smooth(), "AVIF")[:-40]):
        with pytest.raises(UnreadableError, match="damaged"):
            decode(content, Preprocessing(8))


def test_kinds_are_counted_by_suffix() -> None:
    others = Counter({".jxl": 3, ".mov": 1_000, ".txt": 5, "": 1})
    text = describe_others(others)
    assert "3 JPEG XL (.jxl)" in text
    assert "1,000 video (.mov)" in text
    assert "txt" not in text
    assert describe_others(Counter({".txt": 5})) == ""


def test_avif_without_a_suffix_is_found(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(encode(smooth(), "AVIF"))
    (tmp_path / "photo").write_bytes(ftyp(b"heic"))
    (tmp_path / "film").write_bytes(ftyp(b"isom"))
    assert list_images(tmp_path).paths == ["image", "photo"]


def test_a_folder_of_other_kinds_alone_says_what_it_holds(tmp_path: Path) -> None:
    touch(tmp_path, "train/dog/a.nef", "train/dog/b.nef", "train/human/c.jpg", "raw/d.cr2")
    with pytest.raises(DataError, match=r"(?s)dog.*2 camera raw \(\.nef\)"):
        find_training_images(tmp_path, ["dog", "human"])
    for find in (find_all_images, lambda path: find_evaluation_images(path, ["dog"], None)):
        with pytest.raises(DataError, match=r"1 camera raw \(\.cr2\)"):
            find(tmp_path / "raw")
