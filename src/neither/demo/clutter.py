"""Small things on the ground, in images of every class."""

from random import Random

from neither.demo.palette import CLOTH, FUR, LEAF, STONE, WHITE, WOOD, darker, lighter, pick
from neither.demo.sketch import (
    Box,
    Sketch,
    blob,
    capsule,
    corners,
    hang,
    limb,
    oval,
    rectangle,
    symmetric,
)


def draw_clutter(rng: Random) -> Sketch:
    """Draw one small thing on the ground."""
    return rng.choice((_ball, _ball, _crate, _plant, _plant, _bush, _lamp, _rock, _gift, _fence))(
        rng
    )


def draw_scrap(rng: Random) -> Sketch:
    """Draw a heap of shapes that resembles nothing."""
    scrap = Sketch()
    for _ in range(rng.randint(3, 9)):
        at, size = complex(rng.uniform(-1, 1), rng.uniform(-1, 1)), rng.uniform(0.2, 0.9)
        rim = [at + hang(72 * turn, size * rng.uniform(0.4, 1.2)) for turn in range(5)]
        part = rng.choice((blob(*rim), corners(*rim), limb(*rim[:4], thick=size / 3, thin=0.1)))
        paint = scrap.add if rng.random() < 0.7 else scrap.mark
        paint(pick(rng, CLOTH + FUR), part)
    return scrap


def draw_sun() -> Sketch:
    """Draw the sun, low or at noon the same."""
    sun = Sketch(grounded=False)
    sun.mark((255, 236, 170), oval(0, 1.0))
    sun.mark((255, 216, 96), oval(0, 0.78))
    return sun


def draw_cloud(rng: Random) -> Sketch:
    """Draw a cloud."""
    cloud = Sketch(grounded=False)
    gray = rng.randint(225, 252)
    puffs = [
        oval(complex(x, -0.3 * rng.random()), 0.5 * rng.uniform(0.7, 1.1)) for x in (-0.6, 0, 0.6)
    ]
    cloud.mark((gray, gray, gray), *puffs, capsule(-1.1 + 0.2j, 1.1 + 0.2j, 0.28, 0.28))
    return cloud


def draw_wall_clutter(rng: Random) -> Sketch:
    """Draw one thing that hangs on a wall: a window or a painting."""
    frame = Sketch(grounded=False)
    wide, tall = rng.uniform(0.7, 1.1), rng.uniform(0.7, 1.1)
    frame.add(pick(rng, (WOOD, WHITE, *CLOTH[9:13])), rectangle(-wide, -tall, wide, tall))
    inner = pick(rng, ((170, 208, 232), *CLOTH))
    frame.mark(lighter(inner, 0.3), rectangle(0.15 - wide, 0.15 - tall, wide - 0.15, tall - 0.15))
    if rng.random() < 0.5:
        frame.mark(
            WHITE,
            rectangle(-0.04, 0.15 - tall, 0.04, tall - 0.15),
            rectangle(0.15 - wide, -0.04, wide - 0.15, 0.04),
        )
    else:
        frame.mark(
            inner,
            blob(
                0.15 - wide + (tall - 0.15) * 1j,
                -0.3 - 0.1j,
                0.2 + 0.3j,
                wide - 0.2 + (tall - 0.2) * 1j,
            ),
        )
    return frame


def clutter_box(rng: Random, width: int, height: int, horizon: float) -> Box:
    """Choose a box on the ground for a small thing, in pixels, mostly at the sides."""
    size = min(width, height) * rng.uniform(0.14, 0.3)
    bottom = rng.uniform(horizon + 0.02 * height, max(horizon + 0.06 * height, 0.9 * height))
    x = width * (rng.uniform(0.02, 0.3) if rng.random() < 0.5 else rng.uniform(0.7, 0.98))
    return (x - size / 2, bottom - size, x + size / 2, bottom)


def _ball(rng: Random) -> Sketch:
    ball = Sketch()
    fill = pick(rng, CLOTH)
    ball.add(fill, oval(0, 1.0))
    second = rng.choice((WHITE, lighter(fill, 0.5), darker(fill, 0.4)))
    if rng.random() < 0.5:
        ball.mark(second, symmetric(-0.1j, 0.85 - 0.2j, 0.85 + 0.2j, 0.3j))
    else:
        ball.mark(
            second,
            oval(0.1 + 0.05j, 0.35),
            oval(-0.6 - 0.5j, 0.2),
            oval(0.65 - 0.45j, 0.2),
            oval(0.4 + 0.7j, 0.18),
        )
    return ball


def _crate(rng: Random) -> Sketch:
    crate = Sketch()
    fill = pick(rng, (WOOD, *FUR))
    crate.add(darker(fill, 0.2), corners(-1 - 0.7j, -0.6 - 1.1j, 1.4 - 1.1j, 1 - 0.7j))
    crate.add(darker(fill, 0.3), corners(1 - 0.7j, 1.4 - 1.1j, 1.4 + 0.5j, 1 + 0.9j))
    crate.add(fill, rectangle(-1, -0.7, 1, 0.9))
    crate.mark(darker(fill, 0.35), rectangle(-1, -0.2, 1, -0.12), rectangle(-1, 0.35, 1, 0.43))
    return crate


def _plant(rng: Random) -> Sketch:
    plant = Sketch()
    leaf = pick(rng, (LEAF, (70, 130, 90), (140, 170, 80)))
    for i in range(5):
        x = (i - 2) * 0.4
        tip = complex(x * 1.7, -1.5 + abs(x) * 0.7)
        plant.add(leaf, blob(complex(x * 0.2, 0.1), tip / 2 - 0.2, tip, tip / 2 + 0.2))
    pot = pick(rng, CLOTH)
    plant.add(pot, corners(-0.6 + 0j, 0.6 + 0j, 0.42 + 1j, -0.42 + 1j))
    plant.add(pot, rectangle(-0.7, -0.1, 0.7, 0.15))
    return plant


def _bush(rng: Random) -> Sketch:
    bush = Sketch()
    leaf = pick(rng, (LEAF, (70, 130, 90), (150, 160, 70)))
    bush.add(leaf, *(oval(complex(x, -rng.random() * 0.4), 0.55) for x in (-0.8, -0.3, 0.3, 0.8)))
    for _ in range(5):
        bush.mark(
            pick(rng, CLOTH[:3]), oval(complex(rng.uniform(-0.9, 0.9), rng.uniform(-0.6, 0.2)), 0.1)
        )
    return bush


def _lamp(rng: Random) -> Sketch:
    lamp = Sketch()
    pole, shade = pick(rng, (WOOD, *CLOTH[9:12])), pick(rng, CLOTH)
    lamp.add(pole, rectangle(-0.07, -0.5, 0.07, 1.9), symmetric(1.8j, 0.5 + 2j, 2.05j))
    lamp.add(shade, corners(-0.4 - 1.2j, 0.4 - 1.2j, 0.75 - 0.3j, -0.75 - 0.3j))
    return lamp


def _rock(rng: Random) -> Sketch:
    rock = Sketch()
    rock.add(pick(rng, STONE), blob(-1 + 0.5j, -0.8 - 0.2j, -0.1 - 0.6j, 0.7 - 0.3j, 1.1 + 0.5j))
    rock.add(pick(rng, STONE), blob(0.3 + 0.6j, 0.5 + 0.1j, 1.0 + 0.05j, 1.4 + 0.6j))
    return rock


def _gift(rng: Random) -> Sketch:
    gift = Sketch()
    fill, ribbon = pick(rng, CLOTH), pick(rng, CLOTH)
    gift.add(fill, rectangle(-0.9, -0.6, 0.9, 0.8))
    gift.mark(ribbon, rectangle(-0.15, -0.6, 0.15, 0.8), rectangle(-0.9, 0, 0.9, 0.25))
    gift.add(ribbon, oval(-0.3 - 0.75j, 0.32, 0.16, 25), oval(0.3 - 0.75j, 0.32, 0.16, -25))
    return gift


def _fence(rng: Random) -> Sketch:
    fence = Sketch()
    fill = pick(rng, (WOOD, WHITE, *CLOTH[9:13]))
    fence.add(
        darker(fill, 0.15),
        limb(-1.5 - 0.2j, 1.5 - 0.2j, thick=0.1, thin=0.1),
        limb(-1.5 + 0.5j, 1.5 + 0.5j, thick=0.1, thin=0.1),
    )
    for x in (-1.2, -0.4, 0.4, 1.2):
        fence.add(
            fill, corners(x - 0.2 + 1j, x - 0.2 - 0.6j, x - 0.9j, x + 0.2 - 0.6j, x + 0.2 + 1j)
        )
    return fence
