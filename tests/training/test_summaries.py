"""What TensorBoard shows, read back from a tiny run that was stopped once; errors of the disk."""

import errno
import io
import os
import sys
import threading
from collections import Counter
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
from tensorboard.summary.writer.record_writer import RecordWriter

from images import make_splits
from moments import before, terminate
from neither.config.schema import Config, Train
from neither.data.batches import Batch
from neither.data.dataset import Dataset, Split
from neither.data.preprocessing import Preprocessing, normalize
from neither.runtime import files, signals
from neither.runtime.console import log_to_folder
from neither.runtime.devices import DeviceConfig
from neither.training import summaries, trainer
from neither.training.run_folder import open_run_folder
from neither.training.state import build_state
from neither.training.summaries import MetricsLogger, draw_batch, is_logged
from outputs import read_rows

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


# Curves and metrics.jsonl


Patch = pytest.MonkeyPatch
STEPS_PER_EPOCH = 7


def make_metrics(value: float) -> dict[str, float]:
    return {"loss": value, "accuracy": 1 - value / 4, "recall/dog": 0.5}


def write_epochs(folder: Path, done: int | None, epochs: range, value: float) -> None:
    """Write as one attempt of a run would that went on after `done` epochs."""
    with closing(MetricsLogger(folder, None if done is None else STEPS_PER_EPOCH * done)) as logger:
        for epoch in epochs:
            step = STEPS_PER_EPOCH * epoch
            train = make_metrics(value + epoch / 100) | {"learning_rate": 0.1}
            logger.write_epoch(epoch, step, train, make_metrics(value + epoch / 10))


def age_events(folder: Path, seconds: int = 1000) -> None:
    """Rename event files as if written long ago: TensorBoard reads them by the time in the name."""
    for path in folder.glob("tensorboard/*/events.*"):
        parts = path.name.split(".")
        parts[3] = f"{int(parts[3]) - seconds:010}"
        path.rename(path.with_name(".".join(parts)))


def read_curves(folder: Path, split: str) -> dict[str, dict[int, float]]:
    events = EventAccumulator(str(folder / "tensorboard" / split))
    events.Reload()
    curves: dict[str, dict[int, float]] = {}
    for tag in events.Tags()["scalars"]:
        points = events.Scalars(tag)
        assert set(Counter(point.step for point in points).values()) == {1}, tag
        curves[tag] = {point.step: point.value for point in points}
    return curves


def test_train_and_val_share_their_tags_from_step_0_on(tmp_path: Path) -> None:
    write_epochs(tmp_path, None, range(3), 1.0)
    train, val = read_curves(tmp_path, "train"), read_curves(tmp_path, "val")
    assert train.keys() - val.keys() == {"learning_rate"}
    assert val.keys() == make_metrics(0).keys()
    assert train["loss"] == pytest.approx({0: 1.0, 7: 1.01, 14: 1.02})
    assert val["loss"] == pytest.approx({0: 1.0, 7: 1.1, 14: 1.2})
    rows = read_rows(tmp_path)
    assert [(row["epoch"], row["step"]) for row in rows] == [(0, 0), (1, 7), (2, 14)]
    assert rows[1]["val"] == make_metrics(1.1)
    assert rows[1]["train"] == make_metrics(1.01) | {"learning_rate": 0.1}


@pytest.mark.fault("R26")
def test_a_resumed_run_replaces_what_was_written_after_its_checkpoint(tmp_path: Path) -> None:
    write_epochs(tmp_path, None, range(4), 1.0)  # cut off: only epoch 1 was saved
    for path in tmp_path.glob("tensorboard/*/events.*"):
        path.write_bytes(path.read_bytes()[:-1])
    age_events(tmp_path)
    write_epochs(tmp_path, 1, range(2, 5), 3.0)
    rows = read_rows(tmp_path)
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4]
    expected = [1.0, 1.1, 3.2, 3.3, 3.4]
    assert [row["val"]["loss"] for row in rows] == pytest.approx(expected)
    curve = read_curves(tmp_path, "val")["loss"]
    assert list(curve) == [0, 7, 14, 21, 28]
    assert list(curve.values()) == pytest.approx(expected)
    assert list(read_curves(tmp_path, "train")["learning_rate"]) == [0, 7, 14, 21, 28]


@pytest.mark.fault("R20")
def test_a_clock_that_was_set_back_costs_no_curves(tmp_path: Path) -> None:
    """R20: TensorBoard would read the newer file first, and drop what it purges."""
    write_epochs(tmp_path, None, range(4), 1.0)
    age_events(tmp_path, -3600)
    write_epochs(tmp_path, 1, range(2, 5), 3.0)
    age_events(tmp_path, -7200)
    write_epochs(tmp_path, 3, range(4, 6), 5.0)
    curve = read_curves(tmp_path, "val")["loss"]
    expected = {0: 1.0, 7: 1.1, 14: 3.2, 21: 3.3, 28: 5.4, 35: 5.5}
    assert curve == pytest.approx(expected)


def test_lost_rows_of_earlier_epochs_cost_neither_curves_nor_the_run(tmp_path: Path) -> None:
    write_epochs(tmp_path, None, range(3), 1.0)
    age_events(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("{half a row")
    with log_to_folder(tmp_path):
        write_epochs(tmp_path, 1, range(2, 4), 3.0)
    assert "metrics.jsonl: cannot be read" in (tmp_path / "log.txt").read_text()
    assert [row["epoch"] for row in read_rows(tmp_path)] == [2, 3]
    assert list(read_curves(tmp_path, "val")["loss"]) == [0, 7, 14, 21]


def test_a_run_cut_off_before_its_first_checkpoint_begins_its_curves_anew(tmp_path: Path) -> None:
    write_epochs(tmp_path, None, range(1), 1.0)
    age_events(tmp_path)
    write_epochs(tmp_path, None, range(2), 3.0)
    assert [row["epoch"] for row in read_rows(tmp_path)] == [0, 1]
    assert read_curves(tmp_path, "train")["loss"] == pytest.approx({0: 3.0, 7: 3.01})


def use_all(logger: MetricsLogger) -> None:
    """Write everything that a run writes."""
    with closing(logger):
        logger.add("train", lambda writer: writer.add_text("config", "name: test", 0))
        logger.add("val", lambda writer: writer.add_custom_scalars({}))
        for epoch in range(3):
            logger.write_epoch(epoch, epoch, make_metrics(1.0), make_metrics(1.0))
        logger.add("train", lambda writer: writer.add_text("config", "name: test", 0))


def assert_warned_once(log: Path) -> None:
    text = log.read_text()  # tracebacks of writers' threads too, if a command set their hook
    assert text.count("curves can no longer be written") == 1
    assert text.count("training continues") == 1


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_costs_rows_but_does_not_raise(tmp_path: Path, monkeypatch: Patch) -> None:
    before = threading.active_count()
    monkeypatch.setattr(files, "write_atomic", full_disk)
    with log_to_folder(tmp_path):
        use_all(MetricsLogger(tmp_path, None))
    assert_warned_once(tmp_path / "log.txt")
    assert threading.active_count() == before  # no writer lives on


def test_a_full_disk_costs_events_but_no_rows(tmp_path: Path, monkeypatch: Patch) -> None:
    ended: list[object] = []
    monkeypatch.setattr(threading, "excepthook", ended.append)  # whoever set one before
    logger = MetricsLogger(tmp_path, None)
    monkeypatch.setattr(RecordWriter, "write", full_disk)
    with log_to_folder(tmp_path):
        use_all(logger)
    assert_warned_once(tmp_path / "log.txt")
    assert [row["epoch"] for row in read_rows(tmp_path)] == [0, 1, 2]
    assert ended


@pytest.mark.fault("R25")
def test_without_tensorboard_there_are_rows_all_the_same(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with log_to_folder(tmp_path):
        use_all(MetricsLogger(tmp_path, None))
    assert_warned_once(tmp_path / "log.txt")
    assert [row["epoch"] for row in read_rows(tmp_path)] == [0, 1, 2]


def test_a_folder_that_cannot_be_made_costs_curves_but_no_rows(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    with log_to_folder(tmp_path):
        use_all(MetricsLogger(tmp_path, None))
    assert_warned_once(tmp_path / "log.txt")
    assert [row["epoch"] for row in read_rows(tmp_path)] == [0, 1, 2]


def test_all_ranks_but_rank_0_write_nothing(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)
    use_all(MetricsLogger(None, None))
    assert list(tmp_path.iterdir()) == []
