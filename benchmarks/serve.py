"""What the server promises of digits and speed, and the accessibility of its page.

    export PYTHONPATH=tests
    python benchmarks/serve.py speed RUN SMALL_RUN FOLDER   about 5 minutes, on a quiet machine
    python benchmarks/serve.py same RUN FOLDER              200 mixed images, in three ways
    python benchmarks/serve.py axe RUN FOLDER AXE.JS        by axe-core (npm pack axe-core)

RUN and SMALL_RUN are finished runs, such as of photos_quick.yaml and of a config with small_cnn;
FOLDER has photos. `attack.py` is about hostile senders.

`speed` measures load: 64 clients for a minute beside the server, on the same cores, and then what
predict makes of the same images; latency: one image at a time; and the rate of predict. The last
two also with forward passes of 64, as they were for small_cnn. A part that is done is kept in
`runs/serve_speed.jsonl`, and not repeated.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import results
from PIL import Image
from served import Server, connected, multipart, photos, require, serving

import neither
from browser import chromium
from hostile import readable, unreadable
from images import encode, oriented
from neither.runtime.limits import num_cores

DONE = Path("runs") / "serve_speed.jsonl"
NUM_LATENCY, NUM_MIXED = 200, 200
NUM_CLIENTS, LOAD_SECONDS, NUM_LOAD = 64, 60.0, 480
NUM_PREDICTED, NUM_ROUNDS = 960, 3
AS_BEFORE = "from neither.inference import classifier; classifier._CPU_BATCH_SIZE = 64"


def predict(run: Path, paths: Sequence[Path], code: str = "") -> tuple[bytes, float]:
    """Return what predict prints, and the seconds that it takes."""
    code = f"{code}\nimport sys; from neither.cli.predict import main; sys.exit(main())"
    command = [sys.executable, "-c", code, str(run), "--format", "jsonl"]
    started = time.perf_counter()
    done = subprocess.run([*command, *map(str, paths)], capture_output=True, check=False)
    return done.stdout, time.perf_counter() - started


def measure_speed(run: Path, small_run: Path, folder: Path) -> dict[str, Any]:
    """Measure load, latency and rate, each part once."""
    parts: dict[str, Callable[[], Any]] = {
        "load": lambda: measure_load(run, folder),
        "latency": lambda: measure_latency(run, folder),
        "latency, small": lambda: measure_latency(small_run, folder),
        "latency, small, batch of 64": lambda: measure_latency(small_run, folder, AS_BEFORE),
        "rate, small": lambda: measure_rates(small_run, folder),
    }
    DONE.parent.mkdir(exist_ok=True)
    DONE.touch()
    figures = dict(json.loads(line) for line in DONE.read_text().splitlines())
    for name, measure in parts.items():
        if name not in figures:
            figures[name] = measure()
            with DONE.open("a") as file:
                file.write(json.dumps([name, figures[name]]) + "\n")
        print(f"{name}: {figures[name]}", flush=True)
    return figures


def measure_latency(run: Path, folder: Path, code: str = "") -> dict[str, float]:
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
    with serving(run, code) as server:
        asyncio.run(work(server.port, paths[:5]))
        before = server.cpu_seconds()
        seconds = asyncio.run(work(server.port, paths[5:]))
        cpu_seconds = (server.cpu_seconds() - before) / NUM_LATENCY
    p95 = statistics.quantiles(seconds, n=20)[-1]
    return {"median_ms": 1000 * statistics.median(seconds), "p95_ms": 1000 * p95,
            "cpu_ms": 1000 * cpu_seconds, "n": NUM_LATENCY}  # fmt: skip


def measure_rates(run: Path, folder: Path) -> dict[str, list[float]]:
    """Return images/s of predict, with both batches by turns, less its start."""
    paths = photos(folder, NUM_PREDICTED + 1)
    rates: dict[str, list[float]] = {"now": [], "64": []}
    for _ in range(NUM_ROUNDS):
        for batch, code in (("now", ""), ("64", AS_BEFORE)):
            start, whole = (predict(run, some, code)[1] for some in (paths[:1], paths))
            rates[batch].append(NUM_PREDICTED / (whole - start))
    rates["ratio"] = [max(rates["now"]) / max(rates["64"])]
    return rates


def measure_load(run: Path, folder: Path) -> dict[str, Any]:
    """Let 64 clients ask for a minute; then compare with predict on the same images."""
    paths = photos(folder, NUM_LOAD)
    contents = [path.read_bytes() for path in paths]
    statuses: Counter[int] = Counter()
    memory = []

    async def ask(port: int, images: Iterator[bytes], end: float) -> None:
        async with connected(port) as client:
            while time.perf_counter() < end:
                status, _ = await client.ask(next(images))
                statuses[status] += 1
                if status == 429:
                    await asyncio.sleep(1)  # as the answer asks for

    async def work(server: Server) -> None:
        async def watch(end: float) -> None:
            while time.perf_counter() < end:
                memory.append(round(server.memory()))
                await asyncio.sleep(LOAD_SECONDS / 6)

        images = cycle(contents)
        await asyncio.gather(
            *(ask(server.port, images, time.perf_counter() + 5) for _ in range(NUM_CLIENTS))
        )
        statuses.clear()
        end = time.perf_counter() + LOAD_SECONDS
        await asyncio.gather(
            watch(end), *(ask(server.port, images, end) for _ in range(NUM_CLIENTS))
        )
        memory.append(round(server.memory()))

    with serving(run) as server:
        asyncio.run(work(server))
    start, whole = (predict(run, some)[1] for some in (paths[:1], 4 * paths))
    served, predicted = statuses[200] / LOAD_SECONDS, (4 * len(paths) - 1) / (whole - start)
    return {"statuses": dict(statuses), "memory_mb": memory, "served_per_second": served,
            "predicted_per_second": predicted, "ratio": served / predicted}  # fmt: skip


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
        expected = [json.loads(line) | {"path": ""} for line in predict(run, paths)[0].splitlines()]
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


def main() -> None:
    """Do what the command line asks for."""
    what, *paths = sys.argv[1:]
    work: Any = {"speed": measure_speed, "same": compare_digits, "axe": check_accessibility}[what]
    figures = work(*map(Path, paths))
    print(f"{num_cores()} cores: {figures}")
    results.write(f"serve_{what}", figures)


if __name__ == "__main__":
    main()
