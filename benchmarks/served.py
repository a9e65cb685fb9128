"""A server in a process of its own, and a client that can be rude to it."""

import asyncio
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import NamedTuple

SCRIPTS = Path(__file__).parent.parent / "scripts"
POST = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\n"


class Server(NamedTuple):
    """A running server: its process, port, and the folder that it was started in."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path

    def memory(self) -> float:
        """Return the resident memory in MB, of the decoding processes too."""
        pages = sum(int(text.split()[1]) for text in self._read("statm").values())
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def cpu_seconds(self) -> float:
        """Return the CPU time, of the decoding processes too."""
        ticks = (text.rpartition(")")[2].split()[11:13] for text in self._read("stat").values())
        return sum(map(int, chain.from_iterable(ticks))) / os.sysconf("SC_CLK_TCK")

    def processes(self) -> set[int]:
        """Return the IDs of the server and its decoding processes."""
        return {*self._read("stat")}

    def files(self) -> list[Path]:
        """Return the files in its folder, which is empty at the start."""
        return [path for path in self.folder.rglob("*") if path.is_file()]

    def _read(self, name: str) -> dict[int, str]:
        found = {}
        for path in Path("/proc").glob(f"[0-9]*/{name}"):
            with suppress(OSError):
                if os.getpgid(number := int(path.parent.name)) == self.process.pid:
                    found[number] = path.read_text()
        return found


@contextmanager
def serving(run: Path, code: str = "") -> Iterator[Server]:
    """Start a server in an empty folder; at the end, it must not have died, logged or written.

    Args:
        run: to serve.
        code: Python that the server runs first, such as to compare with another constant.
    """
    code = f"{code}\nimport sys; from neither.cli.serve import main; sys.exit(main())"
    with tempfile.TemporaryDirectory() as name:
        environment = os.environ | {"TMPDIR": name, "HOME": name, "XDG_CACHE_HOME": name}
        command = [sys.executable, "-c", code, str(run.resolve()), "--port", "0"]
        with subprocess.Popen(
            command, cwd=name, env=environment, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            line = (process.stdout or sys.stdin.buffer).readline().decode().strip("/\n")
            server = Server(process, int(line.rpartition(":")[2]), Path(name))
            try:
                yield server
            finally:
                written = server.files()
                process.terminate()
                log = (process.stderr or sys.stdin.buffer).read().decode()
                status = process.wait()
        lines = [text for text in log.splitlines() if "open this address" not in text]
        require(status == 143 and lines == ["stopped by SIGTERM"] and not written,
                f"exit code {status}, files written {written}, log {log!r}")  # fmt: skip


class Client:
    """A connection that is kept; a small part of HTTP/1.1."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, body: bytes, head: bytes = POST) -> tuple[int, bytes]:
        """Send a request and return the status and the body of the answer."""
        self.writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body))
        self.writer.write(body)
        return await self.answer()

    async def answer(self) -> tuple[int, bytes]:
        """Read an answer."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
        body = self.reader.readexactly(int(length)) if length else self.reader.read()
        return int(head.split()[1]), await body


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Client]:
    """Open a connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


def multipart(files: Sequence[tuple[str, bytes]]) -> tuple[bytes, bytes]:
    """Return the head and the body of a request."""
    parts = [
        f'--x\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
        + content
        for name, content in files
    ]
    kind = b"Content-Type: multipart/form-data; boundary=x\r\n"
    return POST + kind, b"\r\n".join([*parts, b"--x--\r\n"])


def photos(folder: Path, num: int) -> list[Path]:
    """Return some photos of a folder, the same each time."""
    found = sorted(folder.rglob("*.jpg"))
    return random.Random(0).sample(found, num)


def require(is_true: bool, message: str) -> None:
    """End with a message unless something is true."""
    if not is_true:
        raise SystemExit(message)
