"""Humans, and statues of them."""

from dataclasses import dataclass
from random import Random

from neither.demo.face import Face, choose_face, choose_stone_face
from neither.demo.head import draw_back, draw_head
from neither.demo.palette import CLOTH, STONE, WHITE, WOOD, Color, darker, lighter, pick
from neither.demo.sketch import (
    Sketch,
    blob,
    capsule,
    hang,
    limb,
    mirrored,
    oval,
    rectangle,
    symmetric,
)

# Degrees from hanging down, positive to the right: left upper arm, left forearm, right upper arm,
# right forearm, left thigh, left shin, right thigh, right shin.
_POSES: tuple[tuple[int, ...], ...] = (
    (-14, -6, 14, 6, -4, -2, 4, 2),
    (-40, 30, 14, 8, -6, 0, 10, 4),
    (-34, -14, 36, 60, -24, -34, 26, 14),
    (-30, 10, 30, 40, -16, -30, 20, 6),
    (-145, -165, 145, 165, -12, -4, 12, 4),
    (-14, -8, 120, 175, -6, -2, 8, 4),
    (-95, -100, 95, 100, -18, -8, 18, 8),
    (-42, 40, 42, -40, -10, -4, 10, 4),
    (-130, 150, 130, -150, -8, -3, 8, 3),
)
_SEATED: tuple[tuple[int, ...], ...] = (
    (-10, 30, 20, 60, 62, 4, 80, -4),
    (-16, 10, 40, 120, 66, -8, 84, 6),
    (-30, 20, 30, -20, -38, -2, 38, 2),
)


@dataclass(frozen=True)
class _Clothes:
    shirt: Color
    trousers: Color
    shoes: Color
    sleeves: str
    lower: str
    stripes: bool


def draw_human(rng: Random) -> Sketch:
    """Draw a human of any looks in any pose, facing the viewer."""
    clothes = _Clothes(
        shirt=pick(rng, CLOTH),
        trousers=pick(rng, CLOTH),
        shoes=pick(rng, CLOTH),
        sleeves=rng.choice(("long", "short", "short")),
        lower=rng.choice(("trousers", "trousers", "shorts", "skirt", "dress")),
        stripes=rng.random() < 0.3,
    )
    face = choose_face(rng)
    kind = rng.choice(("full", "full", "full", "seated", "half", "portrait", "portrait"))
    return _draw_figure(rng, kind, face, clothes)


def draw_statue(rng: Random) -> Sketch:
    """Draw a human hewn in stone, on a plinth."""
    stone = pick(rng, STONE, 8)
    face = choose_stone_face(rng, stone)
    cloth = darker(stone, 0.06)
    clothes = _Clothes(
        cloth, cloth, stone, "short", rng.choice(("dress", "skirt", "trousers")), False
    )
    plinth = Sketch()
    top = 2.0
    if rng.random() < 0.6:
        figure = _draw_figure(rng, "full", face, clothes)
        top = max(part.imag.max() for shape in figure.shapes for part in shape.parts) - 0.1
    else:
        plinth.include(draw_back(face), 0)
        plinth.add(stone, capsule(0.6j, 1.2j, 0.42, 0.46))
        plinth.add(stone, symmetric(0.4 + 1.0j, 1.25 + 1.35j, 1.1 + 2.0j, 2.4j))
        figure = Sketch()
        figure.include(draw_head(face), 0)
    wide, base = 1.25, top + rng.uniform(0.8, 1.6)
    plinth.add(darker(stone, 0.1), rectangle(-wide, top, wide, base))
    plinth.add(stone, rectangle(-wide * 1.25, top, wide * 1.25, top + 0.32))
    plinth.add(stone, rectangle(-wide * 1.25, base, wide * 1.25, base + 0.35))
    plinth.include(figure, 0)
    return plinth


def _draw_figure(rng: Random, kind: str, face: Face, clothes: _Clothes) -> Sketch:
    if kind == "portrait":
        return _draw_portrait(rng, face, clothes)
    body = Sketch(grounded=kind != "half", cut=kind == "half")
    wide, leg = rng.uniform(0.78, 1.08), rng.uniform(0.8, 1.15)
    pose = rng.choice(_SEATED if kind == "seated" else _POSES)
    angles = [angle + rng.uniform(-7, 7) for angle in pose]
    body.include(draw_back(face), 0)
    if kind == "seated":
        ground = 3.3 + 2.0 * leg + (0.5 if angles[4] < 0 else 0.1)
        body.add(WOOD, rectangle(-1.2, 3.1, 1.2, 3.5))
        for x in (-1.05, 0.85):
            body.add(darker(WOOD), rectangle(x, 3.5, x + 0.22, ground))
    if kind != "half":
        for hip, thigh, shin in ((-0.36, *angles[4:6]), (0.36, *angles[6:8])):
            _add_leg(body, face, clothes, complex(hip * wide, 3.1), thigh, shin, leg)
    _add_torso(body, clothes, wide, leg, kind == "full")
    body.add(face.skin, capsule(0.7j, 1.35j, 0.34, 0.36))
    for shoulder, upper, lower in ((-0.95, *angles[0:2]), (0.95, *angles[2:4])):
        _add_arm(body, face, clothes, complex(shoulder * wide, 1.62), upper, lower)
    body.include(draw_head(face), 0, tilt=rng.uniform(-7, 7))
    return body


def _add_leg(
    body: Sketch, face: Face, clothes: _Clothes, hip: complex, thigh: float, shin: float, leg: float
) -> None:
    knee = hip + hang(thigh, 1.05 * leg)
    foot = knee + hang(shin, 1.1 * leg)
    toe = 0.16 if foot.real >= hip.real else -0.16
    body.add(clothes.shoes, oval(foot + toe + 0.12j, 0.4, 0.22))
    if clothes.lower == "trousers":
        body.add(clothes.trousers, limb(hip, knee, foot, thick=0.42, thin=0.28))
        return
    body.add(face.skin, limb(hip, knee, foot, thick=0.34, thin=0.22))
    if clothes.lower == "shorts":
        body.add(clothes.trousers, capsule(hip, hip + 0.75 * (knee - hip), 0.44, 0.42))


def _add_arm(
    body: Sketch, face: Face, clothes: _Clothes, shoulder: complex, upper: float, lower: float
) -> None:
    elbow = shoulder + hang(upper, 0.92)
    hand = elbow + hang(lower, 0.85)
    body.add(
        face.skin,
        limb(shoulder, elbow, hand, thick=0.25, thin=0.18),
        oval(hand + hang(lower, 0.1), 0.25),
    )
    if clothes.sleeves == "long":
        wrist = elbow + hang(lower, 0.66)
        body.add(clothes.shirt, limb(shoulder, elbow, wrist, thick=0.33, thin=0.26))
    else:
        body.add(clothes.shirt, capsule(shoulder, shoulder + hang(upper, 0.5), 0.33, 0.34))


def _add_torso(body: Sketch, clothes: _Clothes, wide: float, leg: float, standing: bool) -> None:
    if clothes.lower in ("skirt", "dress"):
        fill = clothes.shirt if clothes.lower == "dress" else clothes.trousers
        hem = 3.1 + (1.25 * leg if standing else 0.6)
        body.add(
            fill,
            symmetric(0.6 * wide + 2.5j, complex(1.25 * wide, hem), complex(0, hem + 0.12)),
        )
    else:
        body.add(clothes.trousers, capsule(-0.4 * wide + 3j, 0.4 * wide + 3j, 0.42, 0.42))
    body.add(
        clothes.shirt,
        symmetric(0.45 + 1.22j, wide * 1.06 + 1.5j, wide * 0.9 + 2.2j, wide * 0.86 + 3.05j, 3.2j),
    )
    if clothes.stripes:
        for y in (1.85, 2.3, 2.75):
            body.mark(
                lighter(clothes.shirt, 0.6),
                capsule(complex(-wide * 0.72, y), complex(wide * 0.72, y), 0.09, 0.09),
            )


def _draw_portrait(rng: Random, face: Face, clothes: _Clothes) -> Sketch:
    portrait = Sketch(grounded=False, cut=True)
    portrait.include(draw_back(face), 0)
    wide = rng.uniform(1.25, 1.6)
    portrait.add(clothes.shirt, symmetric(0.5 + 1.15j, wide + 1.6j, wide * 1.1 + 2.5j))
    if clothes.stripes:
        stripe = capsule(-wide * 0.9 + 2j, wide * 0.9 + 2j, 0.11, 0.11)
        portrait.mark(lighter(clothes.shirt, 0.6), stripe)
    portrait.add(face.skin, capsule(0.7j, 1.2j, 0.36, 0.42))
    if clothes.sleeves == "long":
        collar = blob(0.02 + 1.62j, 0.28 + 1.2j, 0.55 + 1.1j, 0.5 + 1.6j)
        portrait.add(lighter(clothes.shirt, 0.3), collar, mirrored(collar))
    elif clothes.lower == "dress":
        portrait.mark(
            WHITE, *(oval(complex(x, 1.5 - abs(x) * 0.5), 0.08) for x in (-0.4, -0.2, 0, 0.2, 0.4))
        )
    portrait.include(draw_head(face), 0, tilt=rng.uniform(-8, 8))
    return portrait
