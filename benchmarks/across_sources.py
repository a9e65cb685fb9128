"""Does a recipe learn subjects, or the sources they come from?

    python benchmarks/across_sources.py CONFIG CSV... [--seeds 0,1,2] [section.key=value ...]

Each CSV (path,label,split) trains and validates on some sources and tests on others. Trains the
config on each, scores its test rows with `scripts/evaluate.py`, and prints macro recall and nll of
each and their mean over all. Every figure comes from the commands that users run.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import results

SCRIPTS = Path(__file__).parents[1] / "scripts"


def main() -> None:
    """Train, score, print and write."""
    config, *rest = sys.argv[1:]
    seeds = [0]
    if "--seeds" in rest:
        place = rest.index("--seeds")
        seeds = [int(seed) for seed in rest[place + 1].split(",")]
        rest[place : place + 2] = []
    manifests = [Path(each) for each in rest if each.endswith(".csv")]
    overrides = [each for each in rest if not each.endswith(".csv")]
    rows = []
    print(f"{'sources':24} seed  seconds  val recall  test recall  test nll")
    for seed in seeds:
        for manifest in manifests:
            with tempfile.TemporaryDirectory() as folder:
                row = measure(config, manifest, Path(folder) / "run", seed, overrides)
            rows.append(row)
            print(f"{manifest.stem:24} {seed:4} {row['seconds']:8.0f} "
                  f"{row['val_macro_recall']:11.3f} {row['macro_recall']:12.3f} "
                  f"{row['nll']:9.2f}", flush=True)  # fmt: skip
    for key in ("val_macro_recall", "macro_recall", "nll"):
        print(f"mean {key}: {results.spread([row[key] for row in rows])}")
    by_seed = [
        statistics.mean(row["macro_recall"] for row in rows if row["seed"] == seed)
        for seed in seeds
    ]
    print(f"mean of the sources, by seed: {results.spread(by_seed)}")
    results.write("across_sources", {"config": config, "overrides": overrides, "rows": rows})


def measure(
    config: str, manifest: Path, run: Path, seed: int, overrides: list[str]
) -> dict[str, float]:
    """Train on a CSV file and score its test rows."""
    started = time.perf_counter()
    call("train.py", config, "data.root=null", f"data.manifest={manifest}", f"seed={seed}",
         *overrides, "--output-dir", str(run))  # fmt: skip
    seconds = time.perf_counter() - started
    call("evaluate.py", str(run), str(manifest), "--output-dir", str(run / "scored"))
    scored = json.loads((run / "scored" / "metrics.json").read_text())
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "seed": seed,
        "seconds": seconds,
        "val_macro_recall": max(row["val"]["macro_recall"] for row in epochs if "val" in row),
        "macro_recall": scored["macro_recall"],
        "nll": scored["nll"],
        "num_images": scored["num_images"],
    }


def call(script: str, *arguments: str) -> None:
    """Run one of the project's commands; a failure ends the benchmark with its own words."""
    done = subprocess.run(
        [sys.executable, SCRIPTS / script, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{script} ended with {done.returncode}:\n{done.stderr[-2000:]}")


if __name__ == "__main__":
    main()
