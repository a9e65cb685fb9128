"""The cases of `golden.py`: what is run on each side, and which values are read from its outputs.

A case is a function `(side, inputs) -> Repeats`. It runs commands of one version of the code on
inputs that both versions share, and returns flat dicts of values: one dict for each repeat, such as
a cold and a warm cache. All repeats of both sides must be equal. Configs are given in the words of
version 2; a side translates their keys into its own.

Not compared: wall-clock times, prose (log, report.html, reasons and errors), rendered images.
"""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from torch import Tensor

Value = Tensor | float | str | None
Values = dict[str, Value]
Repeats = dict[str, Values]

# By major version: how to import the function that turns the bytes of an image file into pixels.
_IN_DATA = """
from neither.data.decode import decode
from neither.data.preprocessing import Preprocessing
"""
DECODE_IMPORTS = {"1": _IN_DATA, "2": _IN_DATA}
_DECODE_PROGRAM = """import sys
from pathlib import Path
import numpy as np
pixels = {}
for path in map(Path, sys.argv[2:]):
    for resize in ("squash", "pad", "crop"):
        for size in (24, 64):
            square = decode(path.read_bytes(), Preprocessing(size, resize))
            pixels[f"{path.name}:{resize}:{size}"] = square
np.savez(sys.argv[1], **pixels)
"""

CLASSES = ("dog", "human", "neither")
_BASE: dict[str, object] = {
    "seed": 7,
    "device": "cpu",
    "precision": "float32",
    "classes": CLASSES,
    "reject_class": "neither",
    "data.image_size": 32,
    "train.batch_size": 8,
    "decision.target_precision": 0.7,  # low enough for a threshold to exist
}
_NOT_COMPARED = ("made_by", "schema_version", "images_per_second")  # keys and TensorBoard tags
_PROSE = ("reason", "error")  # columns of which only presence and the images they name are compared
_COMMAND_TIMEOUT_SECONDS = 900  # a command takes 10 s, more on a busy machine
_GLOO_ABORT = "terminate called without an active exception"  # pytorch #190489: run again


class CaseError(Exception):
    """A command did not end as it should."""


@dataclass(frozen=True)
class Side:
    """One version of the code and the folder for its outputs.

    Attributes:
        root: checkout whose `src` and `scripts` are run.
        version: of the checkout's `pyproject.toml`.
        words: this version's name of each config key that it calls otherwise than version 2.
        folder: for runs, outputs and the cache; exists.
    """

    root: Path
    version: str
    words: Mapping[str, str]
    folder: Path

    def command(self, script: str, *arguments: str | Path) -> list[str]:
        """Return the command line of a script of this version."""
        return [sys.executable, str(self.root / "scripts" / f"{script}.py"), *map(str, arguments)]

    def start(self, command: list[str]) -> subprocess.Popen[str]:
        """Start a command with this version's source, on one thread of the CPU."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=clean | {
                "PYTHONPATH": str(self.root / "src"),
                "XDG_CACHE_HOME": str(self.folder / "cache"),
                "OMP_NUM_THREADS": "1",
                "MKL_NUM_THREADS": "1",
                "CUDA_VISIBLE_DEVICES": "",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def run(self, command: list[str], exit_code: int = 0) -> str:
        """Run a command to its end and return its standard output.

        Raises:
            CaseError: if the exit code is another, or the command takes too long.
        """
        for attempt in (1, 2):
            with self.start(command) as process:
                try:
                    output, errors = process.communicate(timeout=_COMMAND_TIMEOUT_SECONDS)
                except subprocess.TimeoutExpired as error:
                    process.kill()
                    raise CaseError(f"{' '.join(command)}: timed out") from error
            if process.returncode == exit_code:
                return output
            if attempt == 2 or _GLOO_ABORT not in errors:
                break
        what = shorten(" ".join(command[1:]), 300)
        raise CaseError(
            f"{what}: exit code {process.returncode}, not {exit_code}\n"
            + "\n".join(f"      {line}" for line in errors.splitlines()[-12:])
        )

    def write_config(self, name: str, keys: Mapping[str, object]) -> Path:
        """Write a config in this version's words.

        Args:
            name: of the run.
            keys: values by dotted key, in the words of version 2, over those of `_BASE`.
        """
        config: dict[str, Any] = {"name": name}
        for key, value in (_BASE | dict(keys)).items():
            section, _, rest = self.words.get(key, key).rpartition(".")
            (config.setdefault(section, {}) if section else config)[rest] = value
        path = self.folder / f"{name}.yaml"
        path.write_text(json.dumps(config, indent=2), encoding="utf-8")  # JSON is YAML too
        return path

    def train(self, name: str, keys: Mapping[str, object], run_name: str = "") -> Path:
        """Train a run, unless an earlier case did, and return its folder."""
        run = self.folder / "runs" / (run_name or name)
        if not run.exists():
            config = self.write_config(name, keys)
            self.run(self.command("train", config, "--output-dir", run))
        return run


@dataclass(frozen=True)
class Inputs:
    """What both sides read.

    Attributes:
        folder: of the images, manifest and weights that `make_inputs` in `golden.py` writes.
        baseline: the old side, whose checkpoints both sides must evaluate alike.
    """

    folder: Path
    baseline: Side


Case = Callable[[Side, Inputs], Repeats]


def cutmix_muon_bfloat16(side: Side, inputs: Inputs) -> Repeats:
    """Train small_cnn with every augmentation under Muon in bfloat16; predict and export."""
    keys = {
        "data.root": str(inputs.folder / "photos"),
        "precision": "bfloat16",
        "augmentation.train_scale": 0.75,
        "augmentation.crop_scale": [0.4, 1.0],
        "augmentation.horizontal_flip": True,
        "augmentation.rotation_degrees": 12.0,
        "augmentation.color_jitter": 0.3,
        "augmentation.grayscale": 0.2,
        "augmentation.random_erasing": 0.5,
        "augmentation.cutmix": 0.5,
        "model.name": "small_cnn",
        "model.width": 8,
        "train.epochs": 4,
        "train.optimizer": "muon",
        "train.validate_every_epochs": 3,
        "train.max_grad_norm": 0.5,
        "train.label_smoothing": 0.1,
    }
    cold = side.train("cutmix", keys)
    warm = side.train("cutmix", keys, "cutmix-warm")
    answers = predict(side, cold, inputs.folder / "photos" / "test")
    answers |= export_onnx(side, cold)
    return {"cold cache": read_run(cold) | answers, "warm cache": read_run(warm) | answers}


def softmax_regression(side: Side, inputs: Inputs) -> Repeats:
    """Train softmax_regression by SGD; evaluate test."""
    run = _train_softmax(side, inputs)
    return {"run": read_run(run) | evaluate(side, run, inputs.folder / "photos", "softmax")}


def torchvision_weights_file(side: Side, inputs: Inputs) -> Repeats:
    """Train a torchvision network with dropout and batch norm that begins with a weights file."""
    run = side.train("torchvision", {
        "data.root": str(inputs.folder / "photos"),
        "data.resize": "pad",
        "augmentation.horizontal_flip": False,
        "model.name": "mobilenet_v3_small",
        "model.weights": str(inputs.folder / "weights.pt"),
        "train.epochs": 2,
        "train.optimizer": "adamw",
    })  # fmt: skip
    return {"run": read_run(run) | export_onnx(side, run)}


def resumed_mid_epoch(side: Side, inputs: Inputs) -> Repeats:
    """Stop a run between two steps by SIGTERM and resume it; train it undisturbed too."""
    keys = {
        "data.root": str(inputs.folder / "photos"),
        "model.name": "small_cnn",
        "model.width": 8,
        "augmentation.cutmix": 0.3,
        "train.epochs": 3,
        "train.batch_size": 2,
        "checkpoint.save_every_minutes": 0.0001,  # after nearly every step
    }
    undisturbed = side.train("resumed", keys)
    resumed = side.folder / "runs" / "resumed-stopped"
    command = side.command("train", side.folder / "resumed.yaml", "--output-dir", resumed)
    _stop_mid_epoch(side, command, resumed)
    side.run(command)
    return {"undisturbed": read_run(undisturbed), "resumed": read_run(resumed)}


def two_processes(side: Side, inputs: Inputs) -> Repeats:
    """Train small_cnn in two processes, with batches that two do not divide."""
    config = side.write_config("two_processes", {
        "data.root": str(inputs.folder / "photos"),
        "model.name": "small_cnn",
        "model.width": 8,
        "train.epochs": 2,
        "train.batch_size": 7,
    })  # fmt: skip
    run = side.folder / "runs" / "two_processes"
    script = side.command("train", config, "--output-dir", run)[1:]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    side.run([sys.executable, *torchrun, *script])
    return {"run": read_run(run)}


def decoded_pixels(side: Side, inputs: Inputs) -> Repeats:
    """Decode files of every kind by the function itself, by predict and by check_data."""
    kinds = inputs.folder / "kinds"
    output = side.folder / "pixels.npz"
    program = DECODE_IMPORTS[side.version.partition(".")[0]] + _DECODE_PROGRAM
    readable = sorted(path for path in kinds.iterdir() if not path.stem.startswith("bad"))
    side.run([sys.executable, "-c", program, str(output), *map(str, readable)])
    with np.load(output) as squares:
        values: Values = {f"pixels:{name}": torch.from_numpy(squares[name]) for name in squares}
    run = _train_softmax(side, inputs)
    values |= predict(side, run, kinds, exit_code=3)  # for the unreadable files
    return {"images": values | check_data(side, kinds, exit_code=3)}


def hash_splits(side: Side, inputs: Inputs) -> Repeats:
    """Split a folder with groups, duplicates and near-duplicates by hash; train on it."""
    folder = inputs.folder / "unsplit"
    keys = {
        "data.root": str(folder),
        "data.group_pattern": "person[0-9]+",
        "data.val_fraction": 0.3,
        "data.test_fraction": 0.2,
        "data.max_unreadable": 0.2,
        "data.aliases": {"person": "human"},
        "data.ignored_folders": ["junk"],
        "model.name": "softmax_regression",
        "train.epochs": 1,
    }
    cold = side.train("hash_splits", keys)
    warm = side.train("hash_splits", keys, "hash_splits-warm")
    answers = check_data(side, folder, exit_code=3)
    return {"cold cache": read_run(cold) | answers, "warm cache": read_run(warm) | answers}


def manifest(side: Side, inputs: Inputs) -> Repeats:
    """Train on a CSV manifest whose train split has a near-duplicate of test; evaluate val."""
    path = inputs.folder / "manifest.csv"
    run = side.train("manifest", {
        "data.manifest": str(path),
        "model.name": "softmax_regression",
        "train.epochs": 1,
    })  # fmt: skip
    return {"run": read_run(run) | evaluate(side, run, path, "manifest", "--split", "val")}


def unseen_and_priors(side: Side, inputs: Inputs) -> Repeats:
    """Evaluate with unseen kinds, other priors and no labels; predict with priors."""
    run = _train_softmax(side, inputs)
    mixed, unseen = inputs.folder / "mixed", inputs.folder / "unseen"
    priors = ("--priors", "dog=0.2,human=0.1,neither=0.7")
    values = evaluate(side, run, mixed, "unseen", "--unseen", unseen)
    values |= evaluate(side, run, mixed, "priors", *priors)
    values |= evaluate(side, run, unseen, "unlabelled")
    return {"outputs": values | predict(side, run, unseen, *priors)}


def version_1_checkpoint(side: Side, inputs: Inputs) -> Repeats:
    """Evaluate a run that the old side trained, and its last.pt alone."""
    photos, folder = inputs.folder / "photos", side.folder / "baseline"
    folder.mkdir()
    run = replace(inputs.baseline, folder=folder).train("baseline", {
        "data.root": str(photos),
        "model.name": "small_cnn",
        "model.width": 8,
        "train.epochs": 2,
        "train.batch_size": 16,
    })  # fmt: skip
    last = run / "checkpoints" / "last.pt"
    values = evaluate(side, run, photos, "run", "--unseen", inputs.folder / "unseen")
    return {"outputs": values | evaluate(side, last, photos, "last", "--split", "val")}


CASES: tuple[Case, ...] = (
    cutmix_muon_bfloat16,
    softmax_regression,
    torchvision_weights_file,
    resumed_mid_epoch,
    two_processes,
    decoded_pixels,
    hash_splits,
    manifest,
    unseen_and_priors,
    version_1_checkpoint,
)


def _train_softmax(side: Side, inputs: Inputs) -> Path:
    return side.train("softmax", {
        "data.root": str(inputs.folder / "photos"),
        "data.resize": "squash",
        "model.name": "softmax_regression",
        "train.epochs": 2,
        "train.optimizer": "sgd",
        "train.lr": 0.01,
    })  # fmt: skip


def _stop_mid_epoch(side: Side, command: list[str], run: Path) -> None:
    """Run a training until SIGTERM ends it between two steps of its second epoch.

    Raises:
        CaseError: if it ends otherwise.
    """
    last, rows = run / "checkpoints" / "last.pt", run / "metrics.jsonl"
    saves: set[int] = set()
    with side.start(command) as process:
        while process.poll() is None and len(saves) < 4:
            if rows.exists() and len(rows.read_bytes().splitlines()) == 2:  # of epochs 0 and 1
                saves.add(last.stat().st_mtime_ns)
            time.sleep(0.001)
        process.send_signal(signal.SIGTERM)
        errors = process.communicate(timeout=_COMMAND_TIMEOUT_SECONDS)[1]
    if process.returncode != 143:
        raise CaseError(f"stopped training: exit code {process.returncode}, not 143\n{errors}")
    steps = [json.loads(line)["step"] for line in rows.read_text(encoding="utf-8").splitlines()]
    step = torch.load(last, map_location="cpu", weights_only=True)["step"]
    if not steps[1] < step < 2 * steps[1]:
        raise CaseError(f"stopped at step {step}, which is not within the epoch after {steps[1]}")


def evaluate(side: Side, model: Path, images: Path, name: str, *options: str | Path) -> Values:
    """Evaluate a model and return the values of its `metrics.json` and `predictions.csv`."""
    output = side.folder / "evaluations" / name
    side.run(side.command("evaluate", model, images, "--output-dir", output, *options))
    metrics = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    values = flatten(metrics, f"evaluate {name}/metrics.json:")
    return values | read_csv(output / "predictions.csv", f"evaluate {name}/predictions.csv")


def predict(side: Side, model: Path, images: Path, *options: str, exit_code: int = 0) -> Values:
    """Return the values that `predict --format jsonl` prints."""
    command = side.command("predict", model, images, "--format", "jsonl", *options)
    return flatten(
        [_without_prose(json.loads(row)) for row in side.run(command, exit_code).splitlines()],
        "predict.jsonl",
    )


def check_data(side: Side, images: Path, exit_code: int) -> Values:
    """Return the values that `check_data --json` prints."""
    report = json.loads(side.run(side.command("check_data", images, "--json"), exit_code))
    for each in report["unreadable"]:
        each.pop("reason")
    counts = {key: len(report.pop(key)) for key in ("errors", "warnings")}  # of prose
    return flatten(report | counts, "check_data.json:")


def export_onnx(side: Side, model: Path) -> Values:
    """Export a model and return the outputs of ONNX Runtime on fixed random pixels."""
    import onnxruntime

    output = side.folder / "exported.onnx"
    side.run(side.command("export", model, "--format", "onnx", "--output", output))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(output, options, providers=["CPUExecutionProvider"])
    size = session.get_inputs()[0].shape[1]
    pixels = np.random.default_rng(0).integers(0, 256, (16, size, size, 3), dtype=np.uint8)
    outputs = session.run(None, {session.get_inputs()[0].name: pixels})
    return flatten([torch.from_numpy(each) for each in outputs], "onnx")


def read_run(run: Path) -> Values:
    """Return the values of both checkpoints, all tables and all curves of a run."""
    values: Values = {}
    for name in ("best.pt", "last.pt"):
        archive = torch.load(run / "checkpoints" / name, map_location="cpu", weights_only=True)
        values |= flatten(archive, f"{name}:")
    for path in sorted(run.glob("*.csv")):
        values |= read_csv(path, path.name)
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    values |= flatten([json.loads(line) for line in lines], "metrics.jsonl")
    for folder in sorted((run / "tensorboard").iterdir()):
        values |= read_tensorboard(folder, f"tensorboard/{folder.name}")
    return values


def read_csv(path: Path, name: str) -> Values:
    """Return each cell of a CSV file with a header, as `name[row].column`."""
    with path.open(encoding="utf-8", newline="") as file:
        return flatten([_without_prose(row) for row in csv.DictReader(file)], name)


def read_tensorboard(folder: Path, name: str) -> Values:
    """Return scalars, histograms and precision-recall curves; of texts and images only the tags."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    everything = dict.fromkeys(("scalars", "histograms", "tensors", "images"), 0)
    events = EventAccumulator(str(folder), everything)
    events.Reload()
    values: Values = {}
    for kind in ("scalars", "histograms", "tensors", "images"):
        for tag in events.Tags()[kind]:
            if tag in _NOT_COMPARED:
                continue
            for event in getattr(events, kind.capitalize())(tag):
                key = f"{name}:{kind}/{tag}[{event.step}]"
                if kind == "scalars":
                    values[key] = event.value
                elif kind == "histograms":
                    histogram = event.histogram_value
                    values[key] = torch.tensor([histogram.bucket_limit, histogram.bucket])
                elif kind == "tensors" and event.tensor_proto.dtype != 7:  # DT_STRING
                    values[key] = torch.from_numpy(make_ndarray(event.tensor_proto).copy())
                else:
                    values[key] = None
    return values


def flatten(content: object, name: str) -> Values:
    """Return the leaves of nested dicts and lists by key, such as `best.pt:weights.head.bias`.

    Args:
        content: dicts, lists and tuples of plain values and tensors.
        name: of it; the part before the dots, so that of a file ends in a colon.
    """
    if isinstance(content, dict):
        name = name if name.endswith(":") else f"{name}."
        return {
            key: value
            for part, inner in content.items() if part not in _NOT_COMPARED
            for key, value in flatten(inner, f"{name}{part}").items()
        }  # fmt: skip
    if isinstance(content, list | tuple):
        return {
            key: value
            for index, inner in enumerate(content)
            for key, value in flatten(inner, f"{name}[{index}]").items()
        }
    if content is None or isinstance(content, Tensor | float | int | str):
        return {name: content}
    raise TypeError(f"{name}: {type(content).__name__} is no plain value")


def _without_prose(row: Mapping[str, Any]) -> dict[str, Any]:
    """Keep of prose only the numbers and the image paths that it names."""
    return {
        key: " ".join(re.findall(r"\S*/\S*\.\w+|\d+\.\d+", value)) or bool(value)
        if key in _PROSE else value
        for key, value in row.items()
    }  # fmt: skip
