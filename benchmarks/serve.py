"""What the server promises: latency, the digits of predict, load, hostile senders, accessibility.

    export PYTHONPATH=tests
    python benchmarks/serve.py latency RUN FOLDER     one image at a time: median and p95
    python benchmarks/serve.py same RUN FOLDER        200 mixed images, in three ways
    python benchmarks/serve.py load RUN FOLDER        64 clients for a minute, on the same cores
    python benchmarks/serve.py hostile RUN FOLDER     10,000 bodies, and a client beside them
    python benchmarks/serve.py axe RUN FOLDER AXE.JS  the page, by axe-core (npm pack axe-core)

FOLDER has photos. Each starts the server as a process of its own, in an empty folder.
"""

import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import chain, cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import results
from PIL import Image

import neither
from browser import chromium
from hostile import png, readable, unreadable
from images import encode, oriented
from neither.runtime.limits import num_cores

SCRIPTS = Path(__file__).parent.parent / "scripts"
NUM_LATENCY, NUM_MIXED, NUM_HOSTILE = 100, 200, 10_000
NUM_CLIENTS, LOAD_SECONDS, NUM_SENDERS = 64, 60.0, 16
MAX_WAIT_SECONDS = 5.0
GOOD = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\n"


class Server(NamedTuple):
    """A running server: its process, port, and the folder that it was started in."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path

    def memory(self) -> float:
        """Return the resident memory in MB, of the decoding processes too."""
        pages = sum(int(text.split()[1]) for text in self._read("statm"))
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def cpu_seconds(self) -> float:
        """Return the CPU time, of the decoding processes too."""
        ticks = (text.rpartition(")")[2].split()[11:13] for text in self._read("stat"))
        return sum(map(int, chain.from_iterable(ticks))) / os.sysconf("SC_CLK_TCK")

    def _read(self, name: str) -> Iterator[str]:
        for path in Path("/proc").glob(f"[0-9]*/{name}"):
            with suppress(OSError):
                if os.getpgid(int(path.parent.name)) == self.process.pid:
                    yield path.read_text()


@contextmanager
def serving(run: Path) -> Iterator[Server]:
    """Start the server; at the end, it must not have died, logged or written anything."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = os.environ | {"TMPDIR": name, "HOME": name, "XDG_CACHE_HOME": name}
        command = [sys.executable, str(SCRIPTS / "serve.py"), str(run.resolve()), "--port", "0"]
        with subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            line = (process.stdout or sys.stdin.buffer).readline().decode().strip("/\n")
            try:
                yield Server(process, int(line.rpartition(":")[2]), folder)
            finally:
                written = [path for path in folder.rglob("*") if path.is_file()]
                process.terminate()
                log = (process.stderr or sys.stdin.buffer).read().decode()
                print(f"exit code {process.wait()}, files written {written}, log {log!r}")


class Client:
    """A connection that is kept; a small part of HTTP/1.1."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, body: bytes, head: bytes = GOOD) -> tuple[int, bytes]:
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
    return GOOD + kind, b"\r\n".join([*parts, b"--x--\r\n"])


def predict(run: Path, paths: Sequence[Path]) -> bytes:
    """Return what predict prints."""
    command = [sys.executable, str(SCRIPTS / "predict.py"), str(run), "--format", "jsonl"]
    return subprocess.run([*command, *map(str, paths)], capture_output=True, check=False).stdout


def photos(folder: Path, num: int) -> list[Path]:
    """Return some photos of a folder, the same each time."""
    found = sorted(folder.rglob("*.jpg"))
    return random.Random(0).sample(found, num)


def measure_latency(run: Path, folder: Path) -> dict[str, float]:
    """Ask for one image at a time."""

    async def work(port: int, paths: Sequence[Path]) -> list[float]:
        seconds = []
        async with connected(port) as client:
            for path in paths:
                content = path.read_bytes()
                started = time.perf_counter()
                status, _ = await client.ask(content)
                seconds.append(time.perf_counter() - started)
                require(status == 200, f"status {status}")
        return seconds

    paths = photos(folder, NUM_LATENCY + 5)
    with serving(run) as server:
        asyncio.run(work(server.port, paths[:5]))
        before = server.cpu_seconds()
        seconds = asyncio.run(work(server.port, paths[5:]))
        cpu_seconds = (server.cpu_seconds() - before) / NUM_LATENCY
    p95 = statistics.quantiles(seconds, n=20)[-1]
    return {"median_ms": 1000 * statistics.median(seconds), "p95_ms": 1000 * p95,
            "cpu_ms": 1000 * cpu_seconds}  # fmt: skip


def mixed_images(folder: Path) -> list[bytes]:
    """Return 200 images of all kinds, broken ones too."""
    contents = [*readable().values(), *(content for content, _ in unreadable().values())]
    for number, path in enumerate(photos(folder, NUM_MIXED - len(contents))):
        image = Image.open(path).convert("RGB")
        made = (
            lambda image=image: oriented(image, "JPEG", 6),
            lambda image=image: encode(image.convert("CMYK"), "JPEG"),
            lambda image=image: encode(image.convert("RGBA"), "PNG"),
            lambda image=image: encode(image, "AVIF"),
            lambda image=image: encode(image, "WEBP"),
            lambda path=path: path.read_bytes(),
        )
        contents.append(made[number % len(made)]())
    return contents


def compare_digits(run: Path, folder: Path) -> dict[str, int]:
    """Compare the API with predict and neither.load on mixed images."""
    contents = mixed_images(folder)

    def records(body: bytes) -> list[dict[str, Any]]:
        return [record | {"path": ""} for record in json.loads(body)["predictions"]]

    async def work(port: int) -> list[list[dict[str, Any]]]:
        async def one_by_one(chosen: Sequence[bytes]) -> list[dict[str, Any]]:
            found = []
            for content in chosen:
                async with connected(port) as client:
                    status = 429
                    while status == 429:
                        head, body = multipart([("name", content)])
                        status, answer = await client.ask(body, head)
                found += records(answer)
            return found

        alone = await one_by_one(contents)
        async with connected(port) as client:
            head, body = multipart([("name", content) for content in contents])
            status, answer = await client.ask(body, head)
            require(status == 200, f"status {status}: {answer[:200]!r}")
        at_once = await asyncio.gather(*(one_by_one(contents[start::32]) for start in range(32)))
        together = [at_once[index % 32][index // 32] for index in range(len(contents))]
        return [alone, records(answer), together]

    with serving(run) as server:
        ways = asyncio.run(work(server.port))
    with tempfile.TemporaryDirectory() as name:
        paths = [Path(name) / f"{number:03}" for number in range(len(contents))]
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
        expected = [json.loads(line) | {"path": ""} for line in predict(run, paths).splitlines()]
        classifier = neither.load(run)
        for path, record in zip(paths, expected, strict=True):
            if record["status"] == "ok":
                loaded = classifier(path).probabilities
                rounded = {name: round(p, 6) for name, p in loaded.items()}
                require(rounded == record["probabilities"], f"neither.load differs at {path}")
    for what, way in zip(("one by one", "one request", "32 clients"), ways, strict=True):
        differing = [index for index, pair in enumerate(zip(way, expected, strict=True))
                     if pair[0] != pair[1]]  # fmt: skip
        require(not differing, f"{what}: {[(way[i], expected[i]) for i in differing[:3]]}")
    return Counter(record["status"] for record in expected)


def measure_load(run: Path, folder: Path) -> dict[str, Any]:
    """Let 64 clients ask for a minute; then compare with predict on the same images."""
    paths = photos(folder, 512)
    contents = [path.read_bytes() for path in paths]
    statuses: Counter[int] = Counter()
    memory = []

    async def ask(port: int, images: Iterator[bytes], end: float) -> None:
        async with connected(port) as client:
            while time.perf_counter() < end:
                status, _ = await client.ask(next(images))
                statuses[status] += 1
                if status == 429:
                    await asyncio.sleep(0.2)

    async def work(server: Server) -> None:
        async def watch(end: float) -> None:
            while time.perf_counter() < end:
                memory.append(round(server.memory()))
                await asyncio.sleep(LOAD_SECONDS / 6)

        images = cycle(contents)
        await ask(server.port, images, time.perf_counter() + 5)
        statuses.clear()
        end = time.perf_counter() + LOAD_SECONDS
        await asyncio.gather(
            watch(end), *(ask(server.port, images, end) for _ in range(NUM_CLIENTS))
        )

    with serving(run) as server:
        asyncio.run(work(server))
    seconds = []
    for many in (paths[:1], 4 * paths):
        started = time.perf_counter()
        predict(run, many)
        seconds.append(time.perf_counter() - started)
    rates = statuses[200] / LOAD_SECONDS, (4 * len(paths) - 1) / (seconds[1] - seconds[0])
    return {"statuses": dict(statuses), "memory_mb": memory, "served_per_second": rates[0],
            "predicted_per_second": rates[1], "ratio": rates[0] / rates[1]}  # fmt: skip


def hostile_requests(folder: Path) -> Iterator[tuple[bytes, bool]]:
    """Yield requests that nobody should send, and whether the sender waits for an answer."""
    random_numbers = np.random.default_rng(0)
    photo = photos(folder, 1)[0].read_bytes()
    bad = [content for content, _ in unreadable().values() if len(content) < 1_000_000]
    bad += [png(8000, 8000, bytes(8001 * 8000)), png(8100, 8100, bytes(100))]
    names = ("../../../etc/passwd", "/dev/zero", "a\0b", "x" * 3000, "%2e%2e/")
    fixed = (
        GOOD + b"X-Large: " + b"a" * 100_000 + b"\r\n\r\n",
        GOOD + b"".join(b"X-%d: a\r\n" % each for each in range(3000)) + b"\r\n",
        GOOD + b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
        GOOD + b"Content-Length: 99999999999\r\n\r\n",
        GOOD + b"Content-Length: -1\r\nContent-Length: 5\r\n\r\nhello",
        b"GET /static/..%2f..%2fapp.py HTTP/1.1\r\nHost: localhost\r\n\r\n",
    )
    chunks = 200 * (b"1000\r\n" + bytes(4096) + b"\r\n")
    for number in range(NUM_HOSTILE):
        noise = random_numbers.bytes(int(random_numbers.integers(1, 20_000)))
        cut = photo[: int(random_numbers.integers(len(photo)))]
        name = names[number % len(names)]
        head, form = multipart([(name, cut), (name, noise)])
        kind = number % 16
        if kind < 8:
            body = (noise, cut, b"\xff\xd8\xff" + noise, bad[number // 16 % len(bad)])[kind % 4]
            yield GOOD + b"Content-Length: %d\r\n\r\n" % len(body) + body, True
        elif kind == 8:
            yield head + b"Content-Length: %d\r\n\r\n" % len(form) + form, True
        elif kind == 9:  # a body that never comes; one in ten waits until it is cut off
            yield head + b"Content-Length: 100000\r\n\r\n" + form[:1000], number % 160 == 9
        elif kind == 10:  # chunked, without an end
            yield GOOD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks, number % 160 == 10
        elif kind == 11:
            yield noise, number % 160 == 11
        else:
            yield fixed[number // 16 % len(fixed)], True


def attack(run: Path, folder: Path) -> dict[str, Any]:
    """Send hostile requests by 16 senders, while a client asks for a photo each half second."""
    requests, photo = hostile_requests(folder), photos(folder, 1)[0].read_bytes()
    statuses: Counter[str] = Counter()
    waits: list[float] = []
    memory: list[int] = []

    async def send(port: int) -> None:
        for request, waits_for_answer in requests:
            status = "closed"
            with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                async with connected(port) as client, asyncio.timeout(30):
                    client.writer.write(request)
                    await client.writer.drain()
                    if not waits_for_answer:
                        continue
                    status = str((await client.answer())[0])
            statuses[status] += 1

    async def watch(server: Server, senders: Sequence[asyncio.Task[None]]) -> None:
        while not all(sender.done() for sender in senders):
            started = time.perf_counter()
            async with connected(server.port) as client:
                status, _ = await client.ask(photo)
            waits.append(time.perf_counter() - started)
            require(status in (200, 429), f"the photo got {status}")
            memory.append(round(server.memory()))
            await asyncio.sleep(0.5)

    async def work(server: Server) -> None:
        senders = [asyncio.create_task(send(server.port)) for _ in range(NUM_SENDERS)]
        await watch(server, senders)
        await asyncio.gather(*senders)

    with serving(run) as server:
        asyncio.run(work(server))
        require(server.process.poll() is None, "the server has died")
    longest = max(waits)
    require(longest < MAX_WAIT_SECONDS, f"a photo waited {longest:.1f} s")
    return {"statuses": dict(statuses), "num_photos": len(waits),
            "median_wait_s": statistics.median(waits), "longest_wait_s": longest,
            "memory_mb": memory[:: max(1, len(memory) // 8)]}  # fmt: skip


def check_accessibility(run: Path, folder: Path, axe: Path) -> list[dict[str, Any]]:
    """Return what axe-core finds on the page with results, in both widths and colour schemes."""
    found = []
    with serving(run) as server, chromium() as browser:
        for width in (400, 1280):
            for scheme in ("light", "dark"):
                page = browser.new_page(viewport={"width": width, "height": 900})
                page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
                page.goto(f"http://127.0.0.1:{server.port}/")
                page.locator("#files").set_input_files([*photos(folder, 5), Path(__file__)])
                page.locator(".card .decision").nth(5).wait_for()
                page.locator(".card button").first.click()
                page.locator(".card img").first.wait_for()
                page.evaluate(axe.read_text())  # a script element would be against the policy
                for each in page.evaluate("axe.run()")["violations"]:
                    row = {name: each[name] for name in ("id", "impact", "help")}
                    row |= {"width": width, "scheme": scheme, "nodes": each["nodes"][0]["html"]}
                    found.append(row)
                page.close()
    require(not [row for row in found if row["impact"] in ("serious", "critical")], str(found))
    return found


def require(is_true: bool, message: str) -> None:
    """End with a message unless something is true."""
    if not is_true:
        raise SystemExit(message)


def main() -> None:
    """Do what the command line asks for."""
    what, *paths = sys.argv[1:]
    work: Any = {"latency": measure_latency, "same": compare_digits, "load": measure_load,
                 "hostile": attack, "axe": check_accessibility}[what]  # fmt: skip
    figures = work(*map(Path, paths))
    print(f"{num_cores()} cores: {figures}")
    results.write(f"serve_{what}", figures)


if __name__ == "__main__":
    main()
