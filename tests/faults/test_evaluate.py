"""The rows of the fault matrix on evaluate; tests/evaluation/ has more cases of each."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from calls import Call, Done
from faults.tiny import assert_refused, read_probabilities, read_rows
from hostile import photo
from images import CLASSES, draw_shape, encode
from neither.inference import classifier
from scripts import ROOT, permissions_apply


def evaluate(call: Call, home: Path, scored: Path) -> Done:
    return call("evaluate", home / "run", scored, "--output-dir", home / "out")


def results(home: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    return json.loads((home / "out/metrics.json").read_text()), read_rows(
        home / "out/predictions.csv"
    )


def make_folder(folder: Path, *labels: str, num: int = 3) -> Path:
    for label in labels:
        (folder / label).mkdir(parents=True)
        for number in range(num):
            draw_shape(label, 50 + number).save(folder / label / f"{number}.png")
    return folder


@pytest.mark.fault("E01", "E04", "E06", "E09", "E13")
def test_what_cannot_be_evaluated_has_its_exit_code(home: Path, call: Call) -> None:
    (home / "empty").mkdir()
    assert_refused(evaluate(call, home, home / "empty"), 3, str(home / "empty"))
    assert_refused(evaluate(call, home, home / "imagse"), 2, f"did you mean {home / 'images'}?")
    scored = make_folder(home / "scored", "dog")
    inside = call("evaluate", home / "run", scored, "--output-dir", scored / "out")
    assert_refused(inside, 2, str(scored))
    (home / "taken").write_text("a file")
    taken = call("evaluate", home / "run", scored, "--output-dir", home / "taken")
    assert_refused(taken, 6, str(home / "taken"))
    scored.chmod(0)
    with permissions_apply():
        assert_refused(evaluate(call, home, scored), 6, str(scored))
    scored.chmod(0o755)
    assert not (home / "out").exists()

    for path in (scored / "dog").iterdir():
        path.write_text("no image")
    done = evaluate(call, home, scored)
    assert (done.code, "Traceback" in done.err) == (3, False)
    assert [(row["status"], bool(row["error"])) for row in results(home)[1]] == [
        ("unreadable", True)
    ] * 3


@pytest.mark.fault("E02", "E03", "E05", "E07", "E08")
def test_any_folder_of_images_is_evaluated_with_equal_probabilities(home: Path, call: Call) -> None:
    scored = make_folder(home / "scored", "dog", "neither", "teapot", num=40)
    (scored / "dog" / "bad.jpg").write_bytes(b"")
    done = evaluate(call, home, scored)
    assert done.code == 3, done.err
    assert "bad.jpg: empty file" in done.err
    metrics, rows = results(home)
    assert [row["path"] for row in rows if row["status"] == "unreadable"] == ["dog/bad.jpg"]
    assert (len(rows), metrics["num_unreadable"]) == (121, 1)
    assert metrics["out_of_distribution"]["teapot"]["num_images"] == 40
    assert "recall" not in metrics["per_class"]["human"]
    assert sum(map(sum, metrics["confusion_matrix"])) == 80
    probabilities = read_probabilities(home / "out")

    assert evaluate(call, home, scored / "teapot").code == 0  # no class folder: no labels
    metrics, rows = results(home)
    assert "accuracy" not in metrics
    assert {row["true_label"] for row in rows} == {""}
    assert read_probabilities(home / "out") == {
        path.removeprefix("teapot/"): row
        for path, row in probabilities.items()
        if path.startswith("teapot/")
    }
    assert evaluate(call, home, scored / "dog" / "7.png").code == 0
    alone = read_probabilities(home / "out")
    assert alone == {"7.png": probabilities["dog/7.png"]}
    assert sum(map(float, alone["7.png"])) == pytest.approx(1, abs=2e-6)


@pytest.mark.fault("E10")
@pytest.mark.parametrize("after", [0, 5])
def test_an_evaluation_that_is_cut_off_leaves_the_old_results(
    after: int, home: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = make_folder(home / "scored", *CLASSES)
    assert evaluate(call, home, scored).code == 0
    before = {path.name: path.read_bytes() for path in (home / "out").iterdir()}
    predict_files, number = classifier.Classifier.predict_files, 0

    def cut_off(*arguments: Any) -> Any:  # noqa: ANN401
        nonlocal number
        for result in predict_files(*arguments):
            if number == after:
                raise OSError(28, os.strerror(28), "predictions.csv")
            number += 1
            yield result

    monkeypatch.setattr(classifier.Classifier, "predict_files", cut_off)
    assert_refused(evaluate(call, home, scored), 6, os.strerror(28))
    assert {path.name: path.read_bytes() for path in (home / "out").iterdir()} == before


@pytest.mark.fault("E12")
def test_a_large_photo_is_scored_as_in_training_in_little_memory(home: Path, call: Call) -> None:
    large = photo(3, 6000, 4000)
    scored = home / "scored"
    scored.mkdir()
    (scored / "wide.jpg").write_bytes(encode(large, "JPEG", quality=95))
    (scored / "tall.jpg").write_bytes(encode(large.transpose(Image.Transpose.ROTATE_90), "JPEG"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    done = evaluate(call, home, scored)
    assert [row["status"] for row in results(home)[1]] == ["ok", "ok"], done.err
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


@pytest.mark.fault("R05")
def test_a_closed_standard_output_costs_only_what_is_shown(
    home: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = make_folder(home / "scored", "dog")
    monkeypatch.setattr(sys, "stdout", None)  # as Python does where it is closed from the start
    assert evaluate(call, home, scored).code == 0
    assert len(read_rows(home / "out" / "predictions.csv")) == 3


@pytest.mark.fault("R27", "R28", "R29")
def test_no_locale_no_home_no_terminal_no_user_name(home: Path) -> None:
    """As in a container with an unknown user id; and from another folder, with warnings fatal."""
    scored = make_folder(home / "scored", "d\u00f6g", "dog")
    (scored / "dog" / "\N{DOG FACE} bad.jpg").write_text("no image")
    program = (
        "import pwd, sys\n"
        "from neither.cli import evaluate, train\n"
        "from neither.training import summaries\n"
        "from neither.reporting import html\n"
        "summaries.log_run = summaries.log_epoch = lambda *_: None\n"  # most of the time
        "html._draw_plots = lambda *_: {}\n"
        "def unknown(*_): raise KeyError('uid not found')\n"
        "pwd.getpwuid = pwd.getpwnam = unknown\n"
        "sys.argv = 'train tiny.yaml --output-dir new'.split()\n"
        "assert train.main() == 0\n"
        "sys.argv = 'evaluate new scored --output-dir out'.split()\n"
        "raise SystemExit(evaluate.main())\n"
    )
    bare = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "TERM": "dumb", "COLUMNS": "1",
            "PYTHONUTF8": "0", "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT / "src")}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], env=bare, cwd=home,
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert "Matplotlib" not in done.stderr
    assert " bad.jpg: " in done.stderr
    assert done.stderr.isascii()
    assert [row["true_label"] for row in results(home)[1]].count("d\u00f6g") == 3
