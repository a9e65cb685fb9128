"""Whether `predict --output` loses or repeats an image when it is killed and started again.

    python benchmarks/killed_predict.py RUN FOLDER [--kills 20]

It is killed at random moments, each time after it has written some more of the file; then it may
finish. Is the file that of an undisturbed run, byte by byte? FOLDER needs a few thousand images.
"""

import argparse
import random
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import results

SCRIPT = Path(__file__).parent.parent / "scripts" / "predict.py"
MAX_SECONDS = 1.0  # from the first new row to the kill


def main() -> None:
    """Predict, kill, compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    arguments = parser.parse_args()
    command = [sys.executable, str(SCRIPT), str(arguments.run), str(arguments.folder), "--output"]
    rng, num_rows = random.Random(2), [0]
    with TemporaryDirectory() as name:
        killed, undisturbed = Path(name) / "killed.csv", Path(name) / "undisturbed.csv"
        for _ in range(arguments.kills):
            process = subprocess.Popen([*command, str(killed)])
            while process.poll() is None and count_rows(killed) == num_rows[-1]:
                time.sleep(0.05)  # it starts
            time.sleep(rng.uniform(0, MAX_SECONDS))
            if process.poll() is not None:
                raise SystemExit("it has finished before all kills; name a larger folder")
            process.kill()
            process.wait()
            num_rows.append(count_rows(killed))
        for path in (killed, undisturbed):
            subprocess.run([*command, str(path)], check=True)
        is_equal = killed.read_bytes() == undisturbed.read_bytes()
        figures = {"kills": arguments.kills, "rows_at_each": num_rows, "is_equal": is_equal,
                   "rows": count_rows(undisturbed) - 1}  # fmt: skip
    print(figures)
    results.write("killed_predict", figures)
    if not is_equal:
        raise SystemExit("the files differ")


def count_rows(path: Path) -> int:
    """Return the number of line ends of a file, 0 if it is missing."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


if __name__ == "__main__":
    main()
