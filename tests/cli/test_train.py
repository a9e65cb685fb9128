"""What a run was trained on, and the command that it prints for evaluating it."""

import shutil
from collections import Counter
from pathlib import Path

import pytest

from calls import Call
from cli.runs import (
    CONFIG,
    SMALL,
    make_flat,
    printed_command,
    results,
    run_printed,
    source_keys,
    splits_of,
    train,
    write_manifest,
)
from images import draw_shape, make_splits

pytestmark = pytest.mark.usefixtures("no_plots")

Flat = tuple[Path, Path, str]


def test_the_printed_command_scores_the_test_split_of_a_flat_folder(call: Call, flat: Flat) -> None:
    _, run, command = flat
    assert command.endswith(" --split test")
    done = run_printed(call, command)
    assert done.code == 0, done.err
    assert "used for training" not in done.err
    metrics, rows = results(run / "evaluations" / "photos-test")
    test = {path for path, split in splits_of(run).items() if split == "test"}
    assert set(rows) == test
    assert len(test) > 3
    assert metrics["num_images"] == sum(map(sum, metrics["confusion_matrix"])) == len(test)
    assert all(row["true_label"] == path.split("/")[0] for path, row in rows.items())


@pytest.mark.parametrize("splits", [("train", "val"), ("train", "test")])
def test_folders_without_all_splits(call: Call, tmp_path: Path, splits: tuple[str, ...]) -> None:
    root, run = make_splits(tmp_path / "photos", train=20, val=6, test=5), tmp_path / "run"
    for missing in {"train", "val", "test"} - {*splits}:
        shutil.rmtree(root / missing)
    done = run_printed(call, train(call, root, run, "data.val_fraction=0.4"))
    assert done.code == 0, done.err
    assert "used for training" not in done.err
    scored = "test" if "test" in splits else "val"
    metrics, _ = results(run / "evaluations" / f"photos-{scored}")
    assert metrics["num_images"] == Counter(splits_of(run).values())[scored] > 0
    if "val" not in splits:  # the run split it from images in the train folder
        done = call("evaluate", run, root, "--split", "val", "--output-dir", tmp_path / "val")
        assert done.code == 0, done.err
        assert "used for training" not in done.err
        assert all(path.startswith("train/") for path in results(tmp_path / "val")[1])


def test_a_manifest_without_splits_is_trained_on_and_evaluated(call: Call, tmp_path: Path) -> None:
    root, run = make_flat(tmp_path / "photos"), tmp_path / "run"
    manifest = write_manifest(tmp_path / "photos.csv", root)
    done = run_printed(call, train(call, manifest, run))
    assert done.code == 0, done.err
    assert "used for training" not in done.err
    metrics, rows = results(run / "evaluations" / "photos.csv-test")
    assert set(rows) == {path for path, split in splits_of(run).items() if split == "test"}
    assert metrics["num_images"] > 3
    # The folder of the same images: the run recognises them by their hashes.
    for name, source in (("all", manifest), ("folder", root)):
        done = call("evaluate", run, source, "--output-dir", tmp_path / name)
        assert "used for training" in done.err
    assert results(tmp_path / "all")[0] == results(tmp_path / "folder")[0]


def test_a_manifest_with_splits_is_trained_on_and_evaluated(call: Call, tmp_path: Path) -> None:
    root, run = make_splits(tmp_path / "photos", train=10, val=5, test=4), tmp_path / "run"
    manifest = write_manifest(tmp_path / "photos.csv", root, "path,label,split")
    command = train(call, manifest, run)
    assert command == f"python scripts/evaluate.py {run} {manifest}"
    done = run_printed(call, command)
    assert done.code == 0, done.err
    metrics, rows = results(run / "evaluations" / f"{tmp_path.name}-photos.csv")
    assert metrics["num_images"] == 12
    assert all(path.startswith("photos/test/") for path in rows)
    for split, num in (("val", 15), ("train", 30)):
        done = call("evaluate", run, manifest, "--split", split, "--output-dir", tmp_path / split)
        assert results(tmp_path / split)[0]["num_images"] == num
        assert ("30 of these 30 images" in done.err) == (split == "train")


@pytest.mark.parametrize("key", ["root", "manifest"])
def test_missing_images_leave_no_run_folder(call: Call, tmp_path: Path, key: str) -> None:
    (tmp_path / "photos").mkdir()
    source = tmp_path / ("photoz" if key == "root" else "photoz.csv")
    done = call("train", CONFIG, *source_keys(source), *SMALL, "--output-dir", tmp_path / "run")
    assert done.code == 2
    assert f"data.{key}=" in done.err.splitlines()[-1]
    assert ("did you mean" in done.err) == (key == "root")
    assert not (tmp_path / "run").exists()


@pytest.mark.fault("K16")
def test_a_finished_run_prints_its_command_again(call: Call, flat: Flat, tmp_path: Path) -> None:
    root, run, command = flat
    keys = (*SMALL, "train.epochs=1", "--output-dir", run)
    before = (run / "checkpoints" / "last.pt").read_bytes()
    done = call("train", CONFIG, *source_keys(root), *keys)
    assert (done.code, printed_command(done.out)) == (0, command)
    assert (run / "checkpoints" / "last.pt").read_bytes() == before
    others = {"dog": "human", "human": "neither", "neither": "dog"}
    for other in (
        make_flat(tmp_path / "other", 20, **others),  # other images under the same names
        write_manifest(root.parent / "p.csv", root),
    ):
        done = call("train", CONFIG, *source_keys(other), *keys)
        assert done.code == 2
        assert str(root) in done.err
        assert str(other) in done.err


def test_a_finished_run_knows_its_moved_images_and_counts_added_ones(
    call: Call, flat: Flat, tmp_path: Path
) -> None:
    root, run, command = flat
    moved, keys = tmp_path / "moved", (*SMALL, "train.epochs=1", "--output-dir", run)
    shutil.copytree(root, moved)
    done = call("train", CONFIG, *source_keys(moved), *keys)
    assert done.code == 0, done.err
    assert printed_command(done.out) == command.replace(str(root), str(moved))
    assert "added" not in done.err
    for number in range(3):
        draw_shape("dog", 800 + number).save(moved / "dog" / f"new{number}.png")
    done = call("train", CONFIG, *source_keys(moved), *keys)
    assert (done.code, "3 images were added" in done.err, "--fresh" in done.err) == (0, True, True)
