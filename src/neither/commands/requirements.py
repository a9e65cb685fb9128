"""What `evaluate --require` demands of the figures, for tests of models in CI."""

import difflib
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from neither.errors import UsageError

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_FORM = re.compile(r"\s*(?P<path>[^<>]+?)\s*(?P<comparison>>=|<=|>|<)\s*(?P<bound>[^<>=]+)")


@dataclass(frozen=True)
class Requirement:
    """One demand, such as `per_class.neither.recall>=0.85`.

    Attributes:
        path: of a figure in `metrics.json`, the keys joined by dots.
        comparison: >=, <=, > or <.
        bound: what the figure is compared with.
    """

    path: str
    comparison: str
    bound: float

    def complaint(self, metrics: Mapping[str, object]) -> str | None:
        """Say how far the figures are from it; return None if it is met.

        Raises:
            UsageError: if there is no such figure.
        """
        figures = dict(_figures(metrics))
        if self.path not in figures:
            close = difflib.get_close_matches(self.path, figures, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UsageError(f"--require: metrics.json has no figure {self.path}{hint}")
        found = figures[self.path]
        if _COMPARISONS[self.comparison](found, self.bound):
            return None
        return f"{self.path} is {found:.10g}, required {self.comparison} {self.bound:.10g}"


def read_requirement(text: str) -> Requirement:
    """Read `FIGURE>=NUMBER`.

    Raises:
        UsageError: if it is anything else.
    """
    form = _FORM.fullmatch(text)
    with suppress(ValueError):
        if form is not None and math.isfinite(bound := float(form["bound"])):
            return Requirement(form["path"], form["comparison"], bound)
    raise UsageError(f"--require: {text!r} is not FIGURE>=NUMBER, nor with <=, > or <")


def _figures(metrics: Mapping[str, object], above: str = "") -> Iterator[tuple[str, float]]:
    """Yield each number with its path."""
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _figures(value, f"{above}{key}.")
        elif isinstance(value, int | float):
            yield f"{above}{key}", value
