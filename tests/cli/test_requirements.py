"""`--require`: met, missed, or not to be understood."""

from pathlib import Path

import pytest

from calls import Call
from cli.test_predict import GOLDEN
from images import make_splits
from neither.cli.evaluate import Requirement, read_requirement
from neither.runtime.errors import UsageError

METRICS = {"macro_recall": 0.9, "ece": 0.03, "num_images": 5, "classes": ["a"],
           "per_class": {"a.b": {"recall": 0.5}}, "reject_class": "a"}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("macro_recall>=0.9", Requirement("macro_recall", ">=", 0.9)),
        (" ece <= 3e-2 ", Requirement("ece", "<=", 0.03)),
        ("per_class.a.b.recall>.4", Requirement("per_class.a.b.recall", ">", 0.4)),
        ("num_images<6", Requirement("num_images", "<", 6)),
    ],
)
def test_a_requirement_is_read_and_met(text: str, expected: Requirement) -> None:
    assert read_requirement(text) == expected
    assert expected.complaint(METRICS) is None


@pytest.mark.parametrize(
    "text", ["", "macro_recall", "macro_recall=0.9", "macro_recall>=", ">=0.9", "ece<=nan",
             "ece<=inf", "ece<=x", "ece<=>1"],
)  # fmt: skip
def test_what_is_no_requirement_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not FIGURE>=NUMBER"):
        read_requirement(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [("macro_recall>0.9", "macro_recall is 0.9, required > 0.9"),
     ("ece<=0.02", "ece is 0.03, required <= 0.02"), ("num_images<5", "num_images is 5, ")],
)  # fmt: skip
def test_what_is_missed_is_said_in_numbers(text: str, said: str) -> None:
    assert said in (read_requirement(text).complaint(METRICS) or "")


@pytest.mark.parametrize("path", ["macro_recal", "classes", "reject_class", "per_class.a.recall"])
def test_a_figure_that_is_not_there_is_named(path: str) -> None:
    with pytest.raises(UsageError, match=f"no figure {path}"):
        Requirement(path, ">=", 0).complaint(METRICS)


def test_evaluate_ends_with_4_and_all_that_was_missed(call: Call, tmp_path: Path) -> None:
    root = make_splits(tmp_path / "images")
    arguments = ("evaluate", GOLDEN, root, "--output-dir", tmp_path / "out")
    assert call(*arguments, "--require", "macro_recall>=0", "--require", "ece<=1").code == 0
    done = call(*arguments, "--require", "macro_recall>1", "--require", "nll<0",
                "--require", "accuracy<=1")  # fmt: skip
    assert done.code == 4
    assert "macro_recall is" in done.err
    assert "nll is" in done.err
    assert "accuracy" not in done.err
    assert (tmp_path / "out" / "metrics.json").exists()
    assert "confusion" in done.out or "recall" in done.out
    (root / "test" / "dog" / "bad.jpg").write_text("no picture")
    assert call(*arguments, "--require", "accuracy<=1").code == 3
    done = call(*arguments, "--require", "acuracy<=1")
    assert (done.code, "did you mean accuracy?" in done.err) == (2, True)
    assert call(*arguments, "--require", "accuracy~1").code == 2
