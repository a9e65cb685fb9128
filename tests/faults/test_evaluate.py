"""The rows of the fault matrix on evaluate."""

import csv
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from calls import Call, Done
from faults.tiny import assert_refused, read_scores
from hostile import photo
from images import draw_shape, encode
from neither.inference import classifier
from scripts import ROOT, run_script


def evaluate(call: Call, home: Path, scored: Path, *more: str | Path) -> Done:
    return call("evaluate", home / "run", scored, "--output-dir", home / "out", *more)


def rows(home: Path) -> list[dict[str, str]]:
    with (home / "out" / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def metrics(home: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((home / "out" / "metrics.json").read_text())
    return content


def make_flat(folder: Path, *labels: str, num: int = 3) -> Path:
    for label in labels:
        (folder / label).mkdir(parents=True)
        for number in range(num):
            draw_shape(label, 50 + number).save(folder / label / f"{number}.png")
    return folder


@pytest.mark.fault("E01")
def test_an_empty_folder_is_an_error_and_leaves_no_results(home: Path, call: Call) -> None:
    (home / "empty").mkdir()
    assert_refused(evaluate(call, home, home / "empty"), 3, f"{home / 'empty'}", "no images")
    assert not (home / "out" / "metrics.json").exists()


@pytest.mark.fault("E02")
def test_a_folder_without_class_folders_is_predicted_without_figures(
    home: Path, call: Call
) -> None:
    flat = make_flat(home / "flat", "holiday", "garden")
    done = evaluate(call, home, flat)
    assert done.code == 0, done.err
    assert "no image has a class as its label, so there is no accuracy" in done.out
    assert len(rows(home)) == 6
    assert "accuracy" not in metrics(home)


@pytest.mark.fault("E03")
def test_one_file_is_one_row_whose_probabilities_sum_to_one(home: Path, call: Call) -> None:
    draw_shape("dog", 7).save(home / "one.png")
    done = evaluate(call, home, home / "one.png")
    assert done.code == 0, done.err
    (row,) = rows(home)
    assert sum(float(row[f"prob_{name}"]) for name in ("dog", "human", "neither")) == pytest.approx(
        1, abs=2e-6
    )


@pytest.mark.fault("E04")
def test_a_slip_in_a_path_is_answered_with_the_nearest_name(home: Path, call: Call) -> None:
    assert_refused(evaluate(call, home, home / "imagse"), 2, f"did you mean {home / 'images'}?")


@pytest.mark.fault("E05")
def test_classes_without_images_have_no_figures_and_foreign_folders_a_row(
    home: Path, call: Call
) -> None:
    scored = make_flat(home / "scored", "dog", "neither", "teapot")
    done = evaluate(call, home, scored)
    assert done.code == 0, done.err
    found = metrics(home)
    assert found["out_of_distribution"]["teapot"]["num_images"] == 3
    assert "recall" not in found["per_class"]["human"]
    assert sum(map(sum, found["confusion_matrix"])) == 6
    assert None not in found.values()


@pytest.mark.fault("E06")
def test_where_all_files_are_bad_each_has_its_row(home: Path, call: Call) -> None:
    (home / "bad").mkdir()
    for number in range(3):
        (home / "bad" / f"{number}.jpg").write_text("no picture")
    done = evaluate(call, home, home / "bad")
    assert done.code == 3, done.err
    assert "Traceback" not in done.err
    assert [row["status"] for row in rows(home)] == ["unreadable"] * 3
    assert all(row["error"] for row in rows(home))


@pytest.mark.fault("E07")
def test_one_bad_file_of_many_ends_with_3_after_the_others(home: Path, call: Call) -> None:
    scored = make_flat(home / "scored", "dog", "human", "neither", num=40)
    (scored / "dog" / "bad.jpg").write_bytes(b"")
    done = evaluate(call, home, scored)
    assert done.code == 3, done.err
    assert "bad.jpg: empty file" in done.err
    status = [row["status"] for row in rows(home)]
    assert (status.count("ok"), status.count("unreadable")) == (120, 1)
    assert metrics(home)["num_unreadable"] == 1


@pytest.mark.fault("E08")
def test_results_are_the_same_bytes_whatever_the_number_of_processes(
    home: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neither.data import workers

    scored = make_flat(home / "scored", "dog", "human", "neither", num=40)
    contents = []
    for cores in (1, 2, 2):
        monkeypatch.setattr(workers, "num_cores", lambda cores=cores: cores)
        assert evaluate(call, home, scored).code == 0
        contents.append(
            [(home / "out" / name).read_bytes() for name in ("predictions.csv", "metrics.json")]
        )
    assert contents[0] == contents[1] == contents[2]


@pytest.mark.fault("E09")
def test_results_are_never_written_among_the_images_or_where_nothing_can_be(
    home: Path, call: Call
) -> None:
    scored = make_flat(home / "scored", "dog")
    inside = call("evaluate", home / "run", scored, "--output-dir", scored / "out")
    assert_refused(inside, 2, "is inside the image folder")
    (home / "taken").write_text("a file")
    taken = call("evaluate", home / "run", scored, "--output-dir", home / "taken")
    assert_refused(taken, 6, str(home / "taken"))


@pytest.mark.fault("E10")
@pytest.mark.parametrize("after", [0, 5])
def test_what_ends_half_way_leaves_the_old_results_whole(
    after: int, home: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = make_flat(home / "scored", "dog", "human", "neither", num=30)
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
    assert_refused(evaluate(call, home, scored), 6, "No space left", "free some space")
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
    assert [row["status"] for row in rows(home)] == ["ok", "ok"], done.err
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


@pytest.mark.fault("E13")
def test_a_folder_that_may_not_be_read_is_the_environments_fault(home: Path, call: Call) -> None:
    scored = make_flat(home / "scored", "dog", "human")
    shut = home / "shut"
    shutil.copytree(scored, shut)
    shut.chmod(0)
    try:
        with pytest.MonkeyPatch.context() as patch:
            if os.geteuid() == 0:  # who may read everything

                def deny(path: Any = ".") -> Any:  # noqa: ANN401
                    if str(path).startswith(str(shut)):
                        raise PermissionError(13, os.strerror(13), str(path))
                    return scandir(path)

                scandir = os.scandir
                patch.setattr(os, "scandir", deny)
            done = evaluate(call, home, shut)
    finally:
        shut.chmod(0o755)
    assert_refused(done, 6, str(shut), "ermission denied")


@pytest.mark.fault("R05")
def test_a_closed_standard_output_costs_only_what_is_shown(home: Path) -> None:
    scored = make_flat(home / "scored", "dog")
    command = f"'{sys.executable}' scripts/evaluate.py '{home / 'run'}' '{scored}' --output-dir "
    for name, redirection in (("out", "| head -c 0"), ("closed", ">&-")):
        done = subprocess.run(
            ["/bin/sh", "-c", f"{command} '{home / name}' {redirection}"], cwd=ROOT,
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert "Traceback" not in done.stderr
        assert len((home / name / "predictions.csv").read_text().splitlines()) == 4


@pytest.mark.fault("R27")
def test_no_locale_no_home_no_terminal(home: Path) -> None:
    scored = make_flat(home / "scored", "d\u00f6g", "dog")
    (scored / "dog" / "\N{DOG FACE} bad.jpg").write_text("no picture")
    bare = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "TERM": "dumb", "COLUMNS": "1",
            "PYTHONUTF8": "0", "PATH": os.environ["PATH"]}  # fmt: skip
    script = ROOT / "scripts" / "evaluate.py"
    done = subprocess.run(
        [sys.executable, script, home / "run", scored, "--output-dir", home / "out"], env=bare,
        capture_output=True, text=True, check=False, timeout=120, cwd=home,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert " bad.jpg: not a JPEG" in done.stderr
    assert done.stderr.isascii()
    assert [row["true_label"] for row in rows(home)].count("d\u00f6g") == 3


@pytest.mark.fault("E08")
def test_one_image_gets_the_same_answer_alone_and_in_company(home: Path, call: Call) -> None:
    scored = make_flat(home / "scored", "dog", "human", "neither", num=30)
    all_of_them = read_scores(evaluate(call, home, scored), home / "out")
    alone = read_scores(evaluate(call, home, scored / "human" / "7.png"), home / "out")
    assert alone == {"7.png": all_of_them["human/7.png"]}


@pytest.mark.fault("R28")
def test_optimised_python_and_warnings_as_errors_change_nothing(home: Path, call: Call) -> None:
    scored = make_flat(home / "scored", "dog")
    plain = read_scores(evaluate(call, home, scored), home / "out")
    done = subprocess.run(
        [sys.executable, "-O", "-W", "error", ROOT / "scripts" / "evaluate.py", "run", "scored",
         "--output-dir", "out"],
        cwd=home, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert read_scores(Done(0, "", ""), home / "out") == plain
    assert np.isfinite([float(each) for row in plain.values() for each in row]).all()
    assert run_script("evaluate", "run", "none", cwd=home).returncode == 2
