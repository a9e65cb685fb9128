"""The benchmarks still run; what they measure is for people to read."""

import subprocess
import sys

from scripts import ROOT


def test_the_benchmark_of_many_files_runs_on_a_few() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "many_files.py", "900"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("scan, split, index, first batch") == 2
