"""Near misses that do not live: robots, trees, teapots, chairs, cars."""

from random import Random

from neither.demo.palette import CLOTH, FUR, INK, LEAF, METAL, WHITE, WOOD, darker, lighter, pick
from neither.demo.sketch import (
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

_GLOW = ((250, 220, 90), (110, 230, 220), (240, 100, 90), (150, 240, 120))
_GLASS = (176, 212, 228)
_STEEL = (METAL, (120, 128, 142), (196, 200, 206), (150, 140, 120))


def draw_robot(rng: Random) -> Sketch:
    """Draw a robot with the outlines of a human, whole or its upper half."""
    shell = pick(rng, (METAL, *CLOTH, *_STEEL))
    joint, glow = darker(pick(rng, _STEEL), 0.3), pick(rng, _GLOW)
    cut = rng.random() < 0.4
    robot = Sketch(grounded=not cut, cut=cut)
    wide = rng.uniform(0.8, 1.15)
    if not cut:
        for side in (-1, 1):
            hip = complex(side * 0.45 * wide, 3.1)
            foot = hip + hang(side * rng.uniform(0, 14), 1.9)
            robot.add(joint, limb(hip, foot, thick=0.2, thin=0.2))
            robot.add(
                shell,
                rectangle(foot.real - 0.45, foot.imag - 0.1, foot.real + 0.45, foot.imag + 0.35),
            )
    for side in (-1, 1):
        shoulder = complex(side * wide * 1.1, 1.65)
        bend = rng.choice((12, 35, 95, 150))
        elbow = shoulder + hang(side * bend, 0.9)
        hand = elbow + hang(side * (bend + rng.choice((-50, 0, 20))), 0.85)
        robot.add(joint, limb(shoulder, elbow, hand, thick=0.18, thin=0.16), oval(elbow, 0.24))
        robot.add(shell, oval(hand, 0.3), oval(shoulder, 0.34))
    robot.add(joint, rectangle(-0.25, 0.7, 0.25, 1.4))
    robot.add(shell, rectangle(-wide, 1.3, wide, 3.2))
    robot.add(lighter(shell, 0.3), rectangle(-wide * 0.6, 1.7, wide * 0.6, 2.6))
    for i, x in enumerate((-0.3, 0.0, 0.3)):
        robot.mark(_GLOW[(i + rng.randint(0, 3)) % 4], oval(complex(x * wide, 2.0), 0.11))
    robot.mark(joint, rectangle(-wide * 0.4, 2.3, wide * 0.4, 2.42))
    robot.add(joint, capsule(-0.9j, -1.4j, 0.06, 0.06))
    robot.add(glow, oval(-1.5j, 0.17))
    robot.add(joint, rectangle(-1.15, -0.3, 1.15, 0.3))
    robot.add(shell, rectangle(-0.98, -0.95, 0.98, 0.9))
    if rng.random() < 0.3:
        robot.add(INK, rectangle(-0.75, -0.45, 0.75, 0.15))
        robot.mark(glow, oval(rng.uniform(-0.4, 0.4) - 0.15j, 0.22))
    else:
        for x in (-0.42, 0.42):
            robot.add(INK, oval(x - 0.2j, 0.28))
            robot.mark(glow, oval(x - 0.2j, 0.17))
    robot.mark(INK, rectangle(-0.5, 0.38, 0.5, 0.68))
    robot.mark(WHITE, *(rectangle(x, 0.43, x + 0.14, 0.63) for x in (-0.42, -0.2, 0.06, 0.28)))
    return robot


def draw_tree(rng: Random) -> Sketch:
    """Draw a fir or a leafy tree."""
    tree = Sketch()
    leaf = pick(
        rng, (LEAF, (60, 120, 80), (140, 170, 70), (214, 140, 60), (196, 88, 60), (232, 160, 180))
    )
    trunk = pick(rng, FUR[:2] + FUR[7:])
    tree.add(trunk, symmetric(0.2 + 0j, 0.18 + 1.4j, 0.4 + 2.0j, 1.95j))
    if rng.random() < 0.4:
        for i in range(3):
            y, half = 0.9 - 0.75 * i, 1.2 - 0.28 * i
            tree.add(leaf, corners(complex(-half, y), complex(half, y), complex(0, y - 1.3)))
        return tree
    tree.add(
        trunk,
        limb(0.7j, 0.6 + 0.1j, thick=0.12, thin=0.08),
        limb(0.8j, -0.6 + 0.2j, thick=0.12, thin=0.08),
    )
    crown = [
        oval(
            complex(x + rng.uniform(-0.1, 0.1), y + rng.uniform(-0.1, 0.1)), rng.uniform(0.5, 0.75)
        )
        for x, y in ((-0.75, -0.2), (0.75, -0.2), (-0.5, -0.9), (0.5, -0.9), (0, -1.25), (0, -0.35))
    ]
    tree.add(leaf, crown)
    if rng.random() < 0.4:
        fruit = pick(rng, CLOTH[:3])
        for _ in range(7):
            tree.mark(fruit, oval(complex(rng.uniform(-0.9, 0.9), rng.uniform(-1.3, 0)), 0.12))
    return tree


def draw_teapot(rng: Random) -> Sketch:
    """Draw a teapot, its spout to the right."""
    pot = Sketch()
    fill, trim = pick(rng, CLOTH), pick(rng, CLOTH)
    tall = rng.uniform(0.75, 1.05)
    handle = (-0.8 - 0.4j, -1.45 - 0.5j, -1.6 + 0.05j, -1.3 + 0.45j, -0.8 + 0.5j)
    pot.add(fill, limb(*handle, thick=0.13, thin=0.12))
    pot.add(fill, limb(0.7 + 0.45j, 1.2 + 0.1j, 1.45 - 0.5j, 1.75 - 0.7j, thick=0.34, thin=0.12))
    pot.add(darker(fill, 0.15), rectangle(-0.6, tall - 0.15, 0.6, tall + 0.1))
    pot.add(fill, oval(0, 1.05, tall))
    pot.add(trim, oval(complex(0, -tall * 0.86), 0.55, 0.16))
    pot.add(trim, oval(complex(0, -tall - 0.14), 0.17))
    if rng.random() < 0.6:
        for x in (-0.6, -0.2, 0.2, 0.6):
            pot.mark(trim, oval(complex(x, 0.1 + 0.1 * abs(x)), 0.13))
    pot.mark(lighter(fill, 0.6), oval(-0.42 - 0.4j * tall, 0.12, 0.26, 30))
    return pot


def draw_chair(rng: Random) -> Sketch:
    """Draw a chair, seen a little from the side."""
    chair = Sketch()
    frame, seat = pick(rng, (WOOD, *FUR, *CLOTH)), pick(rng, CLOTH)
    back = rng.uniform(1.3, 1.9)
    for x in (-0.55, 0.95):
        chair.add(darker(frame, 0.3), capsule(complex(x, 0.0), complex(x, 1.3), 0.09, 0.07))
    for x in (-0.85, 0.55):
        chair.add(frame, capsule(complex(x, 0.1), complex(x, 1.55), 0.1, 0.08))
    chair.add(frame, capsule(-0.8 + 0.1j, complex(-0.9, -back), 0.1, 0.08))
    chair.add(frame, capsule(-0.42 - 0.1j, complex(-0.5, -back - 0.15), 0.09, 0.08))
    chair.add(
        frame,
        corners(
            complex(-0.98, -back),
            complex(-0.42, -back - 0.15),
            complex(-0.4, -back + 0.35),
            complex(-0.95, -back + 0.5),
        ),
    )
    chair.add(frame, corners(-0.88 - 0.65j, -0.42 - 0.75j, -0.4 - 0.5j, -0.85 - 0.4j))
    chair.add(
        seat,
        corners(
            -0.95 + 0.05j, -0.45 - 0.2j, 1.08 - 0.2j, 0.68 + 0.05j, 0.68 + 0.25j, -0.95 + 0.25j
        ),
    )
    return chair


def draw_car(rng: Random) -> Sketch:
    """Draw a car, driving right."""
    car = Sketch()
    paint = pick(rng, CLOTH)
    roof = rng.uniform(0.75, 1.05)
    back = rng.uniform(-1.5, -1.1)
    car.add(
        darker(paint, 0.12),
        corners(complex(back, 0), complex(back + 0.3, -roof), complex(0.45, -roof), 1.05 + 0j),
    )
    car.mark(
        _GLASS,
        corners(
            complex(back + 0.22, -0.06),
            complex(back + 0.42, -roof + 0.15),
            complex(-0.38, -roof + 0.15),
            -0.38 - 0.06j,
        ),
    )
    car.mark(
        _GLASS,
        corners(
            -0.24 - 0.06j, complex(-0.24, -roof + 0.15), complex(0.38, -roof + 0.15), 0.82 - 0.06j
        ),
    )
    car.add(
        paint,
        blob(
            -1.9 + 0.1j,
            -1.5 - 0.06j,
            0.9 - 0.06j,
            1.6 + 0.08j,
            1.95 + 0.35j,
            1.9 + 0.66j,
            0.7j,
            -1.9 + 0.66j,
        ),
    )
    car.mark(
        darker(paint, 0.4),
        capsule(-0.3 + 0.05j, -0.3 + 0.55j, 0.03, 0.03),
        capsule(-0.12 + 0.2j, 0.1 + 0.2j, 0.04, 0.04),
    )
    car.mark((250, 232, 150), oval(1.78 + 0.28j, 0.14, 0.12))
    car.mark((214, 60, 56), oval(-1.84 + 0.25j, 0.09, 0.13))
    for x in (-1.05, 1.1):
        car.add(INK, oval(x + 0.68j, 0.42))
        car.add(METAL, oval(x + 0.68j, 0.2))
    return car
