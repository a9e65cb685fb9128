"""What TensorBoard shows besides curves, read back from a tiny run that was stopped once."""

import io
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from images import make_splits
from moments import before, terminate
from neither.config.schema import Config, Train
from neither.data.batches import Batch
from neither.data.dataset import Dataset, Split
from neither.data.preprocessing import Preprocessing, normalize
from neither.runtime import signals
from neither.runtime.devices import DeviceConfig
from neither.training import summaries, trainer
from neither.training.run_folder import open_run_folder
from neither.training.state import build_state
from neither.training.summaries import draw_batch, is_logged
from neither.training.tensorboard import MetricsLogger

CLASSES = ("dog", "human", "neither")
RED = (200, 40, 90)
STEPS = [3, 6]  # after each of two epochs


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, EventAccumulator]:
    """Return the events of train and val of a run that ended, stopped in its second epoch."""
    folder = tmp_path_factory.mktemp("shown")
    root = make_splits(folder / "images", train=8, val=3)
    (root / "train" / "dog" / "broken.png").write_bytes(b"no image")
    config = Config.model_validate({
        "name": "test", "classes": CLASSES, "device": "cpu", "model": {"width": 8},
        "data": {"root": str(root), "image_size": 32, "max_unreadable": 0.5},
        "train": {"epochs": 2, "batch_size": 8},
    })  # fmt: skip
    with pytest.MonkeyPatch.context() as patch, signals.installed():
        before(trainer, "train_step", 5, terminate)(patch)
        with pytest.raises(signals.Stopped), open_run_folder(config, folder / "run", False) as run:
            trainer.train(config, run)
    with open_run_folder(config, folder / "run", False) as run:
        trainer.train(config, run)
    events = {}
    for split in ("train", "val"):
        events[split] = EventAccumulator(
            str(folder / "run" / "tensorboard" / split), {"histograms": 0, "images": 0}
        )
        events[split].Reload()
    assert not list((folder / "run").rglob("tensorboard/*/*/"))  # no stray run folder
    return events


Shown = dict[str, EventAccumulator]


@pytest.mark.parametrize("name", ["confusion", "reliability", "risk_coverage", "worst_mistakes"])
def test_val_has_plots(name: str, shown: Shown) -> None:
    images = shown["val"].Images(f"val/{name}")
    assert [image.step for image in images] == STEPS
    for image in images:
        pixels = np.asarray(Image.open(io.BytesIO(image.encoded_image_string)))
        assert (pixels.min(axis=2) >= 245).mean() > 0.1  # paper, in the dark theme too
        assert (pixels.max(axis=2) < 90).mean() > 0.001  # ink


@pytest.mark.parametrize("name", CLASSES)
def test_each_class_has_its_precision_recall_curve(name: str, shown: Shown) -> None:
    curves = shown["val"].Tensors(f"precision_recall/{name}")
    assert [curve.step for curve in curves] == STEPS
    assert curves[0].tensor_proto.float_val[0] == 3  # at threshold 0 all three are found


def test_weights_and_gradients_of_each_layer_have_histograms(shown: Shown) -> None:
    tags = shown["train"].Tags()["histograms"]
    for kind in ("weights", "gradients"):
        assert f"{kind}/head.weight" in tags
        assert f"{kind}/stages.5.second.0.weight" in tags
    for tag in tags:
        assert [each.step for each in shown["train"].Histograms(tag)] == STEPS


def test_the_summaries_describe_images_and_network(shown: Shown) -> None:
    def text(tag: str) -> str:
        (card,) = shown["train"].Tensors(f"summary/{tag}/text_summary")
        said: str = card.tensor_proto.string_val[0].decode()
        return said

    rows = text("images").splitlines()
    assert "| train | 8 | 8 | 8 | 24 |" in rows
    assert "| val | 3 | 3 | 3 | 9 |" in rows
    assert "| left out | 1 | 0 | 0 | 1 |" in rows
    assert any(row.startswith("    train/dog/broken.png: ") for row in rows)
    assert "| `stem.0` | Conv2d | 8 x 16 x 16 | 216 |" in text("network")
    assert "| `head` | Linear | 3 | 195 |" in text("network")
    lines = text("config").splitlines()
    assert "    name: test" in lines
    assert all(line.startswith("    ") for line in lines)  # Markdown shows it verbatim


def test_the_overview_has_loss_recall_and_calibration(shown: Shown) -> None:
    (layout,) = shown["val"].Tensors("custom_scalars__config__")
    (content,) = layout.tensor_proto.string_val
    for part in (b"loss", b"recall per class", b"ece"):
        assert part in content


def test_the_run_has_its_row_in_the_table_of_hparams(shown: Shown) -> None:
    def content(tag: str) -> HParamsPluginData:
        found = shown["val"].SummaryMetadata(f"_hparams_/{tag}")
        return HParamsPluginData.FromString(found.plugin_data.content)

    hparams = content("session_start_info").session_start_info.hparams
    assert hparams["train.epochs"].number_value == 2
    assert hparams["train.optimizer"].string_value == "muon"
    assert "device" not in hparams  # changes no figure
    assert content("session_end_info").HasField("session_end_info")
    experiment = content("experiment").experiment
    assert sum(key.differs for key in experiment.hparam_infos) == 5
    for metric in experiment.metric_infos:
        (final,) = shown["val"].Scalars(metric.name.tag)
        assert final.step == STEPS[-1]
    best = shown["val"].Scalars("best/best_epoch")[0].value
    curve = {point.step: point.value for point in shown["val"].Scalars("macro_recall")}
    final = shown["val"].Scalars("best/macro_recall")[0].value
    assert final == pytest.approx(curve[3 * int(best)])


def draw_reds(num: int) -> NDArray[np.uint8]:
    """Draw a batch of red images."""
    preprocessing, labels = Preprocessing(32), torch.arange(num) % 3
    pixels = torch.tensor(RED, dtype=torch.uint8).expand(num, 32, 32, 3)
    targets = torch.nn.functional.one_hot(labels).float()
    batch = Batch(normalize(pixels, preprocessing), labels, targets, torch.arange(num))
    return draw_batch(batch, CLASSES, preprocessing)


def test_a_batch_is_drawn_in_the_colors_before_normalization(shown: Shown) -> None:
    pixels = draw_reds(40)
    is_red = (np.abs(pixels.astype(int) - RED) <= 1).all(-1)
    assert is_red.mean() > 0.3
    assert 0 < (pixels < 60).all(-1).mean() < 0.1  # labels
    assert draw_reds(1).shape == draw_reds(5).shape == pixels.shape
    (image,) = shown["train"].Images("training_images")
    assert (image.height, image.width) == pixels.shape[:2]


@pytest.mark.parametrize(
    ("epochs", "every", "expected"),
    [
        (200, 5, list(range(20, 201, 20))),
        (10, 1, list(range(1, 11))),
        (4, 1, [1, 2, 3, 4]),
        (18, 6, [6, 12, 18]),
        (95, 1, [10, 19, 29, 38, 48, 57, 67, 76, 86, 95]),
        (20, 7, [7, 14, 20]),
    ],
)
def test_ten_evenly_spaced_epochs_are_shown_with_the_last(
    epochs: int, every: int, expected: list[int]
) -> None:
    settings = Train(epochs=epochs, validate_every_epochs=every)
    measured = [each for each in range(1, epochs + 1) if each % every == 0 or each == epochs]
    assert [each for each in measured if is_logged(each, settings)] == expected


def test_a_network_without_a_cam_is_shown_without_heat_maps(
    make_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object) -> None:
        raise TypeError("no CAM")

    monkeypatch.setattr(summaries, "class_contrast_cam", unknown)
    labels, pixels = torch.tensor([0, 1]), torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    device_config = DeviceConfig(torch.device("cpu"), "float32")
    config = make_config()
    state = build_state(config, Preprocessing(32), device_config)
    split = Split(["a.png", "b.png"], torch.arange(2), labels)
    with closing(MetricsLogger(tmp_path, None)) as logger:
        dataset = Dataset(pixels, split, split, CLASSES, state.preprocessing, "")
        summaries.log_epoch(logger, config, state, dataset, torch.tensor([[1.0, 2, 3], [3, 2, 1]]))
    events = EventAccumulator(str(tmp_path / "tensorboard" / "val"))
    events.Reload()
    assert len(events.Images("val/worst_mistakes")) == 1
