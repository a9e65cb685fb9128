"""The bytes of an image file, read with care.

What Pillow says of odd metadata, which changes no pixel: heard by nobody while images are read.

`warnings.catch_warnings` alone is not made for threads: whoever leaves last puts back what it
found, which may be another thread's silence, for good. So the first one in makes it quiet and the
last one out puts everything back.
"""

import logging
import stat
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from PIL import Image

from neither.data.preprocessing import FORMATS, HEIC
from neither.data.workers import mark_current_file

MAX_BYTES = 50_000_000

_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


class UnreadableError(Exception):
    """This file gives no image; the message is the reason, in a few words."""


class TransientReadError(UnreadableError):
    """It gives none here and now, but may do so elsewhere or tomorrow."""


def read_file(path: Path) -> bytes:
    """Read a regular file of at most 50 MB.

    Raises:
        UnreadableError: if it is larger, gone, no regular file, or may not be read.
    """
    mark_current_file(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # to open a pipe that nobody writes to would hang
            raise UnreadableError("not a regular file")
        with path.open("rb", buffering=0) as file:
            # Not MAX_BYTES + 1, for which Python would clear 50 MB each time.
            content = file.read(min(status.st_size, MAX_BYTES) + 1)
    except OSError as error:
        raise UnreadableError((error.strerror or "cannot be read").lower()) from error
    except ValueError as error:  # a NUL in the name
        raise UnreadableError("no file can have this name") from error
    if len(content) > MAX_BYTES:
        raise UnreadableError(f"larger than {MAX_BYTES:,} bytes")
    return content


def is_heic(content: bytes) -> bool:
    """Tell HEIC, which phones write, by its first bytes."""
    return content[4:8] == b"ftyp" and content[8:12] in _HEIC_BRANDS


def pillow_formats(content: bytes) -> tuple[str, ...]:
    """Return the formats that Pillow is to try, HEIC only where the extra [heic] is installed.

    Raises:
        NotNowError: if it is HEIC and the extra is not there.
    """
    if not is_heic(content):
        return FORMATS
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise TransientReadError(describe_unidentified(content)) from None
    register_heif_opener()
    return (HEIC,)


def describe_unidentified(content: bytes) -> str:
    """Name what an unidentified file holds, where that helps to mend it."""
    if content.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the image; run: git lfs pull"
    if is_heic(content):
        return "HEIC; to read it: pip install 'neither[heic]' (pillow-heif), or convert it to JPEG"
    if content.lstrip()[:1] == b"<":
        return "not an image but a page of HTML or XML"
    return "not a JPEG, PNG, WebP, GIF, BMP or TIFF image, or its start is damaged"


# Everything that Pillow's readers were seen to raise on damaged files.
PILLOW_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, AttributeError,
    NotImplementedError, OverflowError, MemoryError, ZeroDivisionError, struct.error,
    Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip


def to_unreadable(error: BaseException) -> UnreadableError:
    """Say in a few words why Pillow gave up on a file."""
    if isinstance(error, MemoryError):
        return TransientReadError("too large for the memory")
    text = str(error).lower()
    cut = ("truncated", "not enough", "unexpected end", "broken data stream", "incomplete")
    is_cut = any(word in text for word in cut)
    return UnreadableError("truncated or damaged" if is_cut else "damaged")


_lock = threading.Lock()
_num_inside = 0
_undo = ExitStack()
_nobody = logging.NullHandler()  # without any handler Python prints what Pillow logs


@contextmanager
def silence_pillow() -> Iterator[None]:
    """Ignore warnings, and what Pillow logs where nobody listens, in any number of threads."""
    global _num_inside
    with _lock:
        if _num_inside == 0:
            _undo.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            log = logging.getLogger("PIL")
            log.addHandler(_nobody)
            _undo.callback(log.removeHandler, _nobody)
        _num_inside += 1
    try:
        yield
    finally:
        with _lock:
            _num_inside -= 1
            if _num_inside == 0:
                _undo.close()
