"""Start from an own run: what is taken over, what is warned of, what is refused, the comparison."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from calls import Call, Done
from checkpoints import make_checkpoint, save_run
from images import draw_shape, make_splits
from moments import before, terminate
from neither.config.schema import Config, Model
from neither.data import workers
from neither.models.checkpoint import load_checkpoint, read_archive, save_checkpoint
from neither.models.pretrained import take_over
from neither.reporting import plots
from neither.runtime.console import read_warnings
from neither.runtime.errors import CheckpointError
from neither.training import trainer

pytestmark = pytest.mark.usefixtures("no_plots")
Patch = pytest.MonkeyPatch
GOLDEN = Path(__file__).parents[1] / "models" / "golden"
CONFIG = """name: new
classes: [neither, cat, dog]
device: cpu
data: {root: images, image_size: 32}
model: {width: 8, weights: runs/old}
train: {epochs: 2, batch_size: 8}
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: Patch) -> Path:
    """Return a folder with images, a run of dog, human and neither, and a config that uses it."""
    monkeypatch.setattr(workers, "num_cores", lambda: 1)
    monkeypatch.setattr(plots, "to_svg", lambda *_: "<svg></svg>")
    monkeypatch.chdir(tmp_path)
    make_splits(tmp_path / "images", train=6, classes=("dog", "neither", "cat", "human"))
    save_run(tmp_path / "runs" / "old", Path("elsewhere"))
    (tmp_path / "new.yaml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def train(call: Call) -> Callable[..., Done]:
    """Return a function that trains, ignoring the class folders that the config does not name."""

    def run(*keys: str, code: int = 0) -> Done:
        done = call("train", "new.yaml", "data.ignored_folders=[human]", *keys)
        assert done.code == code, done.err
        if code not in (0, 143):
            assert len([each for each in done.err.splitlines() if each.startswith("error: ")]) == 1
        return done

    return run


def weights_of(path: str | Path) -> dict[str, Tensor]:
    return load_checkpoint(Path(path)).weights


def metrics_of(name: str = "new") -> dict[str, Any]:
    path = Path("runs", name, "evaluations", "images-val", "metrics.json")
    metrics: dict[str, Any] = json.loads(path.read_text())
    return metrics


def test_rows_of_the_head_are_matched_by_class_name(train: Callable[..., Done]) -> None:
    train("train.epochs=0", "classes=[neither, dog]", "data.ignored_folders=[human, cat]")
    old, new = (weights_of(f"runs/{name}") for name in ("old", "new"))
    for key, tensor in new.items():
        wanted = old[key][[2, 0]] if key.startswith("head.") else old[key]
        assert torch.equal(tensor, wanted), key


def test_with_a_new_class_the_head_is_fitted(train: Callable[..., Done]) -> None:
    """To the features of the layers before it, with rows as long as before."""
    train("train.epochs=0")
    old, new = (weights_of(f"runs/{name}") for name in ("old", "new"))
    lengths = [each["head.weight"].norm(dim=1).mean() for each in (old, new)]
    torch.testing.assert_close(*lengths)
    first = json.loads(Path("runs/new/metrics.jsonl").read_text().splitlines()[0])
    assert first["train"]["accuracy"] > 0.6  # of three classes; random rows: a third
    for key, tensor in new.items():
        assert torch.equal(tensor, old[key]) != key.startswith("head."), key
    path = Path("runs/old/checkpoints/best.pt")
    before = load_checkpoint(path)
    for factor in (0, 1000):  # no length to take over, and one that is too long
        scaled = before.weights | {"head.weight": factor * before.weights["head.weight"]}
        save_checkpoint(path, replace(before, weights=scaled))
        train("train.epochs=0", f"name=scaled-{factor}")
        length = weights_of(f"runs/scaled-{factor}")["head.weight"].norm(dim=1).mean()
        assert 0 < length < 1000 * lengths[0]
    pixels = ["model.name=softmax_regression", "train.epochs=0"]  # it has no layers before
    train(*pixels, "name=pixels", "model.weights=none", "classes=[dog, neither]",
          "data.ignored_folders=[human, cat]")  # fmt: skip
    train(*pixels, "name=more", "model.weights=runs/pixels")
    old, new = (weights_of(f"runs/{name}") for name in ("pixels", "more"))
    assert torch.equal(new["head.weight"][[2, 0]], old["head.weight"])


def test_old_and_new_are_compared_on_the_same_images(train: Callable[..., Done]) -> None:
    train()
    metrics = metrics_of()
    other = metrics["compared_with"]
    assert (other["weights"], other["lacking"], other["num_images"]) == ("runs/old", ["cat"], 8)
    assert other["after"]["recall/dog"] == metrics["per_class"]["dog"]["recall"]
    assert other["before"].keys() == other["after"].keys()  # human has no images here
    train("name=again", "train.epochs=0", "classes=[dog, human, neither]",
          "data.ignored_folders=[cat]")  # fmt: skip
    same = metrics_of("again")["compared_with"]
    assert {**same["before"], "loss": 0} == {**same["after"], "loss": 0}  # but for the temperature
    report = Path("runs/new/report.html").read_text("utf-8")
    assert f"{100 * other['before']['macro_recall']:.1f} %" in report.split("Compared with")[1]


def test_a_stopped_run_ends_in_the_same_bits_without_the_old_one(
    train: Callable[..., Done], monkeypatch: Patch
) -> None:
    train()
    with monkeypatch.context() as patch:
        before(trainer, "train_step", 4, terminate)(patch)
        train("--output-dir", "runs/part", code=143)
    shutil.rmtree("runs/old")
    train("--output-dir", "runs/part")
    assert Path("runs/part/label_issues.csv").exists()
    for name in ("best.pt", "last.pt"):
        one, other = (read_archive(Path("runs", run, "checkpoints", name))[0]["weights"]
                      for run in ("new", "part"))  # fmt: skip
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert metrics_of()["compared_with"] == metrics_of("part")["compared_with"]


@pytest.mark.parametrize("schema", [4, 5])
def test_a_checkpoint_of_version_1_is_taken_over(schema: int, train: Callable[..., Done]) -> None:
    path = GOLDEN / f"schema_{schema}.pt"
    old = load_checkpoint(path)
    train(f"model.weights={path}", f"model.name={old.model.name}", "train.epochs=0",
          f"data.image_size={old.preprocessing.image_size}")  # fmt: skip
    row = old.classes.index("dog")
    assert torch.equal(weights_of("runs/new")["head.weight"][2], old.weights["head.weight"][row])


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


REFUSED: dict[str, tuple[list[str], int, str]] = {
    "another width": (["model.width=16"], 5, "width 8"),
    "another network": (["model.name=softmax_regression"], 5, "small_cnn"),
    "an old run without a checkpoint": (["model.weights=images"], 5, "best.pt"),
    "no such run": (["model.weights=runs/gone"], 2, "runs/gone"),
    "no checkpoint": (["model.weights=new.yaml"], 5, "new.yaml"),
    "its own folder": (["name=old"], 2, "name="),
    "no published weights": (["model.weights=default"], 2, "model.weights"),
    "frozen": (["model.trainable=head"], 2, "model.trainable"),
}


@pytest.mark.parametrize(("keys", "code", "text"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_taken_over_is_one_line(
    keys: list[str], code: int, text: str, train: Callable[..., Done]
) -> None:
    done = train(*keys, code=code)
    (line,) = [each for each in done.err.splitlines() if each.startswith("error: ")]
    assert text in line
    assert "Traceback" not in done.err


def test_a_network_that_normalises_its_input_otherwise_is_refused(
    make_config: Callable[..., Config],
) -> None:
    """As torchvision's GoogLeNet does with pretrained weights."""
    initial = replace(make_checkpoint(Path("images")), model=Model(name="googlenet"))
    config = make_config(model={"name": "googlenet", "weights": "runs/old"})
    with pytest.raises(CheckpointError, match="normalisation"):
        take_over(nn.Module(), initial, config)


def test_a_head_for_other_pooling_is_refused(make_config: Callable[..., Config]) -> None:
    initial = replace(make_checkpoint(Path("images")), model=Model(name="efficientnet_lite0"))
    settings = {"name": "efficientnet_lite0", "weights": "runs/old", "pooling": "max"}
    with pytest.raises(CheckpointError, match="pooling=average"):
        take_over(nn.Module(), initial, make_config(model=settings))


def test_a_damaged_run_is_one_line(train: Callable[..., Done]) -> None:
    damage(Path("runs/old/checkpoints/best.pt"))
    assert "damaged" in train(code=5).err


def test_another_image_size_is_warned_of_or_refused(train: Callable[..., Done]) -> None:
    train("data.image_size=40", "train.epochs=0")
    assert any("40" in text for text in read_warnings(Path("runs/new")))
    pixels = ["name=pixels", "model.name=softmax_regression", "train.epochs=0"]
    train(*pixels, "model.weights=none")
    done = train(*pixels, "name=more", "model.weights=runs/pixels", "data.image_size=16", code=5)
    assert "32" in done.err
    assert "16" in done.err


def test_without_a_common_class_the_layers_before_the_head_are_taken_over(
    train: Callable[..., Done],
) -> None:
    classes = ["classes=[cat, mouse]", "data.aliases={human: mouse}", "train.epochs=0",
               "data.ignored_folders=[dog, neither]"]  # fmt: skip
    train(*classes)
    old, new = weights_of("runs/old"), weights_of("runs/new")
    assert all(torch.equal(new[key], old[key]) for key in new if not key.startswith("head."))
    assert any("cat, mouse" in text for text in read_warnings(Path("runs/new")))
    assert metrics_of()["compared_with"]["num_images"] == 0
    pixels = ["model.name=softmax_regression", "train.epochs=0"]
    train(*pixels, "name=pixels", "model.weights=none")
    train(*pixels, *classes, "name=none", "model.weights=runs/pixels", "classes=[bird, mouse]",
          "data.aliases={human: mouse, cat: bird}", code=5)  # fmt: skip


def test_images_that_the_old_run_has_seen(train: Callable[..., Done]) -> None:
    train("name=first", "model.weights=none")
    first = ["model.weights=runs/first"]
    train(*first, "name=longer", "train.epochs=3")
    texts = read_warnings(Path("runs/longer"))
    assert not any("runs/first" in text for text in texts)  # the same images, only longer
    for label in ("dog", "cat"):
        shutil.copy(f"images/train/{label}/000.png", f"images/val/{label}/seen.png")
        Path(f"images/train/{label}/000.png").unlink()
        draw_shape(label, 77).save(f"images/train/{label}/added.png")
    train(*first)
    seen, part = (text for text in read_warnings(Path("runs/new")) if "runs/first" in text)
    assert "2 of the 14 images of val" in seen
    assert "16 of these 18" in part
    assert "2020" in part


def test_a_backbone_of_an_own_run_is_kept_as_it_is(train: Callable[..., Done]) -> None:
    """With the mean and standard deviation that it was trained with."""
    network = ["model.name=timm/test_resnet", "data.image_size=64"]
    train(*network, "name=base", "model.weights=none", "train.epochs=1")
    base = load_checkpoint(Path("runs/base"))
    preprocessing = replace(base.preprocessing, mean=(0.1, 0.2, 0.3))
    save_checkpoint(
        Path("runs/base/checkpoints/best.pt"), replace(base, preprocessing=preprocessing)
    )
    train(*network, "model.weights=runs/base", "model.trainable=head", "train.epochs=50",
          r"data.sources='(\d)\.'")  # fmt: skip
    new = load_checkpoint(Path("runs/new"))
    assert new.preprocessing == preprocessing
    for key, tensor in base.weights.items():
        assert torch.equal(new.weights[key], tensor) != key.startswith("head."), key
    assert metrics_of()["compared_with"]["num_images"] == 12
    assert any("left-out" in text for text in read_warnings(Path("runs/new")))
    turned = ["model.weights=runs/base", "train.epochs=0", "classes=[dog, cat, neither]"]
    train(*network, *turned, "name=turned")
    rows = weights_of("runs/turned")["head.weight"]
    assert torch.equal(rows, base.weights["head.weight"].flip(0))
    train(*network, *turned, "name=more", "classes=[dog, cat, neither, human]",
          "data.ignored_folders=[]")  # fmt: skip
    fitted = weights_of("runs/more")["head.weight"]
    assert not (fitted[:3] == rows).any()
    # Those of penalised softmax regression sum to zero, so none of them is a random row.
    torch.testing.assert_close(fitted.sum(dim=0), torch.zeros(fitted.shape[1]), rtol=0, atol=1e-4)
