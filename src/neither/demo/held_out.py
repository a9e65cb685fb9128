"""Kinds of neither that val and test hold and train lacks, as in use there are always new ones."""

from random import Random

from neither.demo.palette import CLOTH, FUR, INK, LEAF, METAL, STONE, WHITE, darker, lighter, pick
from neither.demo.sketch import (
    Sketch,
    blob,
    capsule,
    corners,
    hang,
    limb,
    mirrored,
    oval,
    rectangle,
    symmetric,
)

_GREENS = (LEAF, (60, 120, 80), (104, 150, 112), (134, 158, 84))
_HIDES = (STONE[1], STONE[3], FUR[4], FUR[8], (150, 140, 160), (128, 146, 168), CLOTH[14])
_TRUNKS = (
    (1.55 - 0.35j, 1.9 + 0.1j, 2.0 + 0.8j, 1.95 + 1.3j, 2.25 + 1.45j),
    (1.55 - 0.35j, 2.1 + 0.1j, 2.4 + 0.5j, 2.85 + 0.3j, 2.9 - 0.15j),
    (1.55 - 0.35j, 2.1 - 0.2j, 2.5 - 0.55j, 2.55 - 1.2j, 2.3 - 1.6j),
)


def draw_cactus(rng: Random) -> Sketch:
    """Draw a cactus of one to three arms, often in a pot."""
    cactus = Sketch()
    green, flower = pick(rng, _GREENS), pick(rng, CLOTH[:3] + CLOTH[7:9])
    top = complex(0, -rng.uniform(1.3, 1.9))
    parts, tips = [capsule(top, 1.5j, 0.42, 0.4)], [top - 0.2j]
    for low, side in ((0.6, 1), (0.8, -1), (-0.5, 1))[: rng.randint(1, 3)]:
        elbow = complex(side * rng.uniform(0.85, 1.1), low)
        tips.append(elbow - rng.uniform(0.5, 1.1) * 1j)
        parts += limb(complex(0, low + 0.1), elbow, tips[-1], thick=0.25, thin=0.22)
    cactus.add(green, parts)
    for x in (-0.2, 0.0, 0.2):
        cactus.mark(darker(green, 0.3), capsule(top + x, 1.5j + x, 0.025, 0.025))
        for y in (0.2, 0.65, 1.1, 1.55, 2.0, 2.45):
            spine = top + complex(x, y + abs(x))
            left, right = spine - 0.07 - 0.07j, spine + 0.07 - 0.07j
            cactus.mark(lighter(green, 0.75), limb(left, spine, right, thick=0.02, thin=0.02))
    if rng.random() < 0.6:
        for at in (tip - 0.2j for tip in tips):
            cactus.mark(flower, *(oval(at + hang(turn, 0.13), 0.13) for turn in range(90, 271, 45)))
            cactus.mark((250, 224, 120), oval(at, 0.09))
    if rng.random() < 0.65:
        pot = pick(rng, CLOTH)
        cactus.add(pot, corners(-0.75 + 1.3j, 0.75 + 1.3j, 0.52 + 2.3j, -0.52 + 2.3j))
        cactus.add(darker(pot, 0.12), rectangle(-0.88, 1.15, 0.88, 1.45))
    return cactus


def draw_clock(rng: Random) -> Sketch:
    """Draw an alarm clock with two bells."""
    clock = Sketch()
    body, bell = pick(rng, CLOTH), pick(rng, (METAL, (220, 180, 80), *CLOTH))
    dial = pick(rng, (WHITE, (250, 236, 190), (206, 226, 236), CLOTH[10], CLOTH[15]))
    hand = WHITE if sum(dial) < 330 else INK
    for side in (-1, 1):
        clock.add(darker(body, 0.3), capsule(side * 0.5 + 0.7j, side * 0.85 + 1.2j, 0.14, 0.1))
        clock.add(METAL, capsule(side * 0.4 - 0.7j, side * 0.7 - 1.2j, 0.06, 0.06))
        dome = symmetric(-0.45j, 0.35 - 0.35j, 0.5 + 0.1j)
        clock.add(bell, dome * hang(90 - side * 32, 1) + side * 0.74 - 1.12j)
    clock.add(METAL, capsule(-0.9j, -1.4j, 0.06, 0.06), oval(-1.42j, 0.14, 0.1))
    clock.add(body, oval(0, 1.12))
    clock.add(dial, oval(0, 0.88))
    for hour in range(12):
        outer = 0.6 if hour % 3 == 0 else 0.68
        clock.mark(hand, capsule(hang(30 * hour, outer), hang(30 * hour, 0.76), 0.035, 0.035))
    for length, thick in ((0.38, 0.07), (0.6, 0.05)):
        clock.mark(hand, capsule(0, hang(rng.uniform(0, 360), length), thick, 0.03))
    clock.mark(pick(rng, CLOTH[:3]), capsule(0, hang(rng.uniform(0, 360), 0.4), 0.025, 0.02))
    clock.mark(hand, oval(0, 0.09))
    return clock


def draw_elephant(rng: Random) -> Sketch:
    """Draw an elephant facing right, its trunk down, ahead or up."""
    elephant = Sketch()
    hide, swing, tall = pick(rng, _HIDES), rng.choice((0.0, 0.12, 0.22)), rng.uniform(0.9, 1.25)
    tail = limb(-1.3 - 0.4j, -1.6 + 0.1j, -1.55 + 0.6j, thick=0.06, thin=0.05)
    elephant.mark(darker(hide, 0.4), tail, oval(-1.55 + 0.68j, 0.1, 0.16))
    back = blob(-1.4 + 0.1j, -1.1 - 0.8j, -0.1 - 0.95j, 0.9 - 0.8j, 1.1 + 0.1j, 0.6 + 0.75j)
    for fill, body, x, way in ((darker(hide, 0.28), [], 0.3, swing), (hide, [back], 0.0, -swing)):
        feet = (complex(x - 0.95 + way, 0.3 + tall), complex(x + 0.6 - way, 0.3 + tall))
        legs = (capsule(foot.real + 0.3j, foot, 0.36, 0.3) for foot in feet)
        soles = (rectangle(-0.32, 0, 0.32, 0.28) + foot for foot in feet)
        elephant.add(fill, body, *legs, *soles)
        nails = (oval(foot + at + 0.2j, 0.07, 0.06) for foot in feet for at in (-0.18, 0, 0.18))
        elephant.mark(lighter(STONE[2]), *nails)
    trunk = limb(*rng.choice(_TRUNKS), thick=0.4, thin=0.13)
    elephant.add(hide, oval(1.3 - 0.55j, 0.72, 0.68), trunk)
    elephant.add(WHITE, limb(1.6 + 0.05j, 1.85 + 0.5j, 2.25 + 0.55j, thick=0.11, thin=0.04))
    elephant.mark(WHITE, oval(1.6 - 0.7j, 0.12))
    elephant.mark(INK, oval(1.63 - 0.69j, 0.085))
    ear = blob(0.55 - 0.65j, -0.85j, -0.5 - 0.35j, -0.35 + 0.5j, 0.05 + 0.9j, 0.45 + 0.35j)
    elephant.add(darker(hide, 0.1), ear + 0.6 - 0.45j)
    elephant.mark(lighter(hide, 0.2), ear * 0.65 + 0.62 - 0.45j)
    return elephant


def draw_monkey(rng: Random) -> Sketch:
    """Draw a monkey sitting, its tail curled."""
    monkey = Sketch()
    fur = pick(rng, FUR[:3] + FUR[5:6] + FUR[7:])
    skin = lighter(pick(rng, (FUR[6], FUR[9])), 0.2)
    tail = (0.5 + 2.4j, 1.5 + 2.5j, 2.0 + 1.8j, 1.75 + 1.1j, 1.3 + 1.2j, 1.4 + 1.6j)
    monkey.add(fur, limb(*tail, thick=0.14, thin=0.11))
    monkey.add(fur, symmetric(0.8j, 0.6 + 1.1j, 0.85 + 2.1j, 0.6 + 2.7j, 2.75j))
    monkey.mark(skin, oval(1.95j, 0.5, 0.62))
    for turn in (-1, 1):
        knee, foot = turn * 1.15 + 1.9j, turn * 0.75 + 2.75j
        monkey.add(fur, limb(turn * 0.55 + 2.3j, knee, foot, thick=0.3, thin=0.2))
        monkey.add(skin, oval(foot + turn * 0.15 + 0.03j, 0.34, 0.15))
        bend = rng.choice((25, 140, 165))
        elbow = turn * 0.6 + 1.2j + hang(turn * (bend - 20), 0.75)
        hand = elbow + hang(turn * (bend + rng.choice((-50, 20))), 0.75)
        monkey.add(fur, limb(turn * 0.6 + 1.2j, elbow, hand, thick=0.24, thin=0.17))
        monkey.add(skin, oval(hand, 0.22))
    ear = oval(1.02 - 0.05j, 0.36)
    monkey.add(fur, ear, mirrored(ear))
    monkey.mark(skin, oval(1.04 - 0.05j, 0.22), oval(-1.04 - 0.05j, 0.22))
    monkey.add(fur, oval(-0.05j, 0.98, 0.92), corners(-0.2 - 0.85j, -1.25j, 0.25 - 0.85j))
    eye = oval(0.33 - 0.2j, 0.36, 0.4)
    monkey.mark(skin, eye, mirrored(eye), oval(0.38j, 0.7, 0.46))
    monkey.mark(INK, oval(0.3 - 0.15j, 0.13, 0.17), oval(-0.3 - 0.15j, 0.13, 0.17))
    monkey.mark(WHITE, oval(0.26 - 0.21j, 0.05), oval(-0.34 - 0.21j, 0.05))
    smile = limb(-0.4 + 0.45j, -0.15 + 0.58j, 0.15 + 0.58j, 0.4 + 0.45j, thick=0.04, thin=0.04)
    monkey.mark(darker(skin, 0.6), smile, oval(0.08 + 0.2j, 0.04), oval(-0.08 + 0.2j, 0.04))
    return monkey
