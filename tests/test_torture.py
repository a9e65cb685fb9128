"""A sample of `benchmarks/torture.py`, which tries far more when it is run by hand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torture

from scripts import ROOT


@pytest.mark.fault("R01", "R02", "K02", "K04")
def test_kills_failing_calls_damage_and_forgery_do_no_harm(tmp_path: Path) -> None:
    """In a process of its own, which forks."""
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "torture.py", "--kills", "1", "--every", "900",
         "--flips", "60", "--pictures", "200", "--configs", "10"],
        cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "runs" / "benchmarks" / "torture.json").read_text())["figures"]
    assert figures["broken"] == []
    for kills, failing in (
        ("kills at random moments", "failing calls"),
        ("kills while a head is fitted", "failing calls while a head is fitted"),
    ):
        assert figures[kills]["kills"] >= 1
        codes = figures[failing]["exit_codes"]
        assert set(codes["kill"]) == {"-9"}
        assert {"6", "0"} >= set(codes["ENOSPC"])
    assert figures["malicious checkpoints"]["refused"] == 12
    assert sum(figures["mutated pictures"]["ends"].values()) == 200


def test_each_failure_is_listed() -> None:
    sound = {
        "kills at random moments": {"lost": [], "unequal": [], "doubled": [],
                                    "most_steps_repeated": 3, "steps_between_saves": 3},
        "failing calls": {"wrong": []},
        "kills while a head is fitted": {"lost": [], "unequal": [], "doubled": []},
        "failing calls while a head is fitted": {"wrong": []},
        "damaged checkpoints": {"accepted": {"flips": 0, "cuts": 0}},
        "malicious checkpoints": {"refused": 12, "files": 12, "made": 0},
        "mutated pictures": {"wrong": [], "longest_seconds": 1.0, "most_megabytes": 9},
        "mutated configs": {"wrong": [], "longest_seconds": 0.1},
    }  # fmt: skip
    assert torture.list_broken(sound) == []
    worse = {
        "kills at random moments": {"lost": ["x"], "unequal": ["x"], "doubled": ["x"],
                                    "most_steps_repeated": 4, "steps_between_saves": 3},
        "failing calls": {"wrong": ["x"]},
        "kills while a head is fitted": {"lost": [], "unequal": ["x"], "doubled": []},
        "failing calls while a head is fitted": {"wrong": ["x"]},
        "damaged checkpoints": {"accepted": {"flips": 1, "cuts": 0}},
        "malicious checkpoints": {"refused": 11, "files": 12, "made": 1},
        "mutated pictures": {"wrong": ["x"], "longest_seconds": 6.0, "most_megabytes": 600},
        "mutated configs": {"wrong": ["x"], "longest_seconds": 2.0},
    }  # fmt: skip
    assert len(torture.list_broken(worse)) == 14
