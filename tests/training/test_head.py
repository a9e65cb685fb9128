"""A frozen backbone: from images to a run with report in one command, which may end anywhere."""

import csv
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import neither
from backbone import write_weights
from calls import Call, Done, calling
from images import CLASSES
from moments import before, terminate
from neither.inference import classifier as classifier_module
from neither.inference import embedding
from neither.inference.classifier import BATCH_SIZE
from neither.inference.export import load_exported
from neither.models.checkpoint import load_checkpoint, read_archive
from neither.training import head, state, summaries, trainer, validation
from neither.training.state import TrainState
from outputs import assert_same, read_rows

Patch = pytest.MonkeyPatch
CONFIG = """name: quick
classes: [dog, human, neither]
reject_class: neither
device: cpu
data: {root: ROOT, image_size: 32}
model: {name: efficientnet_lite0, weights: WEIGHTS, trainable: head}
train: {epochs: 200}
"""
pytestmark = pytest.mark.usefixtures("no_plots", "small_backbone")
PLOTS = {name: getattr(summaries, name) for name in ("log_run", "log_epoch")}


def draw(label: str, seed: int) -> Image.Image:
    """Draw grain and an edge in a color that the class prefers."""
    random = np.random.default_rng([seed, CLASSES.index(label)])
    pixels = random.integers(40, 200, (40, 40, 3))
    pixels[:, : random.integers(10, 30), CLASSES.index(label)] += 50
    return Image.fromarray(pixels.astype(np.uint8))


def make_images(root: Path, **numbers: int) -> Path:
    """Make so many images of each class in each split."""
    for offset, (split, num) in enumerate(numbers.items()):
        for label in CLASSES:
            (root / split / label).mkdir(parents=True)
            for number in range(num):
                image = draw(label, 1000 * offset + number)
                image.save(root / split / label / f"{number:03}.png")
    return root


@dataclass(frozen=True)
class HeadRun:
    """A run that a test starts.

    Attributes:
        home: folder of the config, the images, the weights and the run.
        call: runs a command.
    """

    home: Path
    call: Call

    @property
    def folder(self) -> Path:
        return self.home / "run"

    @property
    def images(self) -> Path:
        return self.home / "images"

    def train(self, *more: str | Path) -> Done:
        return self.call("train", self.home / "quick.yaml", *more, "--output-dir", self.folder)

    def must_train(self, *more: str | Path) -> Done:
        done = self.train(*more)
        assert done.code == 0, done.err
        return done

    def evaluate(self, *more: str | Path) -> tuple[dict[str, Any], dict[str, list[float]]]:
        """Return metrics and the probabilities of each image."""
        out = self.home / "out"
        done = self.call("evaluate", self.folder, *more, "--output-dir", out)
        assert done.code == 0, done.err
        return read_results(out)

    def rows(self) -> list[dict[str, Any]]:
        return read_rows(self.folder)

    def issues(self) -> list[dict[str, str]]:
        with (self.folder / "label_issues.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def outcome(self) -> dict[str, Any]:
        """Return all that a run must end in to the bit."""
        contents = {name: read_archive(self.folder / "checkpoints" / name)[0]
                    for name in ("best.pt", "last.pt")}  # fmt: skip
        for content in contents.values():
            content["source"] = content["config"] = None  # name the home
            content["model"].pop("weights")
        rows = self.rows()
        for row in rows:
            row["train"].pop("images_per_second", None)
        return contents | {"rows": rows, "issues": self.issues()}


def read_results(folder: Path) -> tuple[dict[str, Any], dict[str, list[float]]]:
    with (folder / "predictions.csv").open(newline="") as file:
        rows = {row["path"]: [float(row[f"prob_{name}"]) for name in CLASSES]
                for row in csv.DictReader(file)}  # fmt: skip
    return json.loads((folder / "metrics.json").read_text()), rows


def make_run(home: Path, call: Call) -> HeadRun:
    """Make a config with images of its own, which has not been trained."""
    home.mkdir(exist_ok=True)
    text = CONFIG.replace("ROOT", str(home / "images"))
    (home / "quick.yaml").write_text(text.replace("WEIGHTS", str(home / "weights.pth")))
    return HeadRun(home, call)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the home of a finished run; not to be changed."""
    home = tmp_path_factory.mktemp("finished")
    make_images(home / "images", train=12, val=12, test=3)
    write_weights(home / "weights.pth")
    with pytest.MonkeyPatch.context() as patch, calling(patch, None) as call:
        make_run(home, call).must_train()
    return home


@pytest.fixture
def reference(finished: Path, call: Call) -> HeadRun:
    """Return the finished run; not to be changed."""
    return HeadRun(finished, call)


@pytest.fixture
def run(finished: Path, tmp_path: Path, call: Call) -> HeadRun:
    """Return a run of the same config that has not begun, with images that may be changed."""
    shutil.copytree(finished / "images", tmp_path / "images")
    (tmp_path / "weights.pth").symlink_to(finished / "weights.pth")
    return make_run(tmp_path, call)


def test_curves_go_from_chance_downwards(reference: HeadRun) -> None:
    rows = reference.rows()
    assert [row["epoch"] for row in rows] == [row["step"] for row in rows] == [*range(len(rows))]
    assert 3 < len(rows) < 200
    for split in ("train", "val"):
        losses = [row[split]["loss"] for row in rows]
        assert losses[0] == pytest.approx(math.log(3))
        assert losses[-1] < losses[0]
    assert rows[-1]["val"]["macro_recall"] > 0.6


def test_best_and_last_are_the_fit(reference: HeadRun) -> None:
    checkpoints = reference.folder / "checkpoints"
    assert {path.name for path in checkpoints.iterdir()} == {"best.pt", "last.pt"}
    best, last = (load_checkpoint(checkpoints / name) for name in ("best.pt", "last.pt"))
    assert_same(best.weights, last.weights)
    assert best.epoch == last.epoch == len(reference.rows()) - 1
    assert best.metrics == reference.rows()[-1]["val"]
    backbone = torch.load(reference.home / "weights.pth")
    for name, tensor in best.weights.items():
        if name.startswith("backbone."):
            assert torch.equal(tensor, backbone[name.removeprefix("backbone.")]), name
    assert best.weights["head.weight"].abs().max() > 0


def test_a_finished_run_says_so_and_changes_nothing(reference: HeadRun) -> None:
    before = {path: path.read_bytes() for path in reference.folder.rglob("*.*") if path.is_file()}
    done = reference.train()
    assert done.code == 0
    assert "is finished" in done.err
    changed = {path.name for path, content in before.items() if path.read_bytes() != content}
    assert changed <= {"log.txt"}
    assert reference.train("train.epochs=7").code == 2
    assert reference.train("model.trainable=all").code == 2


def test_evaluate_repeats_the_last_metrics_to_the_bit(reference: HeadRun) -> None:
    metrics, probabilities = reference.evaluate(reference.images, "--split", "val")
    row = reference.rows()[-1]["val"]
    known = {name: value for name, value in metrics.items() if name in row}
    assert known.keys() >= {"macro_recall", "accuracy"}
    assert all(row[name] == value for name, value in known.items())
    assert metrics["nll"] == row["calibrated_loss"]
    reported = read_results(reference.folder / "evaluations" / "images-val")
    assert [*reported[1].values()] == [*probabilities.values()]
    assert reported[0] == metrics


def test_predict_python_and_pt2_agree_with_evaluate(reference: HeadRun, tmp_path: Path) -> None:
    _, expected = reference.evaluate(reference.images)  # test
    done = reference.call(
        "predict", reference.folder, reference.images / "test", "--format", "jsonl"
    )
    predicted = [json.loads(line) for line in done.out.splitlines()]
    assert len(predicted) == len(expected) == 9
    classifier = neither.load(reference.folder, device="cpu")
    done = reference.call(
        "export", reference.folder, "--format", "pt2", "--output", tmp_path / "model.pt2"
    )
    assert done.code == 0, done.err
    exported = load_exported((tmp_path / "model.pt2").read_bytes(), "pt2")
    for row in predicted:
        path = Path(row["path"])
        wanted = expected[f"{path.parent.name}/{path.name}"]
        assert [*row["probabilities"].values()] == pytest.approx(wanted, abs=1e-6)
        assert [*classifier(path).probabilities.values()] == pytest.approx(wanted, abs=1e-6)
        pixels = classifier._decode(path)[None]
        assert exported(pixels)[0] == pytest.approx(wanted, abs=1e-4)


def test_a_run_with_plots_and_flips(run: HeadRun, monkeypatch: Patch, tmp_path: Path) -> None:
    for name, function in PLOTS.items():
        monkeypatch.setattr(summaries, name, function)
    run.must_train("augmentation.horizontal_flip=true", "data.image_size=64")
    best = load_checkpoint(run.folder)
    assert best.flip_tta
    metrics, _ = run.evaluate(run.images, "--split", "val")
    assert metrics["nll"] == run.rows()[-1]["val"]["calibrated_loss"]
    classifier = neither.load(run.folder, device="cpu")
    image = draw("dog", 77)
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    one, other = (classifier(each).probabilities for each in (image, mirrored))
    assert [*one.values()] == pytest.approx([*other.values()], abs=1e-6)
    image.save(tmp_path / "one.png")
    done = run.call("predict", run.folder, tmp_path / "one.png", "--explain", tmp_path / "maps")
    assert done.code == 0, done.err
    assert len([*(tmp_path / "maps").iterdir()]) == 1
    assert (run.folder / "report.html").exists()


def test_planted_label_errors_are_the_first_issues(run: HeadRun) -> None:
    planted = set()
    for index, label in enumerate(CLASSES):
        wrong, other = run.images / "train" / label / "000.png", CLASSES[(index + 1) % 3]
        planted.add(f"train/{label}/000.png")
        draw(other, 555 + index).save(wrong)
    run.must_train()
    first = run.issues()[:4]
    assert len(planted & {row["path"] for row in first}) >= 2
    assert all(row["label"] != row["predicted"] for row in run.issues())
    losses = [float(row["loss"]) for row in run.issues()]
    assert losses == sorted(losses, reverse=True)


def die() -> None:
    raise SystemExit(9)


MOMENTS = {
    "embedding": before(embedding, "compute_outputs", 2, terminate),
    "folding": before(head, "fit_softmax_regression", 1, die),
    "fitting": before(head, "logit_metrics", 3, terminate),
    "before last.pt": before(TrainState, "save", 2, die),
    "report": before(classifier_module, "decide", 2, die),
}


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS.keys())
def test_a_run_that_ends_at_any_moment_ends_in_the_same_bits(
    moment: Callable[[Patch], None], run: HeadRun, reference: HeadRun, monkeypatch: Patch
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(run.home / "cache"))  # so that features are computed
    monkeypatch.setattr(embedding, "_BLOCK_IMAGES", BATCH_SIZE)
    with monkeypatch.context() as patch:
        moment(patch)
        done = run.train()
    assert done.code in (9, 143), done.err
    run.must_train()
    assert_same(run.outcome(), reference.outcome())
    assert (run.folder / "report.html").exists()
    assert not [*run.folder.rglob(".*.tmp")]


def test_a_class_with_one_training_image(run: HeadRun) -> None:
    """Nothing can be left out, so there are no issues."""
    for split, labels in (("train", CLASSES[:1]), ("val", CLASSES)):
        for label in labels:
            for path in sorted((run.images / split / label).iterdir())[1:]:
                path.unlink()
    run.must_train("augmentation.crop_scale=[1.0, 1.0]", "train.batch_size=1")  # without effect
    assert not (run.folder / "label_issues.csv").exists()


def test_no_iteration_is_no_fit(run: HeadRun) -> None:
    done = run.must_train("train.epochs=0")
    assert len(run.rows()) == 1
    assert "train.epochs" in done.err
    assert "is finished" in run.must_train("train.epochs=0").err


def test_an_unreadable_image_of_val_is_left_out(run: HeadRun) -> None:
    (run.images / "val" / "dog" / "000.png").write_text("not an image")
    run.must_train("data.max_unreadable=0.5")
    assert (run.folder / "report.html").exists()
    assert len(read_results(run.folder / "evaluations" / "images-val")[1]) == 35


def test_features_that_are_not_finite_are_reported(run: HeadRun, monkeypatch: Patch) -> None:
    def overflow(*arguments: Any) -> torch.Tensor:  # noqa: ANN401
        features = embedding.embed(*arguments)
        features[3, 7] = math.inf
        return features

    monkeypatch.setattr(head, "embed", overflow)
    done = run.train()
    assert done.code == 5
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert "weights.pth" in line


def test_images_that_are_all_the_same_train(run: HeadRun) -> None:
    """Every feature is constant."""
    for path in run.images.rglob("*.png"):
        Image.new("RGB", (40, 40)).save(path)
    run.must_train()
    assert run.rows()[-1]["train"]["loss"] == pytest.approx(math.log(3))


def test_a_network_of_torchvision(run: HeadRun) -> None:
    from torchvision import models

    network = models.shufflenet_v2_x0_5(weights=None)
    torch.save(network.state_dict(), run.home / "shuffle.pth")
    run.must_train("model.name=shufflenet_v2_x0_5", f"model.weights={run.home / 'shuffle.pth'}")
    metrics, _ = read_results(run.folder / "evaluations" / "images-val")
    assert metrics["nll"] == run.rows()[-1]["val"]["calibrated_loss"]


def test_a_damaged_last_checkpoint_is_reported(reference: HeadRun, run: HeadRun) -> None:
    shutil.copytree(reference.folder, run.folder)
    config = run.folder / "config.yaml"
    config.write_text(config.read_text().replace(str(reference.home), str(run.home)))
    last = run.folder / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:-5])
    done = run.train()
    assert done.code == 5
    assert "--fresh" in done.err
    run.must_train("--fresh")
    assert_same(run.outcome(), reference.outcome())


def test_a_lost_last_checkpoint_and_another_config(reference: HeadRun, run: HeadRun) -> None:
    """The fit could be repeated, but not with other numbers."""
    shutil.copytree(reference.folder, run.folder)
    (run.folder / "checkpoints" / "last.pt").unlink()
    before = (run.folder / "checkpoints" / "best.pt").read_bytes()
    done = run.train("train.epochs=150")
    assert done.code == 2
    assert "train.epochs: 200 became 150" in done.err
    assert (run.folder / "checkpoints" / "best.pt").read_bytes() == before


FINE_TUNING = (
    "model.trainable=all", "augmentation.horizontal_flip=false", "train.epochs=2",
    "train.batch_size=8", "train.optimizer=adamw", "train.lr=0.0001",
    "augmentation.crop_scale=[0.9, 1.0]", "augmentation.random_erasing=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def fine_tuned(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the home of a finished run of fine-tuning; not to be changed."""
    home = tmp_path_factory.mktemp("fine_tuned")
    for name in ("images", "weights.pth"):
        (home / name).symlink_to(finished / name)
    with pytest.MonkeyPatch.context() as patch, calling(patch, None) as call:
        make_run(home, call).must_train(*FINE_TUNING)
    return home


def test_fine_tuning_starts_from_the_fitted_head(
    fine_tuned: Path, reference: HeadRun, call: Call
) -> None:
    run = HeadRun(fine_tuned, call)
    first, last = run.rows()[0]["val"], run.rows()[-1]["val"]
    assert first == reference.rows()[-1]["val"]
    assert last["calibrated_loss"] < first["calibrated_loss"]
    assert run.issues() == reference.issues()


def test_fine_tuning_changes_weights_but_no_statistics_of_batch_norm(fine_tuned: Path) -> None:
    pretrained = torch.load(fine_tuned / "weights.pth")
    best = load_checkpoint(fine_tuned / "run").weights
    for name, tensor in pretrained.items():
        if not name.startswith("classifier") and not name.endswith("num_batches_tracked"):
            is_statistic = "running" in name
            assert torch.equal(best[f"backbone.{name}"], tensor) == is_statistic, name


def test_the_end_is_interpolated_with_the_start(
    fine_tuned: Path, run: HeadRun, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(state, "_FRACTIONS", ())
    run.must_train(*FINE_TUNING)
    end = load_checkpoint(run.folder / "checkpoints" / "last.pt")
    kept = load_checkpoint(fine_tuned / "run" / "checkpoints" / "last.pt")
    assert kept.training is not None
    start = kept.training["start"]
    fractions = {
        fraction for fraction in (0.25, 0.5, 0.75, 1.0)
        if all(torch.equal(kept.weights[name], torch.lerp(start[name], tensor, fraction))
               for name, tensor in end.weights.items() if tensor.is_floating_point())
    }  # fmt: skip
    assert len(fractions) == 1
    assert kept.metrics["calibrated_loss"] <= end.metrics["calibrated_loss"]


@pytest.mark.parametrize("moment", [
    before(embedding, "compute_outputs", 2, terminate), before(head, "_set_head", 1, die),
    before(TrainState, "save", 2, die), before(trainer, "train_step", 7, terminate),
    before(validation, "fit_temperature", 1, terminate), before(TrainState, "save", 6, die),
], ids=["embedding", "head", "first last.pt", "step", "choosing", "final last.pt"])  # fmt: skip
def test_fine_tuning_that_ends_at_any_moment_ends_in_the_same_bits(
    moment: Callable[[Patch], None], run: HeadRun, fine_tuned: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(run.home / "cache"))
    with monkeypatch.context() as patch:
        moment(patch)
        done = run.train(*FINE_TUNING)
    assert done.code in (9, 143), done.err
    run.must_train(*FINE_TUNING)
    assert_same(run.outcome(), HeadRun(fine_tuned, run.call).outcome())


def test_folds_are_fitted_with_the_weights_of_their_images() -> None:
    """An image of weight 2 counts as the same image twice."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    labels, folds = torch.arange(12) % 2, torch.arange(12) // 6
    weights = torch.ones(12, dtype=torch.float64)
    weights[[1, 8]] = 2
    twice = torch.cat([torch.arange(12), torch.tensor([1, 8])])
    weighted = head.fit_folds(inputs, labels, weights, folds, 2, 200)
    repeated = head.fit_folds(
        inputs[twice], labels[twice], torch.ones(14, dtype=torch.float64), folds[twice], 2, 200
    )
    torch.testing.assert_close(weighted, repeated[:, :12], rtol=0, atol=1e-3)
    plain = head.fit_folds(inputs, labels, torch.ones_like(weights), folds, 2, 200)
    assert float((weighted - plain).abs().max()) > 0.01
