"""`import neither`: quick to import, three lines to a prediction, no side effects."""

import logging
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import neither
from images import CLASSES, draw_shape
from scripts import ROOT

GOLDEN = ROOT / "tests" / "models" / "golden" / "schema_6.pt"


def test_public_names_are_documented() -> None:
    assert all(getattr(neither, name).__doc__ for name in neither.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        neither.nonsense  # type: ignore[attr-defined]  # noqa: B018


def test_an_image_gets_a_prediction_and_a_batch_a_list(tmp_path: Path) -> None:
    images = [draw_shape(CLASSES[seed % 3], seed) for seed in range(70)]
    images[0].save(tmp_path / "0.png")
    classifier = neither.load(str(GOLDEN))
    alone = classifier(str(tmp_path / "0.png"))
    assert list(alone.probabilities) == list(CLASSES)
    assert sum(alone.probabilities.values()) == pytest.approx(1)
    assert alone.confidence == alone.probabilities[alone.predicted]
    assert alone.decision in (alone.predicted, "unsure")
    assert alone.path == str(tmp_path / "0.png")
    stacked = np.stack([np.asarray(image) for image in images])
    for batch in (classifier(images), classifier(stacked), classifier(list(stacked))):
        assert len(batch) == 70
        assert batch[0] == replace(alone, path="")
        assert batch[69] == classifier(images[69])
        assert len({tuple(prediction.probabilities.values()) for prediction in batch}) == 70
    assert classifier([]) == []


def test_an_unusable_input_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not an image")
    classifier = neither.load(GOLDEN)
    with pytest.raises(neither.DataError, match=r"nope\.jpg: no such file"):
        classifier(tmp_path / "nope.jpg")
    with pytest.raises(neither.DataError, match=r"text\.jpg: not a JPEG"):
        classifier([draw_shape("dog", 0), tmp_path / "text.jpg"])
    with pytest.raises(TypeError, match="NoneType"):
        classifier(None)  # type: ignore[call-overload]
    with pytest.raises(neither.UserError, match="no such run"):
        neither.load(tmp_path / "nothing")


def test_the_process_is_unchanged() -> None:
    def settings() -> tuple[object, ...]:
        handlers = [list(logging.getLogger(name).handlers) for name in ("", "PIL", "neither")]
        return (
            torch.get_rng_state().tolist(), torch.get_num_threads(), torch.is_grad_enabled(),
            list(warnings.filters), handlers, logging.raiseExceptions,
            logging.getLogger("neither").propagate, threading.excepthook,
            [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        )  # fmt: skip

    before = settings()
    neither.load(GOLDEN)(draw_shape("dog", 0))
    assert settings() == before


def test_a_new_process_is_unchanged_and_imports_only_what_it_uses(tmp_path: Path) -> None:
    """In another process, as commands that ran in this one have changed and imported more."""
    for seed in range(12):
        path = tmp_path / "images" / CLASSES[seed % 3] / f"{seed}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_shape(CLASSES[seed % 3], seed).save(path)
    (tmp_path / "config.yaml").write_text(
        "{name: a, classes: [dog, human, neither], train: {epochs: 1}, data: {root: images, "
        "image_size: 8, val_fraction: 0.5, test_fraction: 0}, model: {name: softmax_regression}}"
    )
    code = """
import json, logging, os, sys
from importlib import import_module
import neither
golden, folder = sys.argv[1:]
os.chdir(folder)
def never_loaded(*names):
    names += ("torch._dynamo", "sympy", "torchvision", "pandas", "scipy", "triton", "networkx")
    found.append([name for name in names if name in sys.modules])
def run(name, *arguments):
    sys.argv = [name, *arguments]
    assert import_module(f"neither.cli.{name}").main() == 0
found = []
image = "images/dog/0.png"
neither.load(golden)(image)
log = logging.getLogger("neither")
assert (logging.raiseExceptions, log.propagate, log.level) == (True, True, 0)
never_loaded("rich", "jinja2", "matplotlib", "tensorboard", "yaml")
run("predict", golden, image)
never_loaded("jinja2", "matplotlib", "tensorboard", "yaml", "neither.inference.explain")
run("evaluate", golden, "images/dog", "--output-dir", "evaluation")
never_loaded("matplotlib", "tensorboard", "yaml")
from neither.training import summaries, trainer
never_loaded("matplotlib", "tensorboard")
summaries.log_run = summaries.log_epoch = trainer.report_run = lambda *_: None  # the plots
run("train", "config.yaml")
never_loaded("matplotlib")
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", code, GOLDEN, tmp_path], capture_output=True,
                          text=True, check=True)  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[[], [], [], [], []]"


def test_many_threads_get_the_predictions_of_one(tmp_path: Path) -> None:
    paths = []
    for seed in range(24):
        paths.append(tmp_path / f"{seed}.png")
        draw_shape(CLASSES[seed % 3], seed).save(paths[-1])
    classifier, filters = neither.load(GOLDEN), list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(classifier, paths))
    assert together == [classifier(path) for path in paths]
    assert warnings.filters == filters
