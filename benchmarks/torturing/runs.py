"""A run that takes half a second, in a forked process that can be broken at any call.

The parent has imported all packages that a run uses and computed nothing, so that a fork is safe
and costs milliseconds.
"""

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# A run imports some of these late, which each forked process would repeat.
import jinja2  # noqa: F401
import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401
import numpy as np
import torch
import torch._dynamo
import torch.utils.tensorboard
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from neither.cli import train
from neither.inference import embedding
from neither.models import efficientnet_lite
from neither.models.checkpoint import read_archive
from neither.reporting import plots
from neither.training import summaries

CLASSES = ("dog", "human", "neither")
STEPS_PER_EPOCH, EPOCHS = 3, 5
_CONFIG = f"""name: tortured
classes: [dog, human, neither]
device: cpu
data: {{root: ROOT, image_size: 8}}
augmentation: {{crop_scale: [1.0, 1.0], rotation_degrees: 0, color_jitter: 0, grayscale: 0,
               random_erasing: 0}}
model: {{name: softmax_regression}}
train: {{epochs: {EPOCHS}, batch_size: 8, optimizer: sgd, lr: 0.01}}
"""
# A frozen backbone as small as that: each layer of EfficientNet-Lite0 that there is, but few.
_HEAD_MODEL = "{name: efficientnet_lite0, weights: WEIGHTS, trainable: head}"
_SMALL = {"_STAGES": ((1, 3, 1, 4, 1), (2, 5, 2, 8, 2)), "_STEM_CHANNELS": 4, "_NUM_FEATURES": 16}
_HANG_SECONDS = 60

# Rendering takes most of the time of so small a run, and touches no disk.
vars(summaries)["to_pixels"] = lambda _: np.zeros((9, 9, 3), dtype=np.uint8)
vars(plots)["to_svg"] = lambda *_: "<svg></svg>"
vars(efficientnet_lite).update(_SMALL)
vars(embedding)["_BLOCK_IMAGES"] = 16  # several blocks
logging.getLogger("tensorboard").setLevel(logging.ERROR)  # that it purges is what is wanted


def make_config(home: Path, is_head: bool = False) -> Path:
    """Make a folder of images that differ in colour, and a config that trains on it.

    Args:
        home: an existing folder.
        is_head: train the head of a frozen backbone, instead of a network in epochs.
    """
    random = np.random.default_rng(0)
    for split, num in (("train", 8), ("val", 4)):
        for place, label in enumerate(CLASSES):
            folder = home / "images" / split / label
            folder.mkdir(parents=True)
            for number in range(num):
                pixels = random.integers(0, 200, (12, 12, 3), dtype=np.uint8)
                pixels[..., place] += 30
                Image.fromarray(pixels).save(folder / f"{number}.png")
    config = home / "tortured.yaml"
    text = _CONFIG.replace("ROOT", str(home / "images"))
    if is_head:
        torch.manual_seed(0)
        torch.save(efficientnet_lite.EfficientNetLite0().state_dict(), home / "weights.pth")
        model = _HEAD_MODEL.replace("WEIGHTS", str(home / "weights.pth"))
        text = text.replace("{name: softmax_regression}", model)
    config.write_text(text)
    return config


def start(config: Path, run: Path, spoil: Callable[[], object] = lambda: None) -> int:
    """Start `train.py` in a forked process, after `spoil` has been called there; return its id."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    try:
        with (run.with_suffix(".err")).open("ab") as said:
            os.dup2(said.fileno(), 2)
            os.dup2(said.fileno(), 1)
        os.environ["XDG_CACHE_HOME"] = str(run.with_suffix(".cache"))
        sys.argv = ["train.py", str(config), "--output-dir", str(run)]
        spoil()
        code = train.main()
    except BaseException:  # what a script would end with
        import traceback

        traceback.print_exc()
        code = 1
    os._exit(code)


def wait(process: int) -> int:
    """Return the exit code, negative for a signal; a run that hangs is killed and told."""
    ends = time.monotonic() + _HANG_SECONDS
    while time.monotonic() < ends:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    raise AssertionError("this run hangs")


def outcome(run: Path) -> dict[str, Any]:
    """Return all that a run must end in to the bit."""
    contents = {
        name: read_archive(run / "checkpoints" / name)[0] for name in ("last.pt", "best.pt")
    }
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row["train"].pop("images_per_second", None)
    for content in contents.values():
        content.pop("made_by")
    return contents | {"rows": rows}


def differences(one: object, other: object, place: str = "") -> list[str]:
    """Return the places in which two outcomes differ, by a single bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and torch.equal(one, other)
    elif isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [each for key in one for each in differences(one[key], other[key], f"{place}.{key}")]
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        same = len(one) == len(other)
        pairs = enumerate(zip(one, other, strict=False))
        found = [each for n, pair in pairs for each in differences(*pair, f"{place}.{n}")]
        return found if same else [*found, place]
    else:
        same = one == other
    return [] if same else [place]


def doubled_points(run: Path) -> list[tuple[str, int]]:
    """Return each point that TensorBoard would show twice, or not at all, as (tag, step)."""
    rows = [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]
    wrong = []
    for split in ("train", "val"):
        events = EventAccumulator(str(run / "tensorboard" / split), size_guidance={"scalars": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            steps = [point.step for point in events.Scalars(tag)]
            due = [row["step"] for row in rows if tag in row.get(split, {})]
            if tag.startswith("best/"):  # for the table of runs, at the end only
                due = [rows[-1]["step"]]
            if steps != due:
                wrong += [(tag, step) for step in {*steps, *due} if steps.count(step) != 1]
    return wrong
