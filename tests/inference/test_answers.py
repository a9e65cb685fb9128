"""One answer for each file, in order, whatever the file."""

import os
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from neither.config.schema import Model
from neither.data import workers
from neither.data.decode import decode_file
from neither.data.preprocessing import Preprocessing
from neither.inference.classifier import BATCH_SIZE, Classifier, answer_files
from neither.models.networks import build_network

SIZE = 32
PREPROCESSING = Preprocessing(SIZE)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    network = build_network(Model(width=8), 2, SIZE, seed=0).eval()
    return Classifier(
        network, ("a", "b"), None, PREPROCESSING, 1.0, Path("images"), {}, torch.device("cpu")
    )


def make_images(folder: Path, num: int) -> list[Path]:
    """Draw images that all differ, in sizes that differ."""
    paths = []
    for number in range(num):
        random = np.random.default_rng(number)
        values = random.integers(0, 256, (20 + number % 7, 24, 3), dtype=np.uint8)
        paths.append(folder / f"{number:03}.png")
        Image.fromarray(values).save(paths[-1])
    return paths


def expected_logits(classifier: Classifier, path: Path) -> torch.Tensor:
    pixels = decode_file(path, PREPROCESSING).pixels
    assert pixels is not None
    return classifier.logits(torch.tensor(pixels)[None])[0]


def test_unreadable_files_are_answers_in_their_place(
    classifier: Classifier, tmp_path: Path
) -> None:
    good = make_images(tmp_path, 3)
    text, empty, cut = (tmp_path / name for name in ("text.png", "empty.png", "cut.png"))
    text.write_text("this is no image")
    empty.touch()
    cut.write_bytes(good[0].read_bytes()[:-400])
    paths = [text, good[0], empty, tmp_path / "missing.png", good[1], cut, good[2]]
    answers = list(answer_files(classifier, paths))
    assert len(answers) == len(paths)
    for path, answer in zip(paths, answers, strict=True):
        if path in good:
            assert answer.logits is not None
            assert torch.equal(answer.logits, expected_logits(classifier, path))
            assert answer.reason == ""
        else:
            assert answer.logits is None
            assert answer.reason
    assert answers[2].reason == "empty file"
    assert answers[3].reason == os.strerror(2).lower()
    assert len({answer.reason for answer in answers}) == 5  # four causes, and none


def test_each_answer_has_the_hash_of_its_file(classifier: Classifier, tmp_path: Path) -> None:
    paths = [*make_images(tmp_path, 2), tmp_path / "text.png"]
    paths[-1].write_text("this is no image")
    answers = answer_files(classifier, [*paths, tmp_path / "missing.png"])
    hashes = [sha256(path.read_bytes()).hexdigest() for path in paths]
    assert [answer.sha256 for answer in answers] == [*hashes, ""]


def test_order_is_kept_across_processes_and_batches(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "num_cores", lambda: 2)
    paths = make_images(tmp_path, 2 * BATCH_SIZE + 3)
    bad = {0, BATCH_SIZE - 1, BATCH_SIZE, 100}
    for number in bad:
        paths[number].write_text("this is no image")
    answers = list(answer_files(classifier, paths))
    assert len(answers) == len(paths)
    assert {number for number, answer in enumerate(answers) if answer.logits is None} == bad
    for number, (path, answer) in enumerate(zip(paths, answers, strict=True)):
        assert answer.sha256 == sha256(path.read_bytes()).hexdigest()
        if number not in bad and number % 10 == 5:
            assert answer.logits is not None
            assert torch.equal(answer.logits, expected_logits(classifier, path)), number


@pytest.mark.parametrize("num", [0, 1, BATCH_SIZE])
def test_there_are_as_many_answers_as_files(
    num: int, classifier: Classifier, tmp_path: Path
) -> None:
    assert len(list(answer_files(classifier, make_images(tmp_path, num)))) == num


def test_files_that_are_all_unreadable_need_no_network(
    classifier: Classifier, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(BATCH_SIZE)]
    answers = list(answer_files(classifier, paths))
    assert [answer.logits for answer in answers] == [None] * len(paths)
