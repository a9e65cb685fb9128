"""The index of the cache: which file's pixels lie in which row, and the facts about each."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neither.data.facts import FACTS


@dataclass
class Index:
    """What the cache knows, one record a file.

    Attributes:
        keys: (M, 2) uint64, one number for the file's path and one for its size, times and inode;
            zero if it has none.
        facts: (M,) records of `FACTS`; of a file that gave no image only its hash, if any.
        rows: (M,) int64, where the pixels lie, or -1 - r for the reason numbered r.
        reasons: why files gave no image, each text once.
        num_rows: of the pixels.
        generation: of the file of pixels.
    """

    keys: NDArray[np.uint64] = field(default_factory=lambda: np.zeros((0, 2), np.uint64))
    facts: NDArray[np.void] = field(default_factory=lambda: np.zeros(0, FACTS))
    rows: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    reasons: list[str] = field(default_factory=list)
    num_rows: int = 0
    generation: int = 0

    def is_sound(self) -> bool:
        """Tell what was written here from what a damaged or foreign file gave."""
        num = len(self.keys)
        return (
            (self.keys.dtype, self.keys.shape) == (np.dtype(np.uint64), (num, 2))
            and (self.facts.dtype, self.facts.shape) == (FACTS, (num,))
            and (self.rows.dtype, self.rows.shape) == (np.dtype(np.int64), (num,))
            and all(isinstance(reason, str) for reason in self.reasons)
            and bool(((self.rows >= -len(self.reasons)) & (self.rows < self.num_rows)).all())
        )

    def find(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the place of each of (N, 2) keys, or -1 where it is unknown."""
        if not len(self.keys):
            return np.full(len(keys), -1, np.int64)
        codes = _join(self.keys)
        order = np.argsort(codes, kind="stable")
        near = np.searchsorted(codes[order], _join(keys)).clip(max=len(order) - 1)
        places = order[near]
        known = (self.keys[places] == keys).all(axis=1) & keys.any(axis=1)
        return np.where(known, places, -1)

    def list_current(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the places of all records but those of earlier states of the files of these keys.

        Files that are not among them stay: another config may name them.
        """
        current = ~np.isin(self.keys[:, 0], keys[:, 0])
        found = self.find(keys)
        current[found[found >= 0]] = True
        return np.flatnonzero(current)

    def extend(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Add records to be filled and return their places; those left empty are not saved."""
        first, num = len(self.keys), len(self.keys) + len(keys)
        old_keys, old_facts, old_rows = self.keys, self.facts, self.rows
        # Not concatenate, which would need new records as an array first.
        self.keys, self.facts = np.zeros((num, 2), np.uint64), np.zeros(num, FACTS)
        self.rows = np.zeros(num, np.int64)
        self.keys[:first], self.facts[:first], self.rows[:first] = old_keys, old_facts, old_rows
        self.keys[first:] = keys
        return np.arange(first, num)

    def number(self, reason: str) -> int:
        """Return what stands in `rows` for a reason."""
        if reason not in self.reasons:
            self.reasons.append(reason)
        return -1 - self.reasons.index(reason)


def identify_files(root: Path, paths: Iterable[str]) -> NDArray[np.uint64]:
    """Return two numbers for each of N files; (N, 2) uint64, zero where there is no such file.

    The first stays the same as long as the path does; the second hangs on size, inode, and times of
    last change, and so changes when the file does.
    """
    keys, above = bytearray(), os.fspath(root)
    for path in paths:
        try:
            status = os.stat(os.path.join(above, path))  # noqa: PTH116, PTH118 - a hundred thousand
        except (OSError, ValueError):
            keys += bytes(16)
            continue
        identity = (status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
        keys += blake2b(os.fsencode(path), digest_size=8).digest()
        keys += blake2b(b"%d %d %d %d" % identity, digest_size=8).digest()
    return np.frombuffer(keys, np.uint64).reshape(-1, 2)


def _join(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return one number for each pair, to look it up by; unsigned numbers wrap around."""
    return keys[:, 0] + keys[:, 1] * np.uint64(0x9E3779B97F4A7C15)
