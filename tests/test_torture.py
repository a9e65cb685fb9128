"""A sample of `benchmarks/torture.py`, which tries far more when it is run by hand."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torture

from scripts import ROOT


@pytest.mark.fault("R01", "R02", "K02", "K04")
def test_kills_damage_and_forgery_do_no_harm(tmp_path: Path) -> None:
    """In a process of its own, which forks.

    Other tests sample the parts left out: test_head.py, test_environment.py, test_decode.py.
    """
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "torture.py", "--kills", "1",
         "--flips", "60", "--configs", "10", "--without", "head", "calls", "pictures"],
        cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "runs" / "benchmarks" / "torture.json").read_text())["figures"]
    assert figures["broken"] == []
    assert figures["kills at random moments"]["kills"] >= 1
    assert figures["malicious checkpoints"]["refused"] == 12


def test_each_failure_is_listed() -> None:
    kills = {"lost": [], "unequal": [], "doubled": [], "most_steps_repeated": 3,
             "steps_between_saves": 3}  # fmt: skip
    sound: dict[str, dict[str, Any]] = {
        "kills at random moments": kills, "failing calls": {"wrong": []},
        "kills while a head is fitted": kills,
        "failing calls while a head is fitted": {"wrong": []},
        "damaged checkpoints": {"accepted": {"flips": 0, "cuts": 0}},
        "malicious checkpoints": {"refused": 12, "files": 12, "made": 0},
        "mutated pictures": {"wrong": [], "longest_seconds": 1.0, "most_megabytes": 9},
        "mutated configs": {"wrong": [], "longest_seconds": 0.1},
    }  # fmt: skip
    assert torture.list_broken(sound) == []
    bad = {"most_steps_repeated": 4, "accepted": {"flips": 1, "cuts": 0}, "refused": 11, "made": 1,
           "longest_seconds": 6.0, "most_megabytes": 600}  # fmt: skip
    num = 0
    for title, part in sound.items():
        for name in {*part} - {"steps_between_saves", "files"}:
            worse = {title: part | {name: bad.get(name, ["x"])}}
            assert len(torture.list_broken(sound | worse)) == 1, (title, name)
            num += 1
    assert num == 18
