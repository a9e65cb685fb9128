"""Train, evaluate and look at the results, through the scripts, as a user does."""

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Locator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from browser import chromium
from images import make_splits
from scripts import ROOT, run_script, start_script

SMALL = ("train.epochs=3", "train.batch_size=16", "model.width=8", "data.image_size=32",
         "train.validate_every_epochs=1")  # fmt: skip
CONFIG = ROOT / "configs" / "photos_quick.yaml"
CLASSES = ["dog", "human", "neither"]


def train(root: Path, run: Path, *more: str) -> None:
    done = run_script("train", CONFIG, f"data.root={root}", *SMALL, *more, "--output-dir", run)
    assert done.returncode == 0, done.stderr


def evaluate(*arguments: str | Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    *_, folder = arguments
    done = run_script("evaluate", *arguments[:-1], "--output-dir", folder)
    assert done.returncode == 0, done.stderr
    return read_results(Path(folder))


def read_results(folder: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    with (folder / "predictions.csv").open(newline="") as file:
        return json.loads((folder / "metrics.json").read_text()), list(csv.DictReader(file))


def read_rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def read_curves(run: Path, split: str) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(run / "tensorboard" / split))
    events.Reload()
    tags: list[str] = events.Tags()["scalars"]
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in tags}


def read_steps(run: Path, split: str) -> dict[str, list[int]]:
    """Return the steps of everything that TensorBoard shows, by kind and tag."""
    everything = dict.fromkeys(("tensors", "images", "histograms"), 0)
    events = EventAccumulator(str(run / "tensorboard" / split), everything)
    events.Reload()
    kinds = {"scalars": events.Scalars, "images": events.Images, "tensors": events.Tensors,
             "histograms": events.Histograms}  # fmt: skip
    return {
        f"{kind}/{tag}": [event.step for event in read(tag)]
        for kind, read in kinds.items()
        for tag in events.Tags()[kind]
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the folder of the images and the folder of a finished run on them; for reading."""
    home = tmp_path_factory.mktemp("trained")
    root, run = make_splits(home / "images", train=12, val=7, test=5), home / "runs" / "small"
    train(root, run)
    return root, run


def test_a_run_leaves_everything_that_the_readme_promises(trained: tuple[Path, Path]) -> None:
    _, run = trained
    for name in ("config.yaml", "environment.json", "splits.csv", "metrics.jsonl", "log.txt",
                 "checkpoints/best.pt", "checkpoints/last.pt", "label_issues.csv", "report.html",
                 "evaluations/images-val/metrics.json"):  # fmt: skip
        assert (run / name).stat().st_size, name
    assert not list(run.rglob("*.tmp"))
    rows = read_rows(run)
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]
    assert [row["step"] for row in rows] == [0, 3, 6, 9]


def test_train_and_val_share_their_charts_from_step_zero_on(trained: tuple[Path, Path]) -> None:
    _, run = trained
    curves = {split: read_curves(run, split) for split in ("train", "val")}
    shared = {"loss", "accuracy", "macro_recall", *(f"recall/{name}" for name in CLASSES)}
    final = {f"best/{name}" for name in ("macro_recall", "accuracy", "loss", "calibrated_loss",
                                          "ece", "best_epoch")}  # fmt: skip
    assert set(curves["val"]) == shared | {"calibrated_loss", "temperature", "ece"} | final
    assert set(curves["train"]) == shared | {
        "learning_rate",
        "images_per_second",
        "gradient_norm",
    }
    for split in curves:
        for tag in shared:
            assert [step for step, _ in curves[split][tag]] == [0, 3, 6, 9]
        values = [row[split]["loss"] for row in read_rows(run)]
        assert [value for _, value in curves[split]["loss"]] == pytest.approx(values, rel=1e-6)


@contextmanager
def tensorboard(runs: Path) -> Iterator[str]:
    """Serve runs to a browser; give the address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", "--logdir", runs, "--host", "127.0.0.1",
         "--port", "0", "--load_fast", "false"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        said = iter(process.stderr)
        yield next(found[0] for line in said if (found := re.search(r"http://\S+:\d+/", line)))
    finally:
        process.kill()
        process.communicate()


def test_every_page_of_tensorboard_is_filled(trained: tuple[Path, Path]) -> None:
    _, run = trained
    best = torch.load(run / "checkpoints" / "best.pt", weights_only=True)["metrics"]
    with tensorboard(run.parent) as address, chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(60_000)

        def wait(name: str, what: str, num: int = 1) -> Locator:
            """Open a page and wait until it has so many elements of a kind."""
            page.goto(f"{address}#{name}")
            found = page.locator(what)
            found.nth(num - 1).wait_for(state="attached")
            return found

        lines = wait("scalars&tagFilter=%5Eloss%24", "tf-scalar-card path.line[d^=M]", 4)
        colours = lines.evaluate_all("all => all.map(line => getComputedStyle(line).stroke)")
        assert len(set(colours)) == 2  # each run's line, and a faint one without smoothing
        for split in ("train", "val"):
            page.get_by_text(f"small/tensorboard/{split}").first.wait_for()
        wait("custom_scalars", "tf-custom-scalar-multi-line-chart-card path.line[d^=M]", 12)
        wait("images", "tf-image-loader img[src]", 5)
        wait("histograms", "tf-histogram-loader path", 10)
        wait("text", "tf-text-loader td", 20)
        wait("pr_curves", "tf-pr-curve-card path.line[d^=M]", 3)
        wait("hparams", f"tf-hparams-table-view >> text={best['macro_recall']:.5g}")


def test_evaluating_val_gives_the_digits_of_the_checkpoints_own_epoch(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    root, run = trained
    epoch = torch.load(run / "checkpoints" / "best.pt", weights_only=True)["epoch"]
    row = read_rows(run)[epoch]["val"]
    metrics, _ = evaluate(run, root, "--split", "val", tmp_path / "results")
    assert metrics["nll"] == row["calibrated_loss"]
    assert metrics["temperature"] == row["temperature"]
    assert metrics["accuracy"] == row["accuracy"]
    assert metrics["macro_recall"] == row["macro_recall"]
    for name in CLASSES:
        assert metrics["per_class"][name]["recall"] == row[f"recall/{name}"]
    assert sum(map(sum, metrics["confusion_matrix"])) == 21


def test_evaluate_scores_the_test_split_and_writes_into_the_run(
    trained: tuple[Path, Path],
) -> None:
    root, run = trained
    done = run_script("evaluate", run, root)
    assert done.returncode == 0, done.stderr
    metrics, rows = read_results(run / "evaluations" / "images-test")
    assert metrics["num_images"] == len(rows) == 15
    assert metrics["num_unreadable"] == 0
    assert [row["path"] for row in rows] == sorted(
        path.relative_to(root / "test").as_posix() for path in root.glob("test/*/*")
    )
    for row in rows:
        probabilities = [float(row[f"prob_{name}"]) for name in CLASSES]
        assert sum(probabilities) == pytest.approx(1, abs=2e-6)
        assert CLASSES[probabilities.index(max(probabilities))] == row["predicted"]
        sure = max(probabilities) >= round(metrics.get("threshold", 0), 6)
        assert row["decision"] == (row["predicted"] if sure else "unsure")
        assert row["true_label"] == row["path"].split("/")[0]


def test_two_evaluations_give_the_same_bytes(trained: tuple[Path, Path], tmp_path: Path) -> None:
    root, run = trained
    for name in ("one", "other"):
        evaluate(run, root, tmp_path / name)
    for name in ("metrics.json", "predictions.csv", "report.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_a_flat_folder_gets_the_same_probabilities_and_no_accuracy(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    root, run = trained
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in root.glob("test/*/*"):
        shutil.copy(path, flat / f"{path.parent.name}_{path.name}")
    _, labelled = evaluate(run, root, tmp_path / "one")
    metrics, unlabelled = evaluate(run, flat, tmp_path / "other")
    assert metrics.keys() - {"threshold"} == {
        "schema_version", "num_images", "num_unreadable", "classes", "reject_class", "temperature",
        "unlabelled",
    }  # fmt: skip
    assert metrics["unlabelled"]["num_images"] == 15
    expected = {row["path"].replace("/", "_"): row["prob_dog"] for row in labelled}
    assert {row["path"]: row["prob_dog"] for row in unlabelled} == expected
    assert {row["true_label"] for row in unlabelled} == {""}


def test_one_file_is_one_row(trained: tuple[Path, Path], tmp_path: Path) -> None:
    root, run = trained
    _, rows = evaluate(run, root / "test" / "dog" / "000.png", tmp_path / "results")
    assert [row["path"] for row in rows] == ["000.png"]


def test_foreign_folders_stay_out_of_accuracy(trained: tuple[Path, Path], tmp_path: Path) -> None:
    root, run = trained
    unseen = tmp_path / "unseen"
    shutil.copytree(root / "val" / "dog", unseen / "teapots")
    plain, _ = evaluate(run, root, tmp_path / "plain")
    metrics, rows = evaluate(run, root, "--unseen", unseen, tmp_path / "more")
    foreign = metrics.pop("out_of_distribution")
    assert foreign["teapots"]["num_images"] == sum(foreign["teapots"]["decided"].values()) == 7
    assert metrics.pop("num_images") == plain.pop("num_images") + 7
    assert metrics == plain
    assert [row["true_label"] for row in rows[-7:]] == ["teapots"] * 7
    assert (root / "test" / rows[-1]["path"]).resolve().is_file()


def test_an_unreadable_file_has_its_row_and_exit_code_3(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    root, run = trained
    folder = tmp_path / "copy"
    shutil.copytree(root / "test", folder)
    (folder / "dog" / "001.png").write_bytes(b"<html>404</html>")
    done = run_script("evaluate", run, folder, "--output-dir", tmp_path / "results")
    assert done.returncode == 3
    metrics, rows = read_results(tmp_path / "results")
    assert (metrics["num_images"], metrics["num_unreadable"]) == (14, 1)
    assert [row["path"] for row in rows if row["status"] == "unreadable"] == ["dog/001.png"]


def test_a_finished_run_says_where_it_lies(trained: tuple[Path, Path]) -> None:
    root, run = trained
    before = (run / "checkpoints" / "last.pt").read_bytes()
    done = run_script("train", CONFIG, f"data.root={root}", *SMALL, "--output-dir", run)
    assert done.returncode == 0
    assert "finished" in done.stderr
    assert str(run) in done.stdout
    assert (run / "checkpoints" / "last.pt").read_bytes() == before


def test_a_finished_run_is_not_shown_for_other_images(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    root, run = trained
    other = tmp_path / "other"
    shutil.copytree(root, other)
    done = run_script("train", CONFIG, f"data.root={other}", *SMALL, "--output-dir", run)
    assert done.returncode == 2
    assert f"was trained on {root}, not {other}" in done.stderr


def test_a_run_in_the_current_folder_can_be_started_over(
    make_images: Callable[..., Path], tmp_path: Path
) -> None:
    root, run = make_images(), tmp_path / "run"
    run.mkdir()
    arguments = (CONFIG, f"data.root={root}", *SMALL, "train.epochs=0", "--output-dir", ".")
    assert run_script("train", *arguments, cwd=run).returncode == 0
    done = run_script("train", *arguments, "--fresh", cwd=run)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run.1" / "checkpoints" / "best.pt").exists()


def test_images_that_were_trained_on_are_told(trained: tuple[Path, Path], tmp_path: Path) -> None:
    root, run = trained
    output = ("--output-dir", tmp_path / "results")
    done = run_script("evaluate", run, root, "--split", "train", *output)
    assert "36 of these 36 images were trained on" in done.stderr
    assert "trained on" not in run_script("evaluate", run, root, *output).stderr


def test_another_config_for_the_same_folder_is_refused_with_the_difference(
    trained: tuple[Path, Path],
) -> None:
    root, run = trained
    done = run_script(
        "train", CONFIG, f"data.root={root}", *SMALL, "train.lr=0.2", "--output-dir", run
    )
    assert done.returncode == 2
    assert "train.lr: 0.02 became 0.2" in done.stderr
    assert "--fresh" in done.stderr


def test_the_resolved_config_repeats_the_run(trained: tuple[Path, Path], tmp_path: Path) -> None:
    _, run = trained
    again = tmp_path / "again"
    done = run_script("train", run / "config.yaml", "--output-dir", again)
    assert done.returncode == 0, done.stderr
    one, other = (
        torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["weights"]
        for folder in (run, again)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.fault("R02", "R26")
def test_a_killed_run_ends_in_the_same_weights(
    make_images: Callable[..., Path], tmp_path: Path
) -> None:
    root = make_images(train=12, val=7, test=5)
    arguments = (CONFIG, f"data.root={root}", *SMALL, "train.epochs=12")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run_script("train", *arguments, "--output-dir", whole).returncode == 0
    for epoch in (1, 4):
        process = start_script("train", *arguments, "--output-dir", killed)
        rows = killed / "metrics.jsonl"
        while not (rows.exists() and f'"epoch": {epoch},' in rows.read_text()):
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        process.kill()
        process.wait()
    assert run_script("train", *arguments, "--output-dir", killed).returncode == 0
    one, other = (
        torch.load(run / "checkpoints" / "last.pt", weights_only=True) for run in (whole, killed)
    )
    for part in (one["weights"], one["training"]["network"]):
        twin = other["weights"] if part is one["weights"] else other["training"]["network"]
        assert all(torch.equal(part[name], twin[name]) for name in part)
    assert (whole / "label_issues.csv").read_bytes() == (killed / "label_issues.csv").read_bytes()
    for split in ("train", "val"):
        shown = {run: read_steps(run, split) for run in (whole, killed)}
        assert shown[killed] == shown[whole]  # so none twice
        curves = {run: read_curves(run, split) for run in (whole, killed)}
        assert [step for step, _ in curves[killed]["loss"]] == list(range(0, 39, 3))
        assert curves[killed]["loss"] == curves[whole]["loss"]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)]
)
def test_a_signal_saves_the_state_and_ends_with_its_code(
    number: signal.Signals, code: int, make_images: Callable[..., Path], tmp_path: Path
) -> None:
    root, run = make_images(train=12), tmp_path / "run"
    arguments = (CONFIG, f"data.root={root}", *SMALL, "train.epochs=100000", "--output-dir", run)
    process = start_script("train", *arguments)
    while not (run / "checkpoints" / "last.pt").exists():
        assert process.poll() is None, "it ended before it could be stopped"
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(timeout=60) == code
    assert torch.load(run / "checkpoints" / "last.pt", weights_only=True)["training"] is not None
