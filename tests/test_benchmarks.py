"""The benchmarks still run; their results are for people to read."""

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import across_sources
import certify
import choices
import many_files
import pytest
import softmax
import temperatures
import torch

from calls import Call
from neither.config.schema import Config
from neither.data.dataset import Dataset, Split
from neither.data.preprocessing import Preprocessing
from neither.evaluation.calibration import fit_temperature
from neither.evaluation.metrics import nll

Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs a benchmark in the test's folder and returns its figures."""
    monkeypatch.chdir(tmp_path)

    def run(benchmark: ModuleType, *arguments: str | Path, result: str = "") -> Any:  # noqa: ANN401
        name = benchmark.__name__
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        benchmark.main()
        content = json.loads(Path(f"runs/benchmarks/{result or name}.json").read_text())
        assert content["versions"]["torch"]
        return content["figures"]

    return run


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "name: tiny\nclasses: [dog, human, neither]\nreject_class: neither\n"
        "data: {root: x, image_size: 32}\nmodel: {width: 8}\n"
        "train: {epochs: 2, warmup_epochs: 0, validate_every_epochs: 2, batch_size: 8}\n"
    )
    return path


def test_many_files_measures_a_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, num in (("images", 150), ("few", 120)):
        many_files.make(tmp_path / name, num)
    many_files.load(tmp_path / "images", tmp_path)
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_across_sources_trains_and_scores(
    make_images: Callable[..., Path], config: Path, run: Run, call: Call, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    rows = [f"{path.relative_to(tmp_path)},{path.parent.name},{path.parts[-3]}"
            for path in sorted(make_images().rglob("*.png"))]  # fmt: skip
    (tmp_path / "half.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")

    def call_here(script: str, *arguments: str) -> None:
        done = call(Path(script).stem, *arguments)
        assert done.code == 0, done.err

    monkeypatch.setattr(across_sources, "call", call_here)
    (row,) = run(across_sources, config, "half.csv", "--seeds", "3")["rows"]
    assert row["seed"] == 3
    assert 0 <= row["macro_recall"] <= 1
    assert row["num_images"] == sum(each.endswith("test") for each in rows)


def test_choices_scores_four_networks_of_a_run(
    make_images: Callable[..., Path], config: Path, run: Run
) -> None:
    figures = run(choices, config, make_images(), "--seeds", "3", "--hard", ".",
                  result="choices-hard")  # fmt: skip
    rows = {row["choice"]: row for row in figures["rows"]}
    assert tuple(rows) == choices.CHOICES
    assert rows["last"]["val_nll"] != rows["last, not averaged"]["val_nll"]
    assert all(0 <= row["macro_recall"] <= 1 and row["nll"] > 0 for row in rows.values())


def test_softmax_tries_each_property_of_the_tests(run: Run) -> None:
    figures = run(softmax, "--batches", "2")
    assert len(figures) > 8
    assert {row["batches"] for row in figures.values()} == {2}


def test_hard_negatives_are_drawn_twice_as_often_and_classes_keep_their_size() -> None:
    paths = [f"dog/{n}" for n in range(9)] + [f"neither/{n}" for n in range(6)]
    paths += [f"neither/cat{n}" for n in range(3)]
    labels = torch.tensor([0] * 9 + [2] * 9)
    split = Split(paths, torch.arange(100, 118), labels)
    data = Dataset(torch.zeros(0), split, split, (), Preprocessing(8), "")
    config = Config.model_validate({
        "name": "x", "classes": ("dog", "human", "neither"), "reject_class": "neither",
        "data": {"root": "x"}, "train": {"epochs": 2},
    })  # fmt: skip
    train = choices.harder(lambda: data, config, "cat")().train
    assert train.labels.bincount().tolist() == [18, 0, 18]
    drawn = Counter(train.paths)
    assert {drawn[f"dog/{n}"] for n in range(9)} == {2}
    hard = sum(drawn[f"neither/cat{n}"] for n in range(3))
    assert hard == 9  # of 18: a third of the class, twice as often as the rest
    assert all(train.rows[index] == 100 + paths.index(path)
               for index, path in enumerate(train.paths))  # fmt: skip
    assert choices.harder(lambda: data, config, None)() is data


def test_temperatures_includes_the_fit_of_the_product(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(1)
    logits, labels = temperatures.draw((2.4, 0, 0), 200, generator)
    assert temperatures.held(3)(logits, labels) == fit_temperature(logits, labels)
    alone = temperatures.held(0)(logits, labels)
    assert nll(logits, labels, alone) < nll(logits, labels, temperatures.held(10)(logits, labels))
    confident = 9.0 * torch.eye(3)[labels].double()
    assert (
        temperatures.held(0)(confident, labels)
        < 0.1
        < temperatures.laplace(confident / 4, labels)
        < 1
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["temperatures.py", "--draws", "1"])
    monkeypatch.setattr(temperatures, "SIZES", (20,))
    monkeypatch.setattr(temperatures, "RIGHT", (0.6,))
    temperatures.main()
    assert len(capsys.readouterr().out.splitlines()) == len(temperatures.WORLDS) + 3


def test_certified_thresholds_are_scored_beside_those_that_look_right(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certify, "NUM_OTHERS", 5000)
    monkeypatch.setattr(certify, "ACCURACIES", (0.95,))
    rows = run(certify, "--draws", "5")["rows"]
    assert len(rows) == 3 * 4
    for row in rows:  # a hundred predictions certify nothing; three thousand always do
        if row["n"] == 100:
            assert row["certified"] == {"found": 0}
        if row["n"] == 3000:
            assert row["certified"]["found"] == 1
            assert row["certified"]["coverage"] > 0.8
        assert row["looks_right"]["found"] == 1
