"""Properties of softmax (P1 to P6, P9 to P12) on a million rows, by the functions of the tests.

    python benchmarks/softmax.py [--batches 1000]

Batches of 1,000 rows go round 2, 3 and 10 classes, logits of size 1, 10 and 50, and four types; two
slow properties look at the first rows of each batch alone (P2, in 50 digits, at 20, P11 at 50). The
first batch that breaks a property ends it with the property's name and how to draw that batch.
"""

import argparse
import runpy
import sys
import time
from pathlib import Path

import results

FUNCTIONS = Path(__file__).parents[1] / "tests" / "model" / "test_softmax_properties.py"


def main() -> None:
    """Try each property on each batch."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batches", type=int, default=1000)
    num_batches = parser.parse_args().batches
    names = runpy.run_path(str(FUNCTIONS))
    properties, kinds, draw = names["PROPERTIES"], names["KINDS"], names["draw"]
    figures = {}
    for check in properties:
        started = time.perf_counter()
        for number in range(num_batches):
            kind = kinds[number % len(kinds)]
            try:
                check(draw(kind, number))
            except AssertionError as error:
                sys.exit(f"{check.__name__}: broken by draw({kind}, {number})\n{error}")
        seconds = time.perf_counter() - started
        figures[check.__name__] = {"batches": num_batches, "seconds": seconds}
        print(f"{check.__name__}: {num_batches:,} batches, none breaks it", flush=True)
    results.write("softmax", figures)


if __name__ == "__main__":
    main()
