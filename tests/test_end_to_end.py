"""Train, evaluate and look at the results, as a user does."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Locator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from browser import chromium
from calls import Call, calling
from images import CLASSES, make_splits
from outputs import read_rows
from scripts import ROOT

SMALL = ("train.epochs=3", "train.batch_size=16", "model.width=8", "data.image_size=32",
         "train.validate_every_epochs=1")  # fmt: skip
CONFIG = ROOT / "configs" / "demo.yaml"
STEPS = [0, 3, 6, 9]


def read_curves(run: Path, split: str) -> dict[str, list[tuple[int, float]]]:
    """Return the steps and values of TensorBoard's scalars."""
    events = EventAccumulator(str(run / "tensorboard" / split))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)]
            for tag in events.Tags()["scalars"]}  # fmt: skip


def load(run: Path, name: str) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(run / "checkpoints" / name, weights_only=True)
    return checkpoint


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the folder of the images and the folder of a finished run on them, to be read only."""
    home = tmp_path_factory.mktemp("trained")
    root, run = make_splits(home / "images", train=12, val=7, test=5), home / "runs" / "small"
    with pytest.MonkeyPatch.context() as patch, calling(patch, None) as call:
        assert call("train", CONFIG, f"data.root={root}", *SMALL, "--output-dir", run).code == 0
    return root, run


def test_a_run_has_the_files_that_the_readme_lists(trained: tuple[Path, Path]) -> None:
    _, run = trained
    for name in ("config.yaml", "environment.json", "splits.csv", "metrics.jsonl", "log.txt",
                 "checkpoints/best.pt", "checkpoints/last.pt", "label_issues.csv", "report.html",
                 "MODEL_CARD.md", "evaluations/images-val/metrics.json"):  # fmt: skip
        assert (run / name).stat().st_size, name
    assert not list(run.rglob("*.tmp"))
    rows = read_rows(run)
    assert [(row["epoch"], row["step"]) for row in rows] == list(enumerate(STEPS))


def test_train_and_val_share_their_charts_from_step_0(trained: tuple[Path, Path]) -> None:
    _, run = trained
    curves = {split: read_curves(run, split) for split in ("train", "val")}
    shared = {"loss", "accuracy", "macro_recall", *(f"recall/{name}" for name in CLASSES)}
    final = {f"best/{name}" for name in ("macro_recall", "accuracy", "loss", "calibrated_loss",
                                          "ece", "best_epoch")}  # fmt: skip
    assert set(curves["val"]) == shared | {"calibrated_loss", "temperature", "ece"} | final
    assert set(curves["train"]) == shared | {"learning_rate", "images_per_second", "gradient_norm"}
    for split in curves:
        for tag in shared:
            assert [step for step, _ in curves[split][tag]] == STEPS
        values = [row[split]["loss"] for row in read_rows(run)]
        assert [value for _, value in curves[split]["loss"]] == pytest.approx(values, rel=1e-6)


@contextmanager
def tensorboard(runs: Path) -> Iterator[str]:
    """Serve runs to a browser; yield the address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", "--logdir", runs, "--host", "127.0.0.1",
         "--port", "0", "--load_fast", "false"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        matches = (re.search(r"http://\S+:\d+/", line) for line in process.stderr)
        yield next(match[0] for match in matches if match)
    finally:
        process.kill()
        process.communicate()


def test_every_page_of_tensorboard_is_filled(trained: tuple[Path, Path]) -> None:
    _, run = trained
    best = load(run, "best.pt")["metrics"]
    with tensorboard(run.parent) as address, chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(60_000)

        def wait(name: str, what: str, num: int = 1) -> Locator:
            """Open a page and wait until it has so many elements of a kind."""
            page.goto(f"{address}#{name}")
            elements = page.locator(what)
            elements.nth(num - 1).wait_for(state="attached")
            return elements

        lines = wait("scalars&tagFilter=%5Eloss%24", "tf-scalar-card path.line[d^=M]", 4)
        colors = lines.evaluate_all("all => all.map(line => getComputedStyle(line).stroke)")
        assert len(set(colors)) == 2  # each run's line, and a faint one without smoothing
        for split in ("train", "val"):
            page.get_by_text(f"small/tensorboard/{split}").first.wait_for()
        wait("custom_scalars", "tf-custom-scalar-multi-line-chart-card path.line[d^=M]", 12)
        wait("images", "tf-image-loader img[src]", 5)
        wait("histograms", "tf-histogram-loader path", 10)
        wait("text", "tf-text-loader td", 20)
        wait("pr_curves", "tf-pr-curve-card path.line[d^=M]", 3)
        wait("hparams", f"tf-hparams-table-view >> text={best['macro_recall']:.5g}")


def test_evaluating_val_repeats_the_metrics_of_the_checkpoints_epoch(
    trained: tuple[Path, Path], call: Call, tmp_path: Path
) -> None:
    root, run = trained
    row = read_rows(run)[load(run, "best.pt")["epoch"]]["val"]
    assert call("evaluate", run, root, "--split", "val", "--output-dir", tmp_path).code == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["nll"] == row["calibrated_loss"]
    for name in ("temperature", "accuracy", "macro_recall"):
        assert metrics[name] == row[name]
    for name in CLASSES:
        assert metrics["per_class"][name]["recall"] == row[f"recall/{name}"]
    assert sum(map(sum, metrics["confusion_matrix"])) == 21
