"""What hostile senders do to a server, and to the client beside them.

    PYTHONPATH=tests python benchmarks/attack.py RUN FOLDER [--requests 10000]

FOLDER has photos. 16 senders send images that are none, bombs, cut files, wrong types, names like
paths, huge headers and bodies that never end; some do not wait for the answer, some hold the
connection or send a byte a second. Meanwhile a client asks for a photo every half second, and may
never wait for 5 seconds. The server must stay alive with all its processes, log nothing and write
nothing. Each thousand meets a server of its own; the thousands that are done are kept in
`runs/attack.jsonl`, and not repeated.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import results
from PIL import Image
from served import POST, Server, connected, multipart, photos, require, serving

from hostile import png, unreadable
from images import encode
from neither.runtime.limits import num_cores

DONE = Path("runs") / "attack.jsonl"
PART, NUM_SENDERS = 1000, 16
MAX_WAIT_SECONDS, MAX_HOLD_SECONDS = 5.0, 75.0  # a sender of a byte a second is cut off after 60
Manner = Literal["ask", "leave", "hold", "drip"]
NAMES = ("../../../etc/passwd", "/dev/zero", "a\0b", "x" * 3000, "%2e%2e/", "C:\\con", "a\r\nX: b")
HEADS = (
    POST + b"X-Large: " + b"a" * 100_000 + b"\r\n\r\n",
    POST + b"".join(b"X-%d: a\r\n" % each for each in range(3000)) + b"\r\n",
    POST + b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    POST + b"Content-Type: text/html\r\nContent-Length: 9\r\n\r\n<html></>",
    POST + b"Content-Length: 99999999999\r\n\r\n",
    POST + b"Content-Length: -1\r\nContent-Length: 5\r\n\r\nhello",
    POST + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    b"GET /static/..%2f..%2fapp.py HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /v1/predict?path=/etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
)


@cache
def bombs() -> list[bytes]:
    """Return small files of the most pixels that are decoded, and one that lacks them."""
    gray = Image.new("L", (8000, 8000))
    half = gray.crop((0, 0, 5400, 5500)).convert("RGB")
    return [
        png(8100, 8100, bytes(100)),
        *(encode(each, "PNG") for each in (gray, gray.convert("RGB"), gray.convert("RGBA"))),
        encode(gray.convert("RGB"), "TIFF", compression="tiff_lzw"),
        encode(gray, "JPEG", progressive=True),
        encode(half, "WEBP"),
        encode(half, "AVIF", speed=10),
    ]


def make_request(number: int, photo: bytes) -> tuple[bytes, Manner]:
    """Return a request that nobody should send, and what its sender does then."""
    rng = np.random.default_rng(number)
    noise = rng.bytes(int(rng.integers(1, 20_000)))
    cut = photo[: int(rng.integers(len(photo)))]
    kind, turn = number % 16, number // 16
    rude: Manner = "leave" if turn % 8 else "hold"
    if kind == 0:
        return noise, rude
    if kind == 1:
        return HEADS[turn % len(HEADS)], "ask"
    if kind == 2:  # a body that never comes
        return POST + b"Content-Length: 100000\r\n\r\n" + cut[:1000], rude
    if kind == 3:  # chunked, without an end
        chunks = (200 * (b"1000\r\n" + bytes(4096) + b"\r\n"), 100_000 * b"1\r\nx\r\n")
        return POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks[turn % 2], rude
    if kind == 4:
        name = NAMES[turn % len(NAMES)]
        last = noise if turn % 4 else bombs()[turn // 4 % 8]
        head, form = multipart([(name, cut), (name, noise), (name, last)])
        form = form[: int(rng.integers(len(form)))] if turn % 2 else form
        form = 50_000 * b"--x\r\n\r\n\r\n" if turn % 8 == 5 else form
        return head + b"Content-Length: %d\r\n\r\n" % len(form) + form, "ask"
    if kind == 5 and turn % 20 == 0:
        return POST + b"Content-Length: 100000\r\n\r\n", "drip"
    faulty = [content for content, _ in unreadable().values() if len(content) < 1_000_000]
    odd = (noise, cut, b"\xff\xd8\xff" + noise, faulty[turn % len(faulty)],
           bombs()[turn // 3 % 8] if turn % 3 == 0 else cut)  # fmt: skip
    body = odd[number % len(odd)]
    return POST + b"Content-Length: %d\r\n\r\n" % len(body) + body, "ask" if kind < 15 else "leave"


async def send(port: int, request: bytes, manner: Manner) -> str:
    """Send a request; return the status, or why there is none."""
    with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
        async with connected(port) as client, asyncio.timeout(MAX_HOLD_SECONDS):
            client.writer.write(request)
            await client.writer.drain()
            if manner == "leave":
                return "left"
            while manner == "drip":
                await asyncio.sleep(1)
                client.writer.write(b"x")
                await client.writer.drain()
            started = time.perf_counter()
            with suppress(TimeoutError):
                status, answer = await client.answer()
                return f"{status}{', a decoder was killed' * (b'decoding' in answer)}"
            return f"no answer in {time.perf_counter() - started:.0f} s"
    return "cut off"


async def watch(
    server: Server, photo: bytes, senders: Sequence[asyncio.Task[None]]
) -> tuple[list[tuple[int, float]], list[int]]:
    """Ask for a photo every half second while others send; return each status and wait."""
    answers, memory = [], []
    while not all(sender.done() for sender in senders):
        started = time.perf_counter()
        async with connected(server.port) as client:
            status, _ = await client.ask(photo)
        answers.append((status, time.perf_counter() - started))
        memory.append(round(server.memory()))
        await asyncio.sleep(0.5)
    return answers, memory


def attack(run: Path, photo: bytes, numbers: range) -> dict[str, Any]:
    """Send some requests to a new server; return what happened."""
    statuses: Counter[str] = Counter()

    async def send_all(port: int, requests: Iterator[tuple[bytes, Manner]]) -> None:
        for request, manner in requests:
            statuses[await send(port, request, manner)] += 1

    async def work(server: Server) -> tuple[list[tuple[int, float]], list[int]]:
        requests = iter([make_request(number, photo) for number in numbers])  # takes a while
        async with connected(server.port) as client:
            await client.ask(photo)
        num_processes = len(server.processes())
        senders = [asyncio.create_task(send_all(server.port, requests))
                   for _ in range(NUM_SENDERS)]  # fmt: skip
        found = await watch(server, photo, senders)
        await asyncio.gather(*senders)
        require(len(server.processes()) == num_processes, "a process has died")
        return found

    started = time.perf_counter()
    files = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    with serving(run) as server:
        answers, memory = asyncio.run(work(server))
    require(files == {path: path.stat().st_mtime_ns for path in run.rglob("*")}, "the run changed")
    return {"start": numbers.start, "seconds": round(time.perf_counter() - started),
            "statuses": dict(statuses), "answers": answers,
            "memory_mb": [memory[0], max(memory), memory[-1]]}  # fmt: skip


def main() -> None:
    """Attack, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--requests", type=int, default=10_000)
    arguments = parser.parse_args()
    photo = photos(arguments.folder, 1)[0].read_bytes()
    DONE.parent.mkdir(exist_ok=True)
    DONE.touch()
    parts = [json.loads(line) for line in DONE.read_text().splitlines()]
    for start in range(0, arguments.requests, PART):
        if start not in {part["start"] for part in parts}:
            numbers = range(start, min(start + PART, arguments.requests))
            parts.append(attack(arguments.run, photo, numbers))
            with DONE.open("a") as file:
                file.write(json.dumps(parts[-1]) + "\n")
            longest = max(wait for _, wait in parts[-1]["answers"])
            print(f"{start:,}: {parts[-1] | {'answers': longest}}", flush=True)
    statuses: Counter[str] = Counter()
    for part in parts:
        statuses.update(part["statuses"])
    answers = [answer for part in parts for answer in part["answers"]]
    waits = [wait for _, wait in answers]
    figures = {
        "statuses": statuses,
        "photos": Counter(status for status, _ in answers),
        "median_wait_s": statistics.median(waits),
        "longest_wait_s": max(waits),
        "memory_mb": [part["memory_mb"] for part in parts],
    }
    print(f"{num_cores()} cores: {figures}")
    results.write("attack", figures)
    require({status for status, _ in answers} <= {200, 429}, "the photo was refused")
    require(max(waits) <= MAX_WAIT_SECONDS, f"a photo waited {max(waits):.1f} s")


if __name__ == "__main__":
    main()
