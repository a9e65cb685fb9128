"""Near misses that live: cats, horses, birds."""

from random import Random

from neither.demo.palette import CLOTH, FUR, INK, PINK, WHITE, Color, darker, lighter, mix, pick
from neither.demo.quadruped import Build, Coat, Tail, bust, facing, lying, sitting, standing
from neither.demo.sketch import Sketch, blob, capsule, corners, limb, mirrored, oval

_EYES: tuple[Color, ...] = ((140, 190, 70), (220, 180, 60), (110, 170, 200))


def draw_cat(rng: Random) -> Sketch:
    """Draw a cat in any pose."""
    fur = pick(rng, FUR)
    belly = lighter(fur, 0.55) if rng.random() < 0.5 else fur
    coat = Coat(fur, belly, belly if rng.random() < 0.5 else fur, None)
    stripe = darker(fur, 0.4) if rng.random() < 0.6 else None
    pose = rng.choice(
        ("stand", "walk", "sit", "sit", "lie", "face", "face", "portrait", "portrait")
    )
    head = _cat_head(rng, fur, lighter(fur, 0.5), stripe)
    tilt = rng.uniform(-10, 10)
    if pose == "portrait":
        body = bust(coat, 0.62)
        body.include(head, 0, tilt=tilt)
        return body
    build = Build(
        length=rng.uniform(0.85, 1.15),
        leg=rng.uniform(0.4, 0.6),
        chest=rng.uniform(0.26, 0.34),
        hip=rng.uniform(0.26, 0.34),
        limb=rng.uniform(0.07, 0.1),
        neck=complex(rng.uniform(0.22, 0.34), rng.uniform(-0.48, -0.36)),
        throat=0.2,
    )
    joints = rng.choice(
        (
            (-0.3 - 0.25j, -0.34 - 0.65j, -0.2 - 0.95j, -0.32 - 1.2j),
            (-0.35 - 0.1j, -0.6 - 0.4j, -0.5 - 0.75j, -0.25 - 0.85j),
            (-0.35 + 0.12j, -0.75 + 0.2j, -1.0 - 0.05j),
        )
    )
    tail = Tail(joints, 0.085, 0.065, fur)
    if pose == "sit":
        body, top = sitting(rng, build, coat, tail)
    elif pose == "lie":
        body, top = lying(rng, build, coat, tail)
    elif pose == "face":
        body, top = facing(rng, build, coat, tail)
    else:
        body, top = standing(rng, build, coat, tail, 20 if pose == "walk" else 3)
    if stripe and pose in ("stand", "walk", "lie"):
        for fraction in (0.15, 0.35, 0.55, 0.75):
            x = build.length * fraction
            body.mark(stripe, capsule(complex(x, -0.22), complex(x - 0.04, 0.02), 0.045, 0.02))
    body.include(head, top, rng.uniform(0.42, 0.5), tilt)
    return body


def _cat_head(rng: Random, fur: Color, muzzle: Color, stripe: Color | None) -> Sketch:
    """Draw a head of radius 1 looking at the viewer."""
    head = Sketch()
    ear = corners(0.12 - 0.75j, 0.86 - 1.55j, 1.0 - 0.15j)
    inner = corners(0.4 - 0.8j, 0.8 - 1.3j, 0.86 - 0.5j)
    head.add(fur, ear, mirrored(ear))
    head.mark(PINK, inner, mirrored(inner))
    head.add(fur, oval(0.05j, 1.08, 0.88))
    cheek = oval(0.2 + 0.46j, 0.27, 0.21)
    head.mark(muzzle, cheek, mirrored(cheek))
    if stripe:
        lines = [
            capsule(complex(x, -0.8), complex(x * 0.8, -0.48), 0.07, 0.04) for x in (-0.3, 0, 0.3)
        ]
        head.mark(stripe, lines)
    eyes = rng.choice(_EYES)
    for side in (-0.45, 0.45):
        head.mark(INK, oval(side - 0.06j, 0.29, 0.27))
        head.mark(eyes, oval(side - 0.06j, 0.25, 0.23))
        head.mark(INK, oval(side - 0.06j, 0.08, 0.2))
        head.mark(WHITE, oval(side - 0.07 - 0.14j, 0.06))
    line = WHITE if sum(fur) < 330 else darker(fur, 0.55)
    head.mark(PINK, corners(-0.12 + 0.25j, 0.12 + 0.25j, 0.4j))
    mouth = limb(0.4j, 0.13 + 0.55j, 0.28 + 0.48j, thick=0.035, thin=0.03)
    head.mark(line, mouth, [mirrored(part) for part in mouth])
    for down in (0.3, 0.45, 0.6):
        whisker = capsule(complex(0.42, 0.42), complex(1.4, down * 1.5 - 0.25), 0.035, 0.02)
        head.mark(line, whisker, mirrored(whisker))
    return head


def draw_horse(rng: Random) -> Sketch:
    """Draw a horse, whole or its head."""
    fur, hair = pick(rng, FUR), darker(pick(rng, FUR), 0.45)
    hoof = darker(fur, 0.6)
    head = _horse_head(fur, hair, blaze=rng.random() < 0.5)
    if rng.random() < 0.3:
        body = Sketch(grounded=False, cut=True)
        body.add(
            fur, blob(-0.6 - 0.5j, 0.55 + 0.2j, 0.7 + 1.6j, 1.2 + 3.0j, -1.6 + 3.0j, -1.15 + 1.0j)
        )
        body.add(
            hair, limb(-0.4 - 0.8j, -1.0 + 0.2j, -1.4 + 1.4j, -1.7 + 2.7j, thick=0.28, thin=0.4)
        )
        body.include(head, 0)
        return body
    build = Build(
        length=rng.uniform(1.15, 1.35),
        leg=rng.uniform(0.95, 1.15),
        chest=0.36,
        hip=0.36,
        limb=0.085,
        neck=complex(rng.uniform(0.42, 0.6), rng.uniform(-0.85, -0.7)),
        throat=0.15,
    )
    tail = Tail((-0.2 - 0.02j, -0.36 + 0.35j, -0.34 + 0.8j), 0.1, 0.13, hair)
    stride = rng.choice((3.0, 16.0, 26.0))
    body, top = standing(rng, build, Coat(fur, fur, hoof, None), tail, stride)
    shoulder = complex(build.length, -0.3)
    mane = limb(
        top - 0.2 - 0.12j, (top + shoulder) / 2 - 0.22, shoulder - 0.3, thick=0.1, thin=0.16
    )
    body.add(hair, mane)
    body.include(head, top, 0.33)
    return body


def _horse_head(fur: Color, hair: Color, blaze: bool) -> Sketch:
    """Draw a long head looking right, its brow of radius 0.7 around 0."""
    head = Sketch()
    head.add(darker(fur, 0.2), corners(0.05 - 0.5j, 0.2 - 1.3j, 0.45 - 0.45j))
    head.add(fur, limb(0, 0.75 + 0.75j, 1.25 + 1.35j, thick=0.72, thin=0.42))
    head.mark(darker(fur, 0.35), oval(1.32 + 1.42j, 0.36, 0.32, 45))
    head.mark(INK, oval(1.5 + 1.3j, 0.08, 0.06))
    head.mark(darker(fur, 0.6), capsule(1.5 + 1.65j, 1.1 + 1.62j, 0.05, 0.04))
    if blaze:
        head.mark(WHITE, capsule(0.45 - 0.35j, 1.3 + 0.75j, 0.1, 0.14))
    head.mark(INK, oval(0.28 - 0.02j, 0.14))
    head.mark(WHITE, oval(0.24 - 0.06j, 0.05))
    head.add(fur, corners(-0.4 - 0.45j, -0.2 - 1.35j, 0.1 - 0.6j))
    head.add(hair, limb(-0.1 - 0.75j, 0.25 - 0.5j, 0.4 - 0.1j, thick=0.16, thin=0.06))
    return head


def draw_bird(rng: Random) -> Sketch:
    """Draw a bird, standing or in flight."""
    body_fill, wing = pick(rng, CLOTH), pick(rng, CLOTH + FUR)
    beak = pick(rng, ((236, 160, 50), (226, 190, 80), (90, 84, 88)))
    bird = Sketch()
    flies = rng.random() < 0.3
    bird.grounded = not flies
    tilt = -8 if flies else rng.uniform(-40, -15)
    bird.add(wing, blob(-0.7 + 0.0j, -1.5 - 0.15j, -1.75 + 0.25j, -1.3 + 0.45j, -0.6 + 0.35j))
    if not flies:
        for x in (-0.1, 0.22):
            foot = complex(x + 0.05, 1.35)
            bird.mark(
                darker(beak, 0.2),
                limb(complex(x, 0.4), foot, thick=0.06, thin=0.06),
                limb(foot, foot + 0.25, thick=0.05, thin=0.04),
            )
    else:
        bird.add(
            darker(wing, 0.2), blob(-0.1 + 0j, 0.5 - 0.1j, 0.45 - 0.9j, 0.1 - 1.75j, -0.25 - 0.9j)
        )
    head = 0.85 - 0.62j * rng.uniform(0.8, 1.4)
    bird.add(beak, corners(head + 0.3 - 0.14j, head + 0.85 + 0.08j, head + 0.3 + 0.22j))
    bird.add(
        body_fill,
        oval(0.05j, 0.95, 0.62, tilt * 0.6),
        capsule(0.4 + 0j, head, 0.45, 0.36),
        oval(head, 0.42),
    )
    bird.mark(lighter(body_fill, 0.5), oval(0.3 + 0.28j, 0.48, 0.26, -20))
    bird.mark(WHITE, oval(head + 0.14 - 0.06j, 0.12))
    bird.mark(INK, oval(head + 0.17 - 0.06j, 0.08))
    if rng.random() < 0.3:
        comb = [oval(head + x - 0.42j, 0.13) for x in (-0.15, 0.05, 0.22)]
        bird.mark(mix(body_fill, (210, 60, 60), 0.8), comb)
    if flies:
        bird.add(wing, blob(-0.55 + 0.1j, 0.3 + 0.05j, 0.05 - 0.8j, -0.65 - 1.7j, -0.75 - 0.8j))
    else:
        bird.add(wing, blob(0.35 - 0.2j, 0.15 + 0.3j, -0.55 + 0.42j, -1.25 + 0.3j, -0.6 - 0.25j))
    return bird
