"""How common each class is where a model is used, as `--priors` says it."""

import math
from collections.abc import Sequence

from neither.errors import UsageError

_ROUNDING = 1e-3  # of three shares written with three digits


def read_priors(text: str, classes: Sequence[str]) -> list[float]:
    """Read `dog=0.1,human=0.2,neither=0.7`: each class once, shares above 0 that sum to 1.

    Returns:
        The shares in the order of the classes.

    Raises:
        UsageError: if it is anything else.
    """
    shares: dict[str, float] = {}
    parts = text.split(",")
    for part in parts:
        name, _, value = part.rpartition("=")
        try:
            shares[name] = float(value)
        except ValueError as error:
            raise UsageError(f"--priors: {part!r} is not CLASS=SHARE") from error
    if sorted(shares) != sorted(classes) or len(parts) != len(classes):
        raise UsageError(f"--priors: want a share for each of {', '.join(classes)}, once")
    total = math.fsum(shares.values())
    if not all(0 < share < 1 for share in shares.values()) or abs(total - 1) > _ROUNDING:
        raise UsageError(f"--priors: shares are above 0 and sum to 1, but these sum to {total:g}")
    return [shares[name] for name in classes]
