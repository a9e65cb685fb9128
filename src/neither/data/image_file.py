"""Read the bytes of an image file, and translate the errors of Pillow.

Every reason that a file is unreadable is an `UnreadableError` with a short message. Pillow's
warnings and log records about invalid metadata, which changes no pixel, are suppressed.
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
    """A file cannot be decoded; the message is the reason."""


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


def is_heic(content: bytes) -> bool:
    """Return whether the bytes are of a HEIC file, which phones write."""
    return content[4:8] == b"ftyp" and content[8:12] in _HEIC_BRANDS


def pillow_formats(content: bytes) -> tuple[str, ...]:
    """Return the formats that Pillow may open the content as; HEIC needs the extra [heic]."""
    if not is_heic(content):
        return FORMATS
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise TransientReadError(describe_unidentified(content)) from None
    register_heif_opener()
    return (HEIC,)


def describe_unidentified(content: bytes) -> str:
    """Return the reason why Pillow does not recognize a file, with a remedy if there is one."""
    if content.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the image; run: git lfs pull"
    if is_heic(content):
        return "HEIC; to read it: pip install 'neither[heic]' (pillow-heif), or convert it to JPEG"
    if content.lstrip()[:1] == b"<":
        return "not an image but a page of HTML or XML"
    return "not a JPEG, PNG, WebP, GIF, BMP or TIFF image, or its start is damaged"


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
