"""A clock that tests advance, and the lines of progress that it gives."""

import re
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from neither.runtime import console

_LINE = re.compile(r".+: ([\d,]+) of ([\d,]+) images(?:, (\d+) s left)?(?:, .*)?")
_FACTOR = 1.5


@dataclass
class Clock:
    """The time that the progress bars see; lines are kept with the time they were printed at."""

    now: float = 0.0
    lines: list[tuple[float, str]] = field(default_factory=list)

    def estimates(self) -> list[tuple[float, int, int | None]]:
        """Return time, number of images done and seconds left (None if not given) of each line."""
        found = [(now, _LINE.fullmatch(line)) for now, line in self.lines]
        return [
            (now, int(match[1].replace(",", "")), int(match[3]) if match[3] else None)
            for now, match in found
            if match
        ]

    def check(self, first_step: float, end: float, step: float = 2.0) -> None:
        """Require that each time left is right, and that one is given from ten seconds on.

        Args:
            first_step: when the first step was done.
            end: when the last one was.
            step: seconds of a step, or of a group that comes at once; it may be counted or not.
        """
        given = [(now, left) for now, _, left in self.estimates() if now >= first_step + 10]
        assert given
        for now, left in given:
            assert left is not None, now
            truth = end - now
            assert truth / _FACTOR - step <= left <= truth * _FACTOR + step, (now, left, truth)


def fake_clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replace the clock of the progress bars, and collect their lines."""
    clock = Clock()
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(console, "info", lambda line: clock.lines.append((clock.now, line)))
    return clock
