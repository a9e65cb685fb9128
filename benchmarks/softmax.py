"""Properties of softmax (P1 to P6, P9 to P12) on a million rows, by the tests of softmax.

    python benchmarks/softmax.py [--batches 1000]

Batches of 1,000 rows have 2, 3 or 10 classes, logits of scale 1, 10 or 50, and one of four types;
two slow properties use only the first rows of each batch (P2, in 50 digits, 20; P11 50). The first
batch that fails ends the benchmark with the name of the test and how to draw that batch.
"""

import argparse
import inspect
import runpy
import sys
import time
from pathlib import Path

import results

TESTS = Path(__file__).parents[1] / "tests" / "models" / "test_softmax.py"


def main() -> None:
    """Try each property on each batch."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batches", type=int, default=1000)
    num_batches = parser.parse_args().batches
    names = runpy.run_path(str(TESTS))
    kinds, draw = names["KINDS"], names["draw"]
    properties = [
        value
        for name, value in names.items()
        if name.startswith("test_") and list(inspect.signature(value).parameters) == ["logits"]
    ]
    figures = {}
    for check in properties:
        started = time.perf_counter()
        for number in range(num_batches):
            kind = kinds[number % len(kinds)]
            try:
                check(draw(kind, number))
            except AssertionError as error:
                sys.exit(f"{check.__name__}: fails with draw({kind}, {number})\n{error}")
        seconds = time.perf_counter() - started
        figures[check.__name__] = {"batches": num_batches, "seconds": seconds}
        print(f"{check.__name__}: {num_batches:,} batches pass", flush=True)
    results.write("softmax", figures)


if __name__ == "__main__":
    main()
