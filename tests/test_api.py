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


def test_importing_neither_imports_no_slow_package() -> None:
    heavy = ("torch", "numpy", "PIL", "pydantic", "rich")
    code = f"import neither, sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


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
    # In another process, as commands that ran in this one have changed these.
    code = (
        "import logging as l, sys, neither; neither.load(sys.argv[1]); "
        "log = l.getLogger('neither'); print(l.raiseExceptions, log.propagate, log.level)"
    )
    done = subprocess.run([sys.executable, "-c", code, GOLDEN], capture_output=True, text=True,
                          check=True)  # fmt: skip
    assert done.stdout == "True True 0\n"


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
