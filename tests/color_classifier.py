"""Fixtures: a classifier whose predictions are known, and a function that draws images for it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from neither.data.preprocessing import Preprocessing
from neither.inference.classifier import Classifier

COLORS = {"dog": (200, 40, 40), "human": (40, 200, 40), "neither": (40, 40, 200)}


class MeanColor(nn.Module):
    """One logit for each of red, green and blue: the brighter, the higher."""

    def forward(self, images: Tensor) -> Tensor:
        return 2 * images.mean(dim=(2, 3))


@pytest.fixture
def classifier() -> Classifier:
    """Red is a dog, green is a human, blue is neither."""
    return Classifier(
        MeanColor().eval(), tuple(COLORS), "neither", Preprocessing(8), 1.25, Path("images"), {},
        torch.device("cpu"),
    )  # fmt: skip


@pytest.fixture
def draw() -> Callable[[Path, str, int], None]:
    """Return a function that draws an image in the color of a class."""

    def draw_one(path: Path, color_of: str, shade: int = 0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        color = tuple(value + shade for value in COLORS[color_of])
        Image.new("RGB", (12, 10), color).save(path, format="PNG")

    return draw_one
