"""The report: its content, its size, the records it reads, and that it works in a browser."""

import base64
import io
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
from neither.evaluation.evaluation import Evaluation, LabelledPredictions, evaluate
from neither.evaluation.metrics import wilson_interval
from neither.inference.classifier import Classifier
from neither.models.checkpoint import DecisionRule
from neither.reporting import html
from neither.reporting.html import (
    ReportContext,
    read_label_issues,
    read_metrics_rows,
    select_thumbnails,
    write_report,
)
from neither.runtime.console import format_percent, log_to_folder

Patch = pytest.MonkeyPatch
Draw = Callable[..., None]
CLASSES = ("dog", "human", "neither")
HOSTILE = "<script>document.title='owned'<\u2215script>.png"  # a slash that a name may contain
CONTEXT = ReportContext(
    title="dogs & humans",
    source="images",
    metrics_rows=[
        {"epoch": epoch, "train": {"loss": 1.1 - epoch / 10, "macro_recall": epoch / 10},
         "val": {"loss": 1.1 - epoch / 9, "macro_recall": epoch / 9}} for epoch in range(5)
    ],
    label_issues=[
        {"path": "dog/odd.png", "label": "dog", "predicted": "human", "disagreement": "0.930"}
    ],
    warnings=["12 unreadable images are left out"],
    commands=[("Classify:", "python scripts/predict.py runs/x FOLDER")],
)  # fmt: skip
ROW = '{"epoch": 1, "step": 3, "train": {"loss": 1.0}, "val": {"loss": 0.5}}\n'


@pytest.fixture
def evaluated(classifier: Classifier, tmp_path: Path, draw: Draw) -> Evaluation:
    """Thirty hits of each class, five dogs classified as human, and a teapot, which is no class."""
    root = tmp_path / "images"
    for name in classifier.classes:
        for number in range(30):
            draw(root / name / f"{number}.png", name, number)
    for number in range(4):
        draw(root / "dog" / f"odd {number}.png", "human", number)
    draw(root / "dog" / HOSTILE, "human", 9)
    draw(tmp_path / "unseen" / "teapots" / "1.png", "neither")
    images = find_evaluation_images(root, classifier.classes, None)
    unseen = find_unseen_images(tmp_path / "unseen", classifier.classes)
    return evaluate(classifier, images, tmp_path / "out", unseen)


@pytest.fixture
def page(evaluated: Evaluation, tmp_path: Path) -> Path:
    path = tmp_path / "out" / "report.html"
    write_report(path, evaluated.metrics, evaluated.labelled, CONTEXT)
    return path


def test_the_report_is_complete_and_the_same_each_time(page: Path, evaluated: Evaluation) -> None:
    text = page.read_text("utf-8")
    for part in (
        "Of 100 images like these, about 95 are classified correctly (88 to 98).",
        "dog classified as human, 5 of 35.", "Worst class: dog, 85.7 %", *CONTEXT.warnings,
        "python scripts/predict.py runs/x FOLDER", "<title>dogs &amp; humans</title>", "teapots",
        "disagreement 93 %", "val ends at", "model ends at", "&lt;script&gt;",
    ):  # fmt: skip
        assert part in text, part
    assert "<script" not in text
    ids = re.findall(r' id="([^"]*)"', text)
    assert len(set(ids)) == len(ids)
    assert set(re.findall(r'(?:url\(|href=")#([^")]*)', text)) <= set(ids)
    write_report(page, evaluated.metrics, evaluated.labelled, CONTEXT)
    assert page.read_text("utf-8") == text


def test_numbers_are_those_of_metrics(classifier: Classifier, tmp_path: Path, draw: Draw) -> None:
    """Shades of the colors make confident and unsure predictions; one file is no image."""
    root = tmp_path / "images"
    for name in classifier.classes:
        for number in range(9):
            draw(root / name / f"{number}.png", name, number)
    for number in range(3):
        draw(root / "dog" / f"odd{number}.png", "human", 2 * number)
        draw(root / "neither" / f"odd{number}.png", "dog", number)
    (root / "human" / "bad.png").write_bytes(b"<html>")
    images = find_evaluation_images(root, classifier.classes, None)
    labelled = evaluate(classifier, images, tmp_path / "out").labelled
    assert labelled is not None
    median = float(labelled.probabilities.max(dim=1).values.median())
    strict = replace(classifier, decision_rule=DecisionRule(0.9, median, median, False, 5))
    evaluation = evaluate(strict, images, tmp_path / "out")
    path, metrics = tmp_path / "report.html", evaluation.metrics
    write_report(path, metrics, evaluation.labelled, CONTEXT)
    text = path.read_text("utf-8")
    decision, rejection = metrics["decision"], metrics["rejection"]
    expected = metrics["expected_if_calibrated"]["ece"]
    assert 0.3 < decision["coverage"] < 0.9
    for part in (
        f"{round(33 * decision['coverage'])} of 33 predictions are confident",
        f"Here {format_percent(decision['coverage'])} of the images were accepted, and "
        f"{format_percent(decision['precision'])} of these are correct (target on val: 90.0 %)",
        "lacks at least 5 more predictions of dog or human",
        f"<td>{decision['known']['num_accepted']}</td><td>"
        f"{format_percent(decision['known']['precision'])}</td>",
        "1 files could not be read",
        f"<dd>{format_percent(metrics['ece'])}: ",
        f"{format_percent(expected['mean'])}, and up to {format_percent(expected['q95'])} in 95 %",
        f"<dd>{rejection['auroc']:.3f}: ",
        f"<dd>{format_percent(rejection['fpr_at_95_tpr'])}: fraction of neither",
        f"<dd>{metrics['brier']:.3f}: ",
    ):
        assert part in text, part
    for index, (name, row) in enumerate(metrics["per_class"].items()):
        low, high = wilson_interval(row["recall"], row["num_images"])
        line = re.search(rf'<tr><th scope="row">{name}</th>(.*?)</tr>', text, re.DOTALL)
        assert line is not None
        cells = re.findall(r"<td[^>]*>(?:<a[^>]*>)?([^<]*)<", line[1])
        assert [int(cell) for cell in cells[:3]] == metrics["confusion_matrix"][index]
        assert cells[3:] == [
            f"{row['num_images']} (few)", format_percent(row["recall"]),
            f"{100 * low:.1f} - {100 * high:.1f} %", format_percent(row["precision"]),
        ]  # fmt: skip


def test_accepted_images_of_unseen_kinds_come_first(page: Path, evaluated: Evaluation) -> None:
    """The teapot of the table is decided neither; were it a dog, no green summary would say so."""
    assert 'class="summary good"' in page.read_text("utf-8")
    decided = {"dog": 1, "human": 0, "neither": 0}
    metrics = evaluated.metrics | {
        "out_of_distribution": {"teapots": {"num_images": 1, "decided": decided}}
    }
    write_report(page, metrics, evaluated.labelled, CONTEXT)
    text = page.read_text("utf-8")
    first = re.search(r'<section class="summary"[^>]*>\s*<p>(.*?)</p>', text)
    assert first is not None
    assert first[1].startswith("Of 1 images of unseen kinds, 1 (100.0 %) are decided dog or human")


def test_no_matrix_without_labels(classifier: Classifier, tmp_path: Path, draw: Draw) -> None:
    draw(tmp_path / "flat" / "1.png", "human")
    images = find_evaluation_images(tmp_path / "flat", classifier.classes, None)
    evaluation = evaluate(classifier, images, tmp_path / "out")
    assert evaluation.labelled is None
    write_report(tmp_path / "report.html", evaluation.metrics, None, ReportContext("x", "flat"))
    text = (tmp_path / "report.html").read_text("utf-8")
    assert "<td>0</td><td>1</td><td>0</td>" in text
    assert 'id="matrix"' not in text


def predict(files: list[Path], rows: list[tuple[int, list[float]]]) -> LabelledPredictions:
    """Return images with these (label, probabilities)."""
    return LabelledPredictions(
        files,
        [file.name for file in files],
        torch.tensor([label for label, _ in rows]),
        torch.tensor([probabilities for _, probabilities in rows], dtype=torch.float64),
    )


def test_cells_show_confident_mistakes_first(tmp_path: Path, draw: Draw) -> None:
    rows = [(0, [0.9, 0.1, 0.0]), (0, [0.6, 0.3, 0.1]), (0, [0.2, 0.7, 0.1]), (0, [0.0, 1.0, 0.0]),
            (0, [0.1, 0.8, 0.1])]  # fmt: skip
    files = [tmp_path / f"{number}.png" for number in range(5)]
    for file in files[:-1]:  # the last one does not exist any more
        draw(file, "dog")
    cells, mistakes = select_thumbnails(predict(files, rows), CLASSES)
    assert [[cell.num_images for cell in row] for row in cells] == [[2, 3, 0], [0] * 3, [0] * 3]
    assert [each.path for each in cells[0][0].thumbnails] == ["1.png", "0.png"]
    assert [each.path for each in mistakes] == ["3.png", "4.png", "2.png"]
    assert [each.probabilities[each.predicted] for each in mistakes] == [1.0, 0.8, 0.7]
    assert mistakes == cells[0][1].thumbnails
    first, missing, _ = mistakes
    assert first.probabilities == {"dog": 0.0, "human": 1.0, "neither": 0.0}
    assert (first.true, first.predicted) == ("dog", "human")
    assert missing.uri == ""
    header, content = first.uri.split(",")
    assert header == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        assert image.format == "JPEG"
        assert max(image.size) <= 84
        assert image.getpixel((0, 0)) == pytest.approx((200, 40, 40), abs=6)


def test_thumbnails_and_paths_are_bounded(tmp_path: Path, monkeypatch: Patch, draw: Draw) -> None:
    """Each cell gets as many; the most confident mistakes are shown whatever their cell."""
    monkeypatch.setattr(html, "MAX_THUMBNAILS", 9)
    monkeypatch.setattr(html, "MAX_CELL_THUMBNAILS", 5)
    monkeypatch.setattr(html, "MAX_MISTAKES", 2)
    monkeypatch.setattr(html, "_MAX_CELL_PATHS", 3)
    draw(tmp_path / "0.png", "dog")
    rows = [(0, [0.9, 0.1, 0.0])] * 10 + [(0, [0.4, 0.6, 0.0])] * 10 + [(2, [0.01, 0.99, 0.0])] * 10
    predictions = predict([tmp_path / "0.png"] * 30, rows)
    predictions = replace(predictions, paths=[str(number) for number in range(30)])
    cells, mistakes = select_thumbnails(predictions, CLASSES)
    for cell in (cells[0][0], cells[0][1], cells[2][1]):
        assert (len(cell.thumbnails), len(cell.paths), cell.num_images) == (3, 3, 10)
        assert not {each.path for each in cell.thumbnails} & set(cell.paths)
    assert [(each.true, each.probabilities["human"]) for each in mistakes] == [
        ("neither", 0.99)
    ] * 2


def test_with_many_classes_there_is_no_matrix_and_bars_are_few(tmp_path: Path, draw: Draw) -> None:
    classes = [str(number) for number in range(50)]
    draw(tmp_path / "0.png", "dog")
    probabilities = [0.51 if number == 7 else 0.01 for number in range(50)]
    predictions = predict([tmp_path / "0.png"], [(40, probabilities)])
    cells, (mistake,) = select_thumbnails(predictions, classes)
    assert cells == []
    assert (mistake.true, mistake.predicted) == ("40", "7")
    assert len(mistake.probabilities) <= 6
    assert {"7", "40"} <= mistake.probabilities.keys()


def test_records_are_read_the_last_row_of_an_epoch_counts(tmp_path: Path) -> None:
    assert not [*read_metrics_rows(tmp_path), *read_label_issues(tmp_path)]
    (tmp_path / "metrics.jsonl").write_text(ROW.replace("1.0", "2.0") + ROW)
    (tmp_path / "label_issues.csv").write_text(
        "path,label,predicted,disagreement\ndog/1.png,dog,human,0.9\n"
    )
    assert read_metrics_rows(tmp_path) == [
        {"epoch": 1, "step": 3, "train": {"loss": 1.0}, "val": {"loss": 0.5}}
    ]
    assert read_label_issues(tmp_path) == [
        {"path": "dog/1.png", "label": "dog", "predicted": "human", "disagreement": "0.9"}
    ]


@pytest.mark.parametrize(("name", "text"), [
    ("label_issues.csv", "path;label\na;b\n"),
    ("label_issues.csv", "path,label,predicted,disagreement\na,dog\n"),
    ("label_issues.csv", "path,label,predicted,disagreement\na,dog,human,often\n"),
    ("metrics.jsonl", ROW + "{"), ("metrics.jsonl", ROW + "[1]\n"),
    ("metrics.jsonl", ROW + '{"epoch": 1, "step": 1}\n'),
    ("metrics.jsonl", ROW + '{"epoch": 1, "step": 1, "train": 3}\n'),
    ("metrics.jsonl", ROW + '{"epoch": Infinity, "step": 1, "train": {}}\n'),
])  # fmt: skip
def test_a_damaged_record_is_a_warning_and_no_rows(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with log_to_folder(tmp_path):
        assert [*read_metrics_rows(tmp_path), *read_label_issues(tmp_path)] == []
    assert f"{name}: cannot be read" in (tmp_path / "log.txt").read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has this device")
def test_a_device_that_never_ends_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    assert read_metrics_rows(tmp_path) == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(browser: Browser, page: Path, scheme: Any) -> None:  # noqa: ANN401
    tab = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme=scheme)
    problems: list[str] = []
    tab.on("console", lambda message: problems.append(message.text))
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("request", lambda request: None if request.url.startswith(("file:", "data:"))
           else problems.append(request.url))  # fmt: skip
    tab.goto(page.as_uri())
    assert tab.title() == "dogs & humans"
    mistakes = tab.locator("h2:has-text('mistakes') ~ .thumbnails").first.locator(".thumbnail")
    assert mistakes.count() == 5
    assert mistakes.first.is_visible()
    assert_cell_opens_by_keyboard(tab)
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    color = tab.locator("svg text").first.evaluate("text => getComputedStyle(text).fill")
    assert color == ("rgb(90, 102, 117)" if scheme == "light" else "rgb(167, 177, 191)")
    for width in (1280, 390):
        tab.set_viewport_size({"width": width, "height": 800})
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert tab.evaluate(LABELS_INSIDE)
    assert problems == []
    tab.close()


LABELS_INSIDE = """[...document.querySelectorAll("svg text")].every(text => {
    const svg = text.closest("svg").getBoundingClientRect(), box = text.getBoundingClientRect();
    return box.left >= svg.left && box.right <= svg.right && box.top >= svg.top
        && box.bottom <= svg.bottom; })"""


def assert_cell_opens_by_keyboard(tab: Page) -> None:
    cell = tab.locator("#cell-0-1")
    assert not cell.is_visible()
    for _ in range(20):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.getAttribute('href')") == "#cell-0-1":
            break
    tab.keyboard.press("Enter")
    cell.wait_for(state="visible")
    assert cell.locator(".thumbnail").count() == 5
    assert cell.locator("img").first.evaluate(
        "image => image.decode().then(() => image.naturalWidth)"
    )
