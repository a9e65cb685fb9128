"""A small config that needs no images."""

from collections.abc import Callable

import pytest

from neither.config.schema import Config


@pytest.fixture
def make_config() -> Callable[..., Config]:
    """Return a function that makes a config, sections and keys put over the defaults."""

    def make(**changes: object) -> Config:
        values: dict[str, object] = {
            "name": "test",
            "classes": ("dog", "human", "neither"),
            "data": {"root": "images", "image_size": 32},
            "model": {"width": 8},
            "train": {"epochs": 3},
        }
        for key, value in changes.items():
            old = values.get(key)
            both = isinstance(old, dict) and isinstance(value, dict)
            values[key] = {**old, **value} if both else value  # type: ignore[dict-item]
        return Config.model_validate(values)

    return make
