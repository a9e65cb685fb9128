"""Damaged and malicious checkpoints, mutated pictures and mutated configs."""

import builtins
import codecs
import io
import os
import pickle
import random
import resource
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from neither.config.loader import load_config, to_yaml
from neither.config.schema import Config
from neither.data.decode import decode
from neither.data.image_file import FORMATS, UnreadableError
from neither.data.preprocessing import Preprocessing
from neither.models.checkpoint import checksum_trailer, load_checkpoint
from neither.runtime.errors import CheckpointError, UsageError


def damage_checkpoint(checkpoint: Path, home: Path, num_flips: int, seed: int) -> dict[str, Any]:
    """Flip single bits, cut at as many lengths (or every one), append bytes; count the accepted."""
    whole, chance = checkpoint.read_bytes(), random.Random(seed)
    flips = chance.sample(range(8 * len(whole)), min(num_flips, 8 * len(whole)))
    step = max(1, len(whole) // num_flips)
    cuts, longer = range(0, len(whole), step), range(1, 1000, step)
    accepted = {
        "flips": sum(_loads(home, _flip(whole, bit)) for bit in flips),
        "cuts": sum(_loads(home, whole[:length]) for length in cuts),
        "longer": sum(_loads(home, whole + bytes(more)) for more in longer),
    }
    assert _loads(home, whole)
    return {"flips": len(flips), "cuts": len(cuts), "longer": len(longer), "accepted": accepted}


class _Attack:
    """What calls a function as soon as it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self._call


def run_attacks(home: Path) -> dict[str, Any]:
    """Load four kinds of malicious pickle, plain, as torch's archive, and sealed."""
    canary = home / "canary"
    attacks = {
        "os.system": _Attack(os.system, f"touch '{canary}'"),
        "eval": _Attack(builtins.eval, f"open({str(canary)!r}, 'w').close()"),
        "nested": {"schema_version": 5, "config": {"deep": [_Attack(Path.touch, canary)]}},
        "codecs": _Attack(codecs.open, str(canary), "w"),
    }
    refused = made = 0
    for attack in attacks.values():
        archive = io.BytesIO()
        torch.save(attack, archive)
        plain = archive.getvalue()
        for content in (pickle.dumps(attack), plain, plain + checksum_trailer(plain)):
            refused += not _loads(home, content)
            made += canary.exists()
            canary.unlink(missing_ok=True)
    return {"kinds": list(attacks), "files": 3 * len(attacks), "refused": refused, "made": made}


def mutate_pictures(num: int, seed: int) -> dict[str, Any]:
    """Send mutated pictures of each format through `decode`, in all processes.

    Returns:
        Counts of what became of them, by format; the longest time in seconds; the most memory of a
        process in MB beyond what it had before; and what came out that is no error of ours.
    """
    cores = os.cpu_count() or 1
    parts = [(num // cores, seed + core) for core in range(cores)]
    with ProcessPoolExecutor(cores, get_context("spawn")) as pool:
        results = list(pool.map(_mutate_some, parts))
    return {
        "pictures": sum(sum(each["ends"].values()) for each in results),
        "ends": dict(sum((each["ends"] for each in results), Counter())),
        "longest_seconds": max(each["longest"] for each in results),
        "most_megabytes": max(each["megabytes"] for each in results),
        "wrong": [wrong for each in results for wrong in each["wrong"]],
    }


def mutate_configs(home: Path, num: int, seed: int) -> dict[str, Any]:
    """Spoil one key of a config at a time; each must be refused with file, line and key."""
    chance, path = random.Random(seed), home / "config.yaml"
    values = {"name": "x", "classes": ("dog", "human"), "data": {"root": "x"},
              "train": {"epochs": 9}}  # fmt: skip
    lines = to_yaml(Config.model_validate(values)).splitlines()
    places = [number for number, line in enumerate(lines) if ":" in line]
    longest, wrong = 0.0, []
    for _ in range(num):
        number = chance.choice(places)
        key, how = _spoil(lines, number, chance)
        path.write_text("\n".join(how) + "\n", encoding="utf-8")
        started = time.perf_counter()
        try:
            load_config(path, [])
        except UsageError as error:
            said = str(error)
            if f"{path}:" not in said or key not in said:
                wrong.append(f"{how[number]!r}: {said}")
        except Exception as error:
            wrong.append(f"{how[number]!r}: {error!r}")
        else:
            wrong.append(f"{how[number]!r}: accepted")
        longest = max(longest, time.perf_counter() - started)
    return {"configs": num, "longest_seconds": longest, "wrong": wrong}


def _loads(home: Path, content: bytes) -> bool:
    path = home / "file.pt"
    path.write_bytes(content)
    try:
        load_checkpoint(path)
    except CheckpointError:
        return False
    return True


def _flip(content: bytes, bit: int) -> bytes:
    flipped = bytearray(content)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


def _pictures() -> list[tuple[str, bytes]]:
    """Return valid pictures of each format and several modes."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((40, 30), Image.Resampling.BICUBIC)
    tags = Image.Exif()
    tags[0x0112] = 6
    made = []
    for kind in FORMATS:
        for mode in ("RGB", "L", "P", "CMYK", "RGBA", "1", "LA"):
            for options in ({}, {"exif": tags}, {"save_all": True, "append_images": [image]}):
                file = io.BytesIO()
                try:
                    image.convert(mode).save(file, kind, **options)
                except (OSError, ValueError, TypeError, KeyError):
                    continue  # not every format has every mode
                made.append((kind, file.getvalue()))
    return made


def _mutate_some(part: tuple[int, int]) -> dict[str, Any]:
    num, seed = part
    chance, pictures = random.Random(seed), _pictures()
    preprocessing = Preprocessing(64)
    for _, content in pictures:
        decode(content, preprocessing)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ends: Counter[str] = Counter()
    longest, wrong = 0.0, []
    for _ in range(num):
        kind, content = chance.choice(pictures)
        mutated = _mutate(content, chance)
        started = time.perf_counter()
        try:
            shape = decode(mutated, preprocessing).shape
            ends[f"{kind} read"] += 1
            if shape != (64, 64, 3):
                wrong.append(f"{kind}: {shape}")
        except UnreadableError:
            ends[f"{kind} refused"] += 1
        except BaseException as error:
            wrong.append(f"{kind}: {error!r}")
        longest = max(longest, time.perf_counter() - started)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"ends": ends, "longest": longest, "megabytes": (after - before) / 1024, "wrong": wrong}


def _mutate(content: bytes, chance: random.Random) -> bytes:
    """Change a few bytes, cut, double, or fill with one value."""
    mutated = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        # The first bytes steer a decoder most.
        end = min(len(mutated), chance.choice((32, 128, len(mutated))))
        place = chance.randrange(end) if end else 0
        kind = chance.randrange(6)
        if kind == 0:
            mutated[place : place + 1] = bytes([chance.randrange(256)])
        elif kind == 1 and end:
            mutated[place] ^= 1 << chance.randrange(8)
        elif kind == 2:
            del mutated[place : place + chance.randint(1, 16)]
        elif kind == 3:
            mutated[place:place] = mutated[place : place + chance.randint(1, 16)]
        elif kind == 4:
            length = chance.randint(1, 8)
            mutated[place : place + length] = chance.choice((b"\0", b"\xff")) * length
        elif chance.random() < 0.2:
            del mutated[place:]
    return bytes(mutated)


def _spoil(lines: list[str], number: int, chance: random.Random) -> tuple[str, list[str]]:
    """Return the key that must be named, and the lines with that one spoiled."""
    line = lines[number]
    indent, key = line[: len(line) - len(line.lstrip())], line.strip().split(":")[0]
    is_head = line.rstrip().endswith(":")
    kind = chance.randrange(3)
    spoiled = list(lines)
    if kind == 0:
        spoiled[number] = line.replace(key, f"{key}x", 1)
        return f"{key}x", spoiled
    if kind == 1 and not is_head:
        spoiled.insert(number, line)
        return key, spoiled
    bad = ["{a: 1}", "[[[1]]]", "[no]"]
    if is_head:  # what hangs on it goes with it
        bad = ["5", "word", "[1, 2]", "''"]
        while number + 1 < len(spoiled) and spoiled[number + 1].startswith(
            (f"{indent} ", f"{indent}-")
        ):
            del spoiled[number + 1]
    elif isinstance(yaml.safe_load(line.split(":", 1)[1]), int | float):
        bad += ["no number", ".nan", "-.inf", "'1'"]
    spoiled[number] = f"{indent}{key}: {chance.choice(bad)}"
    return key, spoiled
