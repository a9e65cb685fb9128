"""How common each class is where a model is used, by name."""

import math
from collections.abc import Mapping, Sequence

from neither.errors import UsageError

_ROUNDING = 1e-3  # of three shares written with three digits


def in_order(priors: Mapping[str, float], classes: Sequence[str]) -> list[float]:
    """Return the shares in the order of the classes.

    Args:
        priors: each class with its share, above 0; together 1.
        classes: names.

    Raises:
        UsageError: if it is anything else.
    """
    if sorted(priors) != sorted(classes):
        raise UsageError(f"priors: want a share for each of {', '.join(classes)}, once")
    total = math.fsum(priors.values())
    if not all(0 < share < 1 for share in priors.values()) or abs(total - 1) > _ROUNDING:
        raise UsageError(f"priors: shares are above 0 and sum to 1, but these sum to {total:g}")
    return [priors[name] for name in classes]
