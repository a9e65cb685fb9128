"""One demo image, a pure function of seed, split, label and index."""

from collections.abc import Callable
from random import Random

from PIL import Image

from neither.demo.animals import draw_bird, draw_cat, draw_horse
from neither.demo.clutter import clutter_box, draw_clutter, draw_scrap
from neither.demo.dog import draw_dog
from neither.demo.held_out import draw_cactus, draw_clock, draw_elephant, draw_monkey
from neither.demo.human import draw_human, draw_statue
from neither.demo.scene import Scene, choose_size, finish, set_scene, tone
from neither.demo.sketch import Box, Sketch
from neither.demo.things import draw_car, draw_chair, draw_robot, draw_teapot, draw_tree
from neither.demo.unseen import (
    draw_butterfly,
    draw_fish,
    draw_guitar,
    draw_mushroom,
    draw_sheep,
    draw_snowman,
)

Draw = Callable[[Random], Sketch]

CLASSES = ("dog", "human", "neither")
_NEITHER: tuple[Draw | None, ...] = (
    *(draw_cat, draw_horse, draw_statue, draw_robot, draw_bird) * 2,
    *(draw_cat, draw_horse, draw_statue, draw_tree, draw_teapot, draw_chair, draw_car),
    *(draw_scrap, draw_scrap, None),
)
_TRAIN_ONLY = (draw_scrap, draw_scrap, None, None)
_HELD_OUT = (draw_cactus, draw_clock, draw_elephant, draw_monkey)
UNSEEN: dict[str, Draw] = {
    "butterfly": draw_butterfly,
    "fish": draw_fish,
    "guitar": draw_guitar,
    "mushroom": draw_mushroom,
    "sheep": draw_sheep,
    "snowman": draw_snowman,
}


def kinds_of_neither(split: str) -> tuple[Draw | None, ...]:
    """Return what the images of neither show, in turn; None for clutter alone.

    Four kinds are in val and test, and not in train. So val's probabilities for what the network
    has never seen count in temperature and thresholds, as such images will be met in use.
    """
    return (*_NEITHER, *(_TRAIN_ONLY if split == "train" else _HELD_OUT))


def draw_image(seed: int, split: str, label: str, index: int) -> tuple[bytes, str]:
    """Draw an image of a class or of an unseen kind.

    Args:
        seed: Another seed draws other images.
        split: `train`, `val`, `test` or `unseen`; see `kinds_of_neither`.
        label: `dog`, `human`, `neither` or one of `UNSEEN`.
        index: Counts the images of this split and label, from 0.

    Returns:
        The file's bytes, and its suffix: `.jpg` or `.png`.
    """
    rng = Random(f"{seed}/{split}/{label}/{index}")  # noqa: S311 - no secrets here
    kinds = kinds_of_neither(split)
    neither = kinds[index % len(kinds)]  # in turn, so that few images contain all kinds
    draw = {"dog": draw_dog, "human": draw_human, "neither": neither, **UNSEEN}[label]
    num_clutter = rng.choice((0, 0, 1, 1, 2, 3)) if draw else rng.randint(2, 5)
    scene = set_scene(rng, *choose_size(rng), num_clutter)
    if draw is not None:
        _paint_subject(rng, scene, draw(rng))
    if rng.random() < 0.15:
        _add_foreground(rng, scene)
    return finish(rng, scene)


def draw_pair(seed: int, index: int) -> Image.Image:
    """Draw a dog beside a human in one scene, 240 pixels wide, 180 high."""
    rng = Random(f"{seed}/pair/{index}")  # noqa: S311 - no secrets here
    scene = set_scene(rng, 240, 180, num_clutter=2)
    wide, tall = scene.image.size
    ground = tall * rng.uniform(0.9, 0.98)
    dog, human = draw_dog(rng), draw_human(rng)
    dog_left = rng.random() < 0.5
    for sketch, left, fraction in (
        (human, dog_left, rng.uniform(0.8, 0.9)),
        (dog, not dog_left, rng.uniform(0.5, 0.62)),
    ):
        edge = wide * (0.5 if left else 0.02)
        bottom = tall if sketch.cut else ground
        box: Box = (edge, bottom - tall * fraction, edge + wide * 0.48, bottom)
        sketch.turned(rng.random() < 0.5, 0).paint(scene.image, box)
    return tone(rng, scene)


def _paint_subject(rng: Random, scene: Scene, sketch: Sketch) -> None:
    """Paint the subject at a recognisable size, anywhere in the scene."""
    tilt = rng.gauss(0, 3) if rng.random() < 0.8 else rng.uniform(-10, 10)
    subject = sketch.turned(rng.random() < 0.5, tilt)
    wide, tall = scene.image.size
    across, down = subject.size()
    fraction = rng.uniform(0.8, 0.98)
    scale = fraction * min(wide / across, tall / down)
    width, height = across * scale, down * scale
    # Some subjects extend over the edge.
    over = rng.uniform(0, 0.08) if rng.random() < 0.2 else 0.0
    left = rng.uniform(-over * width, wide - width + over * width)
    low, high = height, tall + over * height
    bottom = rng.uniform(max(low, min(scene.horizon, high)), high)
    if subject.cut:
        bottom = tall + height * rng.uniform(0.02, 0.06)
    subject.paint(scene.image, (left, bottom - height, left + width, bottom), rng.uniform(0.6, 1.3))


def _add_foreground(rng: Random, scene: Scene) -> None:
    wide, tall = scene.image.size
    left, top, right, bottom = clutter_box(rng, wide, tall, tall * 0.96)
    shrink = (right - left) * 0.2
    draw_clutter(rng).paint(scene.image, (left + shrink, top + 2 * shrink, right - shrink, bottom))
