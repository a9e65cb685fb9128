"""Do averaged weights, choosing the epoch by loss, and more hard negatives earn their place?

    python benchmarks/choices.py CONFIG SOURCE... [--seeds 0,1,2] [--hard REGEX] [key=value ...]

Each SOURCE is a folder or a CSV file (path,label,split) with train, val and test. Trains the config
on each and scores its test images with four networks of the same run: averaged weights at the epoch
with the lowest calibrated loss on val (what the product keeps), with the best macro recall there,
and at the last, and the last weights not averaged. Under `--hard` the training images of the reject
class whose path matches are drawn twice as often as the class's others; the class and the number of
steps stay as large as they were, whatever an epoch is then called.
"""

import argparse
import math
import re
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import results
import torch

from neither.config.loader import load_config
from neither.config.schema import Config
from neither.data.dataset import Dataset, Split, load_dataset
from neither.data.layout import find_evaluation_images
from neither.data.manifest import find_evaluation_rows, is_manifest
from neither.data.scan import ImageTable
from neither.evaluation.calibration import fit_temperature
from neither.evaluation.evaluation import evaluate
from neither.inference.classifier import load_classifier
from neither.models.checkpoint import Checkpoint, DecisionRule, load_checkpoint, save_checkpoint
from neither.training import trainer
from neither.training.run_folder import RunFolder, open_run_folder
from neither.training.state import TrainState

CHOICES = ("best loss", "best recall", "last", "last, not averaged")
SUMMED = ("val_macro_recall", "val_nll", "macro_recall", "nll")
PASSES = 2  # through the training images in one epoch under --hard, so that halves come out whole


def main() -> None:
    """Train, score, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("sources", type=Path, nargs="+", metavar="SOURCE or key=value")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--hard")
    arguments = parser.parse_intermixed_args()
    overrides = [str(each) for each in arguments.sources if "=" in str(each)]
    sources = [each for each in arguments.sources if "=" not in str(each)]
    rows = []
    print(f"{'source':16} seed {'weights':18}    val  nll T   test    nll     T    ece  auroc")
    for seed in map(int, arguments.seeds.split(",")):
        for source in sources:
            key = "manifest" if is_manifest(source) else "root"
            where = ["data.root=null", "data.manifest=null", f"data.{key}={source}"]
            config = load_config(arguments.config, [*overrides, *where, f"seed={seed}"])
            started = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                scored = measure(config, source, Path(folder), arguments.hard)
            for choice, figures in scored.items():
                row = {"source": source.stem, "seed": seed, "choice": choice, **figures}
                rows.append(row)
                print(f"{row['source']:16} {seed:4} {choice:18} {row['val_macro_recall']:6.3f} "
                      f"{row['val_nll']:6.3f} {row['macro_recall']:6.3f} {row['nll']:6.3f} "
                      f"{row['temperature']:5.2f} {row['ece']:6.3f} {row['auroc']:6.3f}",
                      flush=True)  # fmt: skip
            print(f"  {time.perf_counter() - started:.0f} s", flush=True)
    for source, choice in product(sources, CHOICES):
        alike = [row for row in rows if (row["source"], row["choice"]) == (source.stem, choice)]
        spreads = (f"{key} {results.spread([row[key] for row in alike])}" for key in SUMMED)
        print(f"{source.stem}, {choice}: {', '.join(spreads)}")
    name = "choices" + ("-hard" if arguments.hard else "")
    results.write(name, {"arguments": sys.argv[1:], "rows": rows})


def measure(
    config: Config, source: Path, folder: Path, hard: str | None
) -> dict[str, dict[str, Any]]:
    """Train once; score each choice on the test images."""
    if hard:
        train = config.train
        config = config.model_copy(update={"train": train.model_copy(update={
            "epochs": train.epochs // PASSES,
            "warmup_epochs": train.warmup_epochs // PASSES,
            "validate_every_epochs": max(1, train.validate_every_epochs // PASSES),
        })})  # fmt: skip
    with (
        open_run_folder(config, folder / "run", fresh=False) as run,
        patch.object(trainer, "load_dataset", harder(load_dataset, config, hard)),
        patch.object(trainer, "_save_epoch", keeping_best_recall(trainer._save_epoch)),
    ):
        trainer.train(config, run)
    chosen = {
        "best loss": load_checkpoint(run.best),
        "best recall": load_checkpoint(run.folder / "best_recall.pt"),
        "last": load_checkpoint(run.last),
    }
    chosen["last, not averaged"] = not_averaged(chosen["last"], run, find(source, config, "val"))
    test = find(source, config, "test")
    done: dict[tuple[int, bool], dict[str, Any]] = {}  # often the choices are one epoch
    for choice, checkpoint in chosen.items():
        epoch = checkpoint.epoch, "not" in choice
        if epoch not in done:
            done[epoch] = score(checkpoint, test, folder)
    return {choice: done[each.epoch, "not" in choice] for choice, each in chosen.items()}


def score(checkpoint: Checkpoint, test: ImageTable, folder: Path) -> dict[str, Any]:
    """Return the figures on val that a checkpoint holds, and those on the test images."""
    save_checkpoint(folder / "chosen.pt", checkpoint)
    classifier = load_classifier(folder / "chosen.pt", torch.device("cpu"))
    metrics = evaluate(classifier, test, folder).metrics
    return {
        "val_macro_recall": checkpoint.metrics["macro_recall"],
        "val_nll": checkpoint.metrics["calibrated_loss"],
        "macro_recall": metrics["macro_recall"],
        "nll": metrics["nll"],
        "temperature": metrics["temperature"],
        "ece": metrics["ece"],
        "ece_q95": metrics["expected_if_calibrated"]["ece"]["q95"],
        "auroc": metrics.get("rejection", {}).get("auroc", math.nan),
    }


def harder(
    load: Callable[..., Dataset], config: Config, hard: str | None
) -> Callable[..., Dataset]:
    """Return `load_dataset` with the training images drawn as `--hard` says."""

    def loaded(*arguments: object) -> Dataset:
        data = load(*arguments)
        if not hard or config.reject_class is None:
            return data
        reject = config.classes.index(config.reject_class)
        labels = data.train.labels.numpy()
        rejected, known = np.flatnonzero(labels == reject), np.flatnonzero(labels != reject)
        weights = np.array([1 + bool(re.search(hard, data.train.paths[place]))
                            for place in rejected])  # fmt: skip
        num = PASSES * len(rejected)
        # Evenly spaced along the sum of the weights: each is drawn its due, rounded up or down.
        points = (np.arange(num) + 0.5) * weights.sum() / num
        drawn = rejected[np.searchsorted(weights.cumsum(), points)]
        places = np.concatenate([np.tile(known, PASSES), drawn])
        hard_share = (weights == 2).mean(), (weights[np.searchsorted(rejected, drawn)] == 2).mean()
        print(f"  hard among {config.reject_class}: {hard_share[0]:.2f}, drawn {hard_share[1]:.2f}")
        train = Split([data.train.paths[place] for place in places],
                      data.train.rows[places], data.train.labels[places])  # fmt: skip
        return replace(data, train=train)

    return loaded


def keeping_best_recall(
    save: Callable[[Config, TrainState, RunFolder], None],
) -> Callable[[Config, TrainState, RunFolder], None]:
    """Return `_save_epoch` that also keeps the epoch with the highest macro recall on val."""
    most = [-1.0]

    def saving(config: Config, state: TrainState, run: RunFolder) -> None:
        save(config, state, run)
        if state.epoch and state.metrics and state.metrics["macro_recall"] > most[0]:
            most[0] = state.metrics["macro_recall"]
            state.save(run.folder / "best_recall.pt", config, resumable=False)

    return saving


def not_averaged(last: Checkpoint, run: RunFolder, val: ImageTable) -> Checkpoint:
    """Return the last weights themselves, with a temperature and figures on val of their own."""
    assert last.training is not None
    plain = replace(
        last, weights=last.training["network"], temperature=1.0, decision_rule=DecisionRule()
    )
    save_checkpoint(run.folder / "plain.pt", plain)
    classifier = load_classifier(run.folder / "plain.pt", torch.device("cpu"))
    evaluation = evaluate(classifier, val, run.folder)
    assert evaluation.labelled is not None
    logits = evaluation.labelled.probabilities.double().log()  # softmax forgets a constant, no more
    metrics = {"macro_recall": evaluation.metrics["macro_recall"],
               "calibrated_loss": evaluation.metrics["refinement"]}  # fmt: skip
    temperature = fit_temperature(logits, evaluation.labelled.labels)
    return replace(plain, temperature=temperature, metrics=metrics)


def find(source: Path, config: Config, split: str) -> ImageTable:
    """Find the images of a split."""
    if is_manifest(source):
        return find_evaluation_rows(source, split, config.data.aliases, config.classes)
    return find_evaluation_images(source, config.classes, split, config.data.aliases)


if __name__ == "__main__":
    main()
