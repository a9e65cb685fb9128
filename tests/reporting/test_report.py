"""The report: what it says, that it stays small, and that it works in a browser."""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser, Page

from browser import chromium
from neither.data.layout import find_evaluation_images, find_unseen_images
from neither.evaluation.calibration import bin_index
from neither.evaluation.evaluation import Evaluation, LabelledPredictions, evaluate
from neither.evaluation.metrics import wilson_interval
from neither.inference.classifier import Classifier
from neither.reporting.html import ReportContext, write_report
from neither.reporting.text import format_percent

Draw = Callable[..., None]
HOSTILE = "<script>document.title='owned'<\u2215script>.png"  # a slash that a name may hold
STORY = ReportContext(
    title="dogs & humans",
    source="images",
    rows=[{"epoch": epoch, "train": {"loss": 1.1 - epoch / 10, "macro_recall": epoch / 10},
           "val": {"loss": 1.1 - epoch / 9, "macro_recall": epoch / 9}} for epoch in range(5)],
    suspects=[
        {"path": "dog/odd.png", "label": "dog", "predicted": "human", "disagreement": "0.930"}
    ],
    warnings=["12 unreadable images are left out"],
    commands=[("Say of other pictures:", "python scripts/predict.py runs/x FOLDER")],
)  # fmt: skip


@pytest.fixture
def evaluated(classifier: Classifier, tmp_path: Path, draw: Draw) -> Evaluation:
    """Thirty hits of each class, five dogs called human, and teapots, which are no class."""
    root = tmp_path / "images"
    for name in classifier.classes:
        for number in range(30):
            draw(root / name / f"{number}.png", name, number)
    for number in range(4):
        draw(root / "dog" / f"odd {number}.png", "human", number)
    draw(root / "dog" / HOSTILE, "human", 9)
    draw(tmp_path / "unseen" / "teapots" / "1.png", "neither")
    (tmp_path / "out").mkdir()
    scored = find_evaluation_images(root, classifier.classes, None)
    unseen = find_unseen_images(tmp_path / "unseen", classifier.classes)
    return evaluate(classifier, scored, unseen, (), tmp_path / "out")


@pytest.fixture
def page(evaluated: Evaluation, tmp_path: Path) -> Path:
    path = tmp_path / "out" / "report.html"
    write_report(path, evaluated.metrics, evaluated.scored, STORY)
    return path


def test_the_report_says_what_the_figures_say(page: Path) -> None:
    text = page.read_text("utf-8")
    assert "Of 100 pictures like these, about 95 are called right (88 to 98)." in text
    assert "Most frequent mistake: dog called human, 5 of 35." in text
    assert "Of 100 pictures of neither, it calls all neither." in text
    assert "Best at human: finds 100.0 % of them. Worst at dog: 85.7 %." in text
    assert "12 unreadable images are left out" in text
    assert "python scripts/predict.py runs/x FOLDER" in text
    assert "<title>dogs &amp; humans</title>" in text
    for part in ("teapots", "93 %", "val ends at", "accepted and right ends at 95 %"):
        assert part in text


def test_each_figure_of_the_page_is_that_of_the_metrics(
    classifier: Classifier, tmp_path: Path, draw: Draw
) -> None:
    """Grey in the colour of no class makes sure and unsure answers; one file is no image."""
    root = tmp_path / "images"
    for name in classifier.classes:
        for number in range(9):
            draw(root / name / f"{number}.png", name, number)
    for number in range(3):
        draw(root / "dog" / f"odd{number}.png", "human", 2 * number)
        draw(root / "neither" / f"odd{number}.png", "dog", number)
    (root / "human" / "bad.png").write_bytes(b"<html>")
    (tmp_path / "out").mkdir()
    scored = find_evaluation_images(root, classifier.classes, None)
    sure = evaluate(classifier, scored, None, (), tmp_path / "out").scored
    assert sure is not None
    middle = float(sure.probabilities.max(dim=1).values.median())
    choosy = replace(classifier, threshold=middle, target_precision=0.9)
    made = evaluate(choosy, scored, None, (), tmp_path / "out")
    path, metrics = tmp_path / "report.html", made.metrics
    write_report(path, metrics, made.scored, STORY)
    text = path.read_text("utf-8")
    decision, rejection, chance = (
        metrics["decision"],
        metrics["rejection"],
        metrics["expected_if_calibrated"]["ece"],
    )
    assert 0.3 < decision["coverage"] < 0.9
    for said in (
        f"It is sure of {round(33 * decision['coverage'])} of 33, ",
        f"Here {format_percent(decision['coverage'])} of the pictures were decided, and "
        f"{format_percent(decision['precision'])} of these rightly (promised on val: 90.0 %)",
        "1 files could not be read",
        f"<dd>{format_percent(metrics['ece'])}: how far",
        f"would show {format_percent(chance['mean'])} by chance on as many pictures, and up to "
        f"{format_percent(chance['q95'])} in 95 %",
        f"<dd>{rejection['auroc']:.3f}: chance",
        f"<dd>{format_percent(rejection['fpr_at_95_tpr'])}: share of neither",
        f"<dd>{metrics['brier']:.3f}: squared",
        *(f"<li>{warning}</li>" for warning in STORY.warnings),
    ):
        assert said in text, said
    for name, per_class in metrics["per_class"].items():
        low, high = wilson_interval(per_class["recall"], per_class["num_images"])
        row = re.search(rf'<tr><th scope="row">{name}</th>(.*?)</tr>', text, re.DOTALL)
        assert row is not None
        cells = re.findall(r"<td[^>]*>(?:<a[^>]*>)?([^<]*)<", row[1])
        place = classifier.classes.index(name)
        assert [int(cell) for cell in cells[:3]] == metrics["confusion_matrix"][place]
        assert cells[3:] == [
            f"{per_class['num_images']} (few)", format_percent(per_class["recall"]),
            f"{100 * low:.0f} - {100 * high:.0f} %", format_percent(per_class["precision"]),
        ]  # fmt: skip
    bars = [float(x) for x in re.findall(r'<rect class="bar" x="([\d.]+)"', text)]
    places = [(bin_index(torch.tensor([row["confidence"]], dtype=torch.float64)).item() + 0.05) / 15
              for row in metrics["reliability"]]  # fmt: skip
    assert bars == pytest.approx([46 + 354 * place for place in places], abs=0.1)


def test_a_name_with_a_script_stays_text(page: Path) -> None:
    text = page.read_text("utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_the_same_evaluation_gives_the_same_bytes(page: Path, evaluated: Evaluation) -> None:
    before = page.read_bytes()
    write_report(page, evaluated.metrics, evaluated.scored, STORY)
    assert page.read_bytes() == before


def test_without_labels_it_says_so_and_counts_decisions(
    classifier: Classifier, tmp_path: Path, draw: Draw
) -> None:
    draw(tmp_path / "flat" / "1.png", "human")
    scored = find_evaluation_images(tmp_path / "flat", classifier.classes, None)
    (tmp_path / "out").mkdir()
    evaluation = evaluate(classifier, scored, None, (), tmp_path / "out")
    assert evaluation.scored is None
    write_report(tmp_path / "report.html", evaluation.metrics, None, ReportContext("x", "flat"))
    text = (tmp_path / "report.html").read_text("utf-8")
    assert "nobody knows how many answers are right" in text
    assert "<td>0</td><td>1</td><td>0</td>" in text
    assert "What was called what" not in text


def test_a_thousand_photographs_stay_under_five_megabytes(
    evaluated: Evaluation, tmp_path: Path
) -> None:
    """Noise is what a JPEG grows largest from."""
    noise = tmp_path / "noise.jpg"
    pixels = random.Random(0).randbytes(30_000)  # noqa: S311 - no secret
    Image.frombytes("RGB", (100, 100), pixels).save(noise, quality=80)
    shares = torch.eye(3, dtype=torch.float64)[torch.arange(1002) % 3]
    labels = torch.arange(1002) // 3 % 3  # as many in each cell of the matrix
    scored = LabelledPredictions(
        [noise] * 1002, [f"a/rather/long/name/{n}.jpg" for n in range(1002)], labels, shares
    )
    path = tmp_path / "report.html"
    write_report(path, evaluated.metrics, scored, STORY)
    assert path.read_text("utf-8").count("data:image/jpeg") == 9 * 88 + 100
    assert 1e6 < path.stat().st_size < 5e6


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(browser: Browser, page: Path, width: int, scheme: Any) -> None:  # noqa: ANN401
    shown = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    said: list[str] = []
    shown.on("console", lambda message: said.append(message.text))
    shown.on("pageerror", lambda error: said.append(str(error)))
    shown.on("request", lambda request: None if request.url.startswith(("file:", "data:"))
             else said.append(request.url))  # fmt: skip
    shown.goto(page.as_uri())
    assert shown.title() == "dogs & humans"
    assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert shown.get_by_text("about 95 are called right").is_visible()
    mistakes = shown.locator("h2:has-text('Mistakes') ~ .shots").first.locator(".shot")
    assert mistakes.count() == 5
    assert mistakes.first.is_visible()
    assert_cell_opens_by_keyboard(shown)
    dark = shown.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (dark == "rgb(255, 255, 255)") == (scheme == "light")
    assert said == []
    shown.close()


def assert_cell_opens_by_keyboard(shown: Page) -> None:
    cell = shown.locator("#cell-0-1")
    assert not cell.is_visible()
    for _ in range(20):
        shown.keyboard.press("Tab")
        if shown.evaluate("document.activeElement.getAttribute('href')") == "#cell-0-1":
            break
    shown.keyboard.press("Enter")
    cell.wait_for(state="visible")
    assert cell.locator(".shot").count() == 5
    assert cell.locator("img").first.evaluate(
        "image => image.decode().then(() => image.naturalWidth)"
    )
