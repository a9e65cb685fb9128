"""The image files of a request, from its stream: in memory only, bytes counted as they arrive."""

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from fastapi import HTTPException, Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from neither.data.image_file import MAX_BYTES

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_FILES = 1000  # of a request, with all other parts of a form
MAX_BODY_BYTES = 500_000_000
MAX_HELD_BYTES = 300_000_000  # of all requests together, until they are decoded


class Memory:
    """Counts the bytes that all requests hold."""

    def __init__(self) -> None:
        self.num_held = 0

    def take(self, num: int) -> None:
        """Count bytes that arrived; raise `HTTPException` 429 if there are too many."""
        if self.num_held + num > MAX_HELD_BYTES:
            raise HTTPException(429, "too many images at once; try again")
        self.num_held += num


class Upload:
    """A file of a request.

    Attributes:
        name: as the sender gave it, never opened; empty for a raw body.
        content: of the file; empty if it is too large.
        is_too_large: whether it has more bytes than an image may have.
    """

    def __init__(self, memory: Memory, name: str = "") -> None:
        self.name, self.is_too_large = name, False
        self.content: bytes | bytearray = bytearray()
        self._memory = memory

    def add(self, data: bytes) -> None:
        """Append bytes that arrived."""
        if self.is_too_large or len(self.content) + len(data) > MAX_BYTES:
            self.is_too_large = True
            self.release()
        else:
            self._memory.take(len(data))
            self.content += data

    def seal(self) -> bytes:
        """Return the content, which is complete, without holding it twice."""
        self.content = bytes(self.content)
        return self.content

    def release(self) -> None:
        """Forget the content; more than once is no mistake."""
        self._memory.num_held -= len(self.content)
        self.content = bytearray()


async def read_uploads(request: Request, memory: Memory) -> AsyncGenerator[Upload]:
    """Yield each file of a request once it is complete; the caller releases it.

    Of multipart/form-data the parts with a file name are read; another request is one file.

    Raises:
        HTTPException: 400 if the body is malformed, 413 if it is too large, 429 if all requests
            hold too much.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    is_form, num_bytes, num_files = kind == b"multipart/form-data", 0, 0
    max_bytes = MAX_BODY_BYTES if is_form else MAX_BYTES
    if int(request.headers.get("content-length", 0)) > max_bytes:
        raise _too_large(f"{max_bytes:,} bytes")
    form, raw = _Form(memory), Upload(memory)
    try:
        parser = MultipartParser(options.get(b"boundary", b"-"), form.callbacks())
        async for chunk in request.stream():
            num_bytes += len(chunk)
            if num_bytes > max_bytes:
                raise _too_large(f"{max_bytes:,} bytes")
            if not is_form:
                raw.add(chunk)
                continue
            parser.write(chunk)
            if form.num_parts > MAX_FILES:
                raise _too_large(f"{MAX_FILES:,} files")
            while form.complete:
                num_files += 1
                yield form.complete.pop(0)
        if is_form:
            parser.finalize()
        elif num_bytes:
            num_files = 1
            complete, raw = raw, Upload(memory)
            yield complete
    except FormParserError as error:
        raise HTTPException(400, f"not multipart/form-data: {error}") from error
    finally:
        for upload in (raw, *form.complete, *filter(None, [form.current])):
            upload.release()
    if num_files == 0:
        raise HTTPException(400, "no image in this request")


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Return the body of a small request; raise `HTTPException` 413 if it is larger."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise _too_large(f"{max_bytes:,} bytes")
    return bytes(body)


def _too_large(limit: str) -> HTTPException:
    return HTTPException(413, f"more than {limit} in one request")


class _Form:
    """What the parser has found so far: complete files, and the one that is arriving."""

    def __init__(self, memory: Memory) -> None:
        self.complete: list[Upload] = []
        self.current: Upload | None = None  # None in a part that is not a file
        self.num_parts = 0
        self._memory = memory
        self._field = self._value = b""

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_header_field": self._on_field,
            "on_header_value": self._on_value,
            "on_header_end": self._on_header,
            "on_part_data": self._on_data,
            "on_part_end": self._on_end,
        }

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        if self._field.lower() == b"content-disposition":
            name = parse_options_header(self._value)[1].get(b"filename")
            if name is not None:
                self.current = Upload(self._memory, name.decode(errors="surrogateescape"))
        self._field = self._value = b""

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self.current is not None:
            self.current.add(data[start:end])

    def _on_end(self) -> None:
        if self.current is not None:
            self.complete.append(self.current)
        self.current = None
        self.num_parts += 1
