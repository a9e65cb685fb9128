"""What a review of labels mends, and whether it loses an answer when it is killed.

    python benchmarks/reviewing.py FOLDER [--wrong 0.03] [--keys 200] [--kills 300]

FOLDER has the splits train, val and test. A manifest gives a fraction of the training images a
wrong label, at random; no file is touched. Then, with photos_quick.yaml:

- a run on these labels is reviewed by an oracle, which knows the right ones: one key an image, in
  the order of the page. How many wrong labels are mended? Then it answers the random sample: does
  the interval hold the fraction of wrong labels in train and val?
- runs on the wrong, the mended and the right labels are scored on val and on test.
- a server is killed at random moments of random clicks, each of which is repeated until the server
  has confirmed it. Is any confirmed answer missing, is any there twice?
"""

import argparse
import csv
import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import results
import torch

from neither.data.corrections import RANDOM_SAMPLE, UNDONE
from neither.inference.classifier import load_classifier
from neither.runtime import files
from neither.serving.guard import Guard
from neither.serving.review import KEEP, Review, ReviewImage, add_review, open_review

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "photos_quick.yaml"
CLASSES = ("dog", "human", "neither")
HOME = Path("runs") / "reviewing"
TOKEN = "benchmark"
NUM_SAMPLED = 200


def main() -> None:
    """Review, train, kill, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--wrong", type=float, default=0.03)
    parser.add_argument("--keys", type=int, default=200)
    parser.add_argument("--kills", type=int, default=300)
    arguments = parser.parse_args()
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir(parents=True)
    figures = measure_review(arguments.folder.resolve(), arguments.wrong, arguments.keys)
    figures |= {"kills": kill_servers(arguments.kills)}
    print(json.dumps(figures, indent=2))
    results.write("reviewing", figures)


def measure_review(folder: Path, fraction: float, num_keys: int) -> dict[str, Any]:
    """Train on wrong labels, review and train again; return the counts and the recalls."""
    rows = [(path, path.parent.name, split) for split in ("train", "val")
            for label in CLASSES for path in sorted((folder / split / label).rglob("*"))
            if path.is_file()]  # fmt: skip
    rng = random.Random(0)
    train = [index for index, (_, _, split) in enumerate(rows) if split == "train"]
    wrong = {index: rng.choice([name for name in CLASSES if name != rows[index][1]])
             for index in rng.sample(train, round(fraction * len(train)))}  # fmt: skip
    right = {str(path): label for path, label, _ in rows}
    for name, labels in (("wrong", wrong), ("right", {})):
        with (HOME / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("path", "label", "split"))
            writer.writerows((path, labels.get(index, label), split)
                             for index, (path, label, split) in enumerate(rows))  # fmt: skip
    seconds = {name: train_run(name, f"{name}.csv") for name in ("right", "wrong")}
    run = HOME / "wrong"
    review = open_review(run, load_classifier(run, torch.device("cpu")), run / "corrections.csv")

    def answer(review: Review, queue: str, index: int) -> bool:
        """Give the right answer; return whether the label was wrong."""
        image = review.images[index]
        label = right[str(image.file)]
        review.answer(queue, {index: KEEP if label == image.label else label})
        return label != image.label

    mended: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    num_wrong = sum(right[str(image.file)] != image.label for image in review.images)
    fraction_wrong = num_wrong / len(review.images)
    order = [(queue, index) for queue, indices in review.queues.items() if queue != RANDOM_SAMPLE
             for index in indices]  # fmt: skip
    for queue, index in order:
        if asked.total() < num_keys and index not in review.state()["answers"]:
            asked[queue] += 1
            mended[queue] += answer(review, queue, index)
    sample = Review(review.images, review.queues, CLASSES, HOME / "sample.csv")
    for index in sample.queues[RANDOM_SAMPLE][:NUM_SAMPLED]:
        answer(sample, RANDOM_SAMPLE, index)
    estimate = sample.state()["estimate"]
    low, high = estimate["interval"]
    seconds["mended"] = train_run("mended", "wrong.csv", f"data.corrections={review.path}")
    recalls = {name: score(HOME / name, folder) for name in ("wrong", "mended", "right")}
    (metrics,) = (HOME / "mended").glob("evaluations/*-val/metrics.json")
    return {
        "num_images": len(review.images),
        "num_wrong": num_wrong,
        "asked": asked,
        "mended": mended,
        "fraction_mended": mended.total() / num_wrong,
        "fraction_wrong": fraction_wrong,
        "estimate": estimate,
        "interval_holds": low <= fraction_wrong <= high,
        "macro_recall": recalls,
        "review": files.read_json(metrics)["review"],
        "seconds": seconds,
    }


def train_run(name: str, manifest: str, *more: str) -> float:
    """Train photos_quick.yaml on a manifest; return the seconds."""
    start = time.monotonic()
    call("train", str(CONFIG), "data.root=null", f"data.manifest={HOME / manifest}", *more,
         "--output-dir", str(HOME / name))  # fmt: skip
    return round(time.monotonic() - start, 1)


def score(run: Path, folder: Path) -> dict[str, float]:
    """Return the macro recall on val and on test, whose labels are right."""
    call("evaluate", str(run), str(folder), "--split", "test", "--output-dir", str(run / "test"))
    (val,) = run.glob("evaluations/*-val")
    return {split: files.read_json(path / "metrics.json")["macro_recall"]
            for split, path in (("val", val), ("test", run / "test"))}  # fmt: skip


def call(script: str, *arguments: str) -> None:
    """Run a script of this project."""
    subprocess.run([sys.executable, ROOT / "scripts" / f"{script}.py", *arguments], check=True)


def kill_servers(num_kills: int) -> dict[str, int]:
    """Click while servers are killed; return what became of the answers.

    After a kill the page still shows the image, so the same key is pressed again.
    """
    path = (HOME / "killed.csv").resolve()
    images = [ReviewImage(Path(f"{index}.png"), f"{index}.png", f"{index:064x}", "dog", "train")
              for index in range(100_000)]  # fmt: skip
    rng = random.Random(1)
    expected: list[str] = []
    label = rng.choice(CLASSES)
    for number in range(num_kills + 1):
        process, port = start_server(images, path)
        ask(port, "GET", "/healthz")  # it has started
        timer = threading.Timer(rng.uniform(0, 0.2), os.kill, (process, signal.SIGKILL))
        if number < num_kills:
            timer.start()
        with suppress(OSError, http.client.HTTPException):
            while number < num_kills or len(expected) % 10:
                click(port, len(expected), label)
                expected.append(label)
                label = rng.choice(CLASSES)
            os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["new_label"] != UNDONE]
    found = Counter(int(row["sha256"], 16) for row in rows)
    labels = {int(row["sha256"], 16): row["new_label"] for row in rows}
    return {
        "kills": num_kills,
        "answers": len(expected),
        "lost": sum(labels.get(index) != label for index, label in enumerate(expected)),
        "doubled": sum(num > 1 for num in found.values()),
    }


def start_server(images: list[ReviewImage], path: Path) -> tuple[int, int]:
    """Fork a process that serves the routes of the review; return its ID and port."""
    from fastapi import FastAPI

    from neither.serving.server import open_socket, run_server

    with open_socket("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        process = os.fork()
        if process == 0:
            app = FastAPI()
            review = Review(images, {"label issues": (), RANDOM_SAMPLE: ()}, CLASSES, path)
            review.state = dict  # type: ignore[method-assign] # of a million images
            engine: Any = SimpleNamespace(has_heat_maps=False)
            add_review(app, engine, review)
            run_server(Guard(app, TOKEN), listener, lambda: None)
            os._exit(0)
    return process, port


def click(port: int, index: int, label: str) -> None:
    """Answer one image, and wait until the server has confirmed it."""
    body = json.dumps({"queue": "label issues", "answers": {index: label}})
    if (status := ask(port, "POST", "/v1/answers", body)) != 200:
        raise RuntimeError(f"status {status}")


def ask(port: int, method: str, path: str, body: str = "") -> int:
    """Return the status of a response."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request(method, path, body, {"Authorization": f"Bearer {TOKEN}"})
        response = connection.getresponse()
        response.read()
        return response.status


if __name__ == "__main__":
    main()
