"""The review: its queues, its estimate, its routes, and its page, driven by keys."""

import csv
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from browser import chromium
from calls import Call
from checkpoints import save_run
from images import CLASSES, draw_shape
from neither.data.corrections import DROPPED, RANDOM_SAMPLE, Answer, AnswerFile, read_answers
from neither.data.manifest import find_training_rows
from neither.evaluation.metrics import wilson_interval
from neither.inference.classifier import load_classifier
from neither.serving.app import create_app
from neither.serving.engine import Engine
from neither.serving.guard import Guard
from neither.serving.review import ALL_OF_VAL, KEEP, NEW_IMAGES, Review, add_review, open_review
from records import rows
from scripts import ROOT

TOKEN = "the-token"  # noqa: S105
ISSUES = ("train/neither/002.png", "train/dog/001.png")
UNSURE = "val/human/000.png"
MISTAKES = ("val/dog/001.png", "val/dog/000.png")


def write_csv(path: Path, *rows: tuple[object, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run on 12 images of train and 6 of val, with two issues and two mistakes."""
    root, run = tmp_path / "photos", save_run(tmp_path / "run", tmp_path / "photos")
    images: list[tuple[str, ...]] = []
    predictions: list[tuple[object, ...]] = []
    for split, num in (("train", 4), ("val", 2)):
        for number, label in enumerate(CLASSES * num):
            path = root / split / label / f"{number // 3:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            draw_shape(label, number + 100 * num).save(path)
            name = path.relative_to(root).as_posix()
            images.append((name, label, split, sha256(path.read_bytes()).hexdigest(), ""))
            if split == "val":
                predicted = "neither" if name in MISTAKES else label
                confidence = 0.9 if name == MISTAKES[0] else 0.7
                decision = "unsure" if name == UNSURE else predicted
                predictions.append((name, "ok", predicted, decision, confidence, label))
    predictions.append((f"{split}/gone.png", "unreadable", "", "", "", "dog"))
    write_csv(run / "splits.csv", ("path", "label", "split", "sha256", "reason"), *images)
    columns = ("path", "label", "predicted", "disagreement", "confidence", "loss")
    issues = [(name, "dog", "human", "1.000", "0.1", "2") for name in (*ISSUES, "gone.png")]
    write_csv(run / "label_issues.csv", columns, *issues)
    columns = ("path", "status", "predicted", "decision", "confidence", "true_label")
    write_csv(run / "evaluations" / "photos-val" / "predictions.csv", columns, *predictions)
    return run


def review_of(run: Path, new_images: Path | None = None) -> Review:
    import torch

    classifier = load_classifier(run, torch.device("cpu"))
    return open_review(run, classifier, run / "corrections.csv", new_images)


def names(review: Review, queue: str) -> list[str]:
    return [review.images[index].path for index in review.queues[queue]]


def index_of(review: Review, name: str) -> int:
    (index,) = [index for index, image in enumerate(review.images) if image.path == name]
    return index


def test_the_queues_are_in_the_order_of_their_worth(run: Path) -> None:
    review = review_of(run)
    assert names(review, "label issues") == list(ISSUES)
    assert names(review, "confident mistakes") == list(MISTAKES)
    assert names(review, "unsure") == [UNSURE]
    sample = names(review, RANDOM_SAMPLE)
    assert len({*sample}) == 18
    assert sample != sorted(sample)
    assert sample == names(review_of(run), RANDOM_SAMPLE)  # also on another day
    assert names(review, ALL_OF_VAL) == [name for name in sample if name.startswith("val/")]
    (run / "evaluations" / "photos-val" / "predictions.csv").write_text("path,status\na,ok\n")
    (run / "label_issues.csv").unlink()
    assert names(review_of(run), "confident mistakes") == []


def test_answers_are_undone_and_shared_with_other_reviewers(run: Path) -> None:
    review, other = review_of(run), review_of(run)
    one, two = review.queues["label issues"]
    first = review.answer("label issues", {one: "dog", two: KEEP})
    assert first == {one: None, two: None}
    assert other.answer("unsure", {one: DROPPED}) == {one: "dog"}
    for each in (review, review_of(run)):
        assert each.state()["answers"] == {one: DROPPED, two: "dog"}
    assert review.state()["num_changed"] == 1
    assert review.answer("unsure", {one: "dog"}) == {one: DROPPED}
    review.answer("label issues", first)
    assert review.state()["answers"] == other.state()["answers"] == {}
    assert review.state()["num_changed"] == 0


def test_the_estimate_is_of_a_random_sample_whatever_was_answered_before(run: Path) -> None:
    review = review_of(run)
    order = review.queues[RANDOM_SAMPLE]

    def estimate() -> tuple[int, int]:
        found: dict[str, Any] = review.state()["estimate"]
        num, num_wrong = found["num_images"], found["num_wrong"]
        expected = wilson_interval(num_wrong / num, num) if num else (0, 1)
        assert found["interval"] == expected
        return num, num_wrong

    wrong = next(name for name in CLASSES if name != review.images[order[1]].label)
    review.answer("confident mistakes", {order[1]: wrong, order[5]: KEEP})
    assert estimate() == (0, 0)  # chosen by the model
    review.answer(RANDOM_SAMPLE, {order[0]: KEEP})
    assert estimate() == (1, 0)
    review.answer(RANDOM_SAMPLE, {order[2]: DROPPED})  # passes an answer, which now is of both
    assert estimate() == (3, 2)
    review.answer(ALL_OF_VAL, {order[1]: KEEP})  # it stays in the sample
    assert estimate() == (3, 1)
    review.answer(RANDOM_SAMPLE, {order[4]: KEEP})  # order[3] was skipped
    assert estimate() == (3, 1)
    queues = {each.queue for each in read_answers(review.path, CLASSES, {}).values()}
    assert queues == {RANDOM_SAMPLE, "confident mistakes"}


def test_new_images_become_rows_of_a_manifest_the_least_certain_first(
    run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    for number in range(4):
        draw_shape(CLASSES[number % 3], 900 + number).save(folder / f"{number}.png")
    shutil.copy(folder / "1.png", folder / "copy.png")
    shutil.copy(tmp_path / "photos" / ISSUES[0], folder / "known.png")
    (folder / "broken.png").write_bytes(b"")
    review = review_of(run, folder)
    assert next(iter(review.queues)) == NEW_IMAGES
    new = review.queues[NEW_IMAGES]
    import torch

    classifier = load_classifier(run, torch.device("cpu"))
    sure = [classifier(review.images[index].file).confidence for index in new]
    assert (len(new), sure) == (4, sorted(sure))
    review.answer(NEW_IMAGES, {new[0]: KEEP, new[1]: DROPPED, new[2]: "human"})
    assert review.state()["num_changed"] == 0  # they had no label
    review.write_manifest(tmp_path / "manifest.csv", tmp_path / "photos")
    table = find_training_rows(tmp_path / "manifest.csv", CLASSES)
    found = {path: pair for path, *pair in rows(table)}
    assert len(found) == 20
    assert found[str(tmp_path / "photos" / UNSURE)] == ["human", "val"]
    assert found[str(review.images[new[0]].file)] == [review.images[new[0]].predicted, "train"]
    assert found[str(review.images[new[2]].file)] == ["human", "train"]


@pytest.fixture
def client(run: Path) -> Iterator[TestClient]:
    import torch

    classifier = load_classifier(run, torch.device("cpu"))
    engine = Engine(classifier)
    app = create_app(engine, {"name": "run"}, "review.html")
    add_review(app, engine, open_review(run, classifier, run / "corrections.csv"))
    with TestClient(Guard(app, TOKEN), base_url="http://127.0.0.1:8000") as client:
        yield client
    engine.close()


def test_the_routes_need_the_token_and_open_no_path(client: TestClient, run: Path) -> None:
    for path in ("/v1/review", "/v1/images/0", "/v1/images/0/large", "/v1/images/0/heat_map"):
        assert client.get(path).status_code == 401
    client.headers["Authorization"] = f"Bearer {TOKEN}"
    (index, _) = client.get("/v1/review").json()["queues"]["label issues"]
    found = client.get(f"/v1/images/{index}").json()
    assert found["prediction"]["path"] == ISSUES[0]
    assert (found["label"], found["split"], found["prefers"]) == ("neither", "train", "human")
    assert client.get(f"/v1/images/{index}/large").headers["content-type"] == "image/jpeg"
    assert client.get(f"/v1/images/{index}/heat_map").headers["content-type"] == "image/png"
    for path in ("99", "-1", "0/huge", "..%2f..%2fsplits.csv", "0/../../etc/passwd"):
        assert client.get(f"/v1/images/{path}").status_code in (404, 422)

    def post(**body: object) -> int:
        return client.post("/v1/answers", json=body).status_code

    assert post(queue="unsure", answers={"99": "dog"}) == 404
    assert post(queue="unsure", answers={"0": "cat"}) == 422
    assert post(queue="mine", answers={"0": "dog"}) == 422
    assert post(answers=[]) == 422
    assert post(queue="x" * 2_000_000, answers={}) == 413
    assert not (run / "corrections.csv").exists()
    assert post(queue="unsure", answers={"0": "dog"}) == 200
    (run / "corrections.csv").write_text("my notes\n")
    assert post(queue="unsure", answers={"1": "dog"}) == 503
    assert (run / "corrections.csv").read_text() == "my notes\n"
    assert client.get("/v1/review").status_code == 503

    draw_shape("dog", 5).save(run.parent / "photos" / ISSUES[0])
    for path in (f"/v1/images/{index}", f"/v1/images/{index}/heat_map"):
        assert client.get(path).status_code == 410


@pytest.mark.usefixtures("watchdog")
def test_the_page_is_driven_by_keys(run: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in (tmp_path / "photos").rglob("*.png")}
    command = [sys.executable, str(ROOT / "scripts" / "review.py"), str(run), "--port", "0"]
    with (
        chromium() as browser,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as server,
    ):
        assert server.stdout is not None
        assert server.stderr is not None
        address = server.stdout.readline().strip()
        page = browser.new_page()
        asked: list[str] = []
        problems: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(address)

        def press(*keys: str) -> None:
            for key in keys:
                page.wait_for_selector("#work[aria-busy=false]")
                page.keyboard.press(key)

        page.get_by_text("label: neither, perhaps human").wait_for()
        press("2")
        page.get_by_text("label: dog, perhaps human").wait_for()
        press("d")
        page.get_by_text("2 of 2 answered, 0 left. 2 labels changed").wait_for()
        press("u")
        page.get_by_text("1 of 2 answered, 1 left. 1 labels changed").wait_for()
        press("h")
        page.wait_for_selector('#image[src$="/heat_map"]')
        press("k")
        page.get_by_text("2 of 2 answered, 0 left.").wait_for()
        press("q", "q", "q")  # random sample
        page.get_by_text("2 of 18 answered").wait_for()
        press("n", "p")
        for number in (0, 2):
            page.locator("#strip button").nth(number).click()
        page.get_by_text("2 selected").wait_for()
        press("1")
        page.get_by_text("4 of 18 answered").wait_for()
        page.set_viewport_size({"width": 400, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        server.send_signal(signal.SIGTERM)
        log = server.stderr.read()
        assert server.wait() == 143
    assert problems == []
    assert {url.split("/")[2] for url in asked} == {address.split("/")[2]}
    assert "data.corrections=" in log
    answers = read_answers(run / "corrections.csv", CLASSES, {})
    found = {each.path: each.new_label for each in answers.values()}
    assert (found[ISSUES[0]], found[ISSUES[1]]) == ("human", "dog")
    assert sum(each.queue == RANDOM_SAMPLE for each in answers.values()) >= 2
    assert before == {path: path.read_bytes() for path in (tmp_path / "photos").rglob("*.png")}


def test_what_keeps_a_review_from_starting(call: Call, run: Path, tmp_path: Path) -> None:
    assert call("review", tmp_path).code == 2
    assert call("review", run, tmp_path / "gone").code == 2
    assert call("review", run, "--corrections", tmp_path / "photos" / "c.csv").code == 2
    AnswerFile(run / "corrections.csv", CLASSES).append([Answer("0" * 64, "", "", "cat", "unsure")])
    assert call("review", run, "--port", "0").code == 3
    shutil.rmtree(tmp_path / "photos")
    assert call("review", run).code == 2
