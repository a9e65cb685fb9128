"""What `--priors` says."""

from neither.errors import UsageError


def read_priors(text: str) -> dict[str, float]:
    """Read `dog=0.1,human=0.2,neither=0.7`.

    Raises:
        UsageError: if it is not of this form, or names a class twice.
    """
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.strip().rpartition("=")
        try:
            share = float(value)
        except ValueError as error:
            raise UsageError(f"--priors: {part!r} is not CLASS=SHARE") from error
        if name in shares:
            raise UsageError(f"--priors: {name} stands twice")
        shares[name] = share
    return shares
