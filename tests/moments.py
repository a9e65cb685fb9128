"""Something that happens before a certain call of a function, such as a signal in the middle."""

import signal
from collections.abc import Callable
from typing import Any

import pytest


def before(
    owner: object, name: str, number: int, act: Callable[[], object]
) -> Callable[[pytest.MonkeyPatch], None]:
    """Return a patch: `act` is called before the call of this number of a function."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        function, calls = getattr(owner, name), 0

        def counted(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
            nonlocal calls
            calls += 1
            if calls == number:
                act()
            return function(*arguments, **options)

        monkeypatch.setattr(owner, name, counted)

    return patch


def terminate() -> None:
    """Send this process SIGTERM."""
    signal.raise_signal(signal.SIGTERM)
