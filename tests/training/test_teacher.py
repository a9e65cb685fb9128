"""A student learns from a teacher: the same crops, two parts of the loss, resumed to the bit."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backbone import write_weights
from calls import Call, Done
from checkpoints import save_run
from images import draw_shape, make_splits
from moments import before, terminate
from neither.config.loader import load_config
from neither.data import workers
from neither.data.augmentation import crop
from neither.data.batches import view_uniforms
from neither.data.dataset import Dataset
from neither.data.decode import decode_file
from neither.data.split_file import read_trained_on
from neither.inference import embedding
from neither.inference.classifier import load_classifier
from neither.models.checkpoint import load_checkpoint, read_archive, save_checkpoint
from neither.runtime.console import read_warnings
from neither.runtime.devices import choose_device_config
from neither.training import teacher, trainer
from outputs import read_rows

pytestmark = pytest.mark.usefixtures("no_plots")
Patch = pytest.MonkeyPatch
CPU = choose_device_config("cpu", "float32").device
OLD = Path("runs/old")
CONFIG = """name: new
classes: [neither, dog, human]
device: cpu
precision: float32
data: {root: images, image_size: 40}
augmentation: {cutmix: 0.5}
model: {name: softmax_regression}
train: {epochs: 3, batch_size: 8, lr: 0.01, teacher: runs/old, teacher_weight: 0.75}
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: Patch) -> Path:
    """Return a folder with images, a run of dog, human and neither, and a config that uses it."""
    monkeypatch.setattr(workers, "num_cores", lambda: 1)
    monkeypatch.setattr(embedding, "_BLOCK_IMAGES", 8)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    make_splits(tmp_path / "images", train=6)
    save_run(OLD, Path("elsewhere"))  # its images are gone, which does not matter
    (tmp_path / "new.yaml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def train(call: Call) -> Callable[..., Done]:
    def run(*keys: str, code: int = 0) -> Done:
        done = call("train", "new.yaml", *keys)
        assert done.code == code, done.err
        if code not in (0, 143):
            assert "Traceback" not in done.err
            assert len([each for each in done.err.splitlines() if each.startswith("error: ")]) == 1
        return done

    return run


def outcome(run: str) -> dict[str, Any]:
    """Return all that a run must end in to the bit."""
    weights = read_archive(Path("runs", run, "checkpoints", "last.pt"))[0]["weights"]
    rows = read_rows(Path("runs", run))
    for row in rows:
        row["train"].pop("images_per_second", None)
    return {name: tensor.tolist() for name, tensor in weights.items()} | {"rows": rows}


def test_answers_are_the_probabilities_of_prediction_for_the_crops(
    train: Callable[..., Done], monkeypatch: Patch
) -> None:
    found: list[tuple[torch.Tensor, Dataset]] = []

    def watch(*arguments: Any) -> torch.Tensor:  # noqa: ANN401
        answers = teacher.answer_views(*arguments)
        found.append((answers, arguments[3]))
        return answers

    monkeypatch.setattr(trainer, "answer_views", watch)
    train("train.epochs=0")
    ((answers, data),) = found
    assert answers.shape == (18, 8, 3)
    classifier, settings = load_classifier(OLD, CPU), load_config(Path("new.yaml")).augmentation
    for row, view in ((0, 0), (0, 7), (11, 3)):
        file = Path("images", data.train.paths[row])
        image = decode_file(file, classifier.preprocessing)
        assert image.pixels is not None
        hashes = np.frombuffer(image.sha256, np.uint8)[None]
        uniforms = torch.from_numpy(view_uniforms(0, view, hashes))
        pixels = crop(torch.from_numpy(image.pixels)[None], uniforms, settings)
        (prediction,) = classifier(list(pixels.numpy()))
        expected = [prediction.probabilities[name] for name in data.classes]
        assert answers[row, view].tolist() == pytest.approx(expected, abs=1e-6)
    assert not torch.equal(answers[:, 0], answers[:, 1])


def test_curves_show_both_parts_of_the_loss(train: Callable[..., Done]) -> None:
    train()
    first, *rows = read_rows(Path("runs/new"))
    assert "teacher_loss" not in first["train"]
    for row in rows:
        parts = row["train"]
        mixed = 0.25 * parts["label_loss"] + 0.75 * parts["teacher_loss"]
        assert parts["loss"] == pytest.approx(mixed, rel=1e-5)
        assert parts["label_loss"] != pytest.approx(parts["teacher_loss"])
        assert "label_loss" not in row["val"]


def test_with_weight_1_the_labels_are_not_used(train: Callable[..., Done]) -> None:
    train("train.teacher_weight=1.0")
    for row in read_rows(Path("runs/new"))[1:]:
        assert row["train"]["loss"] == pytest.approx(row["train"]["teacher_loss"], rel=1e-5)


@pytest.mark.parametrize("moment", ["answers", "steps"])
def test_a_stopped_run_ends_in_the_same_bits_though_the_teacher_changed(
    moment: str, train: Callable[..., Done], call: Call, monkeypatch: Patch
) -> None:
    train()
    shutil.rmtree("cache")
    owner, name, number = {
        "answers": (teacher, "compute_outputs", 12), "steps": (trainer, "train_step", 5)
    }[moment]  # fmt: skip
    with monkeypatch.context() as patch:
        before(owner, name, number, terminate)(patch)
        train("--output-dir", "runs/part", code=143)
    if moment == "steps":  # it keeps a copy
        shutil.rmtree("cache")
        shutil.rmtree(OLD)
    train("--output-dir", "runs/part")
    assert outcome("part") == outcome("new")
    (Path("runs/part/checkpoints/teacher.pt")).unlink()
    assert call("predict", "runs/part", "images/test").code == 0
    assert "finished" in train("--output-dir", "runs/part").err


def test_a_second_run_asks_nothing(train: Callable[..., Done], monkeypatch: Patch) -> None:
    train()
    monkeypatch.setattr(teacher, "compute_outputs", None)
    train("name=second", "train.teacher_weight=0.5", "augmentation.rotation_degrees=0.0")
    monkeypatch.undo()


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def rename_class(path: Path) -> None:
    checkpoint = replace(load_checkpoint(path), classes=("dog", "human", "cat"))
    save_checkpoint(path, replace(checkpoint, reject_class=None))


REFUSED: dict[str, tuple[list[str], Callable[[Path], object], int, str]] = {
    "no such run": (["train.teacher=runs/gone"], lambda _: None, 2, "train.teacher: runs/gone"),
    "no checkpoint": (["train.teacher=images"], lambda _: None, 5, "best.pt"),
    "damaged": ([], damage, 5, "damaged"),
    "other classes": ([], rename_class, 5, "dog, human, cat"),
    "its own folder": (["name=old"], lambda _: None, 2, "name="),
    "a head": (
        ["model={name: resnet18, weights: default, trainable: head}", "augmentation={}"],
        lambda _: None, 2, "train.teacher",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("keys", "change", "code", "text"), REFUSED.values(), ids=REFUSED.keys())
def test_a_teacher_that_cannot_be_used_is_one_line(
    keys: list[str],
    change: Callable[[Path], object],
    code: int,
    text: str,
    train: Callable[..., Done],
) -> None:
    change(OLD / "checkpoints" / "best.pt")
    done = train(*keys, code=code)
    assert text in done.err


def test_images_that_the_teacher_knows_are_warned_of(
    train: Callable[..., Done], call: Call
) -> None:
    train("name=first", "train.teacher=null")
    train("name=second", "train.teacher=runs/first")
    assert not [text for text in read_warnings(Path("runs/second")) if "teacher" in text]
    shutil.copy("images/train/dog/000.png", "images/val/dog/seen.png")
    Path("images/train/dog/000.png").unlink()
    train("name=third", "train.teacher=runs/first")
    (text,) = (text for text in read_warnings(Path("runs/third")) if "train.teacher" in text)
    assert "1 of the 13 images of val" in text
    Path("more").mkdir()
    draw_shape("dog", 500).save("more/0.png")
    done = call("cross_validate", "new.yaml", "--folds", "2", "train.teacher=runs/first",
                "train.epochs=1", "data.unlabelled=more", "--output-dir", "cv")  # fmt: skip
    assert done.code == 0, done.err
    assert not any(Path("cv", "folds").rglob("unlabelled.csv"))  # it may hold what is left out
    assert any("left out" in text for text in read_warnings(Path("cv")) if "train.teacher" in text)


def test_images_without_labels_are_learned_from_the_teacher_alone(
    train: Callable[..., Done], monkeypatch: Patch
) -> None:
    train("name=plain")
    for number in range(10):
        Path("more").mkdir(exist_ok=True)
        draw_shape("dog", 500 + number).save(f"more/{number}.png")
    more = ["data.unlabelled=more"]
    train(*more)
    plain, mixed = (read_rows(Path("runs", name)) for name in ("plain", "new"))
    assert [row["step"] for row in plain] == [0, 3, 6, 9]
    assert [row["step"] for row in mixed] == [0, 4, 8, 12]  # 28 images in batches of 8
    for row in mixed[1:]:
        parts = row["train"]
        labelled = 18 * (0.25 * parts["label_loss"] + 0.75 * parts["teacher_loss"]) / 28
        assert labelled < parts["loss"]
        assert (18 * parts["accuracy"]) % 1 == pytest.approx(0, abs=1e-9)
    assert Path("runs/new/splits.csv").read_bytes() == Path("runs/plain/splits.csv").read_bytes()
    before(trainer, "train_step", 6, terminate)(monkeypatch)
    train(*more, "--output-dir", "runs/part", code=143)
    train(*more, "--output-dir", "runs/part")
    assert outcome("part") == outcome("new")
    digests = {sha256(path.read_bytes()).hexdigest() for path in Path("more").iterdir()}
    assert digests <= read_trained_on(Path("runs/new"))
    assert not digests & read_trained_on(Path("runs/plain"))
    assert "data.unlabelled" in train("--output-dir", "runs/part", code=2).err
    assert "train.teacher" in train(*more, "train.teacher=null", "name=none", code=2).err
    assert "image folder" in train(*more, "--output-dir", "more/run", code=2).err


@pytest.mark.usefixtures("small_backbone")
def test_a_pretrained_network_learns_from_a_teacher_too(
    home: Path, train: Callable[..., Done]
) -> None:
    write_weights(home / "weights.pth")
    Path("one").mkdir()
    draw_shape("dog", 500).save("one/0.png")
    train("model={name: efficientnet_lite0, weights: weights.pth}", "train.epochs=1",
          "data.unlabelled=one")  # fmt: skip
    row = read_rows(Path("runs/new"))[-1]
    assert row["train"]["teacher_loss"] > 0
    assert load_checkpoint(Path("runs/new")).model.name == "efficientnet_lite0"
