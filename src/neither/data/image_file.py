"""The formats of image files; read their bytes, and translate the errors of Pillow.

Every reason that a file is unreadable is an `UnreadableError` with a short message. Pillow's
warnings and log records about invalid metadata, which changes no pixel, are suppressed.
"""

import logging
import re
import stat
import struct
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path

from PIL import Image, features

from neither.data.workers import mark_current_file

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # as Pillow names them
HEIC = "HEIF"  # with the extra [heic]
AVIF = "AVIF"
FORMAT_NAMES = "JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF"
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff",
            ".avif", ".heic", ".heif")  # fmt: skip

_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_MAX_BRANDS = 64
_MAGIC = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|RIFF....WEBP|GIF8|BM....\0\0\0\0|II\*\0|MM\0\*|"
    rb"....ftyp(?:avi[fs]|" + b"|".join(sorted(_HEIC_BRANDS)) + rb")",
    re.DOTALL,
)

# Formats that users have beside their images, by the first bytes and by the suffix.
_SIGNATURES = {
    kind: re.compile(pattern, re.DOTALL)
    for kind, pattern in (
        ("JPEG XL", rb"\xff\x0a|\0\0\0\x0cJXL "),
        ("JPEG 2000", rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  "),
        ("camera raw", rb"II\*\0....CR|II\x1a\0\0\0HEAPCCDR|IIU\0|IIR[OS]|MMOR|FUJIFILMCCD-RAW|"
                       rb"FOVb|\0MRM|....ftypcrx "),
        ("video", rb"....(?:ftyp|moov|mdat|wide)|\x1aE\xdf\xa3|RIFF....AVI |\0\0\x01[\xba\xb3]|"
                  rb"FLV\x01|0&\xb2u|G.{187}G"),
        ("Photoshop", rb"8BPS"),
        ("PDF", rb"%PDF"),
        ("PostScript", rb"%!PS|\xc5\xd0\xd3\xc6"),
    )
}  # fmt: skip
_KINDS = {
    suffix: kind
    for kind, suffixes in (
        ("JPEG XL", ".jxl"),
        ("JPEG 2000", ".jp2 .j2k .j2c .jpc .jpf .jpx .jpm"),
        ("camera raw", ".3fr .arw .cr2 .cr3 .crw .dng .erf .iiq .kdc .mrw .nef .nrw .orf .pef .raf "
                       ".raw .rw2 .rwl .sr2 .srf .srw .x3f"),
        ("video", ".3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .webm .wmv"),
        ("Photoshop", ".psb .psd"),
        ("PDF", ".pdf"),
        ("PostScript", ".eps .ps"),
    )
    for suffix in suffixes.split()
}  # fmt: skip

MAX_BYTES = 50_000_000


class UnreadableError(Exception):
    """A file cannot be decoded; the message is the reason."""


class TooManyPixelsError(UnreadableError):
    """An image is too large to decode."""


class TransientReadError(UnreadableError):
    """A file cannot be decoded at present; a later attempt may succeed."""


def read_file(path: Path) -> bytes:
    """Read a regular file of at most 50 MB.

    Raises:
        UnreadableError: if it is larger, missing, not a regular file, or not permitted.
    """
    mark_current_file(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would block
            raise UnreadableError("not a regular file")
        with path.open("rb", buffering=0) as file:
            # Not MAX_BYTES + 1: Python allocates the whole buffer first.
            content = file.read(min(status.st_size, MAX_BYTES) + 1)
    except OSError as error:
        raise UnreadableError((error.strerror or "cannot be read").lower()) from error
    except ValueError as error:  # a NUL in the name
        raise UnreadableError("no file can have this name") from error
    if len(content) > MAX_BYTES:
        raise UnreadableError(f"larger than {MAX_BYTES:,} bytes")
    return content


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file in hex; empty if it cannot be read."""
    try:
        return sha256(read_file(path)).hexdigest()
    except UnreadableError:
        return ""


def is_image_start(content: bytes) -> bool:
    """Return whether the first 12 bytes are those of a format that is read."""
    return _MAGIC.match(content) is not None


def is_heic(content: bytes) -> bool:
    """Return whether the bytes are of a HEIC file, which phones write."""
    return not is_avif(content) and not _brands(content).isdisjoint(_HEIC_BRANDS)


def is_avif(content: bytes) -> bool:
    """Return whether the bytes are of an AVIF file, which browsers save."""
    return not _brands(content).isdisjoint(_AVIF_BRANDS)


def _brands(content: bytes) -> set[bytes]:
    """Return what the first box of an ISO media file says that the file is."""
    if content[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(content[:4]), 8 + 4 * _MAX_BRANDS)
    return {content[start : start + 4] for start in (8, *range(16, end, 4))}


def identify(content: bytes) -> str:
    """Return what an image that is not read, or a video, is by its first bytes; or nothing."""
    return next((kind for kind, start in _SIGNATURES.items() if start.match(content)), "")


def describe_no_images(num_files_by_suffix: Counter[str]) -> str:
    """Say that a folder has no images, and what it has instead."""
    return f"no images here (looked for {FORMAT_NAMES}){describe_others(num_files_by_suffix)}"


def describe_others(num_files_by_suffix: Counter[str]) -> str:
    """Return the end of a message: how many files are of a kind that users take for images."""
    kinds: Counter[str] = Counter()
    for suffix, num in num_files_by_suffix.items():
        if suffix in _KINDS:
            kinds[f"{_KINDS[suffix]} ({suffix})"] += num
    named = ", ".join(f"{num:,} {kind}" for kind, num in sorted(kinds.items()))
    return f"; {named}: convert such images to JPEG" if named else ""


def pillow_formats(content: bytes) -> tuple[str, ...]:
    """Return the formats that Pillow may open the content as.

    Raises:
        TransientReadError: if a package for HEIC or AVIF is missing.
    """
    if is_avif(content):
        if not features.check("avif"):
            raise TransientReadError("AVIF; to read it: pip install --force-reinstall pillow")
        return (AVIF,)
    if not is_heic(content):
        return FORMATS
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise TransientReadError(
            "HEIC; to read it: pip install 'neither[heic]' (pillow-heif), or convert it to JPEG"
        ) from None
    register_heif_opener()
    return (HEIC,)


def describe_unidentified(content: bytes) -> str:
    """Return the reason why Pillow does not recognize a file, with a remedy if there is one."""
    if content.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the image; run: git lfs pull"
    if is_heic(content) or is_avif(content):
        return "truncated or damaged"
    if kind := identify(content):
        remedy = "" if kind == "video" else "; convert it to JPEG"
        return f"{kind}, which is not read{remedy}"
    if content.lstrip()[:1] == b"<":
        return "not an image but a page of HTML or XML"
    if content.startswith((b"II*\0", b"MM\0*")):
        return "a TIFF that is damaged, or not for pictures, such as camera raw"
    return f"not a {FORMAT_NAMES.replace('and', 'or')} image, or its start is damaged"


# All exceptions that Pillow has been observed to raise on damaged files.
PILLOW_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, AttributeError,
    NotImplementedError, OverflowError, MemoryError, ZeroDivisionError, struct.error,
    Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip


def to_unreadable(error: BaseException) -> UnreadableError:
    """Translate an exception of Pillow."""
    if isinstance(error, MemoryError):
        return TransientReadError("too large for the memory")
    text = str(error).lower()
    cut = ("truncated", "not enough", "unexpected end", "broken data stream", "incomplete")
    is_cut = any(word in text for word in cut)
    return UnreadableError("truncated or damaged" if is_cut else "damaged")


_lock = threading.Lock()
_num_inside = 0
_undo = ExitStack()
_null_handler = logging.NullHandler()  # without a handler Python prints Pillow's log records


@contextmanager
def silence_pillow() -> Iterator[None]:
    """Suppress warnings and Pillow's log records, in any number of threads.

    `warnings.catch_warnings` is not thread-safe: the thread that leaves last restores the filters
    it found, which may be those of another thread. So the first thread to enter suppresses them and
    the last one to leave restores them.
    """
    global _num_inside
    with _lock:
        if _num_inside == 0:
            _undo.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            log = logging.getLogger("PIL")
            log.addHandler(_null_handler)
            _undo.callback(log.removeHandler, _null_handler)
        _num_inside += 1
    try:
        yield
    finally:
        with _lock:
            _num_inside -= 1
            if _num_inside == 0:
                _undo.close()
