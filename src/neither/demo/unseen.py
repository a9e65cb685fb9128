"""Kinds that are in no split, to test a network on out-of-distribution images."""

import math
from random import Random

from neither.demo.palette import CLOTH, FUR, INK, PINK, WHITE, WOOD, Color, darker, lighter, pick
from neither.demo.quadruped import Build, Coat, Tail, standing
from neither.demo.sketch import (
    Sketch,
    blob,
    capsule,
    corners,
    limb,
    mirrored,
    oval,
    rectangle,
    symmetric,
)


def draw_butterfly(rng: Random) -> Sketch:
    """Draw a butterfly with open wings."""
    butterfly = Sketch(grounded=False)
    upper, lower, dots = pick(rng, CLOTH), pick(rng, CLOTH), pick(rng, CLOTH)
    low = blob(0.05 + 0.1j, 0.7 + 0.2j, 1.1 + 0.8j, 0.6 + 1.3j, 0.15 + 0.7j)
    high = blob(0.05 + 0.1j, 0.35 - 0.8j, 1.2 - 1.25j, 1.5 - 0.6j, 0.9 + 0.15j)
    for fill, wing in ((lower, low), (upper, high)):
        butterfly.add(fill, wing, mirrored(wing))
    for at, size in ((1.05 - 0.72j, 0.26), (0.65 + 0.75j, 0.2), (0.7 - 0.3j, 0.13)):
        butterfly.mark(dots, oval(at, size), oval(-at.conjugate(), size))
    feeler = limb(-0.6j, 0.25 - 1.1j, 0.45 - 1.3j, thick=0.04, thin=0.03)
    butterfly.mark(INK, feeler, [mirrored(part) for part in feeler])
    butterfly.add(pick(rng, FUR[:3]), capsule(-0.55j, 0.8j, 0.13, 0.08), oval(-0.6j, 0.17))
    return butterfly


def draw_fish(rng: Random) -> Sketch:
    """Draw a fish swimming to the right."""
    fish = Sketch(grounded=False)
    scale, fin = pick(rng, CLOTH), pick(rng, CLOTH)
    tall = rng.uniform(0.45, 0.85)
    fish.add(fin, blob(-0.9 + 0j, -1.6 - 0.75j, -1.4 + 0j, -1.6 + 0.75j))
    fish.add(fin, blob(0.4 - 0.6j * tall, -0.3 - 1.5j * tall, -0.7 - 0.5j * tall))
    fish.add(
        scale,
        blob(
            -1.1 + 0j,
            -0.2 - 1.0j * tall,
            0.8 - 0.8j * tall,
            1.25 + 0.05j,
            0.8 + 0.8j * tall,
            -0.2 + 1.0j * tall,
        ),
    )
    for x in (-0.5, -0.1, 0.3):
        fish.mark(
            lighter(scale, 0.4),
            limb(
                complex(x, -0.5 * tall),
                complex(x + 0.1, 0),
                complex(x, 0.5 * tall),
                thick=0.08,
                thin=0.05,
            ),
        )
    fish.add(fin, blob(0.2 + 0.15j, -0.25 + 0.15j, -0.35 + 0.5j))
    fish.mark(WHITE, oval(0.8 - 0.2j * tall, 0.17))
    fish.mark(
        INK, oval(0.84 - 0.2j * tall, 0.1), limb(1.2 + 0.12j, 0.95 + 0.2j, thick=0.04, thin=0.03)
    )
    return fish


def draw_guitar(rng: Random) -> Sketch:
    """Draw a guitar, leaning."""
    guitar, upright = Sketch(), Sketch()
    wood = pick(rng, (WOOD, *FUR[5:], *CLOTH[:8]))
    upright.add(darker(WOOD, 0.4), rectangle(-0.13, -2.9, 0.13, 0.2))
    upright.add(darker(WOOD, 0.2), rectangle(-0.25, -3.5, 0.25, -2.85))
    upright.add(wood, symmetric(-0.6j, 0.62 - 0.35j, 0.5 + 0.2j, 0.95 + 0.95j, 1.6j))
    upright.mark(INK, oval(0.3j, 0.3), rectangle(-0.35, 1.0, 0.35, 1.12))
    upright.mark(WHITE, *(rectangle(x, -3.3, x + 0.025, 1.05) for x in (-0.08, 0, 0.07)))
    guitar.include(upright, 0, tilt=rng.uniform(-35, 35))
    return guitar


def draw_mushroom(rng: Random) -> Sketch:
    """Draw a mushroom, or two."""
    mushroom = Sketch()
    cap, stem = pick(rng, CLOTH[:3] + FUR), pick(rng, (FUR[3], FUR[6]))
    places = ((0, 1.0), (1.1 + 0.55j, 0.5)) if rng.random() < 0.5 else ((0, 1.0),)
    for at, size in places:
        one = Sketch()
        one.add(stem, symmetric(0.3 - 0.2j, 0.35 + 0.8j, 0.45 + 1.2j))
        one.add(cap, symmetric(-1.15j, 0.9 - 0.75j, 1.2 + 0.05j, 0.2j))
        one.mark(
            WHITE,
            oval(-0.5 - 0.5j, 0.2),
            oval(0.2 - 0.75j, 0.17),
            oval(0.6 - 0.25j, 0.21),
            oval(-0.1 - 0.15j, 0.13),
        )
        mushroom.include(one, at, size)
    return mushroom


def draw_sheep(rng: Random) -> Sketch:
    """Draw a sheep: four legs like a dog's, wool unlike it."""
    wool, skin = pick(rng, (FUR[3], FUR[4], FUR[6], FUR[2])), pick(rng, FUR)
    build = Build(1.0, rng.uniform(0.4, 0.55), 0.36, 0.36, 0.08, 0.35 - 0.25j, 0.2)
    tail = Tail((-0.15 + 0.05j, -0.2 + 0.12j), 0.1, 0.1, wool)
    sheep, top = standing(
        rng, build, Coat(skin, skin, darker(skin, 0.5), None), tail, rng.uniform(0, 15)
    )
    curls = [oval(part, 0.24) for part in oval(0.5, 0.72, 0.36)[::2]]
    sheep.add(wool, oval(0.5, 0.8, 0.45), curls)
    _add_sheep_head(sheep, wool, skin, top)
    return sheep


def _add_sheep_head(sheep: Sketch, wool: Color, skin: Color, top: complex) -> None:
    sheep.add(skin, oval(top - 0.22 - 0.02j, 0.2, 0.09, 25))
    sheep.add(skin, capsule(top, top + 0.22 + 0.2j, 0.24, 0.16))
    sheep.add(wool, *(oval(top + math.cos(i) * 0.17 - 0.2j, 0.14) for i in (0.2, 1.6, 3.0)))
    sheep.mark(WHITE, oval(top + 0.08 - 0.02j, 0.07))
    sheep.mark(INK, oval(top + 0.1 - 0.01j, 0.045), oval(top + 0.33 + 0.2j, 0.03))
    sheep.mark(PINK, capsule(top + 0.25 + 0.32j, top + 0.33 + 0.3j, 0.02, 0.02))


def draw_snowman(rng: Random) -> Sketch:
    """Draw a snowman: a head and arms like a human's, no human."""
    snowman = Sketch()
    snow = pick(rng, (WHITE, (226, 236, 246)), 6)
    hat, scarf = pick(rng, CLOTH), pick(rng, CLOTH)
    for side in (-1, 1):
        hand = complex(side * 2.1, rng.uniform(0.4, 2.0))
        snowman.mark(
            darker(WOOD, 0.3),
            limb(side * 0.8 + 1.9j, hand, thick=0.09, thin=0.06),
            limb(hand * 0.9 + 0.15j, hand + 0.3j, thick=0.06, thin=0.04),
        )
    snowman.add(snow, oval(4.0j, 1.55, 1.4))
    snowman.add(snow, oval(2.0j, 1.2, 1.1))
    snowman.add(snow, oval(0, 0.95))
    dots = (1.7j, 2.2j, 2.7j, -0.35 - 0.15j, 0.35 - 0.15j)
    snowman.mark(INK, *(oval(dot, 0.12) for dot in dots))
    snowman.mark(
        INK, *(oval(complex(x, 0.55 - 0.4 * x * x), 0.06) for x in (-0.4, -0.2, 0, 0.2, 0.4))
    )
    snowman.add((238, 138, 54), corners(-0.05 + 0.0j, 0.95 + 0.25j, 0.0 + 0.3j))
    snowman.add(
        scarf,
        capsule(-0.75 + 0.92j, 0.75 + 0.92j, 0.22, 0.22),
        capsule(0.55 + 1.0j, 0.7 + 1.9j, 0.2, 0.22),
    )
    if rng.random() < 0.7:
        snowman.add(hat, rectangle(-0.62, -1.85, 0.62, -0.7))
        snowman.add(darker(hat, 0.2), capsule(-1.0 - 0.72j, 1.0 - 0.72j, 0.12, 0.12))
    return snowman
