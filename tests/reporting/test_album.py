"""The pictures of a report: which ones, in which order, how many."""

import base64
import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from neither.evaluation.evaluation import LabelledPredictions, risk_coverage
from neither.reporting import html
from neither.reporting.html import build_gallery

CLASSES = ("dog", "human", "neither")


def make_scored(paths: list[Path], rows: list[tuple[int, list[float]]]) -> LabelledPredictions:
    """Return images with these (label, probabilities)."""
    return LabelledPredictions(
        paths,
        [path.name for path in paths],
        torch.tensor([label for label, _ in rows]),
        torch.tensor([shares for _, shares in rows], dtype=torch.float64),
    )


@pytest.fixture
def scored(tmp_path: Path, draw: Callable[..., None]) -> LabelledPredictions:
    """Two hits of dog, three dogs called human, one of which has gone since."""
    rows = [(0, [0.9, 0.1, 0.0]), (0, [0.6, 0.3, 0.1]), (0, [0.2, 0.7, 0.1]), (0, [0.0, 1.0, 0.0]),
            (0, [0.1, 0.8, 0.1])]  # fmt: skip
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for path in paths[:-1]:
        draw(path, "dog")
    return make_scored(paths, rows)


def test_cells_hold_the_surest_mistakes_and_the_least_sure_hits_first(
    scored: LabelledPredictions,
) -> None:
    html = build_gallery(scored, CLASSES)
    cells = html.cells
    assert [[cell.num_images for cell in row] for row in cells] == [[2, 3, 0], [0] * 3, [0] * 3]
    assert [picture.shown for picture in cells[0][0].pictures] == ["1.png", "0.png"]
    mistakes = cells[0][1].pictures
    assert [picture.shown for picture in mistakes] == ["3.png", "4.png", "2.png"]
    assert [picture.confidence for picture in mistakes] == [1.0, 0.8, 0.7]
    assert mistakes[0].shares == [("dog", 0.0), ("human", 1.0), ("neither", 0.0)]
    assert (mistakes[0].true, mistakes[0].predicted) == ("dog", "human")
    assert list(html.mistakes) == mistakes
    assert cells[0][0].is_right
    assert not cells[0][1].is_right


def test_a_thumbnail_is_a_small_jpeg_and_absent_if_the_file_is(scored: LabelledPredictions) -> None:
    seen, gone, _ = build_gallery(scored, CLASSES).cells[0][1].pictures
    header, content = seen.uri.split(",")
    assert header == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        assert image.format == "JPEG"
        assert max(image.size) <= 84
        assert image.getpixel((0, 0)) == pytest.approx((200, 40, 40), abs=6)
    assert gone.uri == ""


def test_whatever_the_number_of_images_pictures_and_names_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, draw: Callable[..., None]
) -> None:
    """The pictures are shared out evenly; the surest mistakes are shown wherever they lie."""
    monkeypatch.setattr(html, "MOST_PICTURES", 9)
    monkeypatch.setattr(html, "MOST_IN_CELL", 5)
    monkeypatch.setattr(html, "MOST_MISTAKES", 2)
    monkeypatch.setattr(html, "_MOST_NAMES", 3)
    paths = [tmp_path / f"{number}.png" for number in range(30)]
    for path in paths:
        draw(path, "dog")
    rows = [(0, [0.9, 0.1, 0.0])] * 10 + [(0, [0.4, 0.6, 0.0])] * 10 + [(2, [0.01, 0.99, 0.0])] * 10
    made = build_gallery(make_scored(paths, rows), CLASSES)
    for cell in (made.cells[0][0], made.cells[0][1], made.cells[2][1]):
        assert (len(cell.pictures), len(cell.names), cell.num_left_out) == (3, 3, 4)
        assert not {picture.shown for picture in cell.pictures} & set(cell.names)
    assert [(each.true, each.confidence) for each in made.mistakes] == [("neither", 0.99)] * 2


def test_with_many_classes_there_is_no_table_and_bars_are_few(
    tmp_path: Path, draw: Callable[..., None]
) -> None:
    classes = [str(number) for number in range(50)]
    draw(tmp_path / "0.png", "dog")
    shares = torch.full((50,), 0.01).tolist()
    shares[7] = 0.51
    made = build_gallery(make_scored([tmp_path / "0.png"], [(40, shares)]), classes)
    assert made.cells == []
    (mistake,) = made.mistakes
    assert (mistake.true, mistake.predicted) == ("40", "7")
    assert len(mistake.shares) <= 6
    assert {"7", "40"} <= {name for name, _ in mistake.shares}


def test_images_of_one_confidence_have_no_order() -> None:
    """As in `selective`: a file name decides nothing."""
    tied = torch.tensor([[0.6, 0.4]] * 4, dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1])
    assert [y for _, y in risk_coverage(LabelledPredictions([], [], labels, tied))] == [0.5] * 4


def test_risk_coverage_by_hand(scored: LabelledPredictions) -> None:
    """By falling confidence: wrong 1.0, right 0.9, wrong 0.8, wrong 0.7, right 0.6."""
    assert risk_coverage(scored) == [
        (0.2, 0.0), (0.4, 0.5), (0.6, pytest.approx(1 / 3)), (0.8, 0.25), (1.0, 0.4),
    ]  # fmt: skip


def test_a_long_curve_keeps_its_ends() -> None:
    num = 10_000
    shares = torch.linspace(1, 0.51, num, dtype=torch.float64)
    labels = (torch.arange(num) >= num // 2).long()  # the surer half is right
    points = risk_coverage(
        LabelledPredictions([], [], labels, torch.stack([shares, 1 - shares], 1))
    )
    assert len(points) == 200
    assert points[0] == (1 / num, 1.0)
    assert points[-1] == (1.0, 0.5)
