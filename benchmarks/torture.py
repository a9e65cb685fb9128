"""What is killed, broken or forged, and survives: counts in one table.

    python benchmarks/torture.py [--kills 300] [--every 1] [--flips 10000] [--pictures 200000]
                                 [--configs 500] [--seed 0] [--without head pictures]

Kills runs at random moments; lets every call that touches the disk fail (`--every 5`: each fifth);
damages and forges checkpoints; mutates pictures and configs. Ends with 1 if anything was lost,
accepted or broken. Larger numbers run for hours, each seed tries others. `runs/benchmarks/
torture.json` gets the figures.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import results
import torch

GOLDEN = Path(__file__).parent.parent / "tests" / "models" / "golden" / "schema_6.pt"


def main() -> int:
    """Torture, print and write; return 1 if anything gave way."""
    parser = argparse.ArgumentParser()
    for name, default in (("kills", 300), ("every", 1), ("flips", 10_000), ("pictures", 200_000),
                          ("configs", 500), ("seed", 0)):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--without", nargs="*", default=[], help="words in titles of parts")
    wanted = parser.parse_args()
    torch.set_num_threads(1)  # so that forks are safe: see torturing.runs
    from torturing import files, kills

    figures: dict[str, Any] = {"seed": wanted.seed}
    parts: list[tuple[str, Callable[[Path], dict[str, Any]]]] = [
        ("kills at random moments", lambda home: kills.kill_at_random(
            home, wanted.kills, wanted.seed)),
        ("failing calls", lambda home: kills.fail_each_call(home, wanted.every)),
        ("kills while a head is fitted", lambda home: kills.kill_at_random(
            home, wanted.kills, wanted.seed, is_head=True)),
        ("failing calls while a head is fitted", lambda home: kills.fail_each_call(
            home, wanted.every, is_head=True)),
        ("damaged checkpoints", lambda home: files.damage_checkpoint(
            GOLDEN, home, wanted.flips, wanted.seed)),
        ("malicious checkpoints", files.run_attacks),
        ("mutated pictures", lambda _: files.mutate_pictures(wanted.pictures, wanted.seed)),
        ("mutated configs", lambda home: files.mutate_configs(home, wanted.configs, wanted.seed)),
    ]  # fmt: skip
    for title, work in parts:
        if any(word in title for word in wanted.without):
            continue
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as home:
            figures[title] = work(Path(home))
        print(f"{title}, {time.monotonic() - started:.0f} s", flush=True)
        for name, value in figures[title].items():
            print(f"  {name.replace('_', ' '):22} {value}", flush=True)
    broken = list_broken(figures)
    print("\n".join(["", "nothing gave way" if not broken else "gave way:", *broken]))
    results.write("torture", figures | {"broken": broken})
    return 1 if broken else 0


def list_broken(figures: dict[str, Any]) -> list[str]:
    """Return what must not be, of the parts that were done."""
    kills: dict[str, Callable[[dict[str, Any]], object]] = {
        "runs were lost": lambda part: part["lost"],
        "runs ended in other bits": lambda part: part["unequal"],
        "points of curves were doubled": lambda part: part["doubled"],
        "more than one save interval was repeated":
            lambda part: part["most_steps_repeated"] > part["steps_between_saves"],
    }  # fmt: skip
    calls = {"a failing call did harm": lambda part: part["wrong"]}
    checks = {
        "kills at random moments": kills,
        "failing calls": calls,
        "kills while a head is fitted": kills,
        "failing calls while a head is fitted": calls,
        "damaged checkpoints": {"one was accepted": lambda part: any(part["accepted"].values())},
        "malicious checkpoints": {
            "one was accepted": lambda part: part["refused"] < part["files"],
            "one ran code": lambda part: part["made"],
        },
        "mutated pictures": {
            "one broke the decoder": lambda part: part["wrong"],
            "one took more than 5 s": lambda part: part["longest_seconds"] > 5,
            "one took more than 512 MB": lambda part: part["most_megabytes"] > 512,
        },
        "mutated configs": {
            "one was accepted or badly refused": lambda part: part["wrong"],
            "one took more than a second": lambda part: part["longest_seconds"] > 1,
        },
    }
    return [f"{title}: {what}" for title, part in figures.items()
            for what, is_so in checks.get(title, {}).items() if is_so(part)]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
