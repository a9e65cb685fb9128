"""How common each class is where a model is used, by name."""

import math
from collections.abc import Mapping, Sequence

from neither.errors import UsageError
from neither.terminal import printable

_ROUNDING = 1e-3  # of three shares written with three digits


def in_order(priors: Mapping[str, float], classes: Sequence[str]) -> list[float]:
    """Return the shares in the order of the classes.

    Args:
        priors: each class with its share, above 0; together 1.
        classes: names.

    Raises:
        UsageError: if it is anything else.
    """
    odd = [f"{name} is no class" for name in priors if name not in classes]
    odd += [f"{name} has no share" for name in classes if name not in priors]
    odd += [f"the share of {name} is above 0 and below 1, not {share:g}"
            for name, share in priors.items() if not 0 < share < 1]  # fmt: skip
    if odd:
        raise UsageError(f"priors: {printable('; '.join(odd))}")
    total = math.fsum(priors.values())
    if abs(total - 1) > _ROUNDING:
        raise UsageError(f"priors: the shares sum to 1, but these to {total:g}")
    return [priors[name] for name in classes]
